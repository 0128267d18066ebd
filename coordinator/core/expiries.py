"""Acts on tasks' dates: delayed tasks become ready, and those whose queue deadline or deadline has passed fail.

Each has one entry in the wheel of dates, so nothing here looks at more tasks than are due.
"""

from collections.abc import Iterable

from coordinator.core.effects import StopAttempt
from coordinator.core.events import AttemptFailed, BecameReady, Cost, Disposition
from coordinator.core.model import Failure, Now, Task, TaskState
from coordinator.core.reports import give_up
from coordinator.core.scheduler import Expiry, Scheduler
from coordinator.core.timing import overdue


def become_ready(scheduler: Scheduler, tasks: Iterable[Task], now: Now) -> None:
    """The dates of delayed tasks have come: each takes its place behind all that are ready, the earlier date first."""
    for task in sorted(tasks, key=lambda task: (task.ready_at_ms, task.number)):
        scheduler.apply(BecameReady(task.number), now)
        scheduler.watch_dates(task)
        scheduler.enqueue(task, now)


def expiry_due(scheduler: Scheduler, expiry: Expiry, now: Now) -> None:
    """One of a task's deadlines may have passed."""
    task = expiry.task
    failure = overdue(task, now)
    if failure is None:
        scheduler.watch_dates(task)  # it met its queue deadline, or another one is ahead
    elif task.state is TaskState.RUNNING:
        _stop(scheduler, task, failure, now)
    else:
        fail_waiting(scheduler, task, failure, now)


def fail_waiting(scheduler: Scheduler, task: Task, failure: Failure, now: Now) -> None:
    """A task that waits fails."""
    scheduler.apply_sized(AttemptFailed(task.number, failure, Disposition.FAIL, Cost.NONE, 0, (), reported=False), now)
    scheduler.forget_waiting(task)
    scheduler.ended(task, now)


def _stop(scheduler: Scheduler, task: Task, failure: Failure, now: Now) -> None:
    agent, fence = scheduler.load.agents.get(task.agent), task.fence
    give_up(scheduler, task, failure, Cost.NONE, now)
    if agent is not None and agent.session:
        scheduler.effects.append(StopAttempt(agent.session, task.spec.task_id, fence, failure.message, lost=True))
