"""Shared state in memory, for tests and simulations: what `redis_store` promises, by a clock and with faults that the caller injects."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from coordinator.journal.memory_store import Fault
from coordinator.ports import MAX_READ_BYTES, StoreOutage
from coordinator.state.memory_namespace import MemoryNamespace
from coordinator.state.model import Command, Entry, Event, Limits, LockView
from coordinator.state.ports import EntryPage, EventPage, Facts, WriteAnswer, Written


class StateCall(Enum):
    """What a fault may hit."""

    WRITE = auto()
    READ = auto()
    DROP = auto()


StateFaultHook = Callable[[StateCall], Awaitable[Fault]]
"""As `coordinator.journal.memory_store.FaultHook`."""


async def no_state_faults(call: StateCall) -> Fault:  # noqa: ARG001
    """The hook of a store that never fails."""
    return Fault.NONE


@dataclass(slots=True)
class MemoryState:
    """A shard's shared state, which outlives its owners: give it to the store of each. `full` makes it a store without memory left."""

    namespaces: dict[str, MemoryNamespace] = field(default_factory=dict)
    full: bool = False


class MemoryStateStore:
    """Implements `coordinator.state.ports.StateStore`.

    Args:
        state: the data.
        owns: whether the shard is still this coordinator's: `MemoryShardStore.owns`.
        now_ms: the store's time, in milliseconds since 1970.
        fault: decides what goes wrong.
    """

    def __init__(
        self,
        *,
        state: MemoryState,
        owns: Callable[[], bool],
        now_ms: Callable[[], int],
        fault: StateFaultHook = no_state_faults,
    ) -> None:
        self._state = state
        self._owns = owns
        self._now_ms = now_ms
        self._fault = fault

    async def write(self, namespace: str, commands: Sequence[Command], *, nonce: str, limits: Limits, known_revision: int = 0) -> Written:
        """See StateStore."""
        fault = await self._before(StateCall.WRITE)
        written = self._apply(namespace, commands, nonce, limits, known_revision)
        _after(fault)
        return written

    def _apply(self, name: str, commands: Sequence[Command], nonce: str, limits: Limits, known_revision: int) -> Written:
        now = self._now_ms()
        if not self._owns():
            return Written(answer=WriteAnswer.FENCED, verdicts=(), revision=0, date_ms=now, next_due_ms=None, incarnation="")
        held = self._state.namespaces.setdefault(name, MemoryNamespace(incarnation=nonce))
        answer, lost = WriteAnswer.ALREADY_MINE, 0
        if held.last[0] != nonce:
            answer = WriteAnswer.APPLIED
            lost = held.recover(known_revision, nonce)
            held.begin_batch(limits, now)
            held.last = (nonce, [held.apply(command, limits, now, full=self._state.full or limits.store_full) for command in commands])
        return Written(
            answer=answer,
            verdicts=held.last[1],
            revision=held.revision,
            date_ms=now,
            next_due_ms=held.deadlines.next_ms(),
            incarnation=held.incarnation,
            lost=lost,
        )

    async def get(self, namespace: str, keys: Sequence[str], *, max_bytes: int = MAX_READ_BYTES) -> tuple[int, Sequence[Entry | None]]:
        """See StateStore."""
        held = await self._read(namespace)
        entries: list[Entry | None] = []
        room = max_bytes
        for entry in map(held.entries.get, keys):
            room -= 0 if entry is None else entry_bytes(entry)
            if room < 0 and entries and entry is not None:
                break
            entries.append(entry)
        return held.revision, entries

    async def list(self, namespace: str, *, prefix: str, after: str, limit: int, max_bytes: int, keys_only: bool) -> EntryPage:
        """See StateStore."""
        held = await self._read(namespace)
        names = held.named(prefix, after)
        entries: list[Entry] = []
        room = max_bytes
        for name in names:
            entry = held.entries[name]
            if keys_only:
                entry = replace(entry, value=b"")
            room -= entry_bytes(entry)
            if entries and (room < 0 or len(entries) >= limit):
                return EntryPage(revision=held.revision, entries=entries, after=entries[-1].key)
            entries.append(entry)
        return EntryPage(revision=held.revision, entries=entries, after=None)

    async def events(self, namespace: str, *, after: int, limit: int, max_bytes: int) -> EventPage:
        """See StateStore."""
        held = await self._read(namespace)
        if after < held.compact_revision - 1:
            return EventPage(events=[], through=after, revision=held.revision, compact_revision=held.compact_revision)
        return _page(held, (event for event in held.kept_events() if event.revision > after), limit, max_bytes)

    async def history(self, namespace: str, key: str, *, after: int, limit: int, max_bytes: int) -> EventPage:
        """See StateStore."""
        held = await self._read(namespace)
        return _page(held, (event for event in held.kept_events() if event.revision > after and event.key == key), limit, max_bytes)

    async def entry_at(self, namespace: str, key: str, revision: int) -> Entry | None:
        """See StateStore."""
        held = await self._read(namespace)
        entry = held.entries.get(key)
        if entry is not None and entry.mod_revision == revision:
            return entry
        found = (event.entry for event in held.kept_events() if event.revision == revision and event.key == key)
        return next(found, None)

    async def locks(self, namespace: str, *, prefix: str, after: str, limit: int) -> Sequence[LockView]:
        """See StateStore."""
        held = await self._read(namespace)
        return held.locks.views(prefix=prefix, after=after, limit=limit)

    async def facts(self, namespace: str) -> Facts:
        """See StateStore."""
        held = await self._read(namespace)
        return Facts(
            revision=held.revision,
            incarnation=held.incarnation,
            compact_revision=held.compact_revision,
            keys=len(held.entries),
            bytes=held.bytes,
            next_due_ms=held.deadlines.next_ms(),
        )

    async def drop(self, namespace: str, *, limit: int) -> bool:  # noqa: ARG002
        """See StateStore."""
        fault = await self._before(StateCall.DROP)
        if self._owns():
            self._state.namespaces.pop(namespace, None)
        _after(fault)
        return False

    async def _read(self, namespace: str) -> MemoryNamespace:
        _after(await self._before(StateCall.READ))
        return self._state.namespaces.get(namespace) or MemoryNamespace(incarnation="")

    async def _before(self, call: StateCall) -> Fault:
        fault = await self._fault(call)
        if fault is Fault.BEFORE:
            raise StoreOutage("the store can't be reached")
        return fault


def entry_bytes(entry: Entry) -> int:
    """What an entry counts for against the bound of a page."""
    return len(entry.key.encode()) + len(entry.value)


def _page(held: MemoryNamespace, events: Iterable[Event], limit: int, max_bytes: int) -> EventPage:
    """Whole revisions, at least one: as many as fit."""
    page: list[Event] = []
    room = max_bytes
    for event in events:
        room -= len(event.key.encode()) + len(event.entry.value if event.entry is not None else b"")
        if page and event.revision != page[-1].revision and (len(page) >= limit or room < 0):
            return EventPage(events=page, through=page[-1].revision, revision=held.revision, compact_revision=held.compact_revision)
        page.append(event)
    return EventPage(events=page, through=held.revision, revision=held.revision, compact_revision=held.compact_revision)


def _after(fault: Fault) -> None:
    if fault is Fault.AFTER:
        raise StoreOutage("the store's answer was lost")
