"""What a task's own dates say: from when it may begin, and until when it must have begun, or ended. Only tasks that have some pay.

Dates are the store's. Nothing here knows of queues or timers: `expiries` acts on what is found here.
"""

from dataclasses import dataclass, replace

from coordinator.core.model import MAX_FAILURE_MESSAGE, Failure, FailureKind, Now, Task, TaskState, Timing

MAX_DELAY_MS = 366 * 24 * 3600 * 1000  # a year: longer is a mistake in a unit
NEVER_MS = 2**62


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why a task's dates make no sense at the date at which it is submitted."""

    field: str
    message: str


def misfit(timing: Timing, date_ms: int) -> Misfit | None:
    """What is wrong with the dates of a task that is submitted now, if something is."""
    ahead_ms = timing.ready_ms(date_ms) - date_ms
    if ahead_ms > MAX_DELAY_MS:
        return Misfit(
            "not_before", f"not_before is {ahead_ms / 86_400_000:.0f} days away: at most {MAX_DELAY_MS // 86_400_000} are allowed"
        )
    if ahead_ms and 0 < timing.deadline_ms <= ahead_ms:
        return Misfit(
            "deadline",
            f"deadline is {seconds(timing.deadline_ms)}, and the task becomes ready {seconds(ahead_ms)} from now: "
            "give a deadline after that, or leave one of them out",
        )
    return None


def queue_until_ms(task: Task) -> int:
    """Until when a task's first attempt must have been assigned; NEVER_MS where it needn't, where it was, and before the task is ready."""
    timeout_ms = task.spec.timing.queue_timeout_ms
    if not timeout_ms or task.started_ms >= task.first_ready_ms:  # both are 0 while it is delayed
        return NEVER_MS
    return task.first_ready_ms + timeout_ms


def until_ms(task: Task) -> int:
    """Until when a task must have ended; NEVER_MS where it needn't."""
    deadline_ms = task.spec.timing.deadline_ms
    return task.run_created_ms + deadline_ms if deadline_ms else NEVER_MS


def overdue(task: Task, now: Now) -> Failure | None:
    """Why a live task must fail now, if it must."""
    timing, deadline_ms, queue_deadline_ms = task.spec.timing, until_ms(task), queue_until_ms(task)
    if min(deadline_ms, queue_deadline_ms) > now.date_ms:
        return None
    if queue_deadline_ms <= deadline_ms:
        message = f"no agent was given it within its queue_timeout of {seconds(timing.queue_timeout_ms)}"
        return _failure(FailureKind.QUEUE_TIMEOUT, message)
    what = "its attempt was still running" if task.state is TaskState.RUNNING else "it was waiting"
    after = f", after an attempt that failed: {task.failure.message}" if task.failure is not None else ""
    return _failure(FailureKind.DEADLINE, f"it had not ended by its deadline of {seconds(timing.deadline_ms)}: {what}{after}")


def too_late_to_retry(task: Task, failure: Failure, ready_at_ms: int) -> Failure | None:
    """The failure of a task whose next attempt could not begin before its deadline; None where it can."""
    if ready_at_ms < until_ms(task):
        return None
    message = (
        f"no attempt could begin before its deadline of {seconds(task.spec.timing.deadline_ms)}, and the last one failed: {failure.message}"
    )
    return replace(failure, kind=FailureKind.DEADLINE, message=message[:MAX_FAILURE_MESSAGE], non_retryable=True, retry_after_s=None)


def _failure(kind: FailureKind, message: str) -> Failure:
    return Failure(kind, message[:MAX_FAILURE_MESSAGE], non_retryable=True)


def seconds(duration_ms: int) -> str:
    """A length of time in words."""
    return f"{duration_ms / 1000:g} s"
