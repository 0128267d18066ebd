"""Payloads that the coordinator can't read."""
