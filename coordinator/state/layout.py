"""Members of the indexes of shared state, as bytes in the order in which they are gone over. Knows no I/O."""

import struct


def key_deadline(key: bytes) -> bytes:
    """A key's place in the index of deadlines."""
    return b"k" + key


def lease_deadline(lease_id: int) -> bytes:
    """A lease's place in the index of deadlines."""
    return b"l" + struct.pack(">Q", lease_id)


def holder_deadline(name: bytes) -> bytes:
    """A lock's holder's place in the index of deadlines."""
    return b"h" + name


def waiter_deadline(name: bytes, waiter_id: bytes) -> bytes:
    """A waiter's place in the index of deadlines."""
    return b"w" + sized(name) + waiter_id


def sized(name: bytes) -> bytes:
    """A name behind its length, so that what follows can't be taken for a part of it."""
    return struct.pack(">H", len(name)) + name
