"""Brings ready tasks and free slots together: the best ready task that anyone free can take, to the least loaded who can take it.

The only place that begins attempts. Neither the queue nor the agents are scanned: work is proportional to what is assigned, and to the
lanes that have just got a better head and the classes that have just got a slot.
"""

import heapq

from coordinator.core import breakers
from coordinator.core.effects import Assign
from coordinator.core.events import Assigned
from coordinator.core.expiries import fail_waiting
from coordinator.core.fairness import Charge
from coordinator.core.lazy_heap import FIRST, Rank
from coordinator.core.line import Line
from coordinator.core.load_map import Agent, Room
from coordinator.core.model import PLAIN, UNTIMED, Attempt, Now, Task, next_fence
from coordinator.core.pauses import hold_all
from coordinator.core.preferences import let_go, prefer, review
from coordinator.core.scheduler import Scheduler
from coordinator.core.statistics import BUCKETS, TABLE_MS, bucket_of
from coordinator.core.timing import overdue, until_ms

LAST: Rank = (1,)  # after every lane's rank
MAX_OVERDUE = 500  # tasks that one turn fails because they come up after their deadline: a few milliseconds


def place(scheduler: Scheduler, now: Now) -> None:
    """Assigns until no ready task has a free, capable agent; nothing while the namespace is paused, or a pause isn't through."""
    if scheduler.pauses.everything is not None:
        hold_all(scheduler)
        return
    if scheduler.pauses.moves:
        return
    while scheduler.awake:
        awake = list(scheduler.awake)
        scheduler.awake.clear()
        turns = Turns()
        if scheduler.reserved:
            review(scheduler, [item for item in awake if isinstance(item, Room)])
        for item in awake:
            if isinstance(item, Line):
                turns.nominate(item)
                if item.slots > 1:
                    scheduler.reserved.setdefault(item, None)
            else:
                turns.ask(item)
        while (lane := turns.next()) is not None:
            _serve(scheduler, lane, turns, now)
        turns.put_back()


class Turns:
    """Which lane is served next: the one with the best head among those that somebody free can take from.

    A lane is nominated because its head got better, or by a class that has got a slot: the class's lanes are taken from its heap one by
    one, the best first, as far as what was nominated so far leaves room before it.
    """

    __slots__ = ("_askers", "_heap", "_nominators", "overdue")

    def __init__(self) -> None:
        self._heap: list[tuple[Rank, int, Line]] = []  # the lanes nominated; a rank here is a lower bound
        self._askers: list[tuple[Rank, int, Room]] = []  # a heap: classes by a lower bound of what they haven't nominated yet
        self._nominators: dict[Line, list[Room]] = {}  # from whose heaps each lane was taken
        self.overdue = 0  # tasks that were failed instead of assigned

    def nominate(self, lane: Line) -> None:
        """Its head got better."""
        self._nominators[lane] = []
        self._enter(lane)

    def ask(self, room: Room, after: Rank = FIRST) -> None:
        """It may have got a slot: all its lanes are candidates, but for those that were found to be before `after`."""
        if (bound := room.lanes.bound()) is not None:
            heapq.heappush(self._askers, (max(bound, after), room.serial, room))

    def next(self) -> Line | None:
        """The lane whose head goes first. It stays nominated."""
        heap, askers = self._heap, self._askers
        while True:
            while askers and (not heap or askers[0][0] < heap[0][0]):
                self._nominate_by(heapq.heappop(askers)[2])
            if not heap:
                return None
            rank, serial, lane = heap[0]
            present = lane.rank()
            if present is None:
                heapq.heappop(heap)
            elif present != rank:
                heapq.heapreplace(heap, (present, serial, lane))
            else:
                return lane

    def rival(self) -> Rank:
        """Beyond this rank another lane than the next one may be due."""
        others = self._heap[1:3]  # the second smallest of a heap is a child of its root
        rival = min(others)[0] if others else LAST
        return min(rival, self._askers[0][0]) if self._askers else rival

    def drop(self) -> None:
        """The next lane has no free agent any more, or no task."""
        heapq.heappop(self._heap)

    def put_back(self) -> None:
        """Returns the lanes to the heaps that they were taken from."""
        for lane, rooms in self._nominators.items():
            if rooms and (rank := lane.rank()) is not None:
                for room in rooms:
                    room.lanes.put(lane, rank)

    def _nominate_by(self, room: Room) -> None:
        if room.least_loaded() is None or (lane := room.lanes.take()) is None:
            return
        nominators = self._nominators.get(lane)
        if nominators is None:
            self._nominators[lane] = [room]
            self._enter(lane)
        else:
            nominators.append(room)
        self.ask(room, room.lanes.found)  # the others may be late entries, of which a look puts right only so many

    def _enter(self, lane: Line) -> None:
        rank = lane.rank()
        if rank is not None:
            heapq.heappush(self._heap, (rank, lane.serial, lane))


def _serve(scheduler: Scheduler, lane: Line, turns: Turns, now: Now) -> None:
    """Assigns a lane's tasks from its head on, while they go before the other lanes' heads and somebody is free."""
    rival = turns.rival()
    row, date_ms = None, now.date_ms
    while (rank := lane.rank()) is not None:
        if rank > rival:
            return
        agent = _pick(lane)
        if agent is None:
            break
        fifo = lane.top
        task, share, charge = fifo.top, fifo.share, None
        if task.spec.timing is not UNTIMED and (failure := overdue(task, now)) is not None:  # its timer is about to come
            if turns.overdue == MAX_OVERDUE:
                scheduler.postponed[lane] = None
                break
            turns.overdue += 1
            fail_waiting(scheduler, task, failure, now)
            continue
        scheduling = task.spec.scheduling
        if scheduling.sticky_key:
            agent = prefer(scheduler, lane, scheduling.sticky_key, agent)
        if share is not None and share.race.shares and agent.group is not None:  # there are others to share with
            charge = scheduler.fairness.serve(share, scheduling.cost, lane.starts, agent.group.starts, now.mono_s)
        lane.pop()
        if row is None or fifo.priority != row.key[1] or task.spec.task_type != row.key[0]:  # a pool has several types
            row = scheduler.statistics.row(task.spec.task_type, fifo.priority)
        waited_ms = date_ms - task.ready_at_ms
        row.waits[BUCKETS[waited_ms] if 0 <= waited_ms < TABLE_MS else bucket_of(waited_ms)] += 1
        _assign(scheduler, task, agent, charge, now)
    turns.drop()


def _pick(lane: Line) -> Agent | None:
    """The least loaded agent with space among the lane's rooms; the longest idle of equals."""
    if len(lane.rooms) == 1:
        (room,) = lane.rooms
        if len(room.group.agents) > 1:
            return room.least_loaded()
        (only,) = room.group.agents.values()  # nothing to compare: spares a tenth of an assignment's cost
        return only if (only.free_slots() > 0 if room.is_plain and not only.reserved else room.has_space(only)) else None
    best = lane.takers.best()
    return None if best is None else best.least_loaded()


def _assign(scheduler: Scheduler, task: Task, agent: Agent, charge: Charge | None, now: Now) -> None:
    fence = next_fence(task.fence, scheduler.epoch)
    scheduler.apply(Assigned(task.number, agent.name, task.attempt + 1, fence), now)
    if scheduler.index.tried:
        scheduler.index.tried.pop(task.number, None)
    if task.spec.scheduling is not PLAIN or scheduler.limits.names_types:
        scheduler.limits.began(task, now.date_ms)
    settings = scheduler.settings
    attempt = Attempt(task, now.mono_s, now.mono_s + settings.lease_s, now.mono_s + settings.ack_timeout_s)
    attempt.charge = charge
    agent.begin(attempt)
    if agent.breakers is not None:
        breakers.began(agent, attempt)
    scheduler.liveness.arm(attempt, attempt.due_s())
    if agent.group is not None:
        for room in agent.group.rooms.values():
            room.touch(agent)
    spec = task.spec
    left_ms = 0 if spec.timing is UNTIMED or not spec.timing.deadline_ms else until_ms(task) - now.date_ms
    scheduler.effects.append(Assign(agent.session, spec.task_id, spec.request, task.run, task.attempt, fence, task.checkpoint, left_ms))
    if agent.reserved:  # this is what it was kept for
        let_go(scheduler, agent)
