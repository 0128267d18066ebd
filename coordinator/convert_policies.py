"""Policies from protos to the core and back: checked where they come from a caller, as they are where they come from the journal."""

from typing import cast

from muster.v1 import policy_pb2

from coordinator import convert
from coordinator.checks import check_name
from coordinator.core.model import MAX_WEIGHT, MIN_WEIGHT
from coordinator.core.policies import Policy, PolicyKind, PolicyName, StandingPolicy, WeightPolicy
from coordinator.errors import InvalidRequest
from coordinator.ports import JournalTooNew

_UNKNOWN = "the journal has a policy that this release doesn't know: start the newer release again"


def policy_in(message: policy_pb2.Policy, field: str) -> Policy:
    """A policy that a caller wants to set, checked.

    Args:
        message: the policy.
        field: where in the request it stands.

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
        case _:
            raise JournalTooNew(_UNKNOWN)


def policy_out(policy: Policy) -> policy_pb2.Policy:
    """A policy as a message, without its date."""
    return policy_pb2.Policy(weight=policy_pb2.WeightPolicy(fairness_key=policy.fairness_key, weight=policy.weight))


def standing_out(standing: StandingPolicy) -> policy_pb2.Policy:
    """A policy that holds, as a message with the date since when it does."""
    message = policy_out(standing.policy)
    message.set_time.CopyFrom(convert.timestamp(standing.set_ms))
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
