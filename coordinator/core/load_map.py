"""The load map: who can do what, and who runs what. Agents with equal capabilities form a class; a class knows its least loaded agent.

The attempts in it follow from the state; sessions, limits and signs of life are volatile, rebuilt from Hellos.
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import Enum
from itertools import count
from typing import TYPE_CHECKING

from coordinator.core.fairness import Starts
from coordinator.core.guards import count_guards
from coordinator.core.lazy_heap import LazyHeap, Rank, Ranked
from coordinator.core.line import Line
from coordinator.core.model import INFINITY, Attempt, Capability, Needs
from coordinator.core.pools import Pools
from coordinator.core.ready_queue import Lane

if TYPE_CHECKING:
    from coordinator.core.breakers import Breaker

LOAD_STEPS = 16
"""How finely loads are told apart: exactly for capacities up to this, and to this share of the capacity above.

Of agents with equal loads the longest idle comes first, and it stays first while its load does. So an agent with room for 1,000 is given
some 60 tasks before the next one has its turn, in one message, which costs as much as a hundred tasks in it: with 50 such agents that
is half as much again of throughput (17,200 tasks/s with exact loads, 21,300 with 64 steps, 22,900 with 32, 26,200 with 16).
"""


class AgentStatus(Enum):
    """How an agent is."""

    CONNECTED = 1
    DISCONNECTED = 2  # its stream is gone; its grace or its leases still run
    DRAINING = 3  # connected, and takes nothing new
    CORDONED = 4  # likewise, because an operator said so: it stays


class Agent:
    """One agent: its session and what it runs."""

    __slots__ = (
        "breakers",
        "busy",
        "capabilities",
        "capacity",
        "counts",
        "due_slot",
        "grace_until_s",
        "group",
        "guarded",
        "labels",
        "loop_lag_s",
        "name",
        "nonce",
        "ready_limit",
        "reserved",
        "running",
        "sdk",
        "session",
        "shut",
        "since_ms",
        "status",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.nonce = ""
        self.session = ""  # empty while disconnected
        self.status = AgentStatus.DISCONNECTED
        self.capabilities: Mapping[str, Capability] = {}  # by task type
        self.labels: Mapping[str, str] = {}
        self.capacity = 0
        self.ready_limit = 0
        self.sdk = ""
        self.since_ms = 0
        self.loop_lag_s = 0.0
        self.grace_until_s = INFINITY
        self.running: dict[int, Attempt] = {}  # by task number
        self.group: AgentClass | None = None
        self.busy = 0  # slots that what it runs takes
        self.counts: dict[str, int] = {}  # how many it runs of the types that have a limit of their own
        self.reserved = 0  # it is kept for a task of so many slots, and takes none of fewer
        self.breakers: dict[str, Breaker] | None = None  # by task type, and its own; None while there are none: nearly always
        self.shut = False  # its own breaker is open
        self.guarded: dict[str, bool] = {}  # types with a breaker that isn't closed, and whether it may be given one now
        self.due_slot = 0  # the timer wheel's: its grace

    def free_slots(self) -> int:
        """How many more attempts it may be given now: the scheduler's only test besides capability."""
        if self.status is not AgentStatus.CONNECTED or self.shut:
            return 0
        return min(self.capacity, self.ready_limit) - self.busy

    def may_take(self, task_type: str) -> bool:
        """Whether its breaker for a type lets a task through."""
        return self.guarded.get(task_type, True)

    def begin(self, attempt: Attempt) -> None:
        """It runs an attempt more."""
        task = attempt.task
        self.running[task.number] = attempt
        self.busy += task.spec.scheduling.slots
        if self.counts and task.spec.task_type in self.counts:
            self.counts[task.spec.task_type] += 1

    def end(self, number: int) -> Attempt | None:
        """It runs an attempt less. Answers it, if there was one."""
        attempt = self.running.pop(number, None)
        if attempt is not None:
            spec = attempt.task.spec
            self.busy -= spec.scheduling.slots
            if self.counts and spec.task_type in self.counts:
                self.counts[spec.task_type] -= 1
        return attempt

    def can(self, capabilities: Mapping[str, Capability], labels: Mapping[str, str]) -> None:
        """What it says of itself."""
        self.capabilities, self.labels = capabilities, labels
        self.counts = {task_type: 0 for task_type, one in capabilities.items() if one.max_concurrent}
        for attempt in self.running.values() if self.counts else ():
            if (task_type := attempt.task.spec.task_type) in self.counts:
                self.counts[task_type] += 1

    def __repr__(self) -> str:
        return f"<Agent {self.name} {self.status.name} {self.busy}/{self.capacity}>"


class Room(Ranked):
    """The agents of one class with room for one more task of some lanes: nearly always for any task that takes one slot.

    They stand in buckets by load over capacity, the longest idle first. A room's rank is that of its least loaded agent. `lanes` has the
    lanes whose tasks they can take, the best head first.
    """

    __slots__ = ("_buckets", "_loads", "_moved", "_places", "_ranks", "group", "is_plain", "lanes", "limited_type", "slots", "users")

    def __init__(self, group: "AgentClass", limited_type: str, slots: int, serial: int, ranks: Iterator[int]) -> None:
        super().__init__(serial)
        self.group = group
        self.limited_type = limited_type  # the type whose limit, or whose breakers, it watches; empty when there is none
        self.slots = slots  # that a task takes
        self.is_plain = not limited_type and slots == 1
        self.users = 0  # lanes that need just this, and one more if it is that of a guarded type: see guards
        self.lanes: LazyHeap[Line] = LazyHeap()
        self._ranks = ranks
        self._buckets: dict[int, OrderedDict[Agent, None]] = {}
        self._loads: list[int] = []  # a heap of the buckets that exist
        self._places: dict[Agent, tuple[int, int]] = {}  # the bucket that each stands in, and since when: the lower, the longer
        self._moved: dict[Agent, int] = {}  # whose load changed since they were last put into a bucket, and the most that they had

    def has_space(self, agent: Agent) -> bool:
        """Whether an agent of the class could take one more."""
        if not agent.free_slots() >= self.slots >= agent.reserved:
            return False
        task_type = self.limited_type
        if not task_type:
            return True
        most = agent.capabilities[task_type].max_concurrent
        return (not most or agent.counts[task_type] < most) and agent.may_take(task_type)

    def touch(self, agent: Agent) -> None:
        """Its load or its limit changed: it is put right before the next pick, once however much changed."""
        moved, busy = self._moved, agent.busy
        if moved.get(agent, -1) < busy:
            moved[agent] = busy

    def rank(self) -> Rank | None:
        """The least loaded agent's load over capacity, and since when it has had it."""
        agent = self.least_loaded()
        return None if agent is None else self._places[agent]

    def remove(self, agent: Agent) -> None:
        """It is no longer of this class."""
        self._moved.pop(agent, None)
        self._take_out(agent)

    def least_loaded(self) -> Agent | None:
        """The agent with space and the lowest load over capacity; None when none has space."""
        if self._moved:
            for agent, most in self._moved.items():
                self._put(agent, most)
            self._moved.clear()
        while self._loads:
            bucket = self._buckets[self._loads[0]]
            if bucket:
                return next(iter(bucket))
            del self._buckets[heapq.heappop(self._loads)]
        return None

    def _put(self, agent: Agent, most: int) -> None:
        plain = self.is_plain and not agent.reserved  # nearly always: spares a call
        has_space = agent.free_slots() > 0 if plain else self.has_space(agent)
        load = agent.busy * LOAD_STEPS // agent.capacity if has_space else -1
        place = self._places.get(agent)
        if place is not None:
            if place[0] == load == most * LOAD_STEPS // agent.capacity:
                return  # what has been busier meanwhile goes behind those that have been idle
            self._take_out(agent)
        if load >= 0:
            bucket = self._buckets.get(load)
            if bucket is None:
                bucket = self._buckets[load] = OrderedDict()
                heapq.heappush(self._loads, load)
            bucket[agent] = None
            self._places[agent] = (load, next(self._ranks))

    def _take_out(self, agent: Agent) -> None:
        place = self._places.pop(agent, None)
        if place is not None:
            del self._buckets[place[0]][agent]


Facts = tuple[tuple[tuple[str, Capability], ...], tuple[tuple[str, str], ...]]
"""What makes agents equal to the scheduler, but for their load: capabilities and labels, sorted."""


class AgentClass:
    """Agents with equal capabilities and labels. Nearly always it has one room."""

    __slots__ = ("_ranks", "_serials", "agents", "capabilities", "facts", "guarded", "labels", "plain", "rooms", "starts")

    def __init__(self, facts: Facts, serials: Iterator[int], ranks: Iterator[int]) -> None:
        self.facts = facts
        self.capabilities = dict(facts[0])
        self.labels = dict(facts[1])
        self.agents: dict[str, Agent] = {}
        self.starts = Starts()
        self.guarded: dict[str, int] = {}  # types, and at how many of its agents a breaker isn't closed: they have rooms of their own
        self._serials = serials
        self._ranks = ranks
        self.rooms: dict[tuple[str, int], Room] = {}
        self.plain = self._add_room(("", 1))

    def can_take(self, needs: Needs) -> bool:
        """Whether its agents can run such tasks, when they have space."""
        capability = self.capabilities.get(needs.task_type)
        if capability is None or capability.version < needs.min_version:
            return False
        return all(each.matches(self.labels) for each in needs.selectors)

    def touch(self, agent: Agent) -> None:
        """Its load or its limit changed."""
        for room in self.rooms.values():
            room.touch(agent)

    def add(self, agent: Agent) -> None:
        """It is of this class from now on."""
        self.agents[agent.name] = agent
        self.touch(agent)

    def remove(self, agent: Agent) -> None:
        """It is no longer of this class."""
        del self.agents[agent.name]
        for room in self.rooms.values():
            room.remove(agent)

    def room_for(self, needs: Needs) -> Room | None:
        """The room that tasks with such needs wait for, if there is one."""
        return self.rooms.get(self._key(needs)) if needs.task_type in self.capabilities else None

    def link(self, lane: Lane) -> Room:
        """Its agents can take from the lane: each stands in the other's heap, if it has something to offer."""
        room = self.use(self._key(lane.needs))
        lane.rooms[room] = None
        lane.takers.tell(room)
        # With its rank: a slot that is freed beside 100,000 lanes that nobody has looked at yet would look at all of them at once.
        lane.watchers[room.lanes] = None
        if (rank := lane.rank()) is not None:
            room.lanes.put(lane, rank)
        return room

    def unlink(self, lane: Lane) -> Room:
        """The lane, or the class, is no more."""
        room = self.rooms[self._key(lane.needs)]
        del lane.rooms[room]
        lane.takers.discard(room)
        room.lanes.discard(lane)
        self.disuse(room)
        return room

    def use(self, key: tuple[str, int]) -> Room:
        """The room of a type, or of none, and so many slots; it stays until it is used no more."""
        room = self.rooms.get(key) or self._add_room(key)
        room.users += 1
        return room

    def disuse(self, room: Room) -> None:
        """One user less."""
        room.users -= 1
        if not room.users and room is not self.plain:
            del self.rooms[room.limited_type, room.slots]

    def _key(self, needs: Needs) -> tuple[str, int]:
        task_type = needs.task_type
        return task_type if self.capabilities[task_type].max_concurrent or task_type in self.guarded else "", needs.slots

    def _add_room(self, key: tuple[str, int]) -> Room:
        room = self.rooms[key] = Room(self, key[0], key[1], next(self._serials), self._ranks)
        for agent in self.agents.values():
            room.touch(agent)
        return room


class LoadMap:
    """The agents of a namespace, their classes, and which class can take from which lane.

    Args:
        pools: of limited tasks: they follow the lanes.
        is_paused: whether nobody may find a type's lanes.
    """

    def __init__(self, pools: Pools, *, is_paused: Callable[[str], bool] = lambda _: False) -> None:
        self.pools = pools
        self.is_paused = is_paused
        self.agents: dict[str, Agent] = {}
        self.by_session: dict[str, Agent] = {}
        self._classes: dict[Facts, AgentClass] = {}
        self._offering: dict[str, dict[AgentClass, None]] = {}  # by task type
        self._lanes: dict[str, dict[Lane, None]] = {}  # by task type
        self._serials = count(1)
        self._ranks = count()

    def offering(self, task_type: str) -> Collection[AgentClass]:
        """The classes that offer a type, whatever else a task needs; they may be without a free slot."""
        return self._offering.get(task_type, ())

    def capable(self, needs: Needs) -> list[AgentClass]:
        """The classes that can run tasks with such needs; they may be without a free slot."""
        return [group for group in self.offering(needs.task_type) if group.can_take(needs)]

    def types(self) -> int:
        """How many task types somebody offers."""
        return len(self._offering)

    def open(self, lane: Lane) -> None:
        """A lane has come to be: those who can take from it must know it."""
        self._lanes.setdefault(lane.task_type, {})[lane] = None
        lane.parked = True
        if not self.is_paused(lane.task_type):
            self.unpark(lane)

    def close(self, lane: Lane) -> None:
        """An empty lane is dropped."""
        lanes = self._lanes[lane.task_type]
        del lanes[lane]
        if not lanes:
            del self._lanes[lane.task_type]
        for room in list(lane.rooms):
            room.group.unlink(lane)
        self.pools.close(lane)

    def lanes(self) -> Iterator[Lane]:
        """All lanes."""
        for lanes in self._lanes.values():
            yield from lanes

    def lanes_of(self, task_type: str) -> Iterator[Lane]:
        """The lanes of a type."""
        yield from self._lanes.get(task_type, ())

    def lane_types(self) -> Collection[str]:
        """The types that have lanes."""
        return self._lanes.keys()

    def rooms(self) -> Iterator[Room]:
        """All rooms of all classes."""
        for group in self._classes.values():
            yield from group.rooms.values()

    def park(self, lane: Lane) -> None:
        """A lane's type is paused: nobody finds it any more. Its limited tasks are to follow (`Pools.follow`)."""
        for room in list(lane.rooms):
            room.group.unlink(lane)
        lane.parked = True

    def unpark(self, lane: Lane) -> list[Room]:
        """A lane's type isn't paused any more: who can take from it finds it again. Answers their rooms."""
        if not lane.parked or lane not in self._lanes.get(lane.task_type, ()):
            return []
        lane.parked = False
        return [group.link(lane) for group in self.capable(lane.needs)]

    def agent(self, name: str) -> Agent:
        """The agent of that name, made if need be."""
        agent = self.agents.get(name)
        if agent is None:
            agent = self.agents[name] = Agent(name)
        return agent

    def join(self, agent: Agent) -> None:
        """Puts an agent into the class of its capabilities and labels."""
        facts = (tuple(sorted(agent.capabilities.items())), tuple(sorted(agent.labels.items())))
        group = self._classes.get(facts)
        if group is None:
            group = self._classes[facts] = AgentClass(facts, self._serials, self._ranks)
            linked = []
            for task_type in group.capabilities:
                self._offering.setdefault(task_type, {})[group] = None
                linked += [(lane, group.link(lane)) for lane in self.lanes_of(task_type) if not lane.parked and group.can_take(lane.needs)]
            self.pools.regroup(linked, linked=True)
        if agent.group is not group:
            self.leave(agent)
            agent.group = group
            group.add(agent)
            count_guards(self, group, agent.guarded.keys(), 1)
        for room in group.rooms.values():
            room.touch(agent)
            room.improved()

    def leave(self, agent: Agent) -> None:
        """Takes an agent out of its class: it can't be given work until it joins again."""
        group = agent.group
        if group is None:
            return
        group.remove(agent)
        agent.group = None
        if group.agents:
            count_guards(self, group, agent.guarded.keys(), -1)
        else:
            del self._classes[group.facts]
            unlinked = []
            for task_type in group.capabilities:
                offering = self._offering[task_type]
                del offering[group]
                if not offering:
                    del self._offering[task_type]
                unlinked += [
                    (lane, group.unlink(lane)) for lane in self.lanes_of(task_type) if not lane.parked and group.can_take(lane.needs)
                ]
            self.pools.regroup(unlinked, linked=False)

    def remove(self, agent: Agent) -> None:
        """Forgets an agent that runs nothing."""
        self.leave(agent)
        self.agents.pop(agent.name, None)
        if self.by_session.get(agent.session) is agent:
            del self.by_session[agent.session]
