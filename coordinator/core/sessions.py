"""Agents' sessions: hello, ready, loss, drain. What the journal says an agent runs and its Hello omits is given up at once (G9)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from coordinator.core.breakers import greet
from coordinator.core.effects import CloseSession, DrainSession
from coordinator.core.events import Cost
from coordinator.core.load_map import Agent, AgentStatus
from coordinator.core.model import INFINITY, Attempt, Capability, Failure, FailureKind, Now, Task
from coordinator.core.pauses import cordon_of
from coordinator.core.reports import acknowledge, give_up, judge
from coordinator.core.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Hello:
    """An agent introduces itself. `in_flight` is (task id, fence) of every attempt it runs or has an unanswered result for."""

    name: str
    nonce: str
    capabilities: Mapping[str, Capability]
    capacity: int
    in_flight: Sequence[tuple[str, int]]
    labels: Mapping[str, str]
    sdk: str = ""


class ReconcileVerdict(Enum):
    """What to do with an attempt that Hello listed; the numbers are those of muster.v1.ReconcileVerdict."""

    KEEP = 1
    DROP = 2
    CANCEL = 3


def hello(scheduler: Scheduler, session: str, said: Hello, now: Now) -> list[ReconcileVerdict]:
    """Opens a session for an agent, over whatever session it had. It is given nothing before its first `ready`."""
    agent = scheduler.load.agent(said.name)
    if agent.session:
        del scheduler.load.by_session[agent.session]
        replaced = "by a new stream of the same process" if agent.nonce == said.nonce else "by another process with the same name"
        scheduler.effects.append(CloseSession(agent.session, f"this session of agent {agent.name} was replaced {replaced}"))
    agent.session, agent.nonce = session, said.nonce
    agent.status = AgentStatus.CONNECTED if cordon_of(scheduler, said.name) is None else AgentStatus.CORDONED
    agent.capacity, agent.ready_limit = said.capacity, 0
    agent.sdk, agent.since_ms = said.sdk, now.date_ms
    agent.grace_until_s = INFINITY
    scheduler.liveness.disarm(agent)
    scheduler.load.by_session[session] = agent

    verdicts = []
    kept: set[int] = set()
    for task_id, fence in said.in_flight:
        task = judge(scheduler, agent, task_id, fence)
        if not isinstance(task, Task):
            verdicts.append(ReconcileVerdict.DROP)
            continue
        kept.add(task.number)
        acknowledge(scheduler, agent, task_id, fence, now)  # it has it, whatever became of the acknowledgement
        agent.running[task.number].lease_until_s = now.mono_s + scheduler.settings.lease_s
        verdicts.append(ReconcileVerdict.KEEP if task.cancel_reason is None else ReconcileVerdict.CANCEL)
    for number, attempt in list(agent.running.items()):
        if number not in kept:
            _omitted(scheduler, attempt, now)

    greet(scheduler, agent)
    agent.can(said.capabilities, said.labels)
    scheduler.load.join(agent)
    return verdicts


def _omitted(scheduler: Scheduler, attempt: Attempt, now: Now) -> None:
    task = attempt.task
    if attempt.has_arrived():
        failure = Failure(FailureKind.LEASE_LOST, f"agent {task.agent} came back without this attempt")
        give_up(scheduler, task, failure, Cost.CRASH, now)
    else:
        failure = Failure(FailureKind.UNDELIVERED, f"the assignment never reached agent {task.agent}")
        give_up(scheduler, task, failure, Cost.DELIVERY, now)


def ready(scheduler: Scheduler, agent: Agent, limit: int) -> None:
    """How many attempts the agent will hold at a time."""
    agent.ready_limit = limit
    scheduler.freed(agent)


def lost(scheduler: Scheduler, session: str, now: Now) -> None:
    """A session's stream is gone. Its attempts keep their leases for the grace."""
    agent = scheduler.load.by_session.pop(session, None)
    if agent is None:
        return
    agent.session = ""
    agent.status = AgentStatus.DISCONNECTED
    agent.since_ms = now.date_ms
    scheduler.load.leave(agent)
    if not agent.running:
        scheduler.load.remove(agent)
        return
    agent.grace_until_s = now.mono_s + scheduler.settings.session_grace_s
    scheduler.liveness.arm(agent, agent.grace_until_s)


def draining(agent: Agent) -> None:
    """The agent is going: nothing new for it."""
    if agent.session:
        agent.status = AgentStatus.DRAINING
        if agent.group is not None:
            agent.group.touch(agent)


def drain(scheduler: Scheduler, agent: Agent, deadline_s: float, reason: str) -> None:
    """An operator asks the agent to go."""
    draining(agent)
    if agent.session:
        scheduler.effects.append(DrainSession(agent.session, deadline_s, reason))
