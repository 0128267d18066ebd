"""Policies from protos to the core and back: checked where they come from a caller, as they are where they come from the journal."""

from typing import assert_never, cast

from google.protobuf.duration_pb2 import Duration
from muster.v1 import common_pb2, policy_pb2

from coordinator import convert, convert_breakers, convert_limits, convert_pauses, convert_webhooks
from coordinator.checks import check_name
from coordinator.core.model import MAX_WEIGHT, MIN_WEIGHT, RetryPolicy
from coordinator.core.pauses import end_of
from coordinator.core.policies import (
    BreakerPolicy,
    ConcurrencyLimitPolicy,
    CordonPolicy,
    NamespaceLimitsPolicy,
    PausePolicy,
    Policy,
    PolicyKind,
    PolicyName,
    RateLimitPolicy,
    RetryDefaultsPolicy,
    StandingPolicy,
    WebhookPolicy,
    WeightPolicy,
)
from coordinator.errors import InvalidRequest
from coordinator.ports import JournalTooNew
from coordinator.webhook_urls import PUBLIC_ONLY, WebhookRules

MAX_LIMIT = 2**53  # of tasks or bytes: more than anybody has
_UNKNOWN = "the journal has a policy that this release doesn't know: start the newer release again"


def policy_in(message: policy_pb2.Policy, field: str, rules: WebhookRules = PUBLIC_ONLY) -> Policy:
    """A policy that a caller wants to set, checked.

    Args:
        message: the policy.
        field: where in the request it stands.
        rules: where webhooks may go.

    Raises:
        InvalidRequest: names the field at fault.
    """
    match message.WhichOneof("policy"):
        case "weight":
            weight = message.weight
            if weight.fairness_key:
                check_name(weight.fairness_key, f"{field}.weight.fairness_key")
            if not MIN_WEIGHT <= weight.weight <= MAX_WEIGHT:  # written so that NaN fails too
                raise InvalidRequest(
                    f"{field}.weight.weight is {weight.weight:g}: give {MIN_WEIGHT:g} to {MAX_WEIGHT:g}", field=f"{field}.weight.weight"
                )
        case "namespace_limits":
            _check_limits(message.namespace_limits, f"{field}.namespace_limits")
        case "retry_defaults":
            retry_defaults = message.retry_defaults
            check_name(retry_defaults.task_type, f"{field}.retry_defaults.task_type")
            convert.retry_in(retry_defaults.retry_policy, RetryPolicy(), f"{field}.retry_defaults.retry_policy")
            if not retry_defaults.retry_policy.ListFields():
                raise InvalidRequest(
                    f"{field}.retry_defaults.retry_policy sets nothing: give at least one of its fields",
                    field=f"{field}.retry_defaults.retry_policy",
                )
        case "pause":
            convert_pauses.check_pause(message.pause, f"{field}.pause")
        case "cordon":
            convert_pauses.check_cordon(message.cordon, f"{field}.cordon")
        case "concurrency_limit":
            convert_limits.check_concurrency_limit(message.concurrency_limit, f"{field}.concurrency_limit")
        case "rate_limit":
            convert_limits.check_rate_limit(message.rate_limit, f"{field}.rate_limit")
        case "webhook":
            convert_webhooks.policy_in(message.webhook, f"{field}.webhook", rules)
        case "breaker":
            convert_breakers.check_breaker(message.breaker, f"{field}.breaker")
        case _:
            raise InvalidRequest(f"{field} has no policy that this coordinator knows: set one", field=field)
    return policy_stored(message)


def policy_stored(message: policy_pb2.Policy) -> Policy:
    """A policy that was checked before.

    Raises:
        JournalTooNew: it is of a kind that this release doesn't know.
    """
    match message.WhichOneof("policy"):
        case "weight":
            return WeightPolicy(message.weight.fairness_key, message.weight.weight)
        case "namespace_limits":
            return _limits_in(message.namespace_limits, "namespace_limits")
        case "retry_defaults":
            return _retry_defaults_stored(message.retry_defaults)
        case "pause":
            return convert_pauses.pause_stored(message.pause)
        case "cordon":
            return convert_pauses.cordon_stored(message.cordon)
        case "concurrency_limit":
            return convert_limits.concurrency_limit_stored(message.concurrency_limit)
        case "rate_limit":
            return convert_limits.rate_limit_stored(message.rate_limit)
        case "webhook":
            return convert_webhooks.policy_stored(message.webhook)
        case "breaker":
            return convert_breakers.breaker_stored(message.breaker)
        case _:
            raise JournalTooNew(_UNKNOWN)


def _check_limits(message: policy_pb2.NamespaceLimitsPolicy, field: str) -> None:
    if not message.ByteSize():
        raise InvalidRequest(f"{field} sets no limit: set one, or delete the policy", field=field)
    limits = _limits_in(message, field)
    least = {"max_live_tasks": 1, "max_live_bytes": 1, "max_retained_tasks": 0, "max_retained_bytes": 0}
    least |= {"max_state_keys": 1, "max_state_bytes": 1}
    for name, at_least in least.items():
        number = getattr(limits, name)
        if number is not None and not at_least <= number <= MAX_LIMIT:
            raise InvalidRequest(f"{field}.{name} is {number}: give {at_least} to {MAX_LIMIT}, or leave it out", field=f"{field}.{name}")


def _limits_in(message: policy_pb2.NamespaceLimitsPolicy, field: str) -> NamespaceLimitsPolicy:
    return NamespaceLimitsPolicy(
        max_live_tasks=message.max_live_tasks if message.HasField("max_live_tasks") else None,
        max_live_bytes=message.max_live_bytes if message.HasField("max_live_bytes") else None,
        retain_for_s=convert.seconds(message.retain_for, f"{field}.retain_for") if message.HasField("retain_for") else None,
        max_retained_tasks=message.max_retained_tasks if message.HasField("max_retained_tasks") else None,
        max_retained_bytes=message.max_retained_bytes if message.HasField("max_retained_bytes") else None,
        max_state_keys=message.max_state_keys if message.HasField("max_state_keys") else None,
        max_state_bytes=message.max_state_bytes if message.HasField("max_state_bytes") else None,
    )


def policy_out(policy: Policy) -> policy_pb2.Policy:
    """A policy as a message, without its date."""
    match policy:
        case WeightPolicy():
            return policy_pb2.Policy(weight=policy_pb2.WeightPolicy(fairness_key=policy.fairness_key, weight=policy.weight))
        case NamespaceLimitsPolicy():
            limits = policy_pb2.NamespaceLimitsPolicy(
                max_live_tasks=policy.max_live_tasks,
                max_live_bytes=policy.max_live_bytes,
                max_retained_tasks=policy.max_retained_tasks,
                max_retained_bytes=policy.max_retained_bytes,
                max_state_keys=policy.max_state_keys,
                max_state_bytes=policy.max_state_bytes,
            )
            if policy.retain_for_s is not None:
                limits.retain_for.CopyFrom(convert.duration(policy.retain_for_s))
            return policy_pb2.Policy(namespace_limits=limits)
        case RetryDefaultsPolicy():
            return policy_pb2.Policy(retry_defaults=_retry_defaults_out(policy))
        case PausePolicy():
            return policy_pb2.Policy(pause=convert_pauses.pause_out(policy))
        case CordonPolicy():
            return policy_pb2.Policy(cordon=convert_pauses.cordon_out(policy))
        case ConcurrencyLimitPolicy():
            return policy_pb2.Policy(concurrency_limit=convert_limits.concurrency_limit_out(policy))
        case RateLimitPolicy():
            return policy_pb2.Policy(rate_limit=convert_limits.rate_limit_out(policy))
        case WebhookPolicy():
            return policy_pb2.Policy(webhook=convert_webhooks.policy_out(policy))
        case BreakerPolicy():
            return policy_pb2.Policy(breaker=convert_breakers.breaker_out(policy))
        case unreachable:
            assert_never(unreachable)


def _retry_defaults_stored(message: policy_pb2.RetryDefaultsPolicy) -> RetryDefaultsPolicy:
    retry = message.retry_policy
    return RetryDefaultsPolicy(
        message.task_type,
        max_retries=retry.max_retries if retry.HasField("max_retries") else None,
        initial_backoff_s=_whole_ms(retry.initial_backoff) if retry.HasField("initial_backoff") else None,
        max_backoff_s=_whole_ms(retry.max_backoff) if retry.HasField("max_backoff") else None,
        multiplier=retry.backoff_multiplier or None,
        max_crashes=retry.max_crashes if retry.HasField("max_crashes") else None,
    )


def _whole_ms(message: Duration) -> float:
    """Seconds, to the millisecond: that is how the journal keeps what a task's policy was."""
    return message.ToMilliseconds() / 1000


def _retry_defaults_out(policy: RetryDefaultsPolicy) -> policy_pb2.RetryDefaultsPolicy:
    retry = common_pb2.RetryPolicy(
        backoff_multiplier=policy.multiplier or 0.0, max_retries=policy.max_retries, max_crashes=policy.max_crashes
    )
    if policy.initial_backoff_s is not None:
        retry.initial_backoff.CopyFrom(convert.duration(policy.initial_backoff_s))
    if policy.max_backoff_s is not None:
        retry.max_backoff.CopyFrom(convert.duration(policy.max_backoff_s))
    return policy_pb2.RetryDefaultsPolicy(task_type=policy.task_type, retry_policy=retry)


def standing_out(standing: StandingPolicy) -> policy_pb2.Policy:
    """A policy that holds, as a snapshot has it, with the date since when it does, and until when if it ends."""
    message = policy_out(standing.policy)
    message.set_time.CopyFrom(convert.timestamp(standing.set_ms))
    if end_ms := end_of(standing):
        message.pause.end_time.CopyFrom(convert.timestamp(end_ms))
    return message


def standing_shown(standing: StandingPolicy) -> policy_pb2.Policy:
    """A policy that holds, as callers are shown it: without its secrets."""
    message = standing_out(standing)
    if message.HasField("webhook"):
        convert_webhooks.policy_shown(message.webhook)
    return message


def standing_stored(message: policy_pb2.Policy) -> StandingPolicy:
    """The policy that `standing_out` wrote."""
    return StandingPolicy(policy_stored(message), message.set_time.seconds * 1000 + message.set_time.nanos // 1_000_000)


def name_in(message: policy_pb2.PolicyName, field: str) -> PolicyName:
    """The name of a policy that a caller means.

    Raises:
        InvalidRequest: no kind, or one that this coordinator doesn't know.
    """
    return PolicyName(kind_in(message.kind, f"{field}.kind"), message.key)


def kind_in(kind: int, field: str) -> PolicyKind:
    """A kind that a caller means.

    Raises:
        InvalidRequest: no kind, or one that this coordinator doesn't know.
    """
    try:
        return PolicyKind(kind)
    except ValueError:
        known = ", ".join(f"{one.value} ({one.name})" for one in PolicyKind)
        raise InvalidRequest(f"{field} is {kind}, and no kind of policy: use {known}", field=field) from None


def name_stored(message: policy_pb2.PolicyName) -> PolicyName:
    """The name that `name_out` wrote.

    Raises:
        JournalTooNew: it is of a kind that this release doesn't know.
    """
    try:
        return PolicyName(PolicyKind(message.kind), message.key)
    except ValueError:
        raise JournalTooNew(_UNKNOWN) from None


def name_out(name: PolicyName) -> policy_pb2.PolicyName:
    """A policy's name as a message."""
    return policy_pb2.PolicyName(kind=cast("policy_pb2.PolicyKind.ValueType", name.kind.value), key=name.key)
