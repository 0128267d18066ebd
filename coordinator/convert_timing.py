"""Dates and lengths of time, from protos to numbers and back, and what a task says of its own: the part of `convert` about time."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from muster.v1 import common_pb2, task_pb2

from coordinator.core.model import Timing
from coordinator.errors import InvalidRequest

MAX_DURATION_S = 366 * 24 * 3600  # a year: longer is a mistake in a unit
MAX_NANOS = 999_999_999  # of a google.protobuf.Duration or Timestamp
FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799  # of a google.protobuf.Timestamp: the years 1 to 9999
_NANOS_PER_MS = 1_000_000


def seconds(duration: Duration, field: str) -> float:
    """A duration in seconds, not negative and not absurd."""
    value = duration.seconds + duration.nanos / 1e9
    if abs(duration.nanos) > MAX_NANOS or duration.seconds * duration.nanos < 0:
        raise InvalidRequest(
            f"{field} is no valid Duration: nanos has the sign of seconds, and stays below a second (seconds {duration.seconds}, "
            f"nanos {duration.nanos})",
            field=field,
        )
    if value < 0:
        raise InvalidRequest(f"{field} is negative ({value:g} s): give a positive duration, or leave it out", field=field)
    if value > MAX_DURATION_S:
        raise InvalidRequest(f"{field} is {value:g} s: at most {MAX_DURATION_S} s (a year) are allowed", field=field)
    return value


def duration(value_s: float) -> Duration:
    """Seconds as a message."""
    whole, nanos = divmod(round(value_s * 1e9), 1_000_000_000)
    return Duration(seconds=whole, nanos=nanos)


def timestamp(date_ms: int) -> Timestamp:
    """Milliseconds since 1970 as a message."""
    return Timestamp(seconds=date_ms // 1000, nanos=date_ms % 1000 * 1_000_000)


def timing_in(message: common_pb2.TaskSpec) -> Timing:
    """A task's dates, checked as far as that needs no clock. Rounded up to milliseconds: nothing comes early.

    Raises:
        InvalidRequest: names the field at fault.
    """
    return Timing(
        not_before_ms=_date_ms(message.not_before) if message.HasField("not_before") else 0,
        delay_ms=milliseconds(message.delay, "delay") if message.HasField("delay") else 0,
        queue_timeout_ms=_limit_ms(message.queue_timeout, "queue_timeout") if message.HasField("queue_timeout") else 0,
        deadline_ms=_limit_ms(message.deadline, "deadline") if message.HasField("deadline") else 0,
    )


def _date_ms(message: Timestamp) -> int:
    if not (FIRST_SECOND <= message.seconds <= LAST_SECOND and 0 <= message.nanos <= MAX_NANOS):
        raise InvalidRequest(
            "not_before is no valid Timestamp: seconds count from 1970 and stay within the years 1 to 9999, and nanos are 0 to 999,999,999 "
            f"(seconds {message.seconds}, nanos {message.nanos})",
            field="not_before",
        )
    return max(0, message.seconds * 1000 - -message.nanos // _NANOS_PER_MS)


def milliseconds(message: Duration, field: str) -> int:
    """A duration in whole milliseconds, rounded up. Raises InvalidRequest for what `seconds` refuses."""
    seconds(message, field)
    return message.seconds * 1000 - -message.nanos // _NANOS_PER_MS


def _limit_ms(message: Duration, field: str) -> int:
    value = milliseconds(message, field)
    if value == 0:
        raise InvalidRequest(f"{field} is zero: leave it out for no limit", field=field)
    return value


def show_dates(view: task_pb2.Task, timing: Timing, *, created_ms: int, run_created_ms: int, first_ready_ms: int) -> None:
    """A task's dates, for whoever looks at it.

    Args:
        view: what is shown of it.
        timing: the dates that it was submitted with.
        created_ms: when that was.
        run_created_ms: when its run began: later if it was redriven.
        first_ready_ms: when it became ready; 0 if it hasn't.
    """
    ready_ms = timing.ready_ms(created_ms)
    if ready_ms > created_ms:
        view.ready_time.CopyFrom(timestamp(first_ready_ms or ready_ms))
    if timing.queue_timeout_ms and first_ready_ms:
        view.queue_deadline_time.CopyFrom(timestamp(first_ready_ms + timing.queue_timeout_ms))
    if timing.deadline_ms:
        view.deadline_time.CopyFrom(timestamp(run_created_ms + timing.deadline_ms))
