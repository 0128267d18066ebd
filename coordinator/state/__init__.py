"""Shared state: a namespace's keys, leases, locks and watches, kept in the store at revisions that only grow."""
