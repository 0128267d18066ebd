"""What a watch is told first: the present state of what it follows, in pages, so that neither memory nor a turn of the loop grows with it.

A page is put in its place among the changes that are released, so that what is told of a task is in order; the next one is made when
it has been handed out. Changes are told from the beginning: what is not yet in a page may be told by a change first, and again by its page.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from muster.v1 import event_pb2

from coordinator import convert
from coordinator.core.effects import ChunkEmitted, TaskChanged
from coordinator.core.model import Task
from coordinator.engine.watches import Missing, Page, Recorded, WatchEvent
from coordinator.errors import CursorInvalid
from coordinator.ports import EndedEntry
from coordinator.rpc.live_walk import LiveWalk
from coordinator.rpc.outgoing import MAX_MESSAGE_BYTES
from coordinator.rpc.pages import position
from coordinator.rpc.task_list import entries_within
from coordinator.rpc.task_search import ended_terms, facts_of_record, live_walk, may_have_ended

if TYPE_CHECKING:
    from coordinator.engine.namespace import Namespace
    from coordinator.engine.shard import Shard
    from coordinator.filters import Filter

MAX_EVENTS = 256  # per page
MAX_MISSED = 10_000  # ended tasks looked through for a watch by filter that resumes
MISSED_PAGE = 1000  # of these, per look


@dataclass(frozen=True, slots=True)
class Since:
    """What a watcher knows.

    Of tasks below `number` all that changed before `reached_ms`, of the others all that changed before `changed_ms`.
    """

    changed_ms: int = 0
    number: int = 0
    reached_ms: int = 0

    @classmethod
    def parse(cls, text: str) -> Since:
        """As a cursor has it; empty text is nothing known.

        Raises:
            CursorInvalid: it isn't one.
        """
        if not text:
            return cls()
        numbers = [position(part, field="cursor") for part in text.split(" ", 3)]
        if len(numbers) not in (1, 3):
            raise CursorInvalid("cursor can't be read: take it from an answer, unchanged", field="cursor")
        return cls(*numbers) if len(numbers) == 3 else cls(numbers[0], 0, numbers[0])

    def text(self) -> str:
        """As a cursor has it."""
        if self.number:
            return f"{self.changed_ms} {self.number} {self.reached_ms}"
        return str(self.changed_ms) if self.changed_ms else ""

    def missed(self, task: Task) -> bool:
        """Whether the watcher may not know a live task as it is now."""
        return task.changed_ms >= self.reached_ms or (task.number >= self.number and task.changed_ms >= self.changed_ms)


class FirstState(Protocol):
    """Makes the pages, one after the other."""

    compacted: bool  # not all that changed since the cursor is known any more: told once, with the next page

    async def page(self) -> Page:
        """The next page: call once more unless it says that it is the last.

        Raises:
            Unavailable: the store can't be read, or the shard was rebuilt.
        """


class StateOfIds:
    """The first state of a watch by ids.

    Args:
        shard: where their namespace lives.
        namespace: theirs.
        task_ids: which.
        since: what the watcher knows of live tasks; what has ended is told again.
        chunks: whether it wants partial output.
    """

    def __init__(self, *, shard: Shard, namespace: Namespace, task_ids: Iterable[str], since: Since, chunks: bool) -> None:
        self.compacted = False
        self._shard = shard
        self._namespace = namespace
        self._since = since
        self._chunks = chunks
        self._left = deque(sorted(set(task_ids)))

    async def page(self) -> Page:
        """See FirstState."""
        shard, namespace, left = self._shard, self._namespace, self._left
        state = namespace.scheduler.state
        events: list[WatchEvent] = []
        with shard.records.open():
            ids = [left.popleft() for _ in range(min(MAX_EVENTS, len(left)))]
            unknown = [task_id for task_id in ids if state.find(task_id) is None]
            blobs = await shard.records.get_first(namespace.name, unknown, max_bytes=MAX_MESSAGE_BYTES) if unknown else []
            shard.require_current(namespace)
            records = dict(zip(unknown, blobs, strict=False))
            now_ms = shard.now().date_ms
            room = MAX_MESSAGE_BYTES
            for index, task_id in enumerate(ids):
                task = state.find(task_id)
                if room < 0 or (task is None and task_id not in records):  # the records of the others didn't fit, nor does what follows
                    left.extendleft(reversed(ids[index:]))
                    break
                if task is not None:
                    if task.ended_ms or self._since.missed(task):
                        events.extend(present(task, chunks=self._chunks))
                        room -= len(task.chunks or b"")
                    continue
                blob = records[task_id]
                if blob is None:
                    events.append(Missing(task_id, now_ms))
                else:
                    events.append(Recorded(task_id, blob, convert.record_in(blob).end_ms))
            return Page(events, position=0, is_last=not left)


class StateOfMatches:
    """The first state of a watch by filter: what has ended since the cursor, oldest first, then all live tasks, by age.

    Args:
        shard: where the namespace lives.
        namespace: whose tasks.
        wanted: the filter.
        matches: the same, of a task in memory.
        since: what the watcher knows; nothing, for a new watch, and then ended tasks are not told.
        chunks: whether it wants partial output.
    """

    def __init__(
        self, *, shard: Shard, namespace: Namespace, wanted: Filter, matches: Callable[[Task], bool], since: Since, chunks: bool
    ) -> None:
        self.compacted = False
        self._shard = shard
        self._namespace = namespace
        self._filter = wanted
        self._matches = matches
        self._since = since
        self._chunks = chunks
        self._missed: deque[EndedEntry] | None = deque() if since == Since() else None
        self._is_followed = False  # with the first page the watch is handed changes
        self._walk: LiveWalk | None = None

    async def page(self) -> Page:
        """See FirstState."""
        shard, namespace = self._shard, self._namespace
        if self._missed is None:
            if not self._is_followed:  # first: from its release on, whatever ends is told, and what ended before is in the store
                self._is_followed = True
                return Page([], position=0, is_last=False)
            self._missed = await self._ended_since(self._since.reached_ms)
        if self._missed:
            return await self._ended_page(self._missed)
        shard.require_current(namespace)
        if self._walk is None:
            self._walk = live_walk(namespace.scheduler, self._filter, start=1)
        # With their output tasks are large: then a page has few of them, and the next ones follow at once.
        most = MAX_MESSAGE_BYTES // shard.settings.max_chunk_bytes if self._chunks else MAX_EVENTS
        tasks = self._walk.slice(lambda task: self._since.missed(task) and self._matches(task), most=max(most, 1))
        events = [event for task in tasks for event in present(task, chunks=self._chunks)]
        return Page(events, position=self._walk.next_number(), is_last=self._walk.is_over())

    async def _ended_since(self, since_ms: int) -> deque[EndedEntry]:
        missed: deque[EndedEntry] = deque()  # oldest first
        before: int | None = None
        if not may_have_ended(self._filter):
            return missed
        terms = ended_terms(self._filter)
        while len(missed) < MAX_MISSED:
            entries = await self._shard.records.list_ended(self._namespace.name, before=before, limit=MISSED_PAGE, terms=terms)
            missed.extendleft(entry for entry in entries if entry.end_ms >= since_ms)
            if not entries:
                break
            if entries[-1].end_ms < since_ms:
                return missed
            before = entries[-1].position
        self.compacted = bool(before)  # all that was looked through ended since the cursor: more may have, and be gone
        return missed

    async def _ended_page(self, missed: deque[EndedEntry]) -> Page:
        shard, namespace = self._shard, self._namespace
        with shard.records.open():
            first = list(entries_within((missed[index] for index in range(min(MAX_EVENTS, len(missed)))), MAX_MESSAGE_BYTES))
            blobs = await shard.records.get_first(namespace.name, [entry.task_id for entry in first], max_bytes=MAX_MESSAGE_BYTES)
            shard.require_current(namespace)
            events: list[WatchEvent] = list(self._recorded(first, blobs))
            for _ in blobs:
                missed.popleft()
        return Page(events, position=0, is_last=False)

    def _recorded(self, entries: Sequence[EndedEntry], blobs: Sequence[bytes | None]) -> Iterator[Recorded]:
        for entry, blob in zip(entries, blobs, strict=False):
            if blob is None or entry.task_id in self._namespace.scheduler.state.tasks:  # gone, or live again: that is told
                continue
            record = event_pb2.TaskRecord.FromString(blob)
            if self._filter.matches(facts_of_record(record)):
                yield Recorded(entry.task_id, blob, record.end_ms)


def present(task: Task, *, chunks: bool) -> list[WatchEvent]:
    """A task in memory as it is now, with what it has emitted if `chunks` are asked for."""
    events: list[WatchEvent] = []
    if chunks and task.chunks:
        start = task.chunk_end - len(task.chunks)
        events.append(ChunkEmitted(task.spec.task_id, task.attempt, start, bytes(task.chunks), task.changed_ms))
    events.append(TaskChanged(task.snapshot(), task.changed_ms))
    return events
