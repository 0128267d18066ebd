"""What a task remembers of its life beyond its fields: attempts that didn't succeed, cancels, checkpoints. `evolve` alone adds to it.

A task that runs once and succeeds remembers nothing: when it was submitted, given to its agent and ended is in its fields, and whoever
reads a history puts both together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from coordinator.core.events import Cost
from coordinator.core.model import Failure, Task, TaskState

FIRST_ENTRIES = 8  # how it began is kept,
LAST_ENTRIES = 24  # and how it went of late; what is between goes. With the default retry policy a task fails after at most twelve attempts
MAX_MESSAGE_CHARS = 256  # of an entry: the last failure and the reason of a cancel are on the task in full


class HistoryKind(Enum):
    """What happened; the numbers are those of muster.v1.TaskHistoryKind, which has more: those follow from a task's fields."""

    ATTEMPT_FAILED = 4
    ATTEMPT_RETURNED = 5
    CHECKPOINTS_STORED = 6
    CANCEL_REQUESTED = 7
    GIVEN_UP = 8
    REPRIORITISED = 9
    REDRIVEN = 10


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One thing that happened to a task. The attempt's fields are 0 and empty where none was under way."""

    date_ms: int
    kind: HistoryKind
    state: TaskState  # the task's, from then on
    run: int
    attempt: int
    fence: int
    agent: str
    started_ms: int  # when the attempt was assigned
    failure: Failure | None = None  # shortened, and without its stack trace
    reason: str = ""  # of a return, a cancel, or what an operator did, shortened
    cost: Cost = Cost.NONE
    ready_at_ms: int = 0  # the next attempt's, where a backoff follows
    checkpoints: int = 0
    priority: int = 0  # that an operator gave it
    request_id: str = ""  # of the call that redrove it
    omitted: int = 0  # entries that stood between the one before and this one


def remember(
    task: Task,
    kind: HistoryKind,
    date_ms: int,
    state: TaskState,
    *,
    failure: Failure | None = None,
    reason: str = "",
    cost: Cost = Cost.NONE,
    ready_at_ms: int = 0,
    priority: int = 0,
    request_id: str = "",
) -> None:
    """Adds an entry to a task that is about to change: whatever attempt is under way before the change is the entry's.

    Args:
        task: the task, as it was until now.
        kind: what happens to it.
        date_ms: when.
        state: the task's from then on.
        failure: why an attempt failed, or why the task did.
        reason: why it was returned or cancelled.
        cost: what that costs it.
        ready_at_ms: when a backoff that follows will have ended; 0 for none.
        priority: that an operator gave it; 0 for none.
        request_id: of the operator's call.
    """
    entry = _entry(task, kind, date_ms, state, shortened(failure), short(reason), cost, ready_at_ms if ready_at_ms > date_ms else 0)
    _add(task, replace(entry, priority=priority, request_id=request_id) if priority or request_id else entry)


def remember_checkpoint(task: Task, date_ms: int) -> None:
    """Checkpoints that follow each other are one entry: how many, and when the last one was stored. An attempt's end comes between."""
    last = task.history[-1] if task.history else None
    if last is not None and last.kind is HistoryKind.CHECKPOINTS_STORED:
        task.history = (*task.history[:-1], replace(last, date_ms=date_ms, checkpoints=last.checkpoints + 1))
    else:
        _add(task, replace(_entry(task, HistoryKind.CHECKPOINTS_STORED, date_ms, TaskState.RUNNING), checkpoints=1))


def _entry(
    task: Task,
    kind: HistoryKind,
    date_ms: int,
    state: TaskState,
    failure: Failure | None = None,
    reason: str = "",
    cost: Cost = Cost.NONE,
    ready_at_ms: int = 0,
) -> HistoryEntry:
    if task.state is not TaskState.RUNNING:
        return HistoryEntry(date_ms, kind, state, task.run, 0, 0, "", 0, failure, reason, cost, ready_at_ms)
    return HistoryEntry(
        date_ms, kind, state, task.run, task.attempt, task.fence, task.agent, task.started_ms, failure, reason, cost, ready_at_ms
    )


def _add(task: Task, entry: HistoryEntry) -> None:
    """Tuples, never changed: a snapshot of a task shares its entries."""
    history = (*task.history, entry)
    if len(history) > FIRST_ENTRIES + LAST_ENTRIES:
        gone, after = history[FIRST_ENTRIES : FIRST_ENTRIES + 2]
        history = (*history[:FIRST_ENTRIES], replace(after, omitted=gone.omitted + 1), *history[FIRST_ENTRIES + 2 :])
    task.history = history


def shortened(failure: Failure | None) -> Failure | None:
    """A failure as an entry has it."""
    if failure is None or (not failure.stack_trace and len(failure.message) <= MAX_MESSAGE_CHARS):
        return failure
    return replace(failure, message=short(failure.message), stack_trace="")


def short(text: str) -> str:
    """A text as an entry has it."""
    return text if len(text) <= MAX_MESSAGE_CHARS else text[: MAX_MESSAGE_CHARS - 1] + "…"
