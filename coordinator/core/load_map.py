"""The load map: who can do what, and who runs what. Agents with equal capabilities form a class; a class knows its least loaded agent.

The attempts in it follow from the state; sessions, limits and signs of life are volatile, rebuilt from Hellos.
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from itertools import count

from coordinator.core.lazy_heap import LazyHeap, Rank, Ranked
from coordinator.core.model import INFINITY, Attempt
from coordinator.core.ready_queue import Lane

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


class Agent:
    """One agent: its session and what it runs."""

    __slots__ = (
        "capabilities",
        "capacity",
        "due_slot",
        "grace_until_s",
        "group",
        "idle_rank",
        "labels",
        "load",
        "loop_lag_s",
        "name",
        "nonce",
        "ready_limit",
        "running",
        "sdk",
        "session",
        "since_ms",
        "status",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.nonce = ""
        self.session = ""  # empty while disconnected
        self.status = AgentStatus.DISCONNECTED
        self.capabilities: frozenset[str] = frozenset()
        self.labels: Mapping[str, str] = {}
        self.capacity = 0
        self.ready_limit = 0
        self.sdk = ""
        self.since_ms = 0
        self.loop_lag_s = 0.0
        self.grace_until_s = INFINITY
        self.running: dict[int, Attempt] = {}  # by task number
        self.group: AgentClass | None = None
        self.load = -1  # the bucket it stands in; below 0 when it stands in none
        self.idle_rank = 0  # the lower, the longer its load has been as it is
        self.due_slot = 0  # the timer wheel's: its grace

    def free_slots(self) -> int:
        """How many more attempts it may be given now: the scheduler's only test besides capability."""
        if self.status is not AgentStatus.CONNECTED:
            return 0
        return min(self.capacity, self.ready_limit) - len(self.running)

    def __repr__(self) -> str:
        return f"<Agent {self.name} {self.status.name} {len(self.running)}/{self.capacity}>"


class AgentClass(Ranked):
    """Agents with equal capabilities. Those with a free slot stand in buckets by load over capacity, the longest idle first.

    Its rank is that of its least loaded agent. `lanes` has the lanes whose tasks they can take, the best head first.
    """

    __slots__ = ("_buckets", "_loads", "_moved", "_ranks", "agents", "capabilities", "lanes")

    def __init__(self, capabilities: frozenset[str], serial: int, ranks: Iterator[int]) -> None:
        super().__init__(serial)
        self.capabilities = capabilities
        self._ranks = ranks
        self.agents: dict[str, Agent] = {}
        self.lanes: LazyHeap[Lane] = LazyHeap()
        self._buckets: dict[int, OrderedDict[str, Agent]] = {}
        self._loads: list[int] = []  # a heap of the buckets that exist
        self._moved: dict[Agent, int] = {}  # whose load changed since they were last put into a bucket, and the most that they ran

    def touch(self, agent: Agent) -> None:
        """Its load or its limit changed: it is put right before the next pick, once however much changed."""
        moved, running = self._moved, len(agent.running)
        if moved.get(agent, -1) < running:
            moved[agent] = running

    def rank(self) -> Rank | None:
        """The least loaded agent's load over capacity, and since when it has had it."""
        agent = self.least_loaded()
        return None if agent is None else (agent.load, agent.idle_rank)

    def remove(self, agent: Agent) -> None:
        """It is no longer of this class."""
        self._moved.pop(agent, None)
        self._take_out(agent)
        del self.agents[agent.name]

    def least_loaded(self) -> Agent | None:
        """The agent with a free slot and the lowest load over capacity; None when none has a free slot."""
        if self._moved:
            for agent, most in self._moved.items():
                self._put(agent, most)
            self._moved.clear()
        while self._loads:
            bucket = self._buckets[self._loads[0]]
            if bucket:
                return next(iter(bucket.values()))
            del self._buckets[heapq.heappop(self._loads)]
        return None

    def _put(self, agent: Agent, most: int) -> None:
        load = len(agent.running) * LOAD_STEPS // agent.capacity if agent.free_slots() > 0 else -1
        if load == agent.load and most * LOAD_STEPS // agent.capacity == load:
            return  # what has been busier meanwhile goes behind those that have been idle
        if agent.load >= 0:
            del self._buckets[agent.load][agent.name]
        agent.load = load
        if load >= 0:
            bucket = self._buckets.get(load)
            if bucket is None:
                bucket = self._buckets[load] = OrderedDict()
                heapq.heappush(self._loads, load)
            bucket[agent.name] = agent
            agent.idle_rank = next(self._ranks)

    def _take_out(self, agent: Agent) -> None:
        if agent.load >= 0:
            del self._buckets[agent.load][agent.name]
            agent.load = -1


class LoadMap:
    """The agents of a namespace, their classes by capability, and which class can take from which lane."""

    def __init__(self) -> None:
        self.agents: dict[str, Agent] = {}
        self.by_session: dict[str, Agent] = {}
        self._classes: dict[frozenset[str], AgentClass] = {}
        self._capable: dict[str, list[AgentClass]] = {}
        self._lanes: dict[str, dict[Lane, None]] = {}  # by task type
        self._serial = 0
        self._ranks = count()

    def capable(self, task_type: str) -> list[AgentClass]:
        """The classes that can run a type; they may be without a free slot."""
        return self._capable.get(task_type, [])

    def types(self) -> int:
        """How many task types somebody can run."""
        return len(self._capable)

    def open(self, lane: Lane) -> None:
        """A lane has come to be: those who can take from it must know it."""
        self._lanes.setdefault(lane.task_type, {})[lane] = None
        for group in self.capable(lane.task_type):
            _link(lane, group)

    def close(self, lane: Lane) -> None:
        """An empty lane is dropped."""
        lanes = self._lanes[lane.task_type]
        del lanes[lane]
        if not lanes:
            del self._lanes[lane.task_type]
        for group in lane.classes:
            _unlink(lane, group)

    def agent(self, name: str) -> Agent:
        """The agent of that name, made if need be."""
        agent = self.agents.get(name)
        if agent is None:
            agent = self.agents[name] = Agent(name)
        return agent

    def join(self, agent: Agent, capabilities: Iterable[str]) -> AgentClass:
        """Puts an agent into the class of its capabilities, and answers it."""
        wanted = frozenset(capabilities)
        group = self._classes.get(wanted)
        if group is None:
            self._serial += 1
            group = self._classes[wanted] = AgentClass(wanted, self._serial, self._ranks)
            for task_type in wanted:
                self._capable.setdefault(task_type, []).append(group)
                for lane in self._lanes.get(task_type, ()):
                    _link(lane, group)
        if agent.group is not group:
            self.leave(agent)
            agent.group = group
            group.agents[agent.name] = agent
        agent.capabilities = wanted
        group.touch(agent)
        group.improved()
        return group

    def leave(self, agent: Agent) -> None:
        """Takes an agent out of its class: it can't be given work until it joins again."""
        group = agent.group
        if group is None:
            return
        group.remove(agent)
        agent.group = None
        if not group.agents:
            del self._classes[group.capabilities]
            for task_type in group.capabilities:
                self._capable[task_type].remove(group)
                if not self._capable[task_type]:
                    del self._capable[task_type]
                for lane in self._lanes.get(task_type, ()):
                    del lane.classes[group]
                    _unlink(lane, group)

    def remove(self, agent: Agent) -> None:
        """Forgets an agent that runs nothing."""
        self.leave(agent)
        self.agents.pop(agent.name, None)
        if self.by_session.get(agent.session) is agent:
            del self.by_session[agent.session]


def _link(lane: Lane, group: AgentClass) -> None:
    """The class can take from the lane: each stands in the other's heap, until somebody looks and finds nothing."""
    lane.classes[group] = None
    lane.takers.tell(group)
    group.lanes.tell(lane)


def _unlink(lane: Lane, group: AgentClass) -> None:
    lane.takers.discard(group)
    group.lanes.discard(lane)
