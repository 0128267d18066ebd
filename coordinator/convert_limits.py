"""Limits from protos to the core and back, and what began under them."""

from typing import cast

from muster.v1 import event_pb2, policy_pb2

from coordinator.checks import check_name
from coordinator.convert import MAX_DURATION_S, duration, seconds
from coordinator.core.policies import TYPE_KEY, ConcurrencyLimitPolicy, PolicyKind, PolicyName, RateLimitPolicy, WhenFull
from coordinator.core.rates import Starts
from coordinator.errors import InvalidRequest

MAX_COUNT = 1_000_000_000  # of a limit: more is a mistake
_WHEN_FULL = {one.value: one for one in WhenFull}


def check_concurrency_limit(message: policy_pb2.ConcurrencyLimitPolicy, field: str) -> None:
    """Raises InvalidRequest, which names the field at fault, when the limit can't be."""
    _check_pattern(message.concurrency_key, message.task_type, "concurrency_key", field)
    if not message.HasField("max_running"):
        raise InvalidRequest(f"{field}.max_running isn't given: say how many may run; 0 holds all of them up", field=f"{field}.max_running")
    _check_count(message.max_running, f"{field}.max_running")
    if message.when_full and message.when_full not in _WHEN_FULL:
        raise InvalidRequest(
            f"{field}.when_full is {message.when_full}: use 1 (WAIT), 2 (CANCEL_OLDEST) or 3 (REJECT)", field=f"{field}.when_full"
        )
    if message.task_type and message.when_full not in (policy_pb2.WHEN_FULL_UNSPECIFIED, policy_pb2.WHEN_FULL_WAIT):
        raise InvalidRequest(
            f"{field}.when_full is {WhenFull(message.when_full).name}: tasks of a type can only WAIT; give a concurrency_key instead",
            field=f"{field}.when_full",
        )


def check_rate_limit(message: policy_pb2.RateLimitPolicy, field: str) -> None:
    """Raises InvalidRequest, which names the field at fault, when the limit can't be."""
    _check_pattern(message.rate_key, message.task_type, "rate_key", field)
    if not message.HasField("count"):
        raise InvalidRequest(
            f"{field}.count isn't given: say how many may begin in a period; 0 holds all of them up", field=f"{field}.count"
        )
    _check_count(message.count, f"{field}.count")
    period_s = seconds(message.period, f"{field}.period")
    if message.period.nanos % 1_000_000 or not 0.001 <= period_s <= MAX_DURATION_S:
        raise InvalidRequest(
            f"{field}.period is {period_s:g} s: give whole milliseconds, from 0.001 s to {MAX_DURATION_S} s (a year)",
            field=f"{field}.period",
        )


def _check_count(count: int, field: str) -> None:
    if count > MAX_COUNT:
        raise InvalidRequest(f"{field} is {count}: at most {MAX_COUNT} are allowed; delete the limit for no limit", field=field)


def _check_pattern(key: str, task_type: str, key_field: str, field: str) -> None:
    if bool(key) == bool(task_type):
        raise InvalidRequest(f"{field} has {'both' if key else 'neither'} {key_field} and task_type: give one of them", field=field)
    named = f"{field}.{key_field if key else 'task_type'}"
    pattern = check_name(key or task_type, named)
    if "*" in pattern[:-1]:
        raise InvalidRequest(f"{named} is {pattern!r}: a `*` may only stand at the end, for all that begin so", field=named)
    if key.startswith(TYPE_KEY):
        raise InvalidRequest(f"{named} begins with {TYPE_KEY!r}, which names limits of task types: give task_type instead", field=named)


def concurrency_limit_stored(message: policy_pb2.ConcurrencyLimitPolicy) -> ConcurrencyLimitPolicy:
    """A limit that was checked before."""
    when_full = _WHEN_FULL.get(message.when_full, WhenFull.WAIT)
    return ConcurrencyLimitPolicy(message.concurrency_key, message.task_type, message.max_running, when_full)


def rate_limit_stored(message: policy_pb2.RateLimitPolicy) -> RateLimitPolicy:
    """A limit that was checked before."""
    period_ms = message.period.seconds * 1000 + message.period.nanos // 1_000_000
    return RateLimitPolicy(message.rate_key, message.task_type, message.count, period_ms)


def concurrency_limit_out(policy: ConcurrencyLimitPolicy) -> policy_pb2.ConcurrencyLimitPolicy:
    """A limit as a message."""
    return policy_pb2.ConcurrencyLimitPolicy(
        concurrency_key=policy.concurrency_key,
        task_type=policy.task_type,
        max_running=policy.max_running,
        when_full=cast("policy_pb2.WhenFull.ValueType", policy.when_full.value),
    )


def rate_limit_out(policy: RateLimitPolicy) -> policy_pb2.RateLimitPolicy:
    """A limit as a message."""
    return policy_pb2.RateLimitPolicy(
        rate_key=policy.rate_key, task_type=policy.task_type, count=policy.count, period=duration(policy.period_ms / 1000)
    )


def rate_log_out(name: PolicyName, key: str, starts: Starts) -> event_pb2.RateLog:
    """What began under a key, for a snapshot."""
    message = event_pb2.RateLog(key=key, began_ms=[began_ms for began_ms, _ in starts], counts=[count for _, count in starts])
    message.policy.kind = policy_pb2.POLICY_KIND_RATE_LIMIT
    message.policy.key = name.key
    return message


def rate_log_stored(message: event_pb2.RateLog) -> tuple[PolicyName, str, Starts]:
    """What `rate_log_out` wrote."""
    return PolicyName(PolicyKind.RATE_LIMIT, message.policy.key), message.key, tuple(zip(message.began_ms, message.counts, strict=True))
