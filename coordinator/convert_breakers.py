"""Circuit breakers and their policies from protos to the core and back."""

from google.protobuf.duration_pb2 import Duration
from muster.v1 import agent_pb2, policy_pb2

from coordinator.checks import check_name
from coordinator.convert import duration, seconds, timestamp
from coordinator.core.breakers import Breaker, BreakerState
from coordinator.core.policies import BreakerPolicy
from coordinator.errors import InvalidRequest

MAX_IN_A_ROW = 1000
MAX_RESULTS = 1_000_000
DAY_S = 86_400
MIN_SHARE = 0.001  # less would be a breaker that never opens: leave out what opens it instead
MAX_SHOWN = 100  # of an agent
_STATES = {
    1: agent_pb2.BREAKER_STATE_CLOSED,
    2: agent_pb2.BREAKER_STATE_OPEN,
    3: agent_pb2.BREAKER_STATE_HALF_OPEN,
    4: agent_pb2.BREAKER_STATE_TOLERATED,
}


def check_breaker(message: policy_pb2.BreakerPolicy, field: str) -> None:
    """Raises InvalidRequest, which names the field at fault, when the policy can't be."""
    pattern = message.task_type
    if pattern:
        check_name(pattern, f"{field}.task_type")
    if pattern == "*":
        raise InvalidRequest(f"{field}.task_type is '*': leave it empty for the whole namespace", field=f"{field}.task_type")
    if "*" in pattern[:-1]:
        raise InvalidRequest(
            f"{field}.task_type is {pattern!r}: a `*` may only stand at the end, for all types that begin so", field=f"{field}.task_type"
        )
    if not [one for one, _ in message.ListFields() if one.name != "task_type"]:
        raise InvalidRequest(f"{field} sets nothing: set a field, or delete the policy", field=field)
    _check_number(message.consecutive_failures, f"{field}.consecutive_failures", 0, MAX_IN_A_ROW)
    if message.HasField("min_results"):
        _check_number(message.min_results, f"{field}.min_results", 1, MAX_RESULTS)
    _check_number(message.failure_rate, f"{field}.failure_rate", 0, 1)
    if message.HasField("max_open_share"):
        _check_number(message.max_open_share, f"{field}.max_open_share", MIN_SHARE, 1)
    if message.HasField("window"):
        _check_duration(message.window, f"{field}.window", 1)
    if message.HasField("open_for"):
        _check_duration(message.open_for, f"{field}.open_for", 0.1)
    if message.HasField("max_open_for"):
        _check_duration(message.max_open_for, f"{field}.max_open_for", 0.1)
    if message.HasField("open_for") and message.HasField("max_open_for") and _stored_s(message.max_open_for) < _stored_s(message.open_for):
        raise InvalidRequest(f"{field}.max_open_for is shorter than open_for: give at least as much", field=f"{field}.max_open_for")


def _check_number(number: float, field: str, least: float, most: float) -> None:
    if not least <= number <= most:  # written so that NaN fails too
        raise InvalidRequest(f"{field} is {number:g}: give {least:g} to {most:g}", field=field)


def _check_duration(message: Duration, field: str, least_s: float) -> None:
    given_s = seconds(message, field)
    if message.nanos % 1_000_000 or not least_s <= given_s <= DAY_S:
        raise InvalidRequest(f"{field} is {given_s:g} s: give whole milliseconds, from {least_s:g} s to {DAY_S} s (a day)", field=field)


def breaker_stored(message: policy_pb2.BreakerPolicy) -> BreakerPolicy:
    """A policy that was checked before."""
    return BreakerPolicy(
        message.task_type,
        consecutive_failures=message.consecutive_failures if message.HasField("consecutive_failures") else None,
        failure_rate=message.failure_rate if message.HasField("failure_rate") else None,
        min_results=message.min_results if message.HasField("min_results") else None,
        window_s=_stored_s(message.window) if message.HasField("window") else None,
        open_s=_stored_s(message.open_for) if message.HasField("open_for") else None,
        max_open_s=_stored_s(message.max_open_for) if message.HasField("max_open_for") else None,
        max_open_share=message.max_open_share if message.HasField("max_open_share") else None,
    )


def _stored_s(message: Duration) -> float:
    return message.ToMilliseconds() / 1000


def breaker_out(policy: BreakerPolicy) -> policy_pb2.BreakerPolicy:
    """A policy as a message."""
    message = policy_pb2.BreakerPolicy(
        task_type=policy.task_type,
        consecutive_failures=policy.consecutive_failures,
        failure_rate=policy.failure_rate,
        min_results=policy.min_results,
        max_open_share=policy.max_open_share,
    )
    for value_s, field in ((policy.window_s, message.window), (policy.open_s, message.open_for), (policy.max_open_s, message.max_open_for)):
        if value_s is not None:
            field.CopyFrom(duration(value_s))
    return message


def breakers_shown(breakers: dict[str, Breaker] | None) -> list[agent_pb2.Breaker]:
    """An agent's breakers that aren't closed, its own first."""
    shown = [breakers[key] for key in sorted(breakers) if breakers[key].state is not BreakerState.CLOSED] if breakers else []
    return [breaker_shown(one) for one in shown[:MAX_SHOWN]]


def breaker_shown(breaker: Breaker) -> agent_pb2.Breaker:
    """A breaker that isn't closed, as a message."""
    message = agent_pb2.Breaker(
        agent_name=breaker.agent,
        task_type=breaker.key,
        state=_STATES[breaker.state.value],
        reason=breaker.reason,
        since_time=timestamp(breaker.since_ms),
        failed_probes=breaker.failed_probes,
        probe_task_id=breaker.probe.task.spec.task_id if breaker.probe is not None else "",
    )
    if breaker.state is not BreakerState.HALF_OPEN:
        message.until_time.CopyFrom(timestamp(breaker.until_ms))
    return message
