"""Reads of a shard as it lies in the store, each as of one moment. They change nothing, and run beside a coordinator."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from coordinator.journal.layout import JOURNAL_FIELD, ShardKeys, marker_of_line, unpack_line
from coordinator.journal.ordered_connection import OrderedConnection
from coordinator.journal.scripts import READ_RECORDS, READ_SNAPSHOT, Script
from coordinator.ports import MAX_READ_BYTES, EndedEntry
from coordinator.state.layout import StateKeys
from coordinator.state.read_scripts import EVENTS, LIST

UNTOLD_PARTS: Final = ("leases", "locks", "places", "deadlines", "kept:0", "kept:1", "clients:0", "clients:1")
"""Of shared state, what no event tells of: only reading all of it at once gives it as of one moment."""

ZSETS: Final = frozenset(("deadlines", "index", "history", "lease_keys", "lock_index", "line"))
COMMITS_PER_READ: Final = 20  # each may hold megabytes
LINES_PER_READ: Final = 500
_PAGE_BYTES: Final = 2 * 1024 * 1024
_PAGE_ELEMENTS: Final = 1000

_POINT: Final = Script("""#!lua flags=no-writes
-- A shard at one moment. KEYS: head, then for each namespace its index, its counters, its state's meta, and what no event tells of.
-- ARGV: how many parts that is; how many elements of them are answered at most.
-- Answers the head, the time in ms, how many elements there are, then for each namespace the first line's position, how many lines there
-- are, the counters, the meta, and the parts: none when there are more elements than may be answered.
local parts, room = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local per = parts + 3
local elements = 0
for i = 2, #KEYS do
  if (i - 2) % per >= 3 then
    local kind = redis.call('TYPE', KEYS[i]).ok
    if kind == 'hash' then elements = elements + redis.call('HLEN', KEYS[i]) end
    if kind == 'zset' then elements = elements + redis.call('ZCARD', KEYS[i]) end
  end
end
local answer = {redis.call('HGETALL', KEYS[1]), time[1] * 1000 + math.floor(time[2] / 1000), elements}
for i = 2, #KEYS, per do
  local of = {
    tonumber(redis.call('HGET', KEYS[i + 1], 'base') or '0'),
    redis.call('LLEN', KEYS[i]),
    redis.call('HGETALL', KEYS[i + 1]),
    redis.call('HGETALL', KEYS[i + 2]),
  }
  for part = 1, elements <= room and parts or 0 do
    local key = KEYS[i + 2 + part]
    if redis.call('TYPE', key).ok == 'zset' then
      of[4 + part] = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    else
      of[4 + part] = redis.call('HGETALL', key)
    end
  end
  answer[#answer + 1] = of
end
return answer
""")

_LINES: Final = Script("""#!lua flags=no-writes
-- Lines of the index. KEYS: list, counters. ARGV: the first position, how many at most. Answers where they begin, and the lines.
local base = tonumber(redis.call('HGET', KEYS[2], 'base') or '0')
local first = math.max(base, tonumber(ARGV[1]))
return {first, redis.call('LRANGE', KEYS[1], first - base, first - base + ARGV[2] - 1)}
""")

Fields = dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class NamespacePoint:
    """A namespace at one moment.

    Attributes:
        base: the position of the first line of its index.
        stop: the position behind the last.
        counters: as stored.
        meta: of its shared state, as stored; empty when there is none.
        parts: UNTOLD_PARTS, each by name; empty when they weren't read.
    """

    base: int
    stop: int
    counters: Fields
    meta: Fields
    parts: dict[str, Fields]

    @property
    def revision(self) -> int:
        """Of its shared state."""
        return int(self.meta.get(b"revision", b"0"))


@dataclass(frozen=True, slots=True)
class Point:
    """A shard at one moment. `elements` is how many those of UNTOLD_PARTS of all namespaces are, whether they were read or not."""

    head: Fields
    date_ms: int
    elements: int
    namespaces: dict[str, NamespacePoint]

    @property
    def sequence(self) -> int:
        """The last journal entry."""
        return int(self.head.get(b"sequence", b"0"))

    @property
    def epoch(self) -> int:
        """The owner's."""
        return int(self.head.get(b"epoch", b"0"))

    @property
    def snapshot_sequence(self) -> int:
        """The entry behind which the snapshot stands; 0 when there is none."""
        return int(self.head.get(b"snapshot_sequence", b"0"))

    @property
    def snapshot_pieces(self) -> int:
        """How many pieces it has."""
        return int(self.head.get(b"snapshot_pieces", b"0"))

    def unchanged_since(self, before: "Point") -> bool:
        """Whether nothing was written to the shard or its shared state between the two."""
        return (
            (self.epoch, self.sequence, self.snapshot_sequence) == (before.epoch, before.sequence, before.snapshot_sequence)
            and self.namespaces.keys() == before.namespaces.keys()
            and all(
                (mine.base, mine.stop, mine.counters, mine.meta) == (theirs.base, theirs.stop, theirs.counters, theirs.meta)
                for mine, theirs in zip(self.namespaces.values(), before.namespaces.values(), strict=True)
            )
        )


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the index, and the value of the record that its id has now; None when there is none."""

    entry: EndedEntry
    marker: bytes
    value: bytes | None

    @property
    def is_current(self) -> bool:
        """Whether the record is of this line's end. Otherwise the line is superseded."""
        return self.value is not None and self.value.startswith(self.marker)


class ShardReads:
    """Reads of one shard.

    Args:
        connection: to the store.
        keys: the shard's.
    """

    def __init__(self, *, connection: OrderedConnection, keys: ShardKeys) -> None:
        self.keys = keys
        self.state_keys = StateKeys(shard=keys)
        self.connection = connection

    async def point(self, namespaces: Sequence[str], *, elements: int) -> Point:
        """The shard as it is now, with those of UNTOLD_PARTS if all together have at most so many elements."""
        keys = [self.keys.head]
        for name in namespaces:
            keys += (self.keys.ended(name), self.keys.counters(name), self.state_keys.part(name, "meta"))
            keys += [self.state_keys.part(name, part) for part in UNTOLD_PARTS]
        head, date_ms, count, *rest = await self.connection.run(_POINT, keys=keys, arguments=(len(UNTOLD_PARTS), elements))
        found: dict[str, NamespacePoint] = {}
        for name, (base, length, counters, meta, *parts) in zip(namespaces, rest, strict=True):
            by_name = {part: _fields(values) for part, values in zip(UNTOLD_PARTS, parts, strict=False)}
            found[name] = NamespacePoint(base, base + length, _fields(counters), _fields(meta), by_name)
        return Point(_fields(head), date_ms, count, found)

    async def commits(self, *, after: int) -> list[tuple[int, bytes]]:
        """Some journal entries behind `after`, in order; whatever else lies there has the sequence -1."""
        page = await self.connection.call("XRANGE", self.keys.journal, f"{after + 1}-0", "+", "COUNT", COMMITS_PER_READ)
        return [
            (int(entry_id.partition(b"-")[0]), fields[1]) if len(fields) == 2 and fields[0] == JOURNAL_FIELD else (-1, b"")
            for entry_id, fields in page
        ]

    async def piece(self, *, sequence: int, place: int) -> bytes | None:
        """A piece of the current snapshot; None when it isn't that of `sequence`, or has no such piece."""
        keys = (self.keys.head, *self.keys.snapshots)
        piece: bytes | None = await self.connection.run(READ_SNAPSHOT, keys=keys, arguments=(sequence, place))
        return piece

    async def lines(self, namespace: str, *, position: int, limit: int = LINES_PER_READ) -> list[Line]:
        """Some lines of the index from a position on, in order, with records. Raises struct.error or UnicodeDecodeError for garbage."""
        keys = (self.keys.ended(namespace), self.keys.counters(namespace))
        first, lines = await self.connection.run(_LINES, keys=keys, arguments=(position, limit))
        entries = [unpack_line(line, position=place) for place, line in enumerate(lines, first)]
        values = await self.records(namespace, [entry.task_id for entry in entries])
        return [Line(entry, marker_of_line(line), value) for entry, line, value in zip(entries, lines, values, strict=False)]

    async def records(self, namespace: str, task_ids: Sequence[str]) -> list[bytes | None]:
        """The values of the first of these records, each behind its marker: at least one, and as many as an answer takes."""
        if not task_ids:
            return []
        prefix = self.keys.tasks(namespace)
        found: list[bytes | None] = await self.connection.run(
            READ_RECORDS, keys=[prefix + task_id for task_id in task_ids], arguments=(MAX_READ_BYTES, 1)
        )
        return found

    async def entries(self, namespace: str, *, after: bytes | None) -> tuple[int, list[tuple[bytes, bytes]], bool]:
        """A page of the keys of shared state, with whole entries: the revision, the page, and whether there is more."""
        keys = [self.state_keys.part(namespace, part) for part in ("meta", "entries", "values", "index")]
        start = b"-" if after is None else b"(" + after
        revision, more, *rest = await self.connection.run(LIST, keys=keys, arguments=(start, b"+", _PAGE_ELEMENTS, _PAGE_BYTES, 0))
        return int(revision), list(zip(rest[::2], rest[1::2], strict=True)), bool(more)

    async def events(self, namespace: str, *, after: int) -> tuple[int, int, list[tuple[bytes, bytes]], bool]:
        """A page of events behind a revision: the revision, the first that is kept, the page, and whether there is more."""
        keys = [self.state_keys.part(namespace, part) for part in ("meta", "events")]
        revision, compact, more, *rest = await self.connection.run(EVENTS, keys=keys, arguments=(after, _PAGE_ELEMENTS, _PAGE_BYTES))
        return int(revision), int(compact), list(zip(rest[::2], rest[1::2], strict=True)), bool(more)

    async def part_page(self, namespace: str, part: str, cursor: bytes | int) -> tuple[bytes, Fields]:
        """A page of a part of shared state; the cursor is 0 at the beginning, b"0" at the end. What changes meanwhile may be missed."""
        command = "ZSCAN" if part in ZSETS else "HSCAN"
        after, flat = await self.connection.call(command, self.state_keys.part(namespace, part), cursor, "COUNT", _PAGE_ELEMENTS)
        return after, _fields(flat)


def _fields(flat: Sequence[Any]) -> Fields:
    return dict(zip(flat[::2], flat[1::2], strict=True))
