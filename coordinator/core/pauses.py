"""Pauses hold task types up, or the whole namespace; cordons keep agents from getting anything new. Both are policies.

A paused type is one that nobody offers, as far as its lanes are concerned: no agent finds them, and so neither do limits, kept agents or
turns among fairness keys. That costs a task nothing, whether its type is paused or not. A paused namespace is a placement that doesn't
happen. Either way what waits stays where it is, with its place, its age and its deadlines.

A type may have very many lanes, and queues of limited tasks. So a pause that is set or lifted moves some of them at once, and the
others with the next ticks. Until it is through, nothing is placed: so nothing that is paused is assigned, and nobody's turn passes
because it isn't found yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from coordinator.core.line import Line
from coordinator.core.load_map import AgentStatus
from coordinator.core.patterns import Patterns, covers
from coordinator.core.policies import CordonPolicy, PausePolicy, PolicyKind, PolicyName, StandingPolicy, delete_policy

if TYPE_CHECKING:
    from coordinator.core.model import Now
    from coordinator.core.scheduler import Scheduler

MAX_MOVED = 1000  # lanes and queues that a step moves: some ten milliseconds


class Pauses:
    """The pauses of a namespace, when the next of them ends, and what is still to be done of those that were set or lifted."""

    __slots__ = ("_ends", "everything", "moves", "next_end_ms", "types")

    def __init__(self) -> None:
        self.moves: deque[Iterator[None]] = deque()  # each step moves a lane or a queue
        self.everything: StandingPolicy | None = None  # the namespace's own
        self.types: Patterns[StandingPolicy] = Patterns()
        self.next_end_ms: int | None = None  # or later
        self._ends: dict[PolicyName, int] = {}

    def due_ms(self) -> int | None:
        """When a tick has something to do here next."""
        return 0 if self.moves else self.next_end_ms

    def names(self, task_type: str) -> bool:
        """Whether some pause names a task type."""
        return self.types.match(task_type) is not None

    def of(self, task_type: str) -> StandingPolicy | None:
        """What holds a type's tasks up: of several pauses the one that ends last; None when nothing does."""
        those = list(self.types.matches(task_type))
        if self.everything is not None:
            those.append(self.everything)
        return max(those, key=lambda one: end_of(one) or float("inf"), default=None)

    def ends(self, name: PolicyName, standing: StandingPolicy | None) -> None:
        """A pause was set or lifted: it will end."""
        self._ends.pop(name, None)
        if standing is not None and (end_ms := end_of(standing)):
            self._ends[name] = end_ms
            self.next_end_ms = end_ms if self.next_end_ms is None else min(self.next_end_ms, end_ms)

    def take_due(self, date_ms: int) -> list[PolicyName]:
        """Those that end now."""
        self.next_end_ms = min((end_ms for end_ms in self._ends.values() if end_ms > date_ms), default=None)
        return sorted(name for name, end_ms in self._ends.items() if end_ms <= date_ms)


def end_of(standing: StandingPolicy) -> int:
    """When a pause ends; 0 when it doesn't."""
    policy = standing.policy
    return standing.set_ms + policy.for_ms if isinstance(policy, PausePolicy) and policy.for_ms else 0


def end_pauses(scheduler: Scheduler, now: Now) -> None:
    """Lifts the pauses whose time is over."""
    for name in scheduler.pauses.take_due(now.date_ms):
        delete_policy(scheduler, name, now)


def follow_pause(scheduler: Scheduler, name: PolicyName) -> None:
    """A pause was set or lifted, or a scheduler is being rebuilt: what it holds up is parked, or goes on."""
    pauses, load = scheduler.pauses, scheduler.load
    standing = scheduler.state.policies.get(name)
    pauses.ends(name, standing)
    pattern = name.key
    if not pattern:
        pauses.everything = standing
        if standing is None:
            scheduler.awake.update(dict.fromkeys(load.rooms()))
        return
    if standing is None:
        pauses.types.delete(pattern)
    else:
        pauses.types.set(pattern, standing)
    pauses.moves.append(_follow(scheduler, pattern))
    move(scheduler)


def move(scheduler: Scheduler) -> None:
    """Goes on with what pauses have begun: a bounded part of it. Nothing is placed before it is done."""
    moves = scheduler.pauses.moves
    for _ in range(MAX_MOVED):
        if not moves:
            return
        if next(moves[0], moves) is moves:
            moves.popleft()


def _follow(scheduler: Scheduler, pattern: str) -> Iterator[None]:
    """Parks the lanes of types that are paused now, and has those of others found again."""
    load, pauses = scheduler.load, scheduler.pauses
    for task_type in list(load.lane_types()) if pattern.endswith("*") else [pattern]:
        if covers(pattern, task_type):
            lanes = list(load.lanes_of(task_type))
            for lane in lanes:
                if pauses.names(task_type):
                    load.park(lane)
                else:
                    scheduler.awake.update(dict.fromkeys(load.unpark(lane)))  # whoever has space looks
                yield
            yield from load.pools.follow(lanes)
            for lane in lanes:
                if lane.slots > 1 and not lane.parked:  # an agent may be kept for it
                    scheduler.hurry(lane if lane.pool is None else lane.pool)
                    yield
        yield
    for agent in [kept for kept in scheduler.reserved.values() if kept is not None]:
        scheduler.freed(agent)  # whoever is kept for what is paused now is let go


def hold_all(scheduler: Scheduler) -> None:
    """The namespace is paused: its end will wake whoever is awake now. Heavy lanes are remembered: agents are kept for those alone."""
    for item in scheduler.awake:
        if isinstance(item, Line) and item.slots > 1:
            scheduler.reserved.setdefault(item, None)
    scheduler.awake.clear()


def cordon_of(scheduler: Scheduler, agent_name: str) -> CordonPolicy | None:
    """The cordon that keeps an agent from getting anything new, if there is one."""
    standing = scheduler.state.policies.get(PolicyName(PolicyKind.CORDON, agent_name))
    return standing.policy if standing is not None and isinstance(standing.policy, CordonPolicy) else None


def follow_cordon(scheduler: Scheduler, name: PolicyName) -> None:
    """A cordon was set or lifted: its agent follows, if it is connected. One that drains goes on draining."""
    agent = scheduler.load.agents.get(name.key)
    if agent is None:
        return
    if cordon_of(scheduler, agent.name) is not None:
        if agent.status is AgentStatus.CONNECTED:
            agent.status = AgentStatus.CORDONED
    elif agent.status is AgentStatus.CORDONED:
        agent.status = AgentStatus.CONNECTED
    scheduler.freed(agent)  # it has space again; or whoever it was kept for looks for another
