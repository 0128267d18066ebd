"""WatchTasks: the present state first, then every change, with a cursor to resume from.

A cursor is a date of the store, and within the first state of a watch by filter also how far that came. What changed at that date or
later is sent again after a resume, each task in its present state, so nothing is missed and something may repeat; pieces of partial
output carry offsets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from muster.v1 import event_pb2, task_pb2

from coordinator import convert, filters
from coordinator.core.effects import ChunkEmitted, ProgressMade, TaskChanged
from coordinator.core.model import Task
from coordinator.engine.watches import Missing, Page, Recorded, Watch, WatchEvent
from coordinator.errors import InvalidRequest, LimitReached, NotFound
from coordinator.rpc.first_state import FirstState, Since, StateOfIds, StateOfMatches
from coordinator.rpc.outgoing import MAX_MESSAGE_BYTES
from coordinator.rpc.pages import PageToken
from coordinator.rpc.status import refusal_of
from coordinator.rpc.task_search import facts_of
from coordinator.rpc.task_views import live_view, record_view, task_view

if TYPE_CHECKING:
    from coordinator.engine.namespace import Namespace
    from coordinator.engine.shard import Shard

MAX_IDS = 10_000
MAX_EVENTS = 256  # per message
MAX_CHUNK_BYTES = 256 * 1024  # per event


async def serve_watch(shard: Shard, namespace: Namespace, request: task_pb2.WatchTasksRequest, context: Any) -> None:
    """Follows tasks until all have ended, for a watch by ids, or until the caller goes.

    Raises:
        InvalidRequest: ids and filter are both given, or there are too many ids.
        CursorInvalid: the cursor is not of this request.
        LimitReached: the caller reads too slowly; its metadata says where to resume.
        Unavailable: the shard stopped.
    """
    watcher = _Watcher(shard, namespace, request)
    watch = watcher.watch
    try:
        await watcher.tell_page()
        while not watch.is_over():
            taken = await watch.take(MAX_EVENTS)
            for message in watcher.messages(taken):
                await context.write(message)
            if watch.overflowed:
                error = LimitReached(
                    "this watch is read too slowly and was broken off: resume from its last cursor",
                    limit="queued_watch_events",
                    used=MAX_EVENTS,
                    allowed=MAX_EVENTS,
                    retry_after_s=0.0,
                )
                error.metadata["cursor"] = watcher.cursor()
                raise error
            if watch.closed is not None:
                raise watch.closed
            if isinstance(taken, Page) and not taken.is_last:
                await watcher.tell_page()
    finally:
        namespace.watches.remove(watch)


class _Watcher:
    """One WatchTasks call."""

    def __init__(self, shard: Shard, namespace: Namespace, request: task_pb2.WatchTasksRequest) -> None:
        if request.task_ids and request.filter:
            raise InvalidRequest("give task_ids or a filter, not both", field="filter")
        if len(request.task_ids) > MAX_IDS:
            raise InvalidRequest(f"task_ids has {len(request.task_ids)} entries: at most {MAX_IDS}", field="task_ids")
        self._shard = shard
        self._namespace = namespace
        self._request = request
        self._filter = filters.parse(request.filter)
        self._query = f"watch {request.filter} {sorted(request.task_ids)}"
        self._since = Since.parse(PageToken.parse(request.cursor, query=self._query, field="cursor").after)
        self._position = 0  # of the first state: see Page
        self._is_told = False  # all of it
        self.watch = Watch(
            task_ids=dict.fromkeys(request.task_ids) if request.task_ids else None,
            matches=None if request.task_ids else self._matches,
            chunks=request.include_chunks,
            progress=request.include_progress,
        )
        namespace.watches.announce(self.watch)
        self._reached_ms = max(self._since.reached_ms, shard.now().date_ms)  # all later changes are told
        self._first_state: FirstState
        if request.task_ids:
            self._first_state = StateOfIds(
                shard=shard, namespace=namespace, task_ids=request.task_ids, since=self._since, chunks=request.include_chunks
            )
        else:
            self._first_state = StateOfMatches(
                shard=shard,
                namespace=namespace,
                wanted=self._filter,
                matches=self._matches,
                since=self._since,
                chunks=request.include_chunks,
            )

    def cursor(self) -> str:
        """Where to resume."""
        since = self._since
        if self._is_told:
            since = Since(self._reached_ms, 0, self._reached_ms)
        elif self._position >= max(since.number, 1):
            since = Since(since.changed_ms, self._position, self._reached_ms)
        return PageToken(self._query, since.text()).text()

    def _matches(self, task: Task) -> bool:
        return self._filter.matches(facts_of(task))

    async def tell_page(self) -> None:
        """Hands the watch the next page of the present state of what it follows, in its place among the released changes."""
        page = await self._first_state.page()
        self._shard.tell_page(self._namespace, self.watch, page)

    def messages(self, taken: Page | list[WatchEvent]) -> Iterator[task_pb2.WatchTasksResponse]:
        """Events as messages that fit the wire, each with a cursor. Each is made when it is asked for: together they may be large."""
        message = task_pb2.WatchTasksResponse(compacted=self._first_state.compacted)
        self._first_state.compacted = False
        room = MAX_MESSAGE_BYTES
        page = taken if isinstance(taken, Page) else None
        for event in taken.events if isinstance(taken, Page) else taken:
            for view in self._views(event):
                size = view.ByteSize()
                if size > room and message.events:
                    message.cursor = self.cursor()
                    yield message
                    message = task_pb2.WatchTasksResponse()
                    room = MAX_MESSAGE_BYTES
                room -= size
                message.events.append(view)
            self._reached_ms = max(self._reached_ms, event.date_ms)
            if page is not None and page.position and isinstance(event, TaskChanged):
                self._position = event.task.number + 1
        if page is not None:
            self._position = page.position
            self._is_told = page.is_last
        if message.events or message.compacted:
            message.cursor = self.cursor()
            yield message

    def _views(self, event: WatchEvent) -> list[task_pb2.TaskEvent]:
        match event:
            case TaskChanged():
                return [self._event(event.task.spec.task_id, event.date_ms, task=self._task_view(event.task))]
            case ChunkEmitted():
                return self._chunks(event.task_id, event.date_ms, event.attempt, event.offset, event.data)
            case ProgressMade():
                return [self._event(event.task_id, event.date_ms, progress=convert.progress_out(event.progress))]
            case Missing():
                error = NotFound(f"task {event.task_id} is not known, or its record has expired", reason="TASK_NOT_FOUND")
                return [self._event(event.task_id, event.date_ms, missing=refusal_of(error))]
            case Recorded():
                record = event_pb2.TaskRecord.FromString(event.record)
                views = []
                if self._request.include_chunks and record.chunks:
                    views = self._chunks(event.task_id, record.end_ms, record.attempt, record.chunk_offset, record.chunks)
                return [*views, self._event(event.task_id, record.end_ms, task=record_view(record, self._request.view))]

    def _task_view(self, task: Task) -> task_pb2.Task:
        if task.ended_ms:
            return task_view(task, self._request.view)
        current = self._namespace.scheduler.state.tasks.get(task.spec.task_id)
        if current is not None and current.changed_ms == task.changed_ms:  # it is still so: say why it waits, and how far it is
            return live_view(self._namespace.scheduler, current, self._request.view)
        return task_view(task, self._request.view)

    @staticmethod
    def _event(task_id: str, date_ms: int, **what: Any) -> task_pb2.TaskEvent:
        return task_pb2.TaskEvent(task_id=task_id, event_time=convert.timestamp(date_ms), **what)

    def _chunks(self, task_id: str, date_ms: int, attempt: int, offset: int, data: bytes) -> list[task_pb2.TaskEvent]:
        return [
            self._event(
                task_id,
                date_ms,
                chunk=task_pb2.TaskChunk(attempt=attempt, offset=offset + start, data=data[start : start + MAX_CHUNK_BYTES]),
            )
            for start in range(0, len(data), MAX_CHUNK_BYTES)
        ]
