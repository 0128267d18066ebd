"""When a task may begin, and until when it must have begun, or ended, as a caller says it and as it travels."""

from datetime import datetime

from muster.v1.common_pb2 import TaskSpec

from agent_node.connection import duration


def set_timing(
    spec: TaskSpec, not_before: datetime | None, delay_s: float | None, queue_timeout_s: float | None, deadline_s: float | None
) -> None:
    """Puts a task's dates into its spec. A date travels as a date and a delay as a delay: this program's clock decides neither.

    Raises:
        ValueError: `not_before` has no time zone, or comes with a delay.
    """
    if not_before is not None:
        if delay_s is not None:
            raise ValueError("give not_before or delay_s, not both")
        if not_before.tzinfo is None:
            raise ValueError(f"not_before is {not_before.isoformat()}, without a time zone: say which, as in datetime.now(UTC)")
        spec.not_before.FromDatetime(not_before)
    if delay_s is not None:
        spec.delay.CopyFrom(duration(delay_s, name="delay_s"))
    if queue_timeout_s is not None:
        spec.queue_timeout.CopyFrom(duration(queue_timeout_s, name="queue_timeout_s"))
    if deadline_s is not None:
        spec.deadline.CopyFrom(duration(deadline_s, name="deadline_s"))
