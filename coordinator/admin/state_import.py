"""Writes a namespace's shared state: what an export has of it, and every index that follows from that."""

from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from muster.v1 import export_pb2

from coordinator.admin.shard_reads import UNTOLD_PARTS
from coordinator.journal.layout import ShardKeys
from coordinator.state.layout import ENTRY, EVENT, PLACE, StateKeys, read_sized, sized

if TYPE_CHECKING:
    from coordinator.admin.importing import Batch

REVISION_GAP: Final = 1 << 40
"""By how much revisions are above the exported ones from the first write on: what has been exported may have gone on, and no revision and
no lock's token may be given out twice. It takes a hundred days to write so many, and eight thousand such gaps until 2^53."""

_LEASE_AT: Final = 33  # in an entry: behind the flag
_PER_COMMAND: Final = 500


class StateImport:
    """One namespace's.

    Args:
        keys: the shard's.
        namespace: its name.
        batch: takes the commands.
    """

    def __init__(self, *, keys: ShardKeys, namespace: str, batch: "Batch") -> None:
        self._keys = StateKeys(shard=keys)
        self._namespace = namespace
        self._batch = batch
        self._meta: dict[bytes, bytes] = {}

    def all_keys(self) -> tuple[str, ...]:
        """Whatever may have been written."""
        return self._keys.parts(self._namespace)

    def _key(self, part: str) -> str:
        return self._keys.part(self._namespace, part)

    async def take(self, client: Any, part: export_pb2.ExportedState) -> None:
        """Takes a part in. `client` is of the store."""
        pairs = list(zip(part.names, part.values, strict=True))
        match part.part:
            case "entries" | "gone":
                await self._batch.send()
                await self._forget(client, part.names)
                if part.part == "entries":
                    self._add_entries(pairs)
            case "events":
                self._add_events(pairs)
            case "meta":
                self._meta = dict(pairs)
                self._batch.add("UNLINK", *map(self._key, (*UNTOLD_PARTS, "lock_index", "line")))
            case _:
                self._add_part(part.part, pairs)

    async def _forget(self, client: Any, names: Any) -> None:
        """Removes keys, if they are there."""
        there = zip(names, await client.hmget(self._key("entries"), *names), strict=True)
        old = {name: entry for name, entry in there if entry is not None}
        if not old:
            return
        found = list(old)
        leases = [entry[_LEASE_AT : _LEASE_AT + 8] + name for name, entry in old.items()]
        self._batch.add("HDEL", self._key("entries"), *found)
        self._batch.add("HDEL", self._key("values"), *found)
        self._batch.add("ZREM", self._key("index"), *found)
        self._batch.add("ZREM", self._key("lease_keys"), *leases)

    def _add_entries(self, pairs: list[tuple[bytes, bytes]]) -> None:
        entries: list[bytes] = []
        values: list[bytes] = []
        leases: list[bytes] = []
        for name, entry in pairs:
            *_, flag, lease, _, size = ENTRY.unpack_from(entry)
            stored = entry
            if flag == b"B":
                stored = entry[: len(entry) - size]
                values += (name, entry[len(entry) - size :])
            entries += (name, stored)
            if lease:
                leases.append(lease.to_bytes(8) + name)
        self._batch.add("HSET", self._key("entries"), *entries)
        self._batch.add("ZADD", self._key("index"), *chain.from_iterable((0, name) for name, _ in pairs))
        if values:
            self._batch.add("HSET", self._key("values"), *values)
        if leases:
            self._batch.add("ZADD", self._key("lease_keys"), *chain.from_iterable((0, member) for member in leases))

    def _add_events(self, pairs: list[tuple[bytes, bytes]]) -> None:
        members: list[bytes | int] = []
        for event_id, event in pairs:
            self._batch.add("XADD", self._key("events"), event_id, b"e", event)
            *_, length = EVENT.unpack_from(event)
            revision, _, place = event_id.partition(b"-")
            name = event[EVENT.size : EVENT.size + length]
            members += (0, sized(name) + int(revision).to_bytes(8) + int(place).to_bytes(4))
        for first in range(0, len(members), 2 * _PER_COMMAND):
            self._batch.add("ZADD", self._key("history"), *members[first : first + 2 * _PER_COMMAND])

    def _add_part(self, part: str, pairs: list[tuple[bytes, bytes]]) -> None:
        for first in range(0, len(pairs), _PER_COMMAND):
            some = pairs[first : first + _PER_COMMAND]
            if part == "deadlines":
                self._batch.add("ZADD", self._key(part), *chain.from_iterable((date, member) for member, date in some))
                continue
            self._batch.add("HSET", self._key(part), *chain.from_iterable(some))
            if part == "locks":
                self._batch.add("ZADD", self._key("lock_index"), *chain.from_iterable((0, name) for name, _ in some))
            if part == "places":
                self._batch.add("ZADD", self._key("line"), *chain.from_iterable((0, _in_line(*place)) for place in some))

    async def finish(self, client: Any, *, incarnation: str) -> None:
        """All is in: it goes on from here, under another incarnation, so that watches of what was exported are told to list again."""
        await self._batch.send()
        if not self._meta:
            return
        meta = self._meta | {
            b"incarnation": incarnation.encode(),
            b"nonce": b"",
            b"revision": str(int(self._meta.get(b"revision", b"0")) + REVISION_GAP).encode(),
        }
        await client.hset(self._key("meta"), mapping=meta)


def _in_line(name: bytes, place: bytes) -> bytes:
    """A waiter's place in a lock's line, from where its place is kept: a lock's name behind its length, and the waiter's id."""
    lock, stop = read_sized(name, 0)
    number: int = PLACE.unpack_from(place)[0]
    return sized(lock) + number.to_bytes(8) + name[stop:]
