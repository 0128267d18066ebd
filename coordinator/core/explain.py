"""Why a task waits: answered from the very data that placement decides from."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from coordinator.core.load_map import Agent, AgentStatus
from coordinator.core.model import WAITING, Task
from coordinator.core.scheduler import Scheduler

MAX_AGENTS = 100
MAX_AHEAD = 10_000


class WaitKind(Enum):
    """The kind of reason; the numbers are those of muster.v1.WaitKind."""

    NO_CAPABLE_AGENT = 1
    AGENTS_FULL = 2
    BACKOFF = 3
    QUEUED = 4
    AGENTS_DRAINING = 5
    STORE_UNAVAILABLE = 6


@dataclass(frozen=True, slots=True)
class WaitReason:
    """Why a task waits; `until_ms` is 0 where nobody can know."""

    kind: WaitKind
    message: str
    until_ms: int = 0


class RuledOut(Enum):
    """What rules an agent out; the numbers are those of muster.v1.RuledOutKind."""

    MISSING_CAPABILITY = 1
    AT_CAPACITY = 2
    NOT_READY = 3
    DRAINING = 4
    DISCONNECTED = 5


def ruled_out(agent: Agent, task_type: str) -> list[tuple[RuledOut, str]]:
    """Everything that keeps an agent from taking a task of this type now; empty exactly when placement could choose it."""
    reasons: list[tuple[RuledOut, str]] = []
    if agent.status is AgentStatus.DISCONNECTED:
        reasons.append((RuledOut.DISCONNECTED, "its stream is down"))
    elif agent.status is AgentStatus.DRAINING:
        reasons.append((RuledOut.DRAINING, "it is draining"))
    if task_type not in agent.capabilities and agent.status is not AgentStatus.DISCONNECTED:
        reasons.append((RuledOut.MISSING_CAPABILITY, f"it doesn't offer {task_type}"))
    running = len(agent.running)
    if agent.status is AgentStatus.CONNECTED and running >= agent.capacity:
        reasons.append((RuledOut.AT_CAPACITY, f"it runs {running} of {agent.capacity}"))
    elif agent.status is AgentStatus.CONNECTED and running >= agent.ready_limit:
        reasons.append((RuledOut.NOT_READY, f"it asked for at most {agent.ready_limit} and runs {running}"))
    return reasons


def waits_for(scheduler: Scheduler, task: Task) -> WaitReason | None:
    """Why a task waits; None when it doesn't."""
    if task.state not in WAITING:
        return None
    if task.number in scheduler.backoffs:
        return WaitReason(WaitKind.BACKOFF, "its backoff after a failed attempt hasn't ended", task.ready_at_ms)
    task_type = task.spec.task_type
    groups = scheduler.load.capable(task_type)
    if not groups:
        return WaitReason(WaitKind.NO_CAPABLE_AGENT, f"no connected agent offers {task_type}")
    if any(group.least_loaded() is not None for group in groups):
        return WaitReason(WaitKind.QUEUED, "tasks ahead of it are being taken")
    if all(agent.status is AgentStatus.DRAINING for group in groups for agent in group.agents.values()):
        return WaitReason(WaitKind.AGENTS_DRAINING, f"every agent that offers {task_type} is draining")
    count = sum(len(group.agents) for group in groups)
    return WaitReason(WaitKind.AGENTS_FULL, f"all {count} agents that offer {task_type} are full")


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole answer. `agents` has those that offer the type first."""

    waits_for: WaitReason | None
    ahead: int
    agents: Sequence[tuple[Agent, Sequence[tuple[RuledOut, str]]]]
    summary: str


def explain(scheduler: Scheduler, task: Task) -> Explanation:
    """Why a live task waits, or where it runs."""
    reason = waits_for(scheduler, task)
    if reason is None:
        return Explanation(None, 0, (), f"Agent {task.agent} runs it: attempt {task.attempt}.")
    task_type = task.spec.task_type
    capable = [agent for group in scheduler.load.capable(task_type) for agent in islice(group.agents.values(), MAX_AGENTS)]
    known = {agent.name for agent in capable}
    others = (agent for agent in scheduler.load.agents.values() if agent.name not in known)
    considered = [*capable[:MAX_AGENTS], *islice(others, max(0, MAX_AGENTS - len(capable)))]
    agents = [(agent, ruled_out(agent, task_type)) for agent in considered]
    ahead = _ahead(scheduler, task) if reason.kind is not WaitKind.BACKOFF else 0
    summary = f"It waits because {reason.message}."
    if ahead:
        summary += f" {ahead} ready tasks of its type go before it." if ahead > 1 else " 1 ready task of its type goes before it."
    return Explanation(reason, ahead, agents, summary)


def _ahead(scheduler: Scheduler, task: Task) -> int:
    """Ready tasks of the same type that go before this one, at most MAX_AHEAD."""
    lane = scheduler.ready.lanes.get(task.spec.task_type)
    if lane is None:
        return 0
    better = sum(level.live for priority, level in lane.levels.items() if priority > task.spec.priority)
    equals = sum(other.place < task.place for other in islice(lane.levels[task.spec.priority], MAX_AHEAD))
    return min(better + equals, MAX_AHEAD)
