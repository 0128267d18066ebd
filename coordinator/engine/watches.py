"""Those who follow tasks. Each has a bounded queue of its own: a slow one costs only itself, and is told where to resume."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from coordinator.core.effects import ChunkEmitted, ProgressMade, TaskChanged
from coordinator.core.model import ENDED, Task
from coordinator.core.scheduler import Scheduler
from coordinator.errors import NotFound, Unavailable

MAX_QUEUED_EVENTS = 10_000
MAX_QUEUED_BYTES = 64 * 1024 * 1024  # of chunks, results and requests


@dataclass(slots=True)
class Missing:
    """A watched id that is neither live nor retained."""

    task_id: str
    date_ms: int


@dataclass(slots=True)
class Recorded:
    """An ended task, from its record."""

    task_id: str
    record: bytes
    date_ms: int


@dataclass(slots=True)
class Page:
    """A part of the state that a watch begins with, in its place among the changes.

    Attributes:
        events: it.
        position: of the numbers of tasks, the first that no page has held yet; 0 before that means anything.
        is_last: whether this completes the state.
    """

    events: "list[WatchEvent]"
    position: int
    is_last: bool


WatchEvent = TaskChanged | ChunkEmitted | ProgressMade | Missing | Recorded


class Watch:
    """One watcher's queue.

    Args:
        task_ids: what it follows by id; the watch is over when all have ended. None to follow `matches`.
        matches: what it follows by content.
        chunks: whether it wants partial output.
        progress: whether it wants progress.
    """

    def __init__(self, *, task_ids: Iterable[str] | None, matches: Callable[[Task], bool] | None, chunks: bool, progress: bool) -> None:
        self.task_ids = None if task_ids is None else set(task_ids)
        self.waiting_for = set(self.task_ids or ())
        self._matches = matches
        self._chunks = chunks
        self._progress = progress
        self._queue: deque[WatchEvent | Page] = deque()
        self._queued_events = 0  # without pages: there is one at a time, and its size is bounded
        self._queued_bytes = 0
        self._ready = asyncio.Event()
        self.overflowed = False
        self.closed: Unavailable | NotFound | None = None
        self.left = False

    def follows(self, task: Task) -> bool:
        """Whether a watch by content follows this task, as it is now."""
        return self._matches is None or self._matches(task)

    def add_page(self, page: Page) -> None:
        """Queues a part of the state that it begins with, as it is now."""
        if self.overflowed:
            return
        self._queue.append(page)
        for event in page.events:
            self._note_end(event)
        self._ready.set()

    def push(self, event: WatchEvent) -> None:
        """Queues an event that this watcher asked for; over the bound the watch is broken off."""
        if self.overflowed:
            return
        if isinstance(event, ChunkEmitted):
            if not self._chunks:
                return
        elif isinstance(event, ProgressMade) and not self._progress:
            return
        self._queue.append(event)
        self._queued_events += 1
        self._queued_bytes += _size_of(event)
        self._note_end(event)
        if self._queued_events > MAX_QUEUED_EVENTS or self._queued_bytes > MAX_QUEUED_BYTES:
            self.overflowed = True
            self._queue.clear()
        self._ready.set()

    def _note_end(self, event: WatchEvent) -> None:
        if isinstance(event, Missing | Recorded):
            self.waiting_for.discard(event.task_id)
        elif isinstance(event, TaskChanged) and event.task.state in ENDED:
            self.waiting_for.discard(event.task.spec.task_id)

    def close(self, error: Unavailable | NotFound) -> None:
        """The shard stops serving, or the namespace was deleted: the watch ends with `error`."""
        self.closed = error
        self._ready.set()

    def is_over(self) -> bool:
        """Everything it followed by id has ended, and was handed out."""
        return self.task_ids is not None and not self.waiting_for and not self._queue and not self.overflowed

    async def take(self, limit: int) -> Page | list[WatchEvent]:
        """What is next: a page, or changes, at least one unless the watch has overflowed, or is closed or over."""
        while not (self._queue or self.overflowed or self.closed is not None or self.is_over()):
            self._ready.clear()
            await self._ready.wait()
        events: list[WatchEvent] = []
        while self._queue and len(events) < limit:
            event = self._queue[0]
            if isinstance(event, Page):
                if events:
                    break
                self._queue.popleft()
                return event
            events.append(event)
            self._queue.popleft()
            self._queued_events -= 1
            self._queued_bytes -= _size_of(event)
        return events


def _size_of(event: WatchEvent) -> int:
    """About how much memory an event holds on to that nothing else may hold."""
    if isinstance(event, ChunkEmitted):
        return len(event.data)
    if isinstance(event, TaskChanged):
        return len(event.task.outcome) + (len(event.task.spec.request) if event.task.ended_ms else 0)
    return 0


class WatchRegistry:
    """The watches of one namespace."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._by_id: dict[str, set[Watch]] = {}
        self._by_content: set[Watch] = set()
        self._open: set[Watch] = set()  # announced, active or not yet
        self._announced: dict[str, int] = {}
        self._announced_by_content = 0

    def announce(self, watch: Watch) -> None:
        """From this decision on, changes are told: `activate` follows when what was decided before has been released."""
        self._open.add(watch)
        if watch.task_ids is None:
            self._announced_by_content += 1
            self._scheduler.watch_all = True
            return
        for task_id in watch.task_ids:
            self._announced[task_id] = self._announced.get(task_id, 0) + 1
        self._scheduler.watched_ids.update(watch.task_ids)

    def activate(self, watch: Watch, page: Page) -> None:
        """Hands a watch a page of its first state; from the first one on, changes are published to it. Nothing, if its watcher has left."""
        if watch.left:
            return
        watch.add_page(page)
        if watch.task_ids is None:
            self._by_content.add(watch)
        for task_id in watch.task_ids or ():
            self._by_id.setdefault(task_id, set()).add(watch)

    def remove(self, watch: Watch) -> None:
        """The watcher is gone."""
        self._open.discard(watch)
        watch.left = True
        if watch.task_ids is None:
            self._by_content.discard(watch)
            self._announced_by_content -= 1
            self._scheduler.watch_all = self._announced_by_content > 0
        for task_id in watch.task_ids or ():
            followers = self._by_id.get(task_id)
            if followers is not None:
                followers.discard(watch)
                if not followers:
                    del self._by_id[task_id]
            self._announced[task_id] -= 1
            if not self._announced[task_id]:
                del self._announced[task_id]
                self._scheduler.watched_ids.discard(task_id)

    def publish(self, event: TaskChanged | ChunkEmitted | ProgressMade) -> None:
        """Hands a released event to those who follow its task."""
        task_id = event.task.spec.task_id if isinstance(event, TaskChanged) else event.task_id
        for watch in self._by_id.get(task_id, ()):
            watch.push(event)
        if not self._by_content:
            return
        task = event.task if isinstance(event, TaskChanged) else self._scheduler.state.find(task_id)
        for watch in self._by_content:
            if task is not None and watch.follows(task):
                watch.push(event)

    def close(self, error: Unavailable) -> None:
        """The shard stops serving."""
        for watch in self._open:  # also those whose first events would have been released by a commit that never comes
            watch.close(error)

    def gone(self, message: str) -> None:
        """The namespace was deleted."""
        for watch in self._open:
            watch.close(NotFound(message, reason="NAMESPACE_NOT_FOUND"))
