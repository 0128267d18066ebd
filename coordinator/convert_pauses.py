"""Pauses and cordons from protos to the core and back."""

from muster.v1 import policy_pb2

from coordinator.checks import check_name
from coordinator.convert import MAX_DURATION_S, duration, seconds
from coordinator.core.policies import CordonPolicy, PausePolicy
from coordinator.errors import InvalidRequest

MAX_REASON_CHARS = 256


def check_pause(message: policy_pb2.PausePolicy, field: str) -> None:
    """Raises InvalidRequest, which names the field at fault, when the pause can't be."""
    pattern = message.task_type
    if pattern:
        check_name(pattern, f"{field}.task_type")
    if pattern == "*":
        raise InvalidRequest(f"{field}.task_type is '*': leave it empty for the whole namespace", field=f"{field}.task_type")
    if "*" in pattern[:-1]:
        raise InvalidRequest(
            f"{field}.task_type is {pattern!r}: a `*` may only stand at the end, for all types that begin so", field=f"{field}.task_type"
        )
    _check_reason(message.reason, f"{field}.reason")
    if message.HasField("pause_for"):
        for_s = seconds(message.pause_for, f"{field}.pause_for")
        if message.pause_for.nanos % 1_000_000 or not 0.001 <= for_s <= MAX_DURATION_S:
            raise InvalidRequest(
                f"{field}.pause_for is {for_s:g} s: give whole milliseconds, from 0.001 s to {MAX_DURATION_S} s (a year), or leave it out",
                field=f"{field}.pause_for",
            )


def check_cordon(message: policy_pb2.CordonPolicy, field: str) -> None:
    """Raises InvalidRequest, which names the field at fault, when the cordon can't be."""
    check_name(message.agent_name, f"{field}.agent_name")
    _check_reason(message.reason, f"{field}.reason")


def _check_reason(reason: str, field: str) -> None:
    if len(reason) > MAX_REASON_CHARS:
        raise InvalidRequest(f"{field} has {len(reason)} characters: at most {MAX_REASON_CHARS} are allowed", field=field)
    if not reason.isprintable():
        raise InvalidRequest(f"{field} has characters that can't be printed: leave them out", field=field)


def pause_stored(message: policy_pb2.PausePolicy) -> PausePolicy:
    """A pause that was checked before."""
    return PausePolicy(message.task_type, message.reason, message.pause_for.ToMilliseconds())


def cordon_stored(message: policy_pb2.CordonPolicy) -> CordonPolicy:
    """A cordon that was checked before."""
    return CordonPolicy(message.agent_name, message.reason)


def pause_out(policy: PausePolicy) -> policy_pb2.PausePolicy:
    """A pause as a message, without its end."""
    message = policy_pb2.PausePolicy(task_type=policy.task_type, reason=policy.reason)
    if policy.for_ms:
        message.pause_for.CopyFrom(duration(policy.for_ms / 1000))
    return message


def cordon_out(policy: CordonPolicy) -> policy_pb2.CordonPolicy:
    """A cordon as a message."""
    return policy_pb2.CordonPolicy(agent_name=policy.agent, reason=policy.reason)
