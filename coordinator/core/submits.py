"""Takes tasks in, and cancels them."""

from enum import Enum

from coordinator.core.effects import StopAttempt
from coordinator.core.events import CancelRecorded, Submitted
from coordinator.core.model import PLAIN, UNTIMED, WAITING, Now, Spec, Task, TaskState
from coordinator.core.policies import WhenFull
from coordinator.core.scheduler import Scheduler
from coordinator.core.statistics import SUBMITTED
from coordinator.core.timing import Misfit, misfit
from coordinator.core.webhooks import is_full


class Refused(Enum):
    """Why a task was not taken."""

    QUEUE_FULL = 1  # by count
    MEMORY_FULL = 2  # by bytes
    KEY_FULL = 3  # its concurrency key's limit says so
    WEBHOOKS_FULL = 4  # it has a webhook, and too many wait to be delivered


def submit(scheduler: Scheduler, spec: Spec, now: Now) -> Task | Refused | Misfit:
    """Takes one task in. Answers the task of that id: the caller tells a new one from an older one by its spec.

    The caller has made sure that the store has no record of the id.
    """
    state = scheduler.state
    known = state.find(spec.task_id)
    if known is not None:
        return known
    if spec.timing is not UNTIMED and (wrong := misfit(spec.timing, now.date_ms)) is not None:
        return wrong
    refused = refusal(scheduler, spec)
    if refused is not None:
        return refused
    task = scheduler.apply(Submitted(state.next_number, spec), now)
    scheduler.bytes += len(spec.request)
    scheduler.totals.submitted += 1
    begin_run(scheduler, task, now)
    return task


def refusal(scheduler: Scheduler, spec: Spec) -> Refused | None:
    """Why one task more can't be taken; None when it can."""
    state = scheduler.state
    if len(state.tasks) >= scheduler.max_live_tasks:
        return Refused.QUEUE_FULL
    if state.bytes + len(spec.request) > scheduler.max_live_bytes:
        return Refused.MEMORY_FULL
    if spec.webhook is not None and is_full(scheduler):
        return Refused.WEBHOOKS_FULL
    key = spec.scheduling.concurrency_key
    return Refused.KEY_FULL if key and scheduler.limits.when_full(key) is WhenFull.REJECT else None


def begin_run(scheduler: Scheduler, task: Task, now: Now) -> None:
    """A task is live by an event just now, in its first run or a later one: whatever is derived hears of it, and it waits."""
    spec = task.spec
    scheduler.index.add(task)
    rows = scheduler.statistics.types.get(spec.task_type)
    row = (rows and rows[spec.priority]) or scheduler.statistics.row(spec.task_type, spec.priority)
    row.counts[SUBMITTED] += 1
    if spec.scheduling is not PLAIN:
        limits, key = scheduler.limits, spec.scheduling.concurrency_key
        oldest = limits.oldest(key) if key and limits.when_full(key) is WhenFull.CANCEL_OLDEST else None
        limits.came(task)
        if oldest is not None:
            reason = f"task {spec.task_id} took its place: the limit of concurrency key {key} cancels the oldest"
            cancel(scheduler, oldest.spec.task_id, reason, now)
    scheduler.enqueue(task, now)
    if spec.timing is not UNTIMED:
        scheduler.watch_dates(task)


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
        scheduler.apply_sized(CancelRecorded(task.number, reason, ended=True), now)
        if task.spec.scheduling is not PLAIN:
            scheduler.limits.left(task)
        scheduler.forget_waiting(task)
        scheduler.ended(task, now)
        return CancelVerdict.CANCELLED
    if task.state is not TaskState.RUNNING:
        return CancelVerdict.ALREADY_ENDED
    if task.cancel_reason is None:
        scheduler.apply_sized(CancelRecorded(task.number, reason, ended=False), now)
        if task.spec.scheduling is not PLAIN:
            scheduler.limits.left(task)
    agent = scheduler.load.agents.get(task.agent)
    if agent is not None and agent.session:
        scheduler.effects.append(StopAttempt(agent.session, task_id, task.fence, reason, lost=False))
    return CancelVerdict.REQUESTED
