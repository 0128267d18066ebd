"""The ready tasks of one lane, one fairness key and one priority, first in first out, and how urgent the first of them has become.

Ageing looks at the head alone: a task's age counts from when it first became ready, as its place does, so no task in here is older than the
head. One timer per queue, and none per task: it is armed for the head's next step, and most heads are gone by then.
"""

import heapq
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from coordinator.core.fairness import Race, Share
from coordinator.core.lazy_heap import Rank, Ranked
from coordinator.core.model import WAITING, Priority, Task
from coordinator.core.timers import TimerWheel

if TYPE_CHECKING:
    from coordinator.core.line import Line
    from coordinator.core.pools import Group
    from coordinator.core.ready_queue import Lane

_MIN_STALE = 64  # compact only when it pays
_NEVER = 2**62


class Ages:
    """What queues need to know of time.

    Args:
        period_ms: a ready task gets one priority more for each; 0 is never.
        races: the keys' shares, by effective priority.
    """

    __slots__ = ("_looked_ms", "_slot_ms", "now_ms", "period_ms", "races", "wheel")

    def __init__(self, period_ms: int, races: dict[int, Race]) -> None:
        self.period_ms = period_ms or _NEVER
        self.races = races
        self._looked_ms = 0
        self.now_ms = -1  # the date of the last command
        self._slot_ms = max(1, min(250, self.period_ms // 16))
        self.wheel: TimerWheel[Fifo] = TimerWheel(slot_width=self._slot_ms)

    def at(self, date_ms: int) -> None:
        """It is that late now. Ages are looked at in steps of a slot of the timers, so that they and timers never disagree."""
        self.now_ms = date_ms
        self._looked_ms = date_ms // self._slot_ms * self._slot_ms - 1

    def level(self, task: Task) -> int:
        """A ready task's effective priority (G4)."""
        steps = (self._looked_ms - task.first_ready_ms) // self.period_ms
        return min(task.spec.priority + max(steps, 0), Priority.CRITICAL)


class Fifo(Ranked):
    """Ready tasks by place. Taken from the front; tasks that end while they wait leave lazily. Its rank is its head's.

    Args:
        lane: whose tasks they are.
        key: their fairness key.
        priority: theirs.
        ages: of the namespace.
    """

    __slots__ = (
        "_ageless",
        "_ages",
        "_armed_ms",
        "_fresh",
        "_moved",
        "_returned",
        "_stale",
        "due_slot",
        "group",
        "key",
        "lane",
        "level",
        "line",
        "live",
        "priority",
        "share",
        "top",
    )
    top: Task

    def __init__(self, lane: "Lane", key: str, priority: int, serial: int, ages: Ages) -> None:
        super().__init__(serial)
        self.lane = lane
        self.line: Line = lane  # where agents find it: its lane, or a pool when its tasks are limited
        self.group: Group | None = None  # of the pool
        self.key = key
        self.priority = priority
        self.level = priority  # effective, of `top`
        self.share: Share | None = None  # none while empty, unless it has no key
        self.live = 0
        self.due_slot = 0  # the timer wheel's
        self._ages = ages
        self._ageless = priority == Priority.CRITICAL or ages.period_ms == _NEVER
        self._armed_ms = 0
        self._fresh: deque[Task] = deque()  # first-time tasks come in the order of their places
        self._returned: list[tuple[int, Task]] = []  # retried and returned ones take their old place: a heap
        self._moved: set[Task] = set()  # what stands in here, and waits in another queue now
        self._stale = 0

    def rank(self) -> Rank | None:
        """How urgent the head is, which is `top` now: by effective priority, its key's turn, and its place. None when empty."""
        fresh = self._fresh
        head = fresh[0] if fresh and not self._returned else None  # nearly always: spares a call
        if head is None or head.state not in WAITING or self._moved:
            head = self._head()
            if head is None:
                return None
        if head is not self.top and self.level != self.priority:
            self._rate(head, self.level)  # not more urgent than the one before it, until the timer says so
        self.top = head
        return (-self.level, self.share.virtual, head.place)  # type: ignore[union-attr]  # joined with its first task

    def add(self, task: Task) -> bool:
        """Adds a task that has become ready. Answers whether it may be the new head; never wrongly no."""
        self.live += 1
        fresh, returned = self._fresh, self._returned
        if self._moved and task in self._moved:  # it stands here still
            self._moved.remove(task)
            self._stale -= 1
            if self._head() is not task:
                return False
        elif not fresh or fresh[-1].place < task.place:
            fresh.append(task)
            if self.live > 1 and (not returned or self._head() is not task):  # what else is fresh has a lower place, or has ended
                return False
        else:
            heapq.heappush(returned, (task.place, task))
            if self._head() is not task:  # not the heap's top: that may have ended
                return False
        self._lead(task)
        return True

    def pop(self) -> None:
        """Takes out `top`, which `rank()` has just found."""
        if self._fresh and self._fresh[0] is self.top:
            self._fresh.popleft()
        else:
            heapq.heappop(self._returned)
        self.live -= 1
        if not self.live:
            self._emptied()

    def improved(self) -> None:
        """The head has got better, or more urgent."""
        super().improved()
        if self.group is not None:
            self.group.improved()

    def forget(self) -> None:
        """One of the tasks here has ended: it leaves when it comes to the front, or when half of what is here has ended."""
        self._leaves()

    def move(self, task: Task) -> None:
        """One of the tasks here waits elsewhere from now on: it leaves likewise."""
        self._moved.add(task)
        self._leaves()

    def _leaves(self) -> None:
        self.live -= 1
        self._stale += 1
        if not self.live:
            self._emptied()
            return
        self._head()  # what leaves from the front on, as when an operator cancels what is oldest first, is gone at once
        if self._stale > _MIN_STALE and self._stale > self.live:
            self._fresh = deque([task for task in self._fresh if task.state in WAITING and task not in self._moved])
            self._returned = [entry for entry in self._returned if self._waits(entry[1])]
            heapq.heapify(self._returned)
            self._moved.clear()
            self._stale = 0

    def _waits(self, task: Task) -> bool:
        return task.state in WAITING and task not in self._moved

    def _emptied(self) -> None:
        """The last task has left. A queue at rest must not hold on to what has ended, and its payload."""
        del self.top
        if self._stale:
            self._fresh.clear()
            self._returned.clear()
            self._moved.clear()
            self._stale = 0

    def close(self) -> None:
        """It is empty, and will not be used again."""
        if self.share is not None:
            self.share.race.leave(self.share)
            self.share = None
        self._ages.wheel.disarm(self)

    def aged(self) -> bool:
        """Its timer has come. Answers whether the head has become more urgent."""
        head = self._head()
        if head is None:
            return False  # armed again with the next task
        before, self.top = self.level, head
        self._rate(head, Priority.CRITICAL)
        return self.level > before

    def _head(self) -> Task | None:
        fresh, returned = self._fresh, self._returned
        while fresh and not self._waits(fresh[0]):
            self._moved.discard(fresh.popleft())
            self._stale -= 1
        while returned and not self._waits(returned[0][1]):
            self._moved.discard(heapq.heappop(returned)[1])
            self._stale -= 1
        if returned and (not fresh or returned[0][0] < fresh[0].place):
            return returned[0][1]
        return fresh[0] if fresh else None

    def _lead(self, task: Task) -> None:
        """A task that has just come is the head. Nearly all are fresh, and find the timer armed by one before them."""
        self.top = task
        if self.share is not None and self.level == self.priority:
            if self._ageless:
                return
            ages = self._ages
            if self.due_slot and ages.now_ms - task.first_ready_ms < ages.period_ms:
                return
        self._rate(task, Priority.CRITICAL)

    def _rate(self, head: Task, at_most: int) -> None:
        """Finds the head's effective priority, joins that priority's race, and arms the timer for its next step."""
        ages = self._ages
        level = min(ages.level(head), at_most)
        if self.share is None or level != self.level:
            if self.share is not None:
                self.share.race.leave(self.share)
            self.share = ages.races[level].join(self.key, self.line.starts.at[level])
            self.level = level
        if level < Priority.CRITICAL and not self._ageless:
            due_ms = head.first_ready_ms + (level - self.priority + 1) * ages.period_ms
            if not self.due_slot or due_ms < self._armed_ms:
                ages.wheel.disarm(self)
                ages.wheel.arm(self, due_ms)
                self._armed_ms = due_ms

    def __iter__(self) -> Iterator[Task]:
        """The ready tasks, in no particular order."""
        yield from filter(self._waits, self._fresh)
        yield from (task for _, task in self._returned if self._waits(task))
