"""Holds a namespace's shared state against itself: keys, values, events, leases, locks, deadlines, and every index over them."""

import struct
from collections.abc import Collection
from typing import Final

from coordinator.admin.findings import Report
from coordinator.admin.journal_check import RESTORE
from coordinator.admin.shard_reads import UNTOLD_PARTS, Fields, ShardReads
from coordinator.state.layout import (
    ENTRY,
    EVENT,
    HOLDER,
    INLINE_BYTES,
    PLACE,
    STATE_VERSION,
    holder_deadline,
    key_deadline,
    lease_deadline,
    read_sized,
    sized,
    waiter_deadline,
)
from coordinator.state.model import EventKind

_INDEXES: Final = ("index", "lease_keys", "lock_index", "line")
_READ: Final = ("entries", "values", *_INDEXES, *UNTOLD_PARTS)

Events = dict[bytes, tuple[int, bytes]]
"""By key: its last event's revision, and the entry that it made, with its value; empty when it ended the key."""


class StateCheck:
    """The check of one namespace's shared state, read as of one moment, or not: then it is read again.

    Args:
        reads: of the shard.
        name: the namespace.
        report: takes what is wrong.
    """

    def __init__(self, *, reads: ShardReads, name: str, report: Report) -> None:
        self._reads = reads
        self._name = name
        self._report = report
        self._parts: dict[str, Fields] = {}
        self._revision = self._compact = 0

    async def run(self, meta: Fields) -> None:
        """Checks all of it."""
        self._revision, self._compact = int(meta.get(b"revision", b"0")), int(meta.get(b"compact", b"1"))
        version = int(meta.get(b"version", b"0"))
        self._hold(version <= STATE_VERSION, "state", f"shared state has format {version}, of a newer release")
        for part in _READ:
            self._parts[part] = await self._read(part)
        try:
            events = await self._check_events()
            self._check_entries(meta, events)
            self._check_locks(meta)
            self._check_deadlines()
        except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
            self._wrong("state", f"shared state holds what no release wrote ({error})")

    async def _read(self, part: str) -> Fields:
        found: Fields = {}
        cursor: bytes | int = 0
        while cursor != b"0":
            cursor, fields = await self._reads.part_page(self._name, part, cursor)
            found |= fields
        return found

    def _wrong(self, kind: str, message: str) -> None:
        self._report.wrong(kind, f"{message}: {RESTORE}")

    def _hold(self, condition: bool, kind: str, otherwise: str) -> None:  # noqa: FBT001 - as an assertion
        if not condition:
            self._wrong(kind, otherwise)

    def _same(self, kind: str, what: str, there: Collection[bytes], wanted: Collection[bytes]) -> None:
        """Two sets of names must be equal; each that isn't in both is told of."""
        for name in sorted(set(wanted) - set(there)):
            self._wrong(kind, f"{what} lacks {_shown(name)}")
        for name in sorted(set(there) - set(wanted)):
            self._wrong(kind, f"{what} has {_shown(name)}, which isn't there")

    # --- keys -------------------------------------------------------------------------------------------------------------------

    async def _check_events(self) -> Events:
        last: Events = {}
        members: set[bytes] = set()
        cursor = "-"
        before = (0, -1)
        while page := await self._reads.connection.call(
            "XRANGE", self._reads.state_keys.part(self._name, "events"), cursor, "+", "COUNT", 500
        ):
            for event_id, fields in page:
                at, _, place = event_id.partition(b"-")
                revision, number = int(at), int(place)
                kind, previous, _, length = EVENT.unpack_from(fields[1])
                key, rest = fields[1][EVENT.size : EVENT.size + length], fields[1][EVENT.size + length :]
                members.add(sized(key) + revision.to_bytes(8) + number.to_bytes(4))
                self._hold(revision <= self._revision, "revision", f"an event has revision {revision}, above {self._revision}")
                # Of what is compacted, a part may still be there.
                if number != (before[1] + 1 if revision == before[0] else 0) and revision >= self._compact:
                    self._wrong("events", f"event {number} of revision {revision} follows event {before[1]} of {before[0]}")
                if key in last and last[key][0] and previous != (last[key][0] if last[key][1] else 0):
                    self._wrong("events", f"by an event of {_shown(key)} at revision {revision}, the one before it is missing")
                last[key] = (revision, rest if kind == EventKind.PUT.value else b"")
                before = (revision, number)
                cursor = f"({event_id.decode()}"
            self._report.looked("events", len(page))
        self._same("history", "the index of keys' events", await self._read("history"), members)
        return last

    def _check_entries(self, meta: Fields, events: Events) -> None:
        entries, values = self._parts["entries"], self._parts["values"]
        self._report.looked("keys", len(entries))
        self._same("keys", "the index of keys", self._parts["index"], entries)
        size, apart, leased = 0, set(), set()
        for key, entry in entries.items():
            revision, create, version, _, flag, lease, _, length = ENTRY.unpack_from(entry)
            shown = _shown(key)
            self._hold(
                create <= revision <= self._revision and version >= 1,
                "revision",
                f"{shown} was written at revision {revision} of {self._revision}",
            )
            size += len(key) + length
            whole = entry
            if flag == b"B":
                apart.add(key)
                whole = entry + values.get(key, b"")
                self._hold(len(values.get(key, b"")) == length > INLINE_BYTES, "values", f"the value of {shown} isn't {length} bytes long")
            if lease:
                leased.add(lease.to_bytes(8) + key)
                self._hold(lease.to_bytes(8) in self._parts["leases"], "leases", f"{shown} has lease {lease}, which isn't there")
            at, made = events.get(key, (revision, whole))
            self._hold(at == revision and made == whole, "events", f"{shown} isn't as its last event, of revision {at}, left it")
        for key, (revision, made) in events.items():
            self._hold(
                not made or key in entries, "events", f"{_shown(key)} isn't there, and its last event, of revision {revision}, made it"
            )
        self._same("values", "the table of large values", values, apart)
        self._same("leases", "the index of leases' keys", self._parts["lease_keys"], leased)
        said = int(meta.get(b"bytes", b"0"))
        self._hold(size == said, "state counters", f"keys and values have {size} bytes, and the counter says {said}")
        for lease in self._parts["leases"]:
            self._hold(
                int.from_bytes(lease) <= self._revision, "revision", f"lease {int.from_bytes(lease)} is above revision {self._revision}"
            )

    # --- locks and ends ---------------------------------------------------------------------------------------------------------

    def _check_locks(self, meta: Fields) -> None:
        locks, places = self._parts["locks"], self._parts["places"]
        self._report.looked("locks", len(locks))
        self._same("locks", "the index of locks", self._parts["lock_index"], locks)
        for name, lock in locks.items():
            token = HOLDER.unpack_from(lock)[0]
            self._hold(token <= self._revision, "revision", f"lock {_shown(name)} has token {token}, above revision {self._revision}")
        line = set()
        for waiting, place in places.items():
            name, stop = read_sized(waiting, 0)
            number = PLACE.unpack_from(place)[0]
            line.add(sized(name) + number.to_bytes(8) + waiting[stop:])
            self._hold(name in locks, "locks", f"somebody waits for lock {_shown(name)}, which nobody holds")
            self._hold(
                number <= int(meta.get(b"place", b"0")),
                "locks",
                f"somebody waits for lock {_shown(name)} at a place that will be given again",
            )
        self._same("locks", "the lines of locks", self._parts["line"], line)

    def _check_deadlines(self) -> None:
        wanted = {holder_deadline(name) for name in self._parts["locks"]}
        wanted |= {lease_deadline(int.from_bytes(lease)) for lease in self._parts["leases"]}
        wanted |= {key_deadline(key) for key, entry in self._parts["entries"].items() if ENTRY.unpack_from(entry)[6]}
        for waiting in self._parts["places"]:
            name, stop = read_sized(waiting, 0)
            wanted.add(waiter_deadline(name, waiting[stop:]))
        self._report.looked("deadlines", len(wanted))
        self._same("deadlines", "the index of deadlines", self._parts["deadlines"], wanted)


def _shown(name: bytes) -> str:
    return repr(name.decode(errors="backslashreplace"))
