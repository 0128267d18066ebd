"""Ready tasks that limits may hold up, beside the lanes of those that nothing but agents can.

A *pool* has those of all lanes that the same rooms can take, so that whether somebody is free for it is one question. In a pool, tasks with
the same limit keys are a *group*, and each group stands in the *stand* of one of its limits. A stand isn't due while its limit is
exhausted: however many groups, lanes, fairness keys or tasks are behind it, that costs a look at most; and the limit's having room again
costs one word to each pool. A group that is held up by another of its limits moves to that one's stand when it comes up, and stays there.
So nothing moves that is not about to be served, an exhausted limit delays nobody else, and what nobody can take uses up no room.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING

from coordinator.core.fifo import Ages, Fifo
from coordinator.core.lazy_heap import LazyHeap, Rank, Ranked
from coordinator.core.line import NO_LIMITS, LimitKeys, Line

if TYPE_CHECKING:
    from coordinator.core.load_map import Room
    from coordinator.core.model import Needs, Task
    from coordinator.core.ready_queue import Lane


class Limiter:
    """A limit of one key. Whoever counts keeps `open` right, and tells `opened` when it becomes so."""

    __slots__ = ("groups", "key", "open", "stands", "waiting")

    def __init__(self, key: str) -> None:
        self.key = key
        self.open = True  # one more may begin now
        self.waiting = 0  # ready tasks
        self.groups = 0  # that it is a limit of
        self.stands: dict[Pool, Stand] = {}

    def opened(self) -> list[Pool]:
        """It is open again. Answers the pools that may have a better head now."""
        told = []
        for pool, stand in list(self.stands.items()):
            if len(stand.groups):
                pool.best.tell(stand)
                told.append(pool)
        return told

    def close_stands(self) -> None:
        """Nothing waits for it, and it will not be used again."""
        for pool, stand in self.stands.items():
            pool.best.discard(stand)
            del pool.stands[self]
        self.stands.clear()

    @abstractmethod
    def leave(self) -> None:
        """A group, or whatever else it was there for, has gone."""


class Group(Ranked):
    """The queues of a pool whose tasks have the same limit keys. Its rank is that of the best of them, which is `top.top` now."""

    __slots__ = ("keys", "limiters", "queues", "stand", "top")
    top: Fifo

    def __init__(self, keys: LimitKeys, limiters: Sequence[Limiter], stand: Stand, serial: int) -> None:
        super().__init__(serial)
        self.keys = keys
        self.limiters = limiters
        self.stand = stand
        self.queues: LazyHeap[Fifo] = LazyHeap()

    def rank(self) -> Rank | None:
        """How urgent its best task is."""
        fifo = self.queues.best()
        if fifo is None:
            return None
        self.top = fifo
        return self.queues.found

    def improved(self) -> None:
        """The rank may have got better."""
        super().improved()
        self.stand.improved()

    def blocker(self) -> Limiter | None:
        """The first of its limits that is exhausted."""
        for limiter in self.limiters:
            if not limiter.open:
                return limiter
        return None

    def count(self, change: int) -> None:
        """So many more tasks of it are ready."""
        for limiter in self.limiters:
            limiter.waiting += change


class Stand(Ranked):
    """The groups of a pool that stand behind one limit. Its rank is that of the best that no other limit holds up."""

    __slots__ = ("groups", "limiter", "pool", "top")
    top: Fifo

    def __init__(self, limiter: Limiter, pool: Pool, serial: int) -> None:
        super().__init__(serial)
        self.limiter = limiter
        self.pool = pool
        self.groups: LazyHeap[Group] = LazyHeap()

    def rank(self) -> Rank | None:
        """How urgent its best task is; None while its limit is exhausted."""
        if not self.limiter.open:
            return None
        groups = self.groups
        while (group := groups.best()) is not None:
            blocker = group.blocker()
            if blocker is None:
                self.top = group.top
                return groups.found
            groups.discard(group)
            other = self.pool.stand_for(blocker)  # not due, and looked at when its limit has room again
            group.stand = other
            other.groups.tell(group)
        return None


class Pool(Line):
    """The limited tasks of all lanes that the same rooms can take. To agents it is a lane like any other."""

    __slots__ = ("_serials", "best", "groups", "lanes", "stands")

    def __init__(self, serial: int, serials: count[int]) -> None:
        super().__init__(serial)
        self.lanes: dict[Lane, None] = {}
        self.groups: dict[LimitKeys, Group] = {}
        self.stands: dict[Limiter, Stand] = {}
        self.best: LazyHeap[Stand] = LazyHeap()
        self._serials = serials

    @property
    def needs(self) -> Needs:
        """Of the task that `rank` has just found."""
        return self.top.lane.needs

    @property
    def slots(self) -> int:
        """Of an agent's, that each task takes: rooms with equal agents and unequal slots are not the same."""
        for room in self.rooms:
            return room.slots
        return 1

    def rank(self) -> Rank | None:
        """How urgent the best task is that may begin, which is `top.top` now."""
        stand = self.best.best()
        if stand is None:
            return None
        self.top = stand.top
        return self.best.found

    def pop(self) -> None:
        """Takes out the task that `rank()` has just found."""
        fifo = self.top
        fifo.pop()
        self._one_less(fifo)

    def forget(self, fifo: Fifo, task: Task) -> None:
        """A task of a queue here waits no longer, or elsewhere."""
        fifo.forget(task)
        self._one_less(fifo)

    def stand_for(self, limiter: Limiter) -> Stand:
        """The stand of a limit, made if need be. Nobody is told of it yet."""
        stand = self.stands.get(limiter)
        if stand is None:
            stand = self.stands[limiter] = limiter.stands[self] = Stand(limiter, self, next(self._serials))
        return stand

    def attach(self, fifo: Fifo, keys: LimitKeys, limiters: Callable[[LimitKeys], Sequence[Limiter]]) -> None:
        """Takes a queue in."""
        group = self.groups.get(keys)
        if group is None:
            limits = limiters(keys)
            home = next((limiter for limiter in limits if not limiter.open), limits[0])
            group = self.groups[keys] = Group(keys, limits, self.stand_for(home), next(self._serials))
            for limiter in limits:
                limiter.groups += 1
        fifo.line, fifo.group, fifo.serial = self, group, next(self._serials)
        fifo.lane.limited[fifo.key, fifo.priority, keys.concurrency_key, keys.rate_key] = fifo
        group.queues.tell(fifo)
        group.stand.groups.tell(group)
        self.best.tell(group.stand)
        group.count(fifo.live)

    def detach(self, fifo: Fifo) -> None:
        """Lets a queue go."""
        group = fifo.group
        if group is None:
            return
        group.count(-fifo.live)
        keys = group.keys
        del fifo.lane.limited[fifo.key, fifo.priority, keys.concurrency_key, keys.rate_key]
        group.queues.discard(fifo)
        fifo.line, fifo.group = fifo.lane, None
        if not len(group.queues):
            del self.groups[keys]
            group.stand.groups.discard(group)
            for limiter in group.limiters:
                limiter.groups -= 1
                limiter.leave()

    def _one_less(self, fifo: Fifo) -> None:
        if fifo.group is not None:
            fifo.group.count(-1)
        if not fifo.live:
            self.detach(fifo)
            fifo.close()


class Pools:
    """The pools of a namespace.

    Args:
        limiters: finds the limits of a group.
        ages: what queues need to know of time.
        hurry: called with a pool that may have a better head than before, because it got queues of another one.
    """

    def __init__(self, *, limiters: Callable[[LimitKeys], Sequence[Limiter]], ages: Ages, hurry: Callable[[Line], None]) -> None:
        self._limiters = limiters
        self._hurry = hurry
        self._ages = ages
        self._by_rooms: dict[frozenset[Room], Pool] = {}  # one for each set of rooms; others may have the same
        self._serials = count(1)
        self._pool_serials = count(-1, -1)  # they stand in heaps beside lanes, whose serials are positive

    def add(self, lane: Lane, task: Task, keys: LimitKeys) -> Pool | None:
        """Adds a limited task that has become ready. Answers its pool if that may have a better head now; never wrongly None."""
        spec = task.spec
        key, priority = spec.scheduling.fairness_key, spec.priority
        fifo = lane.limited.get((key, priority, keys.concurrency_key, keys.rate_key))
        if fifo is None:
            pool = lane.pool or self._enter(lane, frozenset(lane.rooms))
            fifo = Fifo(lane, key, priority, next(self._serials), self._ages)
            fifo.line = pool
            fifo.add(task)
            pool.attach(fifo, keys, self._limiters)
            return pool
        if fifo.group is not None:
            fifo.group.count(1)
        if not fifo.add(task):
            return None
        fifo.improved()
        return fifo.pool

    def forget(self, lane: Lane, task: Task, keys: LimitKeys) -> None:
        """A limited task that waits here has ended."""
        spec = task.spec
        fifo = lane.limited[spec.scheduling.fairness_key, spec.priority, keys.concurrency_key, keys.rate_key]
        if fifo.pool is not None:
            fifo.pool.forget(fifo, task)

    def move(self, lane: Lane, task: Task, keys: LimitKeys, before: int) -> None:
        """A limited task that waits here has another priority than `before`: it leaves its queue, to be added anew."""
        fifo = lane.limited[task.spec.scheduling.fairness_key, before, keys.concurrency_key, keys.rate_key]
        if fifo.pool is not None:
            fifo.pool.forget(fifo, task)

    def give_up(self, lanes: Iterable[Lane]) -> list[tuple[Fifo, LimitKeys]]:
        """Takes all queues out of lanes and of their pools, as limits begin or cease to name the lanes' types."""
        given: list[tuple[Fifo, LimitKeys]] = []
        for lane in lanes:
            for fifo in list(lane.limited.values()):
                if fifo.group is not None and fifo.pool is not None:
                    given.append((fifo, fifo.group.keys))
                    fifo.pool.detach(fifo)
            given += [(fifo, NO_LIMITS) for fifo in lane.give_up()]
        return given

    def take_back(self, given: Iterable[tuple[Fifo, LimitKeys]]) -> list[Line]:
        """Puts queues that were given up where they belong now. Answers what may have a better head."""
        lines: dict[Line, None] = {}
        for fifo, before in given:
            lane = fifo.lane
            keys = before._replace(task_type=lane.limited_type)
            if keys == NO_LIMITS:
                lane.take_over(fifo)
            else:
                (lane.pool or self._enter(lane, frozenset(lane.rooms))).attach(fifo, keys, self._limiters)
            lines[fifo.line] = None
        return list(lines)

    def regroup(self, lanes: Iterable[tuple[Lane, Room]], *, linked: bool) -> None:
        """Rooms have been linked to lanes, or unlinked from them: their limited tasks go to the pools of the rooms that they have now."""
        moved: dict[tuple[Pool, Room], list[Lane]] = {}
        for lane, room in lanes:
            if lane.pool is not None:
                moved.setdefault((lane.pool, room), []).append(lane)
        for (pool, room), those in moved.items():
            rooms = frozenset(pool.rooms) | {room} if linked else frozenset(pool.rooms) - {room}
            if len(those) == len(pool.lanes):  # nearly always: however much waits in it
                self._change(pool, rooms)
            else:
                for lane in those:
                    for _ in self._move(lane, rooms):
                        pass

    def follow(self, lanes: Sequence[Lane]) -> Iterator[None]:
        """Rooms of lanes have been linked or unlinked, all of them: their limited tasks go to the pools of the rooms that they have now.

        Some may be linked or unlinked again meanwhile. Each step moves a queue at most; whoever looks must wait until it is through.
        """
        while True:
            ways: dict[Pool, dict[frozenset[Room], list[Lane]]] = {}
            for lane in lanes:
                if lane.pool is not None:
                    if lane.pool.rooms.keys() != lane.rooms.keys():
                        ways.setdefault(lane.pool, {}).setdefault(frozenset(lane.rooms), []).append(lane)
                    yield
            if not ways:
                return
            for pool, by_rooms in ways.items():
                yield from self._part(pool, by_rooms)

    def _part(self, pool: Pool, ways: dict[frozenset[Room], list[Lane]]) -> Iterator[None]:
        """Lanes of a pool have other rooms than it has: they leave it, or it goes with most of its queues and the others leave."""
        *smaller, (rooms, most) = sorted(ways.items(), key=lambda way: sum(len(lane.limited) for lane in way[1]))
        for other_rooms, others in smaller:
            for lane in others:
                yield from self._move(lane, other_rooms)
        those = [lane for lane in most if lane.pool is pool and lane.rooms.keys() == rooms]  # it is some steps ago
        before, stay = frozenset(pool.rooms), _fewer_others(pool, those) if those else None
        if stay is None:
            for lane in those:
                yield from self._move(lane, rooms)
            return
        self._change(pool, rooms)  # however much waits in it
        for lane in stay:
            yield from self._move(lane, before)

    def close(self, lane: Lane) -> None:
        """An empty lane is dropped."""
        pool = lane.pool
        if pool is not None:
            lane.pool = None
            self._left(pool, lane)

    def _enter(self, lane: Lane, rooms: frozenset[Room]) -> Pool:
        pool = self._by_rooms.get(rooms)
        if pool is None:
            pool = Pool(next(self._pool_serials), self._serials)
            self._change(pool, rooms)
        pool.lanes[lane] = None
        lane.pool = pool
        return pool

    def _move(self, lane: Lane, rooms: frozenset[Room]) -> Iterator[None]:
        """A lane's limited tasks go to another pool: new ones at once, and then a queue a step."""
        old = lane.pool
        if old is None or old.rooms.keys() == rooms:
            return
        pool = self._enter(lane, rooms)
        self._left(old, lane)
        for fifo in list(lane.limited.values()):
            at, home = fifo.pool, lane.pool  # which may be a third one by now
            if fifo.group is not None and at is not None and home is not None and at is not home:
                keys = fifo.group.keys
                at.detach(fifo)
                home.attach(fifo, keys, self._limiters)
                home.rank()  # what is new is put right now: the first look afterwards would meet all of it at once
            yield
        self._close(old)
        self._hurry(pool)  # what has just become ready in the old one may be among it

    def _left(self, pool: Pool, lane: Lane) -> None:
        del pool.lanes[lane]
        if not pool.lanes:
            self._change(pool, frozenset())
            if self._by_rooms.get(frozenset()) is pool:
                del self._by_rooms[frozenset()]
        self._close(pool)

    @staticmethod
    def _close(pool: Pool) -> None:
        """It is forgotten once nothing is in it, nor will be: until then queues may be on their way out of it."""
        if not pool.lanes and not pool.groups:
            for limiter in pool.stands:
                del limiter.stands[pool]
            pool.stands.clear()

    def _change(self, pool: Pool, rooms: frozenset[Room]) -> None:
        before = frozenset(pool.rooms)
        if self._by_rooms.get(before) is pool:
            del self._by_rooms[before]
        self._by_rooms.setdefault(rooms, pool)
        for room in before - rooms:
            del pool.rooms[room]
            pool.takers.discard(room)
            room.lanes.discard(pool)
        for room in rooms - before:
            pool.rooms[room] = None
            pool.takers.tell(room)
            room.lanes.tell(pool)


def _fewer_others(pool: Pool, lanes: Sequence[Lane]) -> list[Lane] | None:
    """The other lanes of a pool, if they have fewer queues than these; else None, without a look at all of them."""
    going, ahead = set(lanes), sum(1 + len(lane.limited) for lane in lanes)
    others: list[Lane] = []
    for lane in pool.lanes:
        if lane not in going:
            ahead -= 1 + len(lane.limited)
            if ahead <= 0:
                return None
            others.append(lane)
    return others
