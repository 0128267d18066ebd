"""Circuit breakers: who fails again and again is given nothing for a while, and then one task, to see whether it has recovered.

An agent has one for each type that it fails at, and one of its own, over all types. They are volatile: a coordinator that takes over
begins with none, and knows after a few results what the one before it knew. What is closed and has nothing to count isn't there at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import TYPE_CHECKING

from coordinator.core.breaker_results import MAX_TOLD, Results
from coordinator.core.breaker_rules import BreakerRules
from coordinator.core.guards import guard, unguard
from coordinator.core.load_map import Agent, AgentClass, AgentStatus
from coordinator.core.model import Attempt, Failure, Now, Task
from coordinator.core.patterns import Patterns
from coordinator.core.policies import BreakerPolicy, PolicyName
from coordinator.core.timers import TimerWheel

if TYPE_CHECKING:
    from coordinator.core.scheduler import Scheduler

OWN = ""  # the key of an agent's breaker over all types
MAX_DOUBLINGS = 32
JITTER = 0.2  # breakers that open together don't all probe together: each is this share early, at most


class BreakerState(Enum):
    """How a breaker is; the numbers are those of muster.v1.BreakerState."""

    CLOSED = 1  # it counts
    OPEN = 2  # nothing is assigned
    HALF_OPEN = 3  # one task is: the probe
    TOLERATED = 4  # it would be open, but too many other agents are shut out already: tasks are assigned as ever


SHUT = (BreakerState.OPEN, BreakerState.HALF_OPEN)


class Breaker:
    """One agent's breaker, for one type or over all."""

    __slots__ = (
        "agent",
        "due_s",
        "due_slot",
        "failed_probes",
        "key",
        "probe",
        "reason",
        "results",
        "rules",
        "since_ms",
        "state",
        "until_ms",
    )

    def __init__(self, agent: str, key: str, rules: BreakerRules) -> None:
        self.agent = agent  # its name
        self.key = key  # the task type, or OWN
        self.rules = rules
        self.state = BreakerState.CLOSED
        self.results = Results(rules, of_agent=key == OWN)
        self.reason = ""  # why it isn't closed
        self.since_ms = 0  # since when it isn't
        self.until_ms = 0  # about when the next probe may begin; or when it is no longer tolerated
        self.failed_probes = 0
        self.probe: Attempt | None = None  # the attempt that tells, while it is HALF_OPEN
        self.due_s = 0.0  # when it is looked at again
        self.due_slot = 0  # the timer wheel's

    def __repr__(self) -> str:
        return f"<Breaker {self.agent} {self.key or 'own'} {self.state.name}>"


class Breakers:
    """The breakers of a namespace, and by which rules they open.

    Args:
        usual: the rules where no policy says otherwise.
    """

    __slots__ = ("_all_types", "_types", "_usual", "by_agent", "wheel")

    def __init__(self, usual: BreakerRules) -> None:
        self._usual = usual
        self._all_types: BreakerPolicy | None = None
        self._types: Patterns[BreakerPolicy] = Patterns()
        self.by_agent: dict[str, dict[str, Breaker]] = {}  # connected or not
        self.wheel: TimerWheel[Breaker] = TimerWheel(slot_width=0.25)  # seconds; all that there are wait in it

    def rules(self, key: str) -> BreakerRules:
        """The rules for a type, or for agents' own breakers."""
        rules = self._usual if self._all_types is None else self._all_types.over(self._usual)
        policy = self._types.match(key) if key else None
        return rules if policy is None else policy.over(rules)

    def set(self, pattern: str, policy: BreakerPolicy | None) -> None:
        """A policy was set or deleted."""
        if not pattern:
            self._all_types = policy
        elif policy is None:
            self._types.delete(pattern)
        else:
            self._types.set(pattern, policy)

    def all(self) -> Iterator[Breaker]:
        """All that there are."""
        for own in self.by_agent.values():
            yield from own.values()


# --- what agents' results do -------------------------------------------------------------------------------------------------------


def began(agent: Agent, attempt: Attempt) -> None:
    """An agent with breakers was given a task: it is the probe of those that wait for one."""
    for breaker in _concerned(agent, attempt.task):
        if breaker.state is BreakerState.HALF_OPEN:
            breaker.probe = attempt
            _let_through(agent, breaker.key, may_take=False)


def succeeded(scheduler: Scheduler, agent: Agent, attempt: Attempt, now: Now) -> None:
    """An attempt of an agent with breakers succeeded. What began before a breaker opened says nothing about whether it has recovered."""
    for breaker in _concerned(agent, attempt.task):
        if breaker.state is BreakerState.CLOSED:
            breaker.results.succeeded(now.mono_s)
        elif breaker.probe is attempt:
            forget(scheduler, breaker)


def unsuccessful(scheduler: Scheduler, agent: Agent, attempt: Attempt, failure: Failure | None, now: Now) -> None:
    """An attempt failed; or, without a failure, was given back or cancelled. What is no fault of the agent's tells nothing."""
    if failure is None or not counts(attempt.task, failure):
        for breaker in _concerned(agent, attempt.task):
            if breaker.probe is attempt:
                _wait_for_probe(scheduler, breaker, now)
        return
    of_type = _get(scheduler, agent, attempt.task.spec.task_type, now)
    own = _get(scheduler, agent, OWN, now)
    if of_type is not None:
        was_closed = of_type.state is BreakerState.CLOSED
        _failed(scheduler, agent, of_type, attempt, failure, now)
        if of_type.state is not BreakerState.CLOSED and own is not None and own.state is BreakerState.CLOSED:
            if was_closed:
                own.results = Results(own.rules, of_agent=True)  # the type explains them
            return
    if own is not None:
        _failed(scheduler, agent, own, attempt, failure, now)


def counts(task: Task, failure: Failure) -> bool:
    """Whether a failure says something about the agent. `non_retryable` says that the task is bad, whoever runs it."""
    return task.cancel_reason is None and not failure.non_retryable


def end_waits(scheduler: Scheduler, now: Now) -> None:
    """Has each breaker looked at whose time has come."""
    for breaker in scheduler.breakers.wheel.take_due(now.mono_s):
        _due(scheduler, breaker, now)


def _due(scheduler: Scheduler, breaker: Breaker, now: Now) -> None:
    match breaker.state:
        case BreakerState.OPEN:
            _wait_for_probe(scheduler, breaker, now)
        case BreakerState.TOLERATED:
            forget(scheduler, breaker)
        case BreakerState.CLOSED if breaker.results.are_old(now.mono_s) or breaker.agent not in scheduler.load.agents:
            forget(scheduler, breaker)
        case BreakerState.CLOSED:
            _arm(scheduler, breaker, breaker.rules.window_s, now)
        case BreakerState.HALF_OPEN if breaker.agent not in scheduler.load.agents:
            forget(scheduler, breaker)  # it may never come back
        case BreakerState.HALF_OPEN:
            _arm(scheduler, breaker, breaker.rules.max_open_s, now)


# --- what operators and sessions do ------------------------------------------------------------------------------------------------


def greet(scheduler: Scheduler, agent: Agent) -> None:
    """An agent says Hello, before it joins its class: its breakers have outlived its last session."""
    agent.breakers = scheduler.breakers.by_agent.get(agent.name)
    for breaker in list((agent.breakers or {}).values()):
        if breaker.state in SHUT:
            _let_through(agent, breaker.key, may_take=breaker.state is BreakerState.HALF_OPEN and breaker.probe is None)


def reset(scheduler: Scheduler, agent_name: str, task_type: str = "") -> list[Breaker]:
    """An operator closes an agent's breakers: all, or that of a type. Answers those that weren't closed; what was counted is forgotten."""
    own = scheduler.breakers.by_agent.get(agent_name, {})
    chosen = [breaker for breaker in own.values() if not task_type or breaker.key == task_type]
    for breaker in chosen:
        forget(scheduler, breaker)
    return [breaker for breaker in chosen if breaker.state is not BreakerState.CLOSED]


def follow_breakers(scheduler: Scheduler, name: PolicyName) -> None:
    """A policy was set or deleted: what was counted by other rules is forgotten, and what may not be open any more closes."""
    standing = scheduler.state.policies.get(name)
    policy = standing.policy if standing is not None else None
    scheduler.breakers.set(name.key, policy if isinstance(policy, BreakerPolicy) else None)
    for breaker in list(scheduler.breakers.all()):
        rules = scheduler.breakers.rules(breaker.key)
        if rules == breaker.rules:
            continue
        breaker.rules = rules
        if rules.never_open() or breaker.state not in SHUT:
            forget(scheduler, breaker)


def forget(scheduler: Scheduler, breaker: Breaker) -> None:
    """It closes, or has nothing to count any more."""
    own = scheduler.breakers.by_agent[breaker.agent]
    del own[breaker.key]
    if not own:
        del scheduler.breakers.by_agent[breaker.agent]
    scheduler.breakers.wheel.disarm(breaker)
    agent = scheduler.load.agents.get(breaker.agent)
    if agent is None:
        return
    if not own:
        agent.breakers = None
    if breaker.state not in SHUT:
        return
    if breaker.key:
        unguard(scheduler.load, agent, breaker.key)
    else:
        agent.shut = False
    scheduler.freed(agent)


# --- what is asked -----------------------------------------------------------------------------------------------------------------


def in_the_way(agent: Agent, task_type: str) -> list[Breaker]:
    """The breakers that keep an agent from a task of a type now."""
    breakers = agent.breakers or {}
    found = [breakers[OWN]] if agent.shut else []
    return found if agent.may_take(task_type) else [*found, breakers[task_type]]


def fails_everywhere(scheduler: Scheduler, task_type: str) -> int:
    """At how many agents a type fails, when it does at all that offer it and could take it, and these are several; else 0."""
    able = _able(scheduler, task_type)
    return len(able) if len(able) > 1 and all(_is_tripped(agent, task_type) for agent in able) else 0


def _is_tripped(agent: Agent, task_type: str) -> bool:
    breaker = (agent.breakers or {}).get(task_type)
    return breaker is not None and breaker.state is not BreakerState.CLOSED


# --- how they change ---------------------------------------------------------------------------------------------------------------


def _concerned(agent: Agent, task: Task) -> list[Breaker]:
    """An agent's breakers that a task's end may tell something."""
    breakers = agent.breakers or {}
    return [breaker for key in (task.spec.task_type, OWN) if (breaker := breakers.get(key)) is not None]


def _get(scheduler: Scheduler, agent: Agent, key: str, now: Now) -> Breaker | None:
    """An agent's breaker, made if need be; None where the rules have none."""
    breakers = scheduler.breakers
    own = breakers.by_agent.setdefault(agent.name, {})
    breaker = own.get(key)
    if breaker is None:
        rules = breakers.rules(key)
        if rules.never_open():
            if not own:
                del breakers.by_agent[agent.name]
            return None
        breaker = own[key] = Breaker(agent.name, key, rules)
        _arm(scheduler, breaker, rules.window_s, now)
        agent.breakers = own
    return breaker


def _failed(scheduler: Scheduler, agent: Agent, breaker: Breaker, attempt: Attempt, failure: Failure, now: Now) -> None:
    task = attempt.task
    if breaker.state is BreakerState.CLOSED:
        if reason := breaker.results.failed(now.mono_s, task.number, task.spec.task_type, failure):
            _trip(scheduler, agent, breaker, reason, now)
    elif breaker.probe is attempt:
        breaker.probe = None
        breaker.failed_probes += 1
        breaker.reason = f"its probe {task.spec.task_id} failed: {failure.message[:MAX_TOLD]}"
        _open(scheduler, agent, breaker, now)


def _trip(scheduler: Scheduler, agent: Agent, breaker: Breaker, reason: str, now: Now) -> None:
    """There are too many failures: it opens, if so many agents may be shut out."""
    breaker.reason, breaker.since_ms = reason, now.date_ms
    refusal = _too_many_shut(scheduler, agent, breaker)
    if not refusal:
        _open(scheduler, agent, breaker, now)
        return
    breaker.state = BreakerState.TOLERATED
    breaker.reason += f"; {refusal}"
    if breaker.key and (count := fails_everywhere(scheduler, breaker.key)):
        breaker.reason += f"; {breaker.key} fails at all {count} agents that offer it, so it is hardly the agents' fault"
    _arm(scheduler, breaker, breaker.rules.open_s, now)


def _open(scheduler: Scheduler, agent: Agent, breaker: Breaker, now: Now) -> None:
    rules, doublings = breaker.rules, min(breaker.failed_probes, MAX_DOUBLINGS)
    breaker.state = BreakerState.OPEN
    _arm(scheduler, breaker, min(rules.open_s * 2**doublings, rules.max_open_s) * (1 - JITTER * scheduler.jitter()), now)
    if breaker.key:
        scheduler.awake.update(dict.fromkeys(guard(scheduler.load, agent, breaker.key)))
    _let_through(agent, breaker.key, may_take=False)


def _wait_for_probe(scheduler: Scheduler, breaker: Breaker, now: Now) -> None:
    breaker.state, breaker.probe = BreakerState.HALF_OPEN, None
    _arm(scheduler, breaker, breaker.rules.max_open_s, now)
    agent = scheduler.load.agents.get(breaker.agent)
    if agent is not None:
        _let_through(agent, breaker.key, may_take=True)
        scheduler.freed(agent)


def _let_through(agent: Agent, key: str, *, may_take: bool) -> None:
    if key:
        agent.guarded[key] = may_take
    else:
        agent.shut = not may_take


def _arm(scheduler: Scheduler, breaker: Breaker, after_s: float, now: Now) -> None:
    scheduler.breakers.wheel.disarm(breaker)
    breaker.due_s = now.mono_s + after_s
    breaker.until_ms = now.date_ms + round(1000 * after_s)
    scheduler.breakers.wheel.arm(breaker, breaker.due_s)


def _able(scheduler: Scheduler, task_type: str) -> list[Agent]:
    """The agents that would be given tasks of a type, but for their breakers."""
    groups = scheduler.load.offering(task_type)
    return [agent for group in groups for agent in group.agents.values() if agent.status is AgentStatus.CONNECTED]


def _too_many_shut(scheduler: Scheduler, agent: Agent, breaker: Breaker) -> str:
    """Why one more agent may not be shut out of a type that it offers; nothing when it may. Looks at agents, once an opening."""
    passed: set[tuple[AgentClass, ...]] = set()  # agents, enough of which remain
    for task_type in [breaker.key] if breaker.key else agent.capabilities:
        groups = tuple(scheduler.load.offering(task_type))
        if groups in passed and not any(task_type in group.guarded for group in groups):
            continue  # no more of them are shut out of this type than of the one before
        others = [one for one in _able(scheduler, task_type) if one is not agent]
        total, shut = len(others) + 1, sum(_is_shut(one, task_type) for one in others)
        most = int(breaker.rules.max_open_share * total + 1e-9)
        if shut + 1 > most:
            return f"it gets tasks all the same: at most {most} of {total} agents may be shut out of {task_type}, and {shut} are"
        passed.add(groups)
    return ""


def _is_shut(agent: Agent, task_type: str) -> bool:
    breakers = agent.breakers or {}
    return any((breaker := breakers.get(key)) is not None and breaker.state in SHUT for key in (OWN, task_type))
