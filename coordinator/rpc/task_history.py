"""A task's history as callers see it: what it remembers, put together with what its fields say. Made when it is read, and never before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from muster.v1 import common_pb2, event_pb2, task_pb2

from coordinator import convert
from coordinator.convert_timing import timing_in
from coordinator.core.history import HistoryEntry
from coordinator.core.model import Task, TaskState


def history_of(task: Task) -> Iterator[task_pb2.TaskHistoryEntry]:
    """The history of a task in memory, in order."""
    yield from _begun(task.created_ms, task.spec.timing.ready_ms(task.created_ms), task.history)
    if task.fence > _last_fence(task.history):
        yield _started(task.started_ms, task.run, task.attempt, task.fence, task.agent)
    if task.state is TaskState.COMPLETED:
        yield _succeeded(task.ended_ms, task.run, task.attempt, task.fence, task.agent)


def history_of_record(record: event_pb2.TaskRecord) -> Iterator[task_pb2.TaskHistoryEntry]:
    """The history of a task that has ended, in order."""
    history = convert.history_in(record.history)
    timing = timing_in(common_pb2.TaskSpec.FromString(record.request))
    yield from _begun(record.create_ms, timing.ready_ms(record.create_ms), history)
    if record.fence > _last_fence(history):
        yield _started(record.start_ms, record.run, record.attempt, record.fence, record.agent_name)
    if record.state == common_pb2.TASK_STATE_COMPLETED:
        yield _succeeded(record.end_ms, record.run, record.attempt, record.fence, record.agent_name)


def _last_fence(history: Sequence[HistoryEntry]) -> int:
    """Of the last attempt that the entries tell of: fences grow."""
    return max((entry.fence for entry in history), default=0)


def _begun(created_ms: int, ready_ms: int, history: Sequence[HistoryEntry]) -> Iterator[task_pb2.TaskHistoryEntry]:
    """Everything up to the last entry, each attempt's start before the first that is known of it."""
    submitted = task_pb2.TaskHistoryEntry(
        event_time=convert.timestamp(created_ms),
        kind=common_pb2.TASK_HISTORY_KIND_SUBMITTED,
        state=common_pb2.TASK_STATE_PENDING,
        run=1,
    )
    if ready_ms > created_ms:
        submitted.ready_time.CopyFrom(convert.timestamp(ready_ms))
    yield submitted
    known_fence = 0
    for entry in history:
        view = _view(entry)
        if entry.fence > known_fence:
            known_fence = entry.fence
            start = _started(entry.started_ms, entry.run, entry.attempt, entry.fence, entry.agent)
            start.omitted, view.omitted = view.omitted, 0
            yield start
        yield view


def _started(date_ms: int, run: int, attempt: int, fence: int, agent: str) -> task_pb2.TaskHistoryEntry:
    return task_pb2.TaskHistoryEntry(
        event_time=convert.timestamp(date_ms),
        kind=common_pb2.TASK_HISTORY_KIND_ATTEMPT_STARTED,
        state=common_pb2.TASK_STATE_RUNNING,
        run=run,
        attempt=attempt,
        fence=fence,
        agent_name=agent,
    )


def _succeeded(date_ms: int, run: int, attempt: int, fence: int, agent: str) -> task_pb2.TaskHistoryEntry:
    return task_pb2.TaskHistoryEntry(
        event_time=convert.timestamp(date_ms),
        kind=common_pb2.TASK_HISTORY_KIND_ATTEMPT_SUCCEEDED,
        state=common_pb2.TASK_STATE_COMPLETED,
        run=run,
        attempt=attempt,
        fence=fence,
        agent_name=agent,
        cost=common_pb2.ATTEMPT_COST_NONE,
    )


def _view(entry: HistoryEntry) -> task_pb2.TaskHistoryEntry:
    view = task_pb2.TaskHistoryEntry(
        event_time=convert.timestamp(entry.date_ms),
        kind=cast("common_pb2.TaskHistoryKind.ValueType", entry.kind.value),
        state=convert.STATE_OUT[entry.state],
        run=entry.run,
        attempt=entry.attempt,
        fence=entry.fence,
        agent_name=entry.agent,
        reason=entry.reason,
        cost=cast("common_pb2.AttemptCost.ValueType", entry.cost.value),
        checkpoints=entry.checkpoints,
        omitted=entry.omitted,
        priority=cast("common_pb2.Priority.ValueType", entry.priority),
    )
    if entry.failure is not None:
        view.failure.CopyFrom(convert.failure_out(entry.failure))
    if entry.ready_at_ms:
        view.ready_time.CopyFrom(convert.timestamp(entry.ready_at_ms))
    return view
