"""Ready tasks in lanes, one per kind of needs. A lane knows its best task; agents know the best of their lanes.

Derived from the state, and rebuilt from it after recovery. It must not know agents' load: `placement` brings the two together.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from coordinator.core.fifo import Ages, Fifo
from coordinator.core.lazy_heap import LazyHeap, Rank
from coordinator.core.line import NO_LIMITS, LimitKeys, Line
from coordinator.core.model import PLAIN, Needs, Task

if TYPE_CHECKING:
    from coordinator.core.pools import Pool, Pools

_MIN_STALE = 64  # sweep only when it pays
_SWEPT = 32  # lanes that are looked at with each that comes: 0.1 ms if all of them are empty


class Lane(Line):
    """All ready tasks that the same agents can take, and nothing else limits. Its rank is its best queue's.

    Those that limits may hold up are in a pool; `limited` has the lane's queues of them.
    """

    __slots__ = (
        "_ages",
        "_best",
        "_fifos",
        "_keyless",
        "_needs",
        "_only",
        "_serial",
        "_slots",
        "limited",
        "limited_type",
        "parked",
        "pool",
        "task_type",
    )

    def __init__(self, needs: Needs, serial: int, ages: Ages, *, limited_type: str = "") -> None:
        super().__init__(serial)
        self._needs = needs
        self._slots = needs.slots
        self.task_type = needs.task_type
        self.limited_type = limited_type  # its type while some limit names that
        self.limited: dict[tuple[str, int, str, str], Fifo] = {}  # by fairness key, priority, concurrency key and rate key
        self.pool: Pool | None = None  # theirs; those that are on their way there are in another one
        self.parked = False  # nobody may find it, for its type is paused
        self._ages = ages
        self._keyless: list[Fifo | None] = [None] * 5  # by priority: of the tasks without a fairness key, kept when they are empty
        self._fifos: dict[tuple[str, int], Fifo] = {}  # of the others, by key and priority, while they aren't empty
        self._only: Fifo | None = None  # the one that may hold tasks, while there is only one: nothing needs comparing then
        self._best: LazyHeap[Fifo] = LazyHeap()  # those that do, otherwise
        self._serial = 0

    @property
    def needs(self) -> Needs:
        """What each of its tasks needs."""
        return self._needs

    @property
    def slots(self) -> int:
        """How many of an agent's slots each takes."""
        return self._slots

    def limits_of(self, task: Task) -> LimitKeys | None:
        """What limits a task of the lane; None when nothing does: then it stands in the lane itself."""
        scheduling = task.spec.scheduling
        if scheduling is PLAIN and not self.limited_type:  # nearly always: spares 0.3 us
            return None
        keys = LimitKeys(scheduling.concurrency_key, scheduling.rate_key, self.limited_type)
        return None if keys == NO_LIMITS else keys

    def rank(self) -> Rank | None:
        """How urgent the best task is, which is `top.top` now. Places are unique in a namespace, so no two lanes have equal ranks."""
        fifo = self._only
        if fifo is not None:
            self.top = fifo
            return fifo.rank()
        fifo = self._best.best()
        if fifo is None:
            return None
        self.top = fifo
        return self._best.found

    def head(self) -> Task | None:
        """The best task, which stays; None when the lane is empty."""
        return None if self.rank() is None else self.top.top

    def add(self, task: Task) -> bool:
        """Adds a task that has become ready. Answers whether it may be the new head; never wrongly no."""
        spec = task.spec
        key = spec.scheduling.fairness_key
        fifo = self._fifos.get((key, spec.priority)) if key else self._keyless[spec.priority]
        if fifo is None:
            fifo = self._new_fifo(key, spec.priority)
        if not fifo.live and fifo is not self._only:
            self._begins(fifo)
        if not fifo.add(task):
            return False
        if fifo.watchers:
            fifo.improved()
        return True

    def pop(self) -> None:
        """Takes out the task that `rank()` has just found."""
        fifo = self.top
        fifo.pop()
        if not fifo.live and (fifo.key or fifo is not self._only):
            self._ends(fifo)

    def forget(self, task: Task) -> None:
        """A task that waits here has ended."""
        self._leaves(task, task.spec.priority)

    def move(self, task: Task, before: int) -> None:
        """A task that waits here has another priority than `before`: it leaves the queue that it stood in, to be added anew."""
        self._leaves(task, before)

    def _leaves(self, task: Task, priority: int) -> None:
        """A task of the priority leaves its queue."""
        key = task.spec.scheduling.fairness_key
        fifo = self._fifos[key, priority] if key else self._keyless[priority]
        if fifo is not None:  # the task is in it
            fifo.forget(task)
            if not fifo.live:
                if fifo.key or fifo is not self._only:
                    self._ends(fifo)
                if self.rank() is None:  # else a look would meet all lanes at once that were cancelled
                    for room in self.rooms:
                        room.lanes.rest(self)

    def fifos(self) -> Iterator[Fifo]:
        """The queues that aren't empty."""
        yield from (fifo for fifo in self._keyless if fifo is not None and fifo.live)
        yield from self._fifos.values()
        yield from self.limited.values()

    def empty(self) -> bool:
        """Whether no task is ready here."""
        return not self._fifos and not self.limited and not any(fifo is not None and fifo.live for fifo in self._keyless)

    def close(self) -> None:
        """It is empty, and will not be used again."""
        for fifo in self._keyless:
            if fifo is not None:
                fifo.close()
        # Its queues know the lane: else it would be left to the garbage collector, and may be out of its sight.
        self._keyless, self._fifos, self._only, self._best = [], {}, None, LazyHeap()
        if hasattr(self, "top"):
            del self.top

    def give_up(self) -> list[Fifo]:
        """Hands its queues over, since a limit names its type now."""
        fifos = [fifo for fifo in (*self._keyless, *self._fifos.values()) if fifo is not None and fifo.live]
        for fifo in self._keyless:
            if fifo is not None and not fifo.live:
                fifo.close()
        for fifo in fifos:
            fifo.watchers.clear()
        self._keyless, self._fifos = [None] * 5, {}
        self._only, self._best = None, LazyHeap()
        return fifos

    def take_over(self, fifo: Fifo) -> None:
        """Takes a queue in that nothing limits any more."""
        if fifo.key:
            self._fifos[fifo.key, fifo.priority] = fifo
        else:
            self._keyless[fifo.priority] = fifo
        self._serial += 1
        fifo.serial = self._serial
        self._begins(fifo)

    def _new_fifo(self, key: str, priority: int) -> Fifo:
        self._serial += 1
        fifo = Fifo(self, key, priority, self._serial, self._ages)
        if key:
            self._fifos[key, priority] = fifo
        else:
            self._keyless[priority] = fifo
        return fifo

    def _begins(self, fifo: Fifo) -> None:
        """A queue is about to get its first task."""
        only = self._only
        if (only is None or not only.live) and not len(self._best):
            self._only = fifo
            return
        if only is not None:
            self._best.tell(only)
            self._only = None
        self._best.tell(fifo)

    def _ends(self, fifo: Fifo) -> None:
        """A queue is empty."""
        if fifo is self._only:
            self._only = None
        else:
            self._best.discard(fifo)
        if fifo.key:
            del self._fifos[fifo.key, fifo.priority]
            fifo.close()


class ReadyQueue:
    """The lanes of a namespace.

    Args:
        ages: what they need to know of time.
        pools: of the tasks that limits may hold up.
        is_limited: whether a limit names a task type.
        opened: called with each new lane.
        closed: called with each lane that is dropped, empty.
    """

    def __init__(
        self,
        *,
        ages: Ages,
        pools: "Pools",
        is_limited: Callable[[str], bool],
        opened: Callable[[Lane], None],
        closed: Callable[[Lane], None],
    ) -> None:
        self.lanes: dict[Needs | str, Lane] = {}
        self.pools = pools
        self._is_limited = is_limited
        self._ages = ages
        self._opened = opened
        self._closed = closed
        self._serial = 0
        self._sweep_at = _MIN_STALE
        self._to_sweep: list[Needs | str] = []

    def open(self, task: Task, *, spare: int) -> Lane:
        """Opens the lane for a task that has none, with the task in it, unless a limit may hold it up: then it belongs into a pool.

        Args:
            task: a ready task.
            spare: how many empty lanes may stay. Beyond that, and twice those in use, empty ones are swept.
        """
        if self._to_sweep or len(self.lanes) >= max(self._sweep_at, spare):
            self._sweep()
        self._serial += 1
        needs, task_type = task.spec.needs, task.spec.task_type
        lane = self.lanes[needs] = Lane(
            Needs(needs) if isinstance(needs, str) else needs,
            self._serial,
            self._ages,
            limited_type=task_type if self._is_limited(task_type) else "",
        )
        if lane.limits_of(task) is None:
            lane.add(task)
        self._opened(lane)
        return lane

    def forget(self, task: Task) -> None:
        """A ready task has ended."""
        lane = self.lanes[task.spec.needs]
        keys = lane.limits_of(task)
        if keys is None:
            lane.forget(task)
        else:
            self.pools.forget(lane, task, keys)

    def move(self, task: Task, before: int) -> None:
        """A ready task has another priority than `before`: it is to be added anew."""
        lane = self.lanes[task.spec.needs]
        keys = lane.limits_of(task)
        if keys is None:
            lane.move(task, before)
        else:
            self.pools.move(lane, task, keys, before)

    def _sweep(self) -> None:
        """Looks at some of the lanes that there are; those that come before it is through wait for the next time."""
        if not self._to_sweep:
            self._to_sweep = list(self.lanes)  # a millisecond for a hundred thousand
        for _ in range(min(_SWEPT, len(self._to_sweep))):
            key = self._to_sweep.pop()
            lane = self.lanes[key]
            if lane.empty():
                del self.lanes[key]
                lane.close()
                self._closed(lane)
        if not self._to_sweep:
            self._sweep_at = max(_MIN_STALE, 2 * len(self.lanes))
