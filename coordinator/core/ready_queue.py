"""Ready tasks in lanes, one per task type. A lane knows its best task; a class of agents knows the best of its lanes.

Derived from the state, and rebuilt from it after recovery. It must not know agents' load: `placement` brings the two together.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from coordinator.core.lazy_heap import LazyHeap, Rank, Ranked
from coordinator.core.model import WAITING, Priority, Task

if TYPE_CHECKING:
    from coordinator.core.load_map import AgentClass

_MIN_STALE = 64  # compact only when it pays


class Level:
    """The ready tasks of one lane at one priority, by place. Taken from its front; tasks that end while they wait leave lazily."""

    __slots__ = ("_fresh", "_returned", "_stale", "live")

    def __init__(self) -> None:
        self._fresh: deque[Task] = deque()  # first-time tasks come in the order of their places
        self._returned: list[tuple[int, Task]] = []  # retried and returned ones take their old place: a heap
        self._stale = 0
        self.live = 0

    def add(self, task: Task) -> bool:
        """Adds a task that has become ready. Answers whether it may be the new head; never wrongly no."""
        self.live += 1
        fresh, returned = self._fresh, self._returned
        if not fresh or fresh[-1].place < task.place:
            fresh.append(task)
            return self.live == 1 or (bool(returned) and self.head() is task)  # what else is fresh has a lower place, or has ended
        heapq.heappush(returned, (task.place, task))
        return self.head() is task  # not the heap's top: that may have ended

    def head(self) -> Task | None:
        """The task with the lowest place, which stays."""
        fresh, returned = self._fresh, self._returned
        while fresh and fresh[0].state not in WAITING:
            fresh.popleft()
            self._stale -= 1
        while returned and returned[0][1].state not in WAITING:
            heapq.heappop(returned)
            self._stale -= 1
        if returned and (not fresh or returned[0][0] < fresh[0].place):
            return returned[0][1]
        return fresh[0] if fresh else None

    def pop(self, head: Task) -> None:
        """Takes out the task that `head()` has just answered."""
        if self._fresh and self._fresh[0] is head:
            self._fresh.popleft()
        else:
            heapq.heappop(self._returned)
        self.live -= 1

    def forget(self) -> None:
        """One of the tasks here has ended: it leaves when it comes to the front, or when half of what is here has ended."""
        self.live -= 1
        self._stale += 1
        if self._stale > _MIN_STALE and self._stale > self.live:
            self._fresh = deque(task for task in self._fresh if task.state in WAITING)
            self._returned = [entry for entry in self._returned if entry[1].state in WAITING]
            heapq.heapify(self._returned)
            self._stale = 0

    def __iter__(self) -> Iterator[Task]:
        """The ready tasks, in no particular order."""
        yield from (task for task in self._fresh if task.state in WAITING)
        yield from (task for _, task in self._returned if task.state in WAITING)


class Lane(Ranked):
    """All ready tasks that the same agents can take: those of one task type. Its rank is its head's.

    `takers` has the classes of agents that can take them and have a free slot, by load.
    """

    __slots__ = ("classes", "levels", "takers", "task_type", "top")
    top: Task

    def __init__(self, task_type: str, serial: int) -> None:
        super().__init__(serial)
        self.task_type = task_type
        self.levels: dict[int, Level] = {priority: Level() for priority in reversed(Priority)}
        self.classes: dict[AgentClass, None] = {}  # all that can take its tasks, free or not
        self.takers: LazyHeap[AgentClass] = LazyHeap()

    def rank(self) -> Rank | None:
        """How urgent the best task is, which is `top` now. Places are unique in a namespace, so no two lanes have equal ranks."""
        for priority, level in self.levels.items():
            if level.live and (task := level.head()) is not None:
                self.top = task
                return (-priority, task.place)
        return None

    def head(self) -> Task | None:
        """The best task, which stays; None when the lane is empty."""
        return None if self.rank() is None else self.top

    def add(self, task: Task) -> bool:
        """Adds a task that has become ready. Answers whether it may be the new head; never wrongly no."""
        own = self.levels[task.spec.priority]
        if not own.add(task):
            return False
        for level in self.levels.values():
            if level is own:
                break
            if level.live:
                return False
        return True

    def pop(self, task: Task) -> None:
        """Takes out the task that `head()` has just answered."""
        self.levels[task.spec.priority].pop(task)
        del self.top  # a lane at rest would hold on to it when it has ended

    def live(self) -> int:
        """How many tasks are ready here."""
        return sum(level.live for level in self.levels.values())


class ReadyQueue:
    """The lanes of a namespace.

    Args:
        opened: called with each new lane.
        closed: called with each lane that is dropped, empty.
    """

    def __init__(self, *, opened: Callable[[Lane], None], closed: Callable[[Lane], None]) -> None:
        self.lanes: dict[str, Lane] = {}
        self._opened = opened
        self._closed = closed
        self._serial = 0
        self._sweep_at = _MIN_STALE

    def open(self, task: Task, *, spare: int) -> Lane:
        """The lane for a task that has none.

        Args:
            task: a ready task.
            spare: how many empty lanes may stay. Beyond that, and twice those in use, empty ones are swept.
        """
        if len(self.lanes) >= max(self._sweep_at, spare):
            self._sweep()
        self._serial += 1
        lane = self.lanes[task.spec.task_type] = Lane(task.spec.task_type, self._serial)
        self._opened(lane)
        return lane

    def forget(self, task: Task) -> None:
        """A ready task has ended."""
        self.lanes[task.spec.task_type].levels[task.spec.priority].forget()

    def _sweep(self) -> None:
        for key, lane in list(self.lanes.items()):
            if not lane.live():
                del self.lanes[key]
                self._closed(lane)
        self._sweep_at = max(_MIN_STALE, 2 * len(self.lanes))
