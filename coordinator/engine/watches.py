"""Those who follow tasks. Each has a bounded queue of its own: a slow one costs only itself, and is told where to resume."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from coordinator.core.effects import ChunkEmitted, ProgressMade, TaskChanged
from coordinator.core.model import ENDED, Task
from coordinator.core.scheduler import Scheduler

MAX_QUEUED_EVENTS = 10_000
MAX_QUEUED_CHUNK_BYTES = 4 * 1024 * 1024


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
        self._queue: deque[WatchEvent] = deque()
        self._chunk_bytes = 0
        self._ready = asyncio.Event()
        self.overflowed = False
        self.closed: str | None = None

    def push(self, event: WatchEvent) -> None:
        """Queues an event that this watcher asked for; over the bound the watch is broken off."""
        if self.overflowed:
            return
        if isinstance(event, ChunkEmitted):
            if not self._chunks:
                return
            self._chunk_bytes += len(event.data)
        elif isinstance(event, ProgressMade):
            if not self._progress:
                return
        elif isinstance(event, TaskChanged) and self._matches is not None and not self._matches(event.task):
            return
        self._queue.append(event)
        if isinstance(event, Missing | Recorded):
            self.waiting_for.discard(event.task_id)
        elif isinstance(event, TaskChanged) and event.task.state in ENDED:
            self.waiting_for.discard(event.task.spec.task_id)
        if len(self._queue) > MAX_QUEUED_EVENTS or self._chunk_bytes > MAX_QUEUED_CHUNK_BYTES:
            self.overflowed = True
        self._ready.set()

    def close(self, message: str) -> None:
        """The shard stops serving: the watch ends with `message`."""
        self.closed = message
        self._ready.set()

    def is_over(self) -> bool:
        """Everything it followed by id has ended, and was handed out."""
        return self.task_ids is not None and not self.waiting_for and not self._queue

    async def take(self, limit: int) -> list[WatchEvent]:
        """The next events, at least one unless the watch is closed or over."""
        while not self._queue and self.closed is None and not self.is_over():
            self._ready.clear()
            await self._ready.wait()
        events = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
        self._chunk_bytes -= sum(len(event.data) for event in events if isinstance(event, ChunkEmitted))
        return events


class WatchRegistry:
    """The watches of one namespace."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._by_id: dict[str, set[Watch]] = {}
        self._by_content: set[Watch] = set()
        self._announced: dict[str, int] = {}
        self._announced_by_content = 0

    def announce(self, watch: Watch) -> None:
        """From this decision on, changes are told: `activate` follows when what was decided before has been released."""
        if watch.task_ids is None:
            self._announced_by_content += 1
            self._scheduler.watch_all = True
            return
        for task_id in watch.task_ids:
            self._announced[task_id] = self._announced.get(task_id, 0) + 1
        self._scheduler.watched_ids.update(watch.task_ids)

    def activate(self, watch: Watch, snapshot: Iterable[WatchEvent]) -> None:
        """Hands a watch its first events; all later ones are published to it."""
        for event in snapshot:
            watch.push(event)
        if watch.task_ids is None:
            self._by_content.add(watch)
        for task_id in watch.task_ids or ():
            self._by_id.setdefault(task_id, set()).add(watch)

    def remove(self, watch: Watch) -> None:
        """The watcher is gone."""
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
        for watch in self._by_content:
            watch.push(event)

    def close(self, message: str) -> None:
        """The shard stops serving."""
        for watch in {*self._by_content, *(watch for followers in self._by_id.values() for watch in followers)}:
            watch.close(message)
