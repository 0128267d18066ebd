"""What agents say about their attempts. Every report names a fence, and counts only if agent and fence match (G2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from coordinator.core.breakers import succeeded, unsuccessful
from coordinator.core.effects import ChunkEmitted, ProgressMade
from coordinator.core.events import (
    Acknowledged,
    AttemptFailed,
    CheckpointStored,
    ChunkStored,
    Completed,
    Cost,
    Disposition,
    Event,
    Returned,
)
from coordinator.core.load_map import Agent
from coordinator.core.model import INFINITY, UNTIMED, Attempt, Failure, FailureKind, Now, Progress, Task, TaskState, Usage
from coordinator.core.retries import backoff_ms, disposition_after
from coordinator.core.scheduler import Scheduler
from coordinator.core.timing import too_late_to_retry

MAX_OFFSET = 2**62  # of partial output: what follows it must still be a 64-bit number


class Verdict(Enum):
    """What became of a report; the numbers are those of muster.v1.ResultVerdict."""

    ACCEPTED = 1
    DUPLICATE = 2
    STALE = 3
    UNKNOWN = 4  # not in memory: the store may have a record
    INVALID = 5


@dataclass(slots=True)
class Success:
    """An attempt succeeded; `outcome` is the agent's message as it came."""

    outcome: bytes
    usage: Sequence[Usage] = ()
    cost: float = 0.0  # to the task's fairness key, as the agent found it; 0 where it says nothing


@dataclass(slots=True)
class Failed:
    """An attempt failed."""

    failure: Failure
    usage: Sequence[Usage] = ()
    cost: float = 0.0


@dataclass(slots=True)
class Stopped:
    """An attempt stopped because it was cancelled."""

    reason: str
    usage: Sequence[Usage] = ()
    cost: float = 0.0


@dataclass(slots=True)
class GivenBack:
    """An attempt was given back unfinished."""

    reason: str


Result = Success | Failed | Stopped | GivenBack


def judge(scheduler: Scheduler, agent: Agent, task_id: str, fence: int) -> Task | Verdict:
    """The task, if `agent` holds it under `fence`; else why the report doesn't count."""
    task = scheduler.state.tasks.get(task_id)
    if task is not None and task.fence == fence and task.state is TaskState.RUNNING and task.agent == agent.name:
        return task
    if task is None:
        task = scheduler.state.ended.get(task_id)
        if task is None:
            return Verdict.UNKNOWN
    return Verdict.DUPLICATE if fence and fence == task.result_fence else Verdict.STALE  # 0: nothing was accepted, nor issued


def acknowledge(scheduler: Scheduler, agent: Agent, task_id: str, fence: int, now: Now) -> None:
    """The assignment has arrived. One that no longer counts is not worth a word: the agent was told to stop."""
    task = judge(scheduler, agent, task_id, fence)
    if isinstance(task, Task):
        _heard(scheduler, agent.running[task.number], now)


def _heard(scheduler: Scheduler, attempt: Attempt, now: Now) -> None:
    """Any report about an attempt shows that its assignment has arrived: the acknowledgement itself may have died with its stream."""
    if attempt.ack_until_s < INFINITY:
        attempt.ack_until_s = INFINITY
        attempt.lease_until_s = now.mono_s + scheduler.settings.lease_s
        scheduler.unjournalled_acks[attempt.task.number] = attempt


def journal_acknowledgements(scheduler: Scheduler, now: Now) -> None:
    """Journals the acknowledgements of attempts that still run.

    It waits for the next tick, a second at most: most attempts are over by then, and a restart in between only counts a lost attempt as
    undelivered instead of crashed.
    """
    for number in scheduler.unjournalled_acks:
        scheduler.apply(Acknowledged(number), now)
    scheduler.unjournalled_acks.clear()


def finish(scheduler: Scheduler, agent: Agent, task_id: str, fence: int, result: Result, now: Now) -> Verdict:
    """An attempt ended."""
    task = judge(scheduler, agent, task_id, fence)
    if isinstance(task, Verdict):
        scheduler.totals.stale_results += task is Verdict.STALE
        return task
    if type(result) is Success:  # the common case first, without the cost of `match`
        scheduler.apply(Completed(task.number, result.outcome, result.usage), now)
        attempt = scheduler.release(task, now, result.cost)
        if agent.breakers is not None and attempt is not None:
            succeeded(scheduler, agent, attempt, now)
        scheduler.ended(task, now)
        return Verdict.ACCEPTED
    scheduler.apply_sized(_unsuccessful(scheduler, task, result, now), now)
    attempt = scheduler.release(task, now, 0.0 if isinstance(result, GivenBack) else result.cost)
    if attempt is not None:
        unsuccessful(scheduler, agent, attempt, result.failure if isinstance(result, Failed) else None, now)
    scheduler.after_attempt(task, now)
    return Verdict.ACCEPTED


def _unsuccessful(scheduler: Scheduler, task: Task, result: Result, now: Now) -> Event:
    if isinstance(result, GivenBack) and task.cancel_reason is None:
        return Returned(task.number, result.reason, Cost.NONE)
    if isinstance(result, Failed):
        failure, usage = result.failure, result.usage
    else:
        usage = result.usage if isinstance(result, Stopped) else ()
        message = "the handler stopped" if task.cancel_reason is not None else "the handler stopped without being asked to"
        failure = Failure(FailureKind.CANCELLED, message)
    return attempt_failed(scheduler, task, failure, Cost.RETRY, now, usage=usage, reported=True)


def attempt_failed(
    scheduler: Scheduler, task: Task, failure: Failure, cost: Cost, now: Now, *, usage: Sequence[Usage] = (), reported: bool = False
) -> AttemptFailed:
    """The event for an attempt that failed or was given up: what it costs, and when the next one may begin."""
    disposition = disposition_after(task, failure, cost, scheduler.settings)
    ready_at_ms = now.date_ms + backoff_ms(task, failure, scheduler.jitter()) if disposition is Disposition.RETRY else 0
    if ready_at_ms and cost is not Cost.DELIVERY and task.spec.timing is not UNTIMED:  # what wasn't delivered goes back without a backoff
        too_late = too_late_to_retry(task, failure, ready_at_ms)
        if too_late is not None:
            disposition, failure, ready_at_ms = Disposition.FAIL, too_late, 0
    return AttemptFailed(task.number, failure, disposition, cost, ready_at_ms, usage, reported)


def give_up(scheduler: Scheduler, task: Task, failure: Failure, cost: Cost, now: Now) -> None:
    """The coordinator gives an attempt up. An undelivered one goes back at no cost in retries, up to the limit of deliveries."""
    failed = attempt_failed(scheduler, task, failure, cost, now)
    undelivered = cost is Cost.DELIVERY and failed.disposition is Disposition.RETRY
    scheduler.totals.crashed += cost is Cost.CRASH
    scheduler.apply_sized(Returned(task.number, failure.message, cost) if undelivered else failed, now)
    agent, attempt = scheduler.load.agents.get(task.agent), scheduler.release(task, now)
    if agent is not None and attempt is not None:
        unsuccessful(scheduler, agent, attempt, failure, now)
    scheduler.after_attempt(task, now)


class RenewVerdict(Enum):
    """What became of a renewal; the numbers but EXTENDED are those of muster.v1.RenewVerdict."""

    EXTENDED = 0
    LOST = 1
    CANCEL = 2


@dataclass(slots=True)
class SignOfLife:
    """One attempt's renewal."""

    task_id: str
    fence: int
    progress: Progress | None
    usage: Sequence[Usage]
    cancel_delivered: bool


def renew(scheduler: Scheduler, agent: Agent, sign: SignOfLife, now: Now) -> RenewVerdict:
    """An agent still holds an attempt: its lease begins anew; its progress timeout does if something moved."""
    task = judge(scheduler, agent, sign.task_id, sign.fence)
    if isinstance(task, Verdict):
        return RenewVerdict.LOST
    attempt = agent.running[task.number]
    _heard(scheduler, attempt, now)
    attempt.lease_until_s = now.mono_s + scheduler.settings.lease_s
    attempt.cancel_delivered = sign.cancel_delivered
    if (sign.progress is not None and sign.progress != attempt.progress) or list(sign.usage) != list(attempt.usage):
        _moved(attempt, now)
        if sign.progress is not None and scheduler.is_watched(task):
            scheduler.effects.append(ProgressMade(task.spec.task_id, sign.progress, now.date_ms))
    attempt.progress = sign.progress or attempt.progress
    attempt.usage = sign.usage
    return RenewVerdict.EXTENDED if task.cancel_reason is None else RenewVerdict.CANCEL


def _moved(attempt: Attempt, now: Now) -> None:
    if attempt.progress_until_s < INFINITY:
        attempt.progress_until_s = now.mono_s + (attempt.task.spec.progress_timeout_s or INFINITY)


def checkpoint(scheduler: Scheduler, agent: Agent, task_id: str, fence: int, sequence: int, data: bytes, now: Now) -> Verdict:
    """A resume point for the next attempt."""
    task = judge(scheduler, agent, task_id, fence)
    if isinstance(task, Verdict):
        return task
    _heard(scheduler, agent.running[task.number], now)
    _moved(agent.running[task.number], now)
    scheduler.apply_sized(CheckpointStored(task.number, sequence, data), now)
    return Verdict.ACCEPTED


def chunk(scheduler: Scheduler, agent: Agent, task_id: str, fence: int, offset: int, data: bytes, now: Now) -> Verdict:
    """Partial output. What is known already is skipped; beyond the bound only its length counts."""
    task = judge(scheduler, agent, task_id, fence)
    if isinstance(task, Verdict):
        return task
    _heard(scheduler, agent.running[task.number], now)
    _moved(agent.running[task.number], now)
    if offset > MAX_OFFSET:
        return Verdict.INVALID
    fresh = data[max(0, task.chunk_end - offset) :]
    start = max(offset, task.chunk_end)
    room = scheduler.settings.max_chunk_bytes - len(task.chunks or b"")
    fresh = fresh[: max(0, room)]
    if fresh:
        scheduler.apply_sized(ChunkStored(task.number, start, fresh), now)
        if scheduler.is_watched(task):
            scheduler.effects.append(ChunkEmitted(task_id, task.attempt, start, fresh, now.date_ms))
    return Verdict.ACCEPTED
