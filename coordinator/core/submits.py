"""Takes tasks in, and cancels them."""

from enum import Enum

from coordinator.core.effects import StopAttempt
from coordinator.core.events import CancelRecorded, Submitted
from coordinator.core.model import WAITING, Now, Spec, Task, TaskState
from coordinator.core.scheduler import Scheduler


class Refused(Enum):
    """Why a task was not taken."""

    QUEUE_FULL = 1  # by count
    MEMORY_FULL = 2  # by bytes


def submit(scheduler: Scheduler, spec: Spec, now: Now) -> Task | Refused:
    """Takes one task in. Answers the task of that id: the caller tells a new one from an older one by its spec.

    The caller has made sure that the store has no record of the id.
    """
    state = scheduler.state
    known = state.find(spec.task_id)
    if known is not None:
        return known
    refused = room_for(scheduler, spec)
    if refused is not None:
        return refused
    task = scheduler.apply(Submitted(state.next_number, spec), now)
    scheduler.bytes += len(spec.request)
    scheduler.totals.submitted += 1
    scheduler.index.add(task)
    scheduler.enqueue(task, now)
    return task


def room_for(scheduler: Scheduler, spec: Spec) -> Refused | None:
    """Why one task more can't be taken; None when it can."""
    state, settings = scheduler.state, scheduler.settings
    if len(state.tasks) >= settings.max_live_tasks:
        return Refused.QUEUE_FULL
    return Refused.MEMORY_FULL if state.bytes + len(spec.request) > settings.max_live_bytes else None


class CancelVerdict(Enum):
    """What a cancel came to; the numbers are those of muster.v1.CancelVerdict."""

    CANCELLED = 1
    REQUESTED = 2
    ALREADY_ENDED = 3
    NOT_FOUND = 4  # in memory: the store may have a record


def cancel(scheduler: Scheduler, task_id: str, reason: str, now: Now) -> CancelVerdict:
    """Cancels a waiting task at once, and asks for a running one to be stopped."""
    task = scheduler.state.find(task_id)
    if task is None:
        return CancelVerdict.NOT_FOUND
    if task.state in WAITING:
        delayed = scheduler.backoffs.pop(task.number, None)
        scheduler.apply_sized(CancelRecorded(task.number, reason, ended=True), now)
        if delayed is not None:
            scheduler.dates.disarm(delayed)
        else:
            scheduler.ready.forget(task)
        scheduler.ended(task)
        return CancelVerdict.CANCELLED
    if task.state is not TaskState.RUNNING:
        return CancelVerdict.ALREADY_ENDED
    if task.cancel_reason is None:
        scheduler.apply_sized(CancelRecorded(task.number, reason, ended=False), now)
    agent = scheduler.load.agents.get(task.agent)
    if agent is not None and agent.session:
        scheduler.effects.append(StopAttempt(agent.session, task_id, task.fence, reason, lost=False))
    return CancelVerdict.REQUESTED
