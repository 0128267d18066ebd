"""Where shared state lies in Redis, and in which format. Owns every key name and the bytes of what is stored; does no I/O.

With the key prefix `muster`, the state of namespace `default` in shard 3 is, each name behind `muster:{s3}:state:default:`,

    meta        hash    version (of this layout), incarnation, revision, compact (the first revision that is kept), bytes (of all keys and
                        values), place (the last one in a lock's line), extended (date of the last outage's end), nonce (of the last batch),
                        generation and since (of kept verdicts), era and began (of clients; `began` is a generation)
    entries     hash    by key: its entry, as below
    values      hash    by key: its value, where it has more than 4 KiB
    index       zset    all keys, by their bytes
    events      stream  one entry per change of a key, id `<revision>-<place in the revision>`, one field `e`
    history     zset    by their bytes: the key behind its length, revision, place: which events are of a key
    deadlines   zset    by date: `k` and a key, `l` and a lease's id, `h` and a lock's name (its holder), `w`, a lock's name behind its
                        length, and a waiter's id
    leases      hash    by id: its time to live
    lease_keys  zset    by their bytes: a lease's id, a key
    locks       hash    by name: who holds it, as below
    lock_index  zset    the names of all locks that are held, by their bytes
    places      hash    by a lock's name behind its length, and a waiter's id: place, time to live, since, author
    line        zset    by their bytes: a lock's name behind its length, place, the waiter's id
    kept:0, :1  hash    by client and place in its ring of 1,024: sequence, verdict. A generation lasts ten minutes; the two take turns
    clients:0, :1  hash by client: last sequence, last of the generation before, last that is no longer kept, generation. Likewise, a day
    last        string  the verdicts of the last batch

Numbers are big-endian, 8 bytes, unless said otherwise, so that Lua's `struct` reads them, which is exact below 2^53. An **entry** is

    mod revision, create revision, version, date of the write in milliseconds,
    `P`, or `B` when its value is in `values`; lease; time to live in milliseconds; length of the value (4 bytes)
    content type, author, each behind its length (2 bytes); with `P` the value

and an **event** is its kind (1 byte), the key's revision before, the date, and the key behind its length (2 bytes); after a PUT the entry
follows, always with its value, and otherwise the author. A lock's **holder** is token, `1` when confirmed, time to live, since, and waiter
id and author, each behind its length (2 bytes).
"""

import struct
from dataclasses import dataclass

from coordinator.journal.layout import ShardKeys

STATE_VERSION = 1
"""Of everything in this module. State of a higher version is refused."""

INLINE_BYTES = 4096
"""A larger value is kept apart, so that neither a list of keys nor a write has to read it."""

PARTS = (
    "meta",
    "entries",
    "values",
    "index",
    "events",
    "history",
    "deadlines",
    "leases",
    "lease_keys",
    "locks",
    "lock_index",
    "places",
    "line",
    "kept:0",
    "kept:1",
    "clients:0",
    "clients:1",
    "last",
)
"""What a namespace's state consists of."""

ENTRY = struct.Struct(">QQQQcQQI")
PUT = struct.Struct(">cQQI")  # the part of an entry that the writer knows
EVENT = struct.Struct(">BQQH")
HOLDER = struct.Struct(">QcQQ")
PLACE = struct.Struct(">QQQ")
VERDICT = struct.Struct(">BBQQH")  # outcome, flags, revision, number, how many puts follow
WRITTEN = struct.Struct(">QQQQ")  # of a put: create revision, version, date, lease


@dataclass(frozen=True, slots=True)
class StateKeys:
    """The names of the keys of one shard's shared state."""

    shard: ShardKeys

    def part(self, namespace: str, part: str) -> str:
        """One of PARTS."""
        return f"{self.shard.state(namespace)}{part}"

    def parts(self, namespace: str) -> tuple[str, ...]:
        """All of them, in order."""
        prefix = self.shard.state(namespace)
        return tuple(prefix + part for part in PARTS)


def key_deadline(key: bytes) -> bytes:
    """A key's place in the index of deadlines."""
    return b"k" + key


def lease_deadline(lease_id: int) -> bytes:
    """A lease's place in the index of deadlines."""
    return b"l" + lease_id.to_bytes(8)


def holder_deadline(name: bytes) -> bytes:
    """A lock's holder's place in the index of deadlines."""
    return b"h" + name


def waiter_deadline(name: bytes, waiter_id: bytes) -> bytes:
    """A waiter's place in the index of deadlines."""
    return b"w" + sized(name) + waiter_id


def sized(text: bytes) -> bytes:
    """A name behind its length (2 bytes), so that what follows can't be taken for a part of it."""
    return len(text).to_bytes(2) + text


def read_sized(packed: bytes, at: int) -> tuple[bytes, int]:
    """What is at a place behind its length, and the place behind it."""
    stop = at + 2 + int.from_bytes(packed[at : at + 2])
    return packed[at + 2 : stop], stop
