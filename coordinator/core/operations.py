"""What operators do to tasks: another priority, another run. Cancelling is everybody's: see `submits`."""

from enum import Enum

from coordinator.core.events import EndedRun, Redriven, Reprioritised
from coordinator.core.model import WAITING, Now, Task
from coordinator.core.scheduler import Scheduler
from coordinator.core.submits import Refused, begin_run, refusal


class Priorities(Enum):
    """What a change of priority came to."""

    CHANGED = 1
    AS_BEFORE = 2


def reprioritise(scheduler: Scheduler, task: Task, priority: int, reason: str, now: Now) -> Priorities:
    """Gives a live task another priority. It keeps its place and its age; an attempt that is under way goes on as it is."""
    before = task.spec.priority
    if before == priority:
        return Priorities.AS_BEFORE
    is_dated = task.number in scheduler.backoffs
    is_ready = task.state in WAITING and not is_dated
    scheduler.apply_sized(Reprioritised(task.number, priority, reason), now)
    scheduler.statistics.moved(task, before, is_dated=is_dated)
    if is_ready:
        scheduler.ready.move(task, before)
        scheduler.enqueue(task, now)
    return Priorities.CHANGED


def redrive(scheduler: Scheduler, ended: EndedRun, reason: str, now: Now, *, request_id: str = "") -> Task | Refused:
    """Begins the next run of an ended task, with its place behind all that waits.

    It is taken as a new one is: limits may refuse it, durations of its own count from now, and who is told of ends hears of this run's too.
    A date or a delay that it was submitted with is waited for only while that is ahead. The caller has made sure that it isn't in memory.
    """
    refused = refusal(scheduler, ended.spec)
    if refused is not None:
        return refused
    task = scheduler.apply_sized(Redriven(scheduler.state.next_number, ended, reason, request_id), now)
    scheduler.totals.redriven += 1
    if task.agent:
        scheduler.index.tried[task.number] = None
    begin_run(scheduler, task, now)
    return task
