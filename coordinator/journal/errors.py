"""What can be wrong with a store before it serves anything. Outages and corruption of a running store are in `coordinator.ports`."""


class StoreStartError(Exception):
    """The store can't be opened. The message is one sentence for the operator that says what is wrong and what to do."""
