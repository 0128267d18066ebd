"""Policies: what operators set for a namespace while it runs. Each is journalled, and holds until it is set anew or deleted.

What a policy does is its own affair: `Scheduler.policy_changed` hands it to whoever follows it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from coordinator.core.breaker_rules import BreakerRules
from coordinator.core.events import PolicyDeleted, PolicySet
from coordinator.core.model import Now, RetryPolicy, TaskState

if TYPE_CHECKING:
    from coordinator.core.rates import Starts
    from coordinator.core.scheduler import Scheduler
    from coordinator.core.state import State

MAX_POLICIES = 10_000  # of a namespace: each snapshot writes them in one piece


class PolicyKind(IntEnum):
    """What a policy is about; the numbers are those of muster.v1.PolicyKind."""

    WEIGHT = 1
    RETRY_DEFAULTS = 2
    PAUSE = 3
    CORDON = 4
    CONCURRENCY_LIMIT = 5
    RATE_LIMIT = 6
    NAMESPACE_LIMITS = 7
    WEBHOOK = 8
    BREAKER = 9


class PolicyName(NamedTuple):
    """What tells a policy from all others of its namespace."""

    kind: PolicyKind
    key: str


@dataclass(frozen=True, slots=True)
class WeightPolicy:
    """The weight of a fairness key."""

    fairness_key: str
    weight: float

    @property
    def name(self) -> PolicyName:
        """Its kind and key."""
        return PolicyName(PolicyKind.WEIGHT, self.fairness_key)


@dataclass(frozen=True, slots=True)
class NamespaceLimitsPolicy:
    """What a namespace may hold; None is as the coordinator was started."""

    max_live_tasks: int | None = None
    max_live_bytes: int | None = None
    retain_for_s: float | None = None
    max_retained_tasks: int | None = None
    max_retained_bytes: int | None = None
    max_state_keys: int | None = None
    max_state_bytes: int | None = None

    @property
    def name(self) -> PolicyName:
        """Its kind and key."""
        return LIMITS_NAME


LIMITS_NAME = PolicyName(PolicyKind.NAMESPACE_LIMITS, "")


@dataclass(frozen=True, slots=True)
class RetryDefaultsPolicy:
    """The retry policy of a task type; what is None is the coordinator's."""

    task_type: str
    max_retries: int | None = None
    initial_backoff_s: float | None = None
    max_backoff_s: float | None = None
    multiplier: float | None = None
    max_crashes: int | None = None

    @property
    def name(self) -> PolicyName:
        """Its kind and key."""
        return PolicyName(PolicyKind.RETRY_DEFAULTS, self.task_type)

    def over(self, usual: RetryPolicy) -> RetryPolicy:
        """The policy for tasks that say nothing, where the coordinator's is `usual`."""
        return RetryPolicy(
            max_retries=usual.max_retries if self.max_retries is None else self.max_retries,
            initial_backoff_s=usual.initial_backoff_s if self.initial_backoff_s is None else self.initial_backoff_s,
            max_backoff_s=usual.max_backoff_s if self.max_backoff_s is None else self.max_backoff_s,
            multiplier=usual.multiplier if self.multiplier is None else self.multiplier,
            max_crashes=usual.max_crashes if self.max_crashes is None else self.max_crashes,
            is_of_type=True,
        )


@dataclass(frozen=True, slots=True)
class PausePolicy:
    """Nothing of a task type is assigned, until the policy is deleted or has held for so long."""

    task_type: str  # a name, or a prefix and `*`; empty is the whole namespace
    reason: str = ""
    for_ms: int = 0  # from when it was set; 0 has no end

    @property
    def name(self) -> PolicyName:
        """Its kind and key."""
        return PolicyName(PolicyKind.PAUSE, self.task_type)


@dataclass(frozen=True, slots=True)
class CordonPolicy:
    """An agent is given nothing new, connected now or not, until the policy is deleted."""

    agent: str
    reason: str = ""

    @property
    def name(self) -> PolicyName:
        """Its kind and key."""
        return PolicyName(PolicyKind.CORDON, self.agent)


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When agents' circuit breakers open, and for how long; what is None is as the namespace's policy says, or else the coordinator."""

    task_type: str  # a name, or a prefix and `*`; empty is every type, and agents' own breakers
    consecutive_failures: int | None = None
    failure_rate: float | None = None
    min_results: int | None = None
    window_s: float | None = None
    open_s: float | None = None
    max_open_s: float | None = None
    max_open_share: float | None = None

    @property
    def name(self) -> PolicyName:
        """Its kind and key."""
        return PolicyName(PolicyKind.BREAKER, self.task_type)

    def over(self, usual: BreakerRules) -> BreakerRules:
        """The rules where all else is as `usual`."""
        return BreakerRules(
            consecutive_failures=usual.consecutive_failures if self.consecutive_failures is None else self.consecutive_failures,
            failure_rate=usual.failure_rate if self.failure_rate is None else self.failure_rate,
            min_results=usual.min_results if self.min_results is None else self.min_results,
            window_s=usual.window_s if self.window_s is None else self.window_s,
            open_s=usual.open_s if self.open_s is None else self.open_s,
            max_open_s=usual.max_open_s if self.max_open_s is None else self.max_open_s,
            max_open_share=usual.max_open_share if self.max_open_share is None else self.max_open_share,
        )


TYPE_KEY = "task_type="
"""How the key of a limit of a task type begins, to tell it from a limit of a concurrency or rate key."""


class WhenFull(IntEnum):
    """What becomes of a new task whose concurrency key is full; the numbers are those of muster.v1.WhenFull."""

    WAIT = 1
    CANCEL_OLDEST = 2
    REJECT = 3


@dataclass(frozen=True, slots=True)
class ConcurrencyLimitPolicy:
    """How many tasks of a concurrency key, or of a task type, run at a time. One of the two is given: a name, or a prefix and `*`."""

    concurrency_key: str
    task_type: str
    max_running: int
    when_full: WhenFull = WhenFull.WAIT

    @property
    def pattern(self) -> str:
        """Which keys or types it is about."""
        return self.concurrency_key or self.task_type

    @property
    def name(self) -> PolicyName:
        """Its kind and key."""
        return PolicyName(PolicyKind.CONCURRENCY_LIMIT, self.concurrency_key or TYPE_KEY + self.task_type)


@dataclass(frozen=True, slots=True)
class RateLimitPolicy:
    """How many attempts of a rate key, or of a task type, begin in any period. One of the two is given: a name, or a prefix and `*`."""

    rate_key: str
    task_type: str
    count: int
    period_ms: int

    @property
    def pattern(self) -> str:
        """Which keys or types it is about."""
        return self.rate_key or self.task_type

    @property
    def name(self) -> PolicyName:
        """Its kind and key."""
        return PolicyName(PolicyKind.RATE_LIMIT, self.rate_key or TYPE_KEY + self.task_type)


@dataclass(frozen=True, slots=True)
class WebhookPolicy:
    """Who is told of the ends of a type's tasks, and how what is sent for them is signed."""

    task_type: str  # empty is every type
    url: str  # empty: nothing is sent for the policy itself
    states: frozenset[TaskState]  # the ends that are told of
    secrets: tuple[str, ...]  # never shown, nor logged

    @property
    def name(self) -> PolicyName:
        """Its kind and key."""
        return PolicyName(PolicyKind.WEBHOOK, self.task_type)

    def __repr__(self) -> str:
        return f"<WebhookPolicy {self.task_type!r} with {len(self.secrets)} secrets>"


Policy = (
    WeightPolicy
    | RetryDefaultsPolicy
    | PausePolicy
    | CordonPolicy
    | ConcurrencyLimitPolicy
    | RateLimitPolicy
    | NamespaceLimitsPolicy
    | WebhookPolicy
    | BreakerPolicy
)


@dataclass(frozen=True, slots=True)
class StandingPolicy:
    """A policy that holds, and since when by the store's clock."""

    policy: Policy
    set_ms: int


def evolve_policies(state: State, event: PolicySet | PolicyDeleted, date_ms: int) -> None:
    """Applies an event about policies to the durable state, as `evolve` does those about tasks."""
    if isinstance(event, PolicySet):
        hold(state, StandingPolicy(event.policy, date_ms))
    else:
        policy = state.policies.pop(event.name).policy
        if isinstance(policy, RateLimitPolicy):
            state.rates.delete(policy)
        elif isinstance(policy, WebhookPolicy):
            del state.hooks[policy.task_type]


def hold(state: State, standing: StandingPolicy) -> None:
    """A policy is part of the state: set, or of a snapshot."""
    policy = standing.policy
    state.policies[policy.name] = standing
    if isinstance(policy, RateLimitPolicy):
        state.rates.set(policy)
    elif isinstance(policy, WebhookPolicy):
        state.hooks[policy.task_type] = policy


def restore_policies(state: State, standing: Iterable[StandingPolicy], rate_logs: Iterable[tuple[PolicyName, str, Starts]]) -> None:
    """Takes in the policies of a snapshot, and what began under its rate limits. Raises ValueError when a log's limit isn't there."""
    for one in standing:
        hold(state, one)
    for name, key, starts in rate_logs:
        policy = state.policies[name].policy if name in state.policies else None
        if not isinstance(policy, RateLimitPolicy):
            raise ValueError(f"a log of {name}, and no such limit")
        state.rates.restore(policy, key, starts)


def limits_of(state: State) -> NamespaceLimitsPolicy:
    """The limits that operators have set for a namespace, if any."""
    standing = state.policies.get(LIMITS_NAME)
    return standing.policy if standing is not None and isinstance(standing.policy, NamespaceLimitsPolicy) else NO_LIMITS


NO_LIMITS = NamespaceLimitsPolicy()


def set_policy(scheduler: Scheduler, policy: Policy, now: Now) -> StandingPolicy:
    """Sets a policy, in place of the one with its name."""
    _apply(scheduler, PolicySet(policy), policy.name, now)
    return scheduler.state.policies[policy.name]


def delete_policy(scheduler: Scheduler, name: PolicyName, now: Now) -> bool:
    """Deletes a policy. Answers whether there was one."""
    if name not in scheduler.state.policies:
        return False
    _apply(scheduler, PolicyDeleted(name), name, now)
    return True


def _apply(scheduler: Scheduler, event: PolicySet | PolicyDeleted, name: PolicyName, now: Now) -> None:
    evolve_policies(scheduler.state, event, now.date_ms)
    scheduler.events.append(event)
    scheduler.policy_changed(name, now)
