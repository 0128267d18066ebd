"""Why a task waits: answered from the very data that placement decides from."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from coordinator.core.breakers import Breaker, BreakerState, fails_everywhere, in_the_way
from coordinator.core.limits import ConcurrencyLimiter, RateLimiter
from coordinator.core.load_map import Agent, AgentStatus
from coordinator.core.model import WAITING, Needs, Priority, Task
from coordinator.core.pauses import cordon_of, end_of
from coordinator.core.policies import PausePolicy, StandingPolicy
from coordinator.core.pools import Limiter
from coordinator.core.scheduler import Scheduler

MAX_AGENTS = 100
MAX_AHEAD = 10_000
MAX_HOLDERS = 3  # of a limit, that a reason names


class WaitKind(Enum):
    """The kind of reason; the numbers are those of muster.v1.WaitKind."""

    NO_CAPABLE_AGENT = 1
    AGENTS_FULL = 2
    BACKOFF = 3
    QUEUED = 4
    AGENTS_DRAINING = 5
    STORE_UNAVAILABLE = 6
    DELAYED = 7
    CONCURRENCY_LIMIT = 8
    RATE_LIMIT = 9
    PAUSED = 10
    BREAKER_OPEN = 11


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
    VERSION_TOO_LOW = 6
    MISSING_LABEL = 7
    TOO_SMALL = 8  # for the slots that the task takes
    AT_TYPE_LIMIT = 9
    RESERVED = 10  # for a task that takes more slots
    CORDONED = 11
    BREAKER_OPEN = 12


Reasons = list[tuple[RuledOut, str]]


def needs_of(task: Task) -> Needs:
    """What a task needs of its agent."""
    needs = task.spec.needs
    return Needs(needs) if isinstance(needs, str) else needs


def ruled_out(agent: Agent, needs: Needs, cordon_reason: str = "") -> Reasons:
    """Everything that keeps an agent from taking a task with such needs now; empty exactly when placement could choose it."""
    reasons: Reasons = []
    if agent.status is AgentStatus.DISCONNECTED:
        reasons.append((RuledOut.DISCONNECTED, "its stream is down"))
        return reasons
    if agent.status is AgentStatus.DRAINING:
        reasons.append((RuledOut.DRAINING, "it is draining"))
    elif agent.status is AgentStatus.CORDONED:
        reasons.append((RuledOut.CORDONED, f"it is cordoned{because(cordon_reason)}"))
    reasons += [(RuledOut.BREAKER_OPEN, told(breaker)) for breaker in in_the_way(agent, needs.task_type)]
    reasons += _unfit(agent, needs)
    if agent.status is AgentStatus.CONNECTED:
        reasons += _busy(agent, needs)
    return reasons


def told(breaker: Breaker) -> str:
    """How a breaker is, and why."""
    whose = f"its breaker for {breaker.key}" if breaker.key else "its breaker"
    if breaker.state is BreakerState.HALF_OPEN:
        how = f"waits for its probe {breaker.probe.task.spec.task_id}" if breaker.probe is not None else "waits for a probe"
    else:
        how = f"is {breaker.state.name.lower()}"
    return f"{whose} {how}: {breaker.reason}"


def _unfit(agent: Agent, needs: Needs) -> Iterator[tuple[RuledOut, str]]:
    """What an agent lacks, whatever it runs."""
    capability = agent.capabilities.get(needs.task_type)
    if capability is None:
        yield RuledOut.MISSING_CAPABILITY, f"it doesn't offer {needs.task_type}"
    elif capability.version < needs.min_version:
        yield RuledOut.VERSION_TOO_LOW, f"its {needs.task_type} has version {capability.version}, and {needs.min_version} is needed"
    for selector in needs.selectors:
        if not selector.matches(agent.labels):
            yield RuledOut.MISSING_LABEL, f"its labels don't match {selector}"
    if agent.capacity < needs.slots:
        yield RuledOut.TOO_SMALL, f"it has {agent.capacity} slots, and the task takes {needs.slots}"


def _busy(agent: Agent, needs: Needs) -> Iterator[tuple[RuledOut, str]]:
    """What keeps an agent from taking one more now."""
    busy = agent.busy
    if agent.capacity < needs.slots:
        return  # it never could
    if busy + needs.slots > agent.capacity:
        yield RuledOut.AT_CAPACITY, f"it runs {busy} of {agent.capacity}"
    elif busy + needs.slots > agent.ready_limit:
        yield RuledOut.NOT_READY, f"it asked for at most {agent.ready_limit} and runs {busy}"
    capability = agent.capabilities.get(needs.task_type)
    if capability is not None and capability.max_concurrent and agent.counts[needs.task_type] >= capability.max_concurrent:
        yield RuledOut.AT_TYPE_LIMIT, f"it runs {agent.counts[needs.task_type]} of {needs.task_type}, its limit for the type"
    if agent.reserved > needs.slots:
        yield RuledOut.RESERVED, f"it is kept for a task that takes {agent.reserved} slots"


def waits_for(scheduler: Scheduler, task: Task) -> WaitReason | None:
    """Why a task waits; None when it doesn't."""
    if task.state not in WAITING:
        return None
    if not task.place:
        what = "its not_before hasn't come" if task.spec.timing.not_before_ms else "its delay hasn't ended"
        return WaitReason(WaitKind.DELAYED, what, task.ready_at_ms)
    if task.number in scheduler.backoffs:
        return WaitReason(WaitKind.BACKOFF, "its backoff after a failed attempt hasn't ended", task.ready_at_ms)
    if (pause := scheduler.pauses.of(task.spec.task_type)) is not None:
        return _paused(pause)
    if scheduler.pauses.moves:
        return WaitReason(WaitKind.QUEUED, "a pause is being set or lifted, and nothing is assigned before that is through")
    needs = needs_of(task)
    groups = scheduler.load.capable(needs)
    if not any(agent.capacity >= needs.slots for group in groups for agent in group.agents.values()):
        return WaitReason(WaitKind.NO_CAPABLE_AGENT, _nobody(scheduler, needs))
    lane = scheduler.ready.lanes.get(task.spec.needs)
    limiter = scheduler.limits.blocker(lane, task) if lane is not None else None
    if limiter is not None:
        return _held_up(scheduler, limiter)
    if lane is not None and any(room.least_loaded() is not None for room in lane.rooms):
        return WaitReason(WaitKind.QUEUED, "tasks ahead of it are being taken")
    offer = _named(needs)
    statuses = Counter(agent.status for group in groups for agent in group.agents.values())
    count = statuses.pop(AgentStatus.CONNECTED, 0)
    how = sorted((status.name.lower() for status in statuses), reverse=True)
    if not count:
        return WaitReason(WaitKind.AGENTS_DRAINING, f"every agent that offers {offer} is {' or '.join(how)}")
    able = [agent for group in groups for agent in group.agents.values() if agent.status is AgentStatus.CONNECTED]
    shut = [agent for agent in able if in_the_way(agent, needs.task_type)]
    if len(shut) == len(able):
        return _shut_out(shut, offer, needs.task_type)
    count -= len(shut)
    who = f"all {count} agents that offer {offer} are full" if count > 1 else f"the one agent that offers {offer} is full"
    if statuses:
        who = f"{who}, and {statuses.total()} more {'are' if statuses.total() > 1 else 'is'} {' or '.join(how)}"
    turn = f"; its key {task.spec.scheduling.fairness_key} is served in turn" if task.spec.scheduling.fairness_key else ""
    others = f", and the breakers of {len(shut)} more are open" if shut else ""
    return WaitReason(WaitKind.AGENTS_FULL, f"{who}{turn}{others}")


def _shut_out(agents: Sequence[Agent], offer: str, task_type: str) -> WaitReason:
    """Nobody may take a task, as far as breakers go: which agent's is looked at first, and when."""
    standing = [in_the_way(agent, task_type) for agent in agents]
    untils = [[0 if one.state is BreakerState.HALF_OPEN else one.until_ms for one in those] for those in standing]
    first_ms, those = min(((max(until), those) for until, those in zip(untils, standing, strict=True)), key=lambda one: one[0])
    whose = (
        f"all {len(agents)} agents that offer {offer} fail at their tasks" if len(agents) > 1 else f"the agent that offers {offer} fails"
    )
    return WaitReason(WaitKind.BREAKER_OPEN, f"{whose}: of {those[0].agent}, {told(those[0])}", first_ms)


def _paused(standing: StandingPolicy) -> WaitReason:
    """Which pause holds a task up, why, and until when."""
    policy = standing.policy
    if not isinstance(policy, PausePolicy):
        raise TypeError(f"{policy} is no pause")
    what = f"task type {policy.task_type}" if policy.task_type else "the namespace"
    return WaitReason(WaitKind.PAUSED, f"{what} is paused{because(policy.reason)}", end_of(standing))


def because(reason: str) -> str:
    """What an operator gave as a reason, behind a statement."""
    return f": {reason}" if reason else ""


def _held_up(scheduler: Scheduler, limiter: Limiter) -> WaitReason:
    """Which limit holds a task up, who uses it, and until when."""
    if isinstance(limiter, RateLimiter):
        what = "task type" if scheduler.limits.type_rates.get(limiter.key) is limiter else "rate key"
        policy, until_ms = limiter.policy, limiter.free_at()
        if policy is None or until_ms is None:
            return WaitReason(WaitKind.RATE_LIMIT, f"the limit of {what} {limiter.key} lets nothing begin: its count is 0")
        period = f"{policy.period_ms / 1000:g} s"
        return WaitReason(
            WaitKind.RATE_LIMIT, f"{what} {limiter.key} has begun all {policy.count} that its limit allows in {period}", until_ms
        )
    if not isinstance(limiter, ConcurrencyLimiter) or limiter.policy is None:
        raise TypeError(f"{limiter} holds nothing up")
    what = "task type" if scheduler.limits.types.get(limiter.key) is limiter else "concurrency key"
    allowed = limiter.policy.max_running
    if not allowed:
        return WaitReason(WaitKind.CONCURRENCY_LIMIT, f"the limit of {what} {limiter.key} lets nothing run: its max_running is 0")
    holders = ", ".join(task.spec.task_id for task in islice(limiter.running.values(), MAX_HOLDERS))
    more = " and others" if len(limiter.running) > MAX_HOLDERS else ""
    return WaitReason(
        WaitKind.CONCURRENCY_LIMIT,
        f"{len(limiter.running)} of {what} {limiter.key} run, of the {allowed} that its limit allows: {holders}{more}",
    )


def _named(needs: Needs) -> str:
    """What a task needs, in words."""
    words = needs.task_type
    if needs.min_version:
        words += f" of version {needs.min_version} or later"
    if needs.selectors:
        words += f" with {' and '.join(map(str, needs.selectors))}"
    if needs.slots > 1:
        words += f" in {needs.slots} slots"
    return words


def _nobody(scheduler: Scheduler, needs: Needs) -> str:
    """Which need no connected agent fulfils: the first, in the order in which they narrow the choice."""
    groups = list(scheduler.load.offering(needs.task_type))
    if not groups:
        return f"no connected agent offers {needs.task_type}"
    who = f"no connected agent that offers {needs.task_type}"
    able = [group for group in groups if group.capabilities[needs.task_type].version >= needs.min_version]
    if not able:
        return f"it needs version {needs.min_version} or later: {who} has it"
    for selector in needs.selectors:
        if not any(selector.matches(group.labels) for group in able):
            return f"it needs label {selector}: {who} has it"
    if not any(all(selector.matches(group.labels) for selector in needs.selectors) for group in able):
        return f"it needs labels {' and '.join(map(str, needs.selectors))}: {who} has them all"
    return f"it needs {needs.slots} slots: {who} has so many"


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
    needs = needs_of(task)
    capable = [agent for group in scheduler.load.offering(needs.task_type) for agent in islice(group.agents.values(), MAX_AGENTS)]
    known = {agent.name for agent in capable}
    others = (agent for agent in scheduler.load.agents.values() if agent.name not in known)
    considered = [*capable[:MAX_AGENTS], *islice(others, max(0, MAX_AGENTS - len(capable)))]
    agents = []
    for agent in considered:
        cordon = cordon_of(scheduler, agent.name)
        agents.append((agent, ruled_out(agent, needs, cordon.reason if cordon is not None else "")))
    ahead = _ahead(scheduler, task) if reason.kind not in (WaitKind.BACKOFF, WaitKind.DELAYED) else 0
    summary = f"It waits because {reason.message}."
    level = scheduler.ages.level(task) if task.place else task.spec.priority
    if level > task.spec.priority:
        summary += f" It has waited so long that it counts as {Priority(level).name}."
    if count := fails_everywhere(scheduler, needs.task_type):
        summary += f" {needs.task_type} fails at all {count} agents that offer it, so it is hardly the agents' fault."
    if ahead:
        key = task.spec.scheduling.fairness_key
        of_key = f" of its key {key}" if key else ""
        summary += (
            f" {ahead} ready tasks{of_key} with the same needs go before it."
            if ahead > 1
            else (f" 1 ready task{of_key} with the same needs goes before it.")
        )
    return Explanation(reason, ahead, agents, summary)


def _ahead(scheduler: Scheduler, task: Task) -> int:
    """Ready tasks with the same needs and of the same fairness key that go before this one, at most MAX_AHEAD."""
    lane = scheduler.ready.lanes.get(task.spec.needs)
    if lane is None:
        return 0
    ages, key = scheduler.ages, task.spec.scheduling.fairness_key
    own = (-ages.level(task), task.place)
    limits = lane.limits_of(task)
    fifos = (fifo for fifo in lane.fifos() if fifo.key == key and (None if fifo.group is None else fifo.group.keys) == limits)
    waiting = islice((other for fifo in fifos for other in fifo), 4 * MAX_AHEAD)
    return min(sum((-ages.level(other), other.place) < own for other in waiting), MAX_AHEAD)
