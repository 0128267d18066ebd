"""What operators do to tasks: another priority, another run. Cancelling is everybody's: see `submits`."""

from enum import Enum

from coordinator.core.events import EndedRun, Redriven, Reprioritised
from coordinator.core.model import WAITING, Now, Task
from coordinator.core.scheduler import Scheduler
from coordinator.core.submits import Refused, room_for


class Priorities(Enum):
    """What a change of priority came to."""

    CHANGED = 1
    AS_BEFORE = 2


def reprioritise(scheduler: Scheduler, task: Task, priority: int, reason: str, now: Now) -> Priorities:
    """Gives a live task another priority. It keeps its place and its age; an attempt that is under way goes on as it is."""
    before = task.spec.priority
    if before == priority:
        return Priorities.AS_BEFORE
    is_ready = task.state in WAITING and task.number not in scheduler.backoffs
    scheduler.apply_sized(Reprioritised(task.number, priority, reason), now)
    if is_ready:
        scheduler.ready.move(task, before)
        scheduler.enqueue(task, now)
    return Priorities.CHANGED


def redrive(scheduler: Scheduler, ended: EndedRun, reason: str, now: Now) -> Task | Refused:
    """Begins the next run of an ended task, with its place behind all that waits. The caller has made sure that it isn't in memory."""
    state = scheduler.state
    refused = room_for(scheduler, ended.spec)
    if refused is not None:
        return refused
    task = scheduler.apply_sized(Redriven(state.next_number, ended, reason), now)
    scheduler.totals.redriven += 1
    scheduler.index.add(task)
    if task.agent:
        scheduler.index.tried[task.number] = None
    scheduler.enqueue(task, now)
    return task
