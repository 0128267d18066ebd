"""The ready tasks of one lane, one fairness key and one priority, first in first out, and how urgent the first of them has become.

Ageing looks at the head alone: a task's age counts from when it first became ready, as its place does, so no task in here is older than the
head. One timer per queue, and none per task: it is armed for the head's next step, and most heads are gone by then.
"""

from collections.abc import Iterator
from operator import attrgetter
from typing import TYPE_CHECKING

from coordinator.core.fairness import Race, Share
from coordinator.core.lazy_heap import Rank, Ranked
from coordinator.core.model import Priority, Task
from coordinator.core.ordered_tasks import OrderedTasks
from coordinator.core.timers import TimerWheel

if TYPE_CHECKING:
    from coordinator.core.line import Line
    from coordinator.core.pools import Group, Pool
    from coordinator.core.ready_queue import Lane

_NEVER = 2**62
_place_of = attrgetter("place")


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
    """Ready tasks by place: retried and returned ones take their old place again. Its rank is its head's.

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
        "_tasks",
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
        self._tasks = OrderedTasks(_place_of)

    @property
    def pool(self) -> "Pool | None":
        """Where it stands; None in its lane."""
        return None if self.group is None else self.group.stand.pool

    def rank(self) -> Rank | None:
        """How urgent the head is, which is `top` now: by effective priority, its key's turn, and its place. None when empty."""
        front = self._tasks.front
        if not front:
            return None
        head = front[0]
        if head is not self.top and self.level != self.priority:
            self._rate(head, self.level)  # not more urgent than the one before it, until the timer says so
        self.top = head
        return (-self.level, self.share.virtual, head.place)  # type: ignore[union-attr]  # joined with its first task

    def add(self, task: Task) -> bool:
        """Adds a task that has become ready. Answers whether it is the new head."""
        self.live += 1
        if not self._tasks.add(task, task.place):
            return False
        self._lead(task)
        return True

    def pop(self) -> None:
        """Takes out `top`, which `rank()` has just found."""
        self._tasks.pop()
        self.live -= 1
        if not self.live:
            del self.top  # a queue at rest must not hold on to what has ended, and its payload

    def improved(self) -> None:
        """The head has got better, or more urgent."""
        super().improved()
        if self.group is not None:
            self.group.improved()

    def forget(self, task: Task) -> None:
        """One of the tasks here has ended, or waits elsewhere from now on."""
        self._tasks.remove(task)
        self.live -= 1
        if not self.live:
            del self.top

    def close(self) -> None:
        """It is empty, and will not be used again."""
        if self.share is not None:
            self.share.race.leave(self.share)
            self.share = None
        self._ages.wheel.disarm(self)

    def aged(self) -> bool:
        """Its timer has come. Answers whether the head has become more urgent."""
        if not self.live:
            return False  # armed again with the next task
        before, self.top = self.level, self._tasks.front[0]
        self._rate(self.top, Priority.CRITICAL)
        return self.level > before

    def _lead(self, task: Task) -> None:
        """A task that has just come is the head. Nearly all are fresh, and find the timer armed by one that was older."""
        self.top = task
        if self.share is not None and self.level == self.priority:
            if self._ageless:
                return
            due_ms = task.first_ready_ms + self._ages.period_ms
            if self.due_slot and self._armed_ms <= due_ms > self._ages.now_ms:
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
        """The ready tasks, in their order."""
        return iter(self._tasks)
