"""Webhooks over HTTP: the adapter of the engine's port, and how a request is signed."""
