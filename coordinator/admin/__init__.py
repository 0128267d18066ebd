"""Operators' tools that work on a store itself, whether or not a coordinator runs: export, import, check."""
