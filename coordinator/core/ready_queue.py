"""Ready tasks in lanes, one per task type. A lane knows its best task; a class of agents knows the best of its lanes.

Derived from the state, and rebuilt from it after recovery. It must not know agents' load: `placement` brings the two together.
"""

import heapq
from collections import deque
from collections.abc import Iterator

from coordinator.core.model import WAITING, Priority, Task

# How urgent a lane's head is, for comparing heads: the lower the earlier. Places are unique in a namespace, so no two heads are equal.
HeadKey = tuple[int, int]
NO_HEAD: HeadKey = (1, 0)  # after every head

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


class Lane:
    """All ready tasks that the same agents can take: those of one task type."""

    __slots__ = ("levels", "serial", "task_type")

    def __init__(self, task_type: str, serial: int) -> None:
        self.task_type = task_type
        self.serial = serial
        self.levels: dict[int, Level] = {priority: Level() for priority in reversed(Priority)}

    def head(self) -> tuple[HeadKey, Task] | None:
        """The best task and its key; None when the lane is empty."""
        for priority, level in self.levels.items():
            if level.live and (task := level.head()) is not None:
                return (-priority, task.place), task
        return None

    def pop(self, task: Task) -> None:
        """Takes out the task that `head()` has just answered."""
        self.levels[task.spec.priority].pop(task)

    def live(self) -> int:
        """How many tasks are ready here."""
        return sum(level.live for level in self.levels.values())


class LaneHeap:
    """The lanes that one class of agents serves, the best head first.

    An entry's key is a lower bound: heads are taken without telling the heaps they stand in, so an entry is put right when it comes up.
    Only a head that got better must be offered.
    """

    __slots__ = ("_bounds", "_compact_at", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[HeadKey, int, Lane]] = []
        self._bounds: dict[Lane, HeadKey] = {}  # the key of each lane's one valid entry
        self._compact_at = _MIN_STALE

    def offer(self, lane: Lane, key: HeadKey) -> None:
        """`lane` has a head as good as `key`."""
        bound = self._bounds.get(lane)
        if bound is None or key < bound:
            self._bounds[lane] = key
            heapq.heappush(self._heap, (key, lane.serial, lane))
            if len(self._heap) > self._compact_at:
                self._compact()

    def _compact(self) -> None:
        """Drops superseded entries and empty lanes. It runs when the heap has doubled, so each offer pays for a constant part of it."""
        self._bounds = {lane: bound for lane, bound in self._bounds.items() if lane.live()}
        self._heap = [(bound, lane.serial, lane) for lane, bound in self._bounds.items()]
        heapq.heapify(self._heap)
        self._compact_at = max(_MIN_STALE, 2 * len(self._heap))

    def best(self) -> tuple[HeadKey, Lane, Task] | None:
        """The lane with the best head; None when all are empty."""
        heap, bounds = self._heap, self._bounds
        while heap:
            bound, _, lane = heap[0]
            if bounds.get(lane) != bound:
                heapq.heappop(heap)
                continue
            head = lane.head()
            if head is None:
                heapq.heappop(heap)
                del bounds[lane]
            elif head[0] == bound:
                return bound, lane, head[1]
            else:
                bounds[lane] = head[0]
                heapq.heapreplace(heap, (head[0], lane.serial, lane))
        return None

    def second(self, first: Lane) -> HeadKey:
        """A lower bound on the heads of the lanes other than `first`: beyond it, another lane may be due."""
        heap = self._heap
        if not heap:
            return NO_HEAD
        if heap[0][2] is not first:
            return heap[0][0]
        return min((entry[0] for entry in heap[1:3]), default=NO_HEAD)  # the second smallest of a heap is a child of its root


class ReadyQueue:
    """The lanes of a namespace. Empty ones are swept when the lanes have doubled in number."""

    def __init__(self) -> None:
        self.lanes: dict[str, Lane] = {}
        self._serial = 0
        self._sweep_at = _MIN_STALE

    def add(self, task: Task) -> Lane | None:
        """Adds a ready task. Answers its lane when the task may be its new head, which agents must be offered."""
        task_type = task.spec.task_type
        lane = self.lanes.get(task_type) or self._new_lane(task_type)
        return lane if lane.levels[task.spec.priority].add(task) else None

    def forget(self, task: Task) -> None:
        """A ready task has ended."""
        self.lanes[task.spec.task_type].levels[task.spec.priority].forget()

    def _new_lane(self, task_type: str) -> Lane:
        if len(self.lanes) >= self._sweep_at:
            self.lanes = {key: lane for key, lane in self.lanes.items() if lane.live()}
            self._sweep_at = max(_MIN_STALE, 2 * len(self.lanes))
        self._serial += 1
        lane = self.lanes[task_type] = Lane(task_type, self._serial)
        return lane
