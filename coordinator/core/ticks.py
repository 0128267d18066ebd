"""Time passes: backoffs end, and attempts are given up whose lease, acknowledgement, run or progress deadline has passed."""

from coordinator.core.breakers import end_waits
from coordinator.core.effects import StopAttempt
from coordinator.core.events import Cost
from coordinator.core.expiries import become_ready, expiry_due
from coordinator.core.load_map import Agent
from coordinator.core.model import INFINITY, Attempt, Failure, FailureKind, Now, Task
from coordinator.core.pauses import end_pauses, move
from coordinator.core.reports import give_up, journal_acknowledgements
from coordinator.core.scheduler import Backoff, Expiry, Scheduler

MAX_AGED = 2000  # queues whose heads a tick looks at: a few milliseconds. The others follow with the next tick
MAX_DATES = 1000  # backoffs, delays and deadlines that a tick ends: some ten milliseconds. The others follow at once
MAX_FREED = 2000  # rate keys that a tick lets go on: likewise


def tick(scheduler: Scheduler, now: Now) -> None:
    """Does what is due at `now`."""
    scheduler.statistics.tick(now.date_ms)
    journal_acknowledgements(scheduler, now)
    end_waits(scheduler, now)
    scheduler.ages.at(now.date_ms)
    for fifo in scheduler.ages.wheel.take_due(now.date_ms, at_most=MAX_AGED):
        if fifo.aged():
            fifo.improved()
            scheduler.hurry(fifo.line)
    for limiter in scheduler.limits.wheel.take_due(now.date_ms, at_most=MAX_FREED):
        scheduler.limits.due(limiter, now.date_ms)
    for lane in scheduler.postponed:
        scheduler.hurry(lane)
    scheduler.postponed.clear()
    if (end_ms := scheduler.pauses.next_end_ms) is not None and end_ms <= now.date_ms:
        end_pauses(scheduler, now)
    elif scheduler.pauses.moves:
        move(scheduler)
    _dates_due(scheduler, now)
    for item in scheduler.liveness.take_due(now.mono_s):
        if isinstance(item, Attempt):
            _attempt_due(scheduler, item, now)
        else:
            _grace_due(scheduler, item, now)


def _dates_due(scheduler: Scheduler, now: Now) -> None:
    waited: list[Backoff] = []
    for item in scheduler.dates.take_due(now.date_ms, at_most=MAX_DATES):
        if isinstance(item, Expiry):
            expiry_due(scheduler, item, now)
        else:
            waited.append(item)
    delayed: list[Task] = []
    for backoff in waited:  # after the deadlines: none of these has passed one
        task = backoff.task
        if scheduler.backoffs.get(task.number) is not backoff:
            continue
        del scheduler.backoffs[task.number]
        scheduler.statistics.delayed(task, -1)
        if task.place:
            scheduler.enqueue(task, now)
        else:
            delayed.append(task)
    if delayed:
        become_ready(scheduler, delayed, now)


def _attempt_due(scheduler: Scheduler, attempt: Attempt, now: Now) -> None:
    task = attempt.task
    agent = scheduler.load.agents.get(task.agent)
    if agent is None or agent.running.get(task.number) is not attempt:
        return  # its agent's grace ended in this very tick
    due_s = attempt.due_s()
    if due_s > now.mono_s:  # renewed since it was armed
        scheduler.liveness.arm(attempt, due_s)
        return
    if attempt.ack_until_s <= now.mono_s:
        failure = Failure(FailureKind.UNDELIVERED, f"agent {task.agent} didn't acknowledge the assignment in time")
        cost = Cost.DELIVERY
    elif attempt.lease_until_s <= now.mono_s:
        failure = Failure(FailureKind.LEASE_LOST, f"nothing was heard of agent {task.agent} for {scheduler.settings.lease_s:g} s")
        cost = Cost.CRASH
    elif attempt.run_until_s <= now.mono_s:
        failure = Failure(FailureKind.RUN_TIMEOUT, f"the attempt ran longer than its run_timeout of {task.spec.run_timeout_s:g} s")
        cost = Cost.RETRY
    else:
        failure = Failure(FailureKind.PROGRESS_TIMEOUT, f"the attempt made no progress for {task.spec.progress_timeout_s:g} s")
        cost = Cost.RETRY
    fence = task.fence
    give_up(scheduler, task, failure, cost, now)
    if agent.session:
        scheduler.effects.append(StopAttempt(agent.session, task.spec.task_id, fence, failure.message, lost=True))


def _grace_due(scheduler: Scheduler, agent: Agent, now: Now) -> None:
    if agent.session or agent.grace_until_s == INFINITY:
        return
    if agent.grace_until_s > now.mono_s:
        scheduler.liveness.arm(agent, agent.grace_until_s)
        return
    for attempt in list(agent.running.values()):
        if attempt.has_arrived():
            failure = Failure(FailureKind.LEASE_LOST, f"agent {agent.name} went away and didn't come back")
            give_up(scheduler, attempt.task, failure, Cost.CRASH, now)
        else:
            failure = Failure(FailureKind.UNDELIVERED, f"agent {agent.name} went away before it acknowledged the assignment")
            give_up(scheduler, attempt.task, failure, Cost.DELIVERY, now)
    scheduler.load.remove(agent)
