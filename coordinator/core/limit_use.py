"""How much of each limit is in use, for operators: read when somebody asks, and never on the hot path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import nsmallest
from typing import TYPE_CHECKING

from coordinator.core.policies import ConcurrencyLimitPolicy, PolicyName, RateLimitPolicy, StandingPolicy

if TYPE_CHECKING:
    from coordinator.core.limits import ConcurrencyLimiter, RateLimiter
    from coordinator.core.rates import Log
    from coordinator.core.scheduler import Scheduler

Place = tuple[int, str, str]
"""Where a use stands in the list: the kind and key of its policy, and the key that is counted."""


@dataclass(frozen=True, slots=True)
class LimitUse:
    """How much of a limit one key uses. `next_ms` is 0 where the next one may begin now, or where nothing says when."""

    standing: StandingPolicy
    key: str
    running: int = 0
    waiting: int = 0
    started: int = 0
    next_ms: int = 0


def page_of_limits(scheduler: Scheduler, after: Place, count: int, date_ms: int) -> list[LimitUse]:
    """The uses behind a place, in order, at most `count`."""
    places = ((*place, standing) for place, standing in _places(scheduler) if place > after)
    return [_use(scheduler, standing, key, date_ms) for _, _, key, standing in nsmallest(count, places, key=lambda one: one[:3])]


def place_of(use: LimitUse) -> Place:
    """Where a use stands in the list."""
    name = use.standing.policy.name
    return name.kind.value, name.key, use.key


def _places(scheduler: Scheduler) -> Iterator[tuple[Place, StandingPolicy]]:
    used: dict[PolicyName, bool] = {}
    for name, key in _keys(scheduler):
        standing = scheduler.state.policies[name]
        used[name] = True
        yield (name.kind.value, name.key, key), standing
    for name, standing in scheduler.state.policies.items():
        policy = standing.policy
        if isinstance(policy, ConcurrencyLimitPolicy | RateLimitPolicy) and name not in used:
            yield (name.kind.value, name.key, "" if policy.pattern.endswith("*") else policy.pattern), standing


def _keys(scheduler: Scheduler) -> Iterator[tuple[PolicyName, str]]:
    """All keys in use that a limit is about, each once."""
    limits, rates = scheduler.limits, scheduler.state.rates
    for limiters in (limits.keys, limits.types):
        yield from ((limiter.policy.name, key) for key, limiter in limiters.items() if limiter.policy is not None)
    for patterns, waiting in ((rates.keys, limits.rate_keys), (rates.types, limits.type_rates)):
        for rule in patterns.values():
            yield from ((rule.policy.name, key) for key in rule.logs)
        yield from (
            (limiter.rule.policy.name, key) for key, limiter in waiting.items() if limiter.rule is not None and key not in limiter.rule.logs
        )


def _use(scheduler: Scheduler, standing: StandingPolicy, key: str, date_ms: int) -> LimitUse:
    policy, limits = standing.policy, scheduler.limits
    if isinstance(policy, ConcurrencyLimitPolicy):
        limiter: ConcurrencyLimiter | None = (limits.types if policy.task_type else limits.keys).get(key)
        return LimitUse(standing, key) if limiter is None else LimitUse(standing, key, len(limiter.running), limiter.waiting)
    if not isinstance(policy, RateLimitPolicy):
        raise TypeError(f"{policy} is no limit")
    rates = scheduler.state.rates
    rule = (rates.types if policy.task_type else rates.keys)[policy.pattern]
    log: Log | None = rule.logs.get(key)
    rate: RateLimiter | None = (limits.type_rates if policy.task_type else limits.rate_keys).get(key)
    waiting = rate.waiting if rate is not None else 0
    if log is None:
        return LimitUse(standing, key, waiting=waiting)
    started = log.used_at(date_ms, policy)
    next_ms = (log.free_at(policy) or 0) if started >= policy.count else 0
    return LimitUse(standing, key, waiting=waiting, started=started, next_ms=next_ms)
