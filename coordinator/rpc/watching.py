"""WatchTasks: the present state first, then every change, with a cursor to resume from.

A cursor is a date of the store. What changed at that date or later is sent again after a resume, each task in its present state, so
nothing is missed and something may repeat; pieces of partial output carry offsets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from muster.v1 import event_pb2, task_pb2

from coordinator import convert, filters
from coordinator.core.effects import ChunkEmitted, ProgressMade, TaskChanged
from coordinator.core.model import Task
from coordinator.engine.watches import Missing, Recorded, Watch, WatchEvent
from coordinator.errors import InvalidRequest, LimitReached, NotFound, Unavailable
from coordinator.ports import StoreCorrupt, StoreOutage
from coordinator.rpc.outgoing import MAX_MESSAGE_BYTES
from coordinator.rpc.pages import PageToken, position
from coordinator.rpc.status import refusal_of
from coordinator.rpc.task_list import facts_of, facts_of_record
from coordinator.rpc.task_views import live_view

if TYPE_CHECKING:
    from coordinator.engine.namespace import Namespace
    from coordinator.engine.shard import Shard

MAX_IDS = 10_000
MAX_EVENTS = 256  # per message
MAX_CHUNK_BYTES = 256 * 1024  # per event
MAX_MISSED = 10_000  # ended tasks looked through for a watch by filter that resumes


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
        await watcher.begin()
        while not watch.is_over():
            events = await watch.take(MAX_EVENTS)
            for message in watcher.messages(events):
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
                raise Unavailable(watch.closed, reason="SHARD_UNAVAILABLE")
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
        self._since_ms = self._cursor_in(request.cursor)
        self._reached_ms = self._since_ms
        self._compacted = False
        by_content = None if request.task_ids else self._matches
        self.watch = Watch(
            task_ids=dict.fromkeys(request.task_ids) if request.task_ids else None,
            matches=by_content,
            chunks=request.include_chunks,
            progress=request.include_progress,
        )
        namespace.watches.announce(self.watch)

    def _cursor_in(self, cursor: str) -> int:
        after = PageToken.parse(cursor, query=self._query, field="cursor").after
        return position(after, field="cursor") if after else 0

    def cursor(self) -> str:
        """Where to resume."""
        return PageToken(self._query, str(self._reached_ms)).text()

    def _matches(self, task: Task) -> bool:
        return self._filter.matches(facts_of(task))

    async def begin(self) -> None:
        """Hands the watch the present state of what it follows, in its place among the released changes."""
        shard, namespace = self._shard, self._namespace
        with shard.records.open():
            if self.watch.task_ids is None:
                recorded = await self._ended_since() if self._since_ms else []
                live = [task for task in namespace.scheduler.state.tasks.values() if self._matches(task)]
            else:
                recorded = await self._recorded([i for i in self.watch.task_ids if namespace.scheduler.state.find(i) is None])
                found = (namespace.scheduler.state.find(task_id) for task_id in self.watch.task_ids)
                live = [task for task in found if task is not None]
            shard.require_current(namespace)
            in_memory = {task.spec.task_id for task in live}
            snapshot: list[WatchEvent] = [event for event in recorded if event.task_id not in in_memory]
            for task in live:
                if task.changed_ms >= self._since_ms:
                    snapshot.extend(self._present(task))
            snapshot.sort(key=lambda event: event.date_ms)  # the cursor is a date: what comes later must not be older
            shard.open_watch(namespace, self.watch, snapshot)

    def _present(self, task: Task) -> list[WatchEvent]:
        events: list[WatchEvent] = []
        if self._request.include_chunks and task.chunks:
            start = task.chunk_end - len(task.chunks)
            events.append(ChunkEmitted(task.spec.task_id, task.attempt, start, bytes(task.chunks), task.changed_ms))
        events.append(TaskChanged(task.snapshot(), task.changed_ms))
        return events

    async def _recorded(self, task_ids: list[str]) -> list[Recorded | Missing]:
        if not task_ids:
            return []
        blobs = await self._shard.records.get(self._namespace.name, task_ids)
        now_ms = self._shard.now().date_ms
        return [
            Missing(task_id, now_ms) if blob is None else Recorded(task_id, blob, convert.record_in(blob).end_ms)
            for task_id, blob in zip(task_ids, blobs, strict=True)
        ]

    async def _ended_since(self) -> list[Recorded | Missing]:
        """For a watch by filter that resumes: what ended since its cursor, oldest first."""
        try:
            entries = await self._shard.store.list_ended(self._namespace.name, before=None, limit=MAX_MISSED)
        except (StoreOutage, StoreCorrupt) as error:
            raise Unavailable(f"the store can't be read now ({error}): try again") from error
        missed = [entry for entry in entries if entry.end_ms >= self._since_ms]
        # All that is retained ended since the cursor: more may have, and be gone.
        self._compacted = len(missed) == len(entries) and bool(entries) and (len(entries) == MAX_MISSED or entries[-1].position > 0)
        events = await self._recorded([entry.task_id for entry in reversed(missed)])
        return [
            event
            for event in events
            if isinstance(event, Recorded) and self._filter.matches(facts_of_record(event_pb2.TaskRecord.FromString(event.record)))
        ]

    def messages(self, events: list[WatchEvent]) -> Iterator[task_pb2.WatchTasksResponse]:
        """Events as messages that fit the wire, each with a cursor. Each is made when it is asked for: together they may be large."""
        message = task_pb2.WatchTasksResponse(compacted=self._compacted)
        self._compacted = False
        room = MAX_MESSAGE_BYTES
        for event in events:
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
                return [*views, self._event(event.task_id, record.end_ms, task=convert.record_view(record, self._request.view))]

    def _task_view(self, task: Task) -> task_pb2.Task:
        if task.ended_ms:
            return convert.task_view(task, self._request.view)
        current = self._namespace.scheduler.state.tasks.get(task.spec.task_id)
        if current is not None and current.changed_ms == task.changed_ms:  # it is still so: say why it waits, and how far it is
            return live_view(self._namespace.scheduler, current, self._request.view)
        return convert.task_view(task, self._request.view)

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
