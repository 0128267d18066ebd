"""What an attempt that failed costs, and when the next one may begin."""

from coordinator.core.events import Cost, Disposition
from coordinator.core.model import Failure, FailureKind, Settings, Task


def disposition_after(task: Task, failure: Failure, cost: Cost, settings: Settings) -> Disposition:
    """What becomes of a task whose attempt ends with `failure` at `cost`, counted before the cost is added."""
    if task.cancel_reason is not None:
        return Disposition.CANCEL
    if failure.non_retryable:
        return Disposition.FAIL
    return Disposition.FAIL if _out_of_tries(task, cost, settings) else Disposition.RETRY


def _out_of_tries(task: Task, cost: Cost, settings: Settings) -> bool:
    match cost:
        case Cost.RETRY:
            return task.retries >= task.spec.retry.max_retries
        case Cost.CRASH:
            return task.crashes >= task.spec.retry.max_crashes
        case Cost.DELIVERY:
            return task.undelivered + 1 >= settings.max_deliveries
        case Cost.NONE:
            return False


def backoff_ms(task: Task, failure: Failure, jitter: float) -> int:
    """How long the next attempt waits: full jitter under an exponential bound, or the failure's own `retry_after_s` if that is longer.

    "Full jitter" is uniform between 0 and the bound; see "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Args:
        task: the task, before this failure is counted.
        failure: what happened; a lost lease doesn't wait, since it says nothing about the work.
        jitter: uniform in [0, 1), drawn by the caller.
    """
    if failure.kind is FailureKind.LEASE_LOST:
        return 0
    policy = task.spec.retry
    exponent = min(task.retries, 64)  # beyond that the bound is the maximum for any sensible multiplier
    bound_s = min(policy.initial_backoff_s * policy.multiplier**exponent, policy.max_backoff_s)
    return round(1000 * max(bound_s * jitter, failure.retry_after_s or 0.0))
