"""The one writer of durable state: `evolve(state, event, date_ms)`.

Recovery is this function over the journal, live running is this function after each decision. An event that doesn't fit raises
IllegalEvent and has changed nothing.
"""

from collections.abc import Sequence
from typing import assert_never

from coordinator.core.events import (
    Acknowledged,
    Assigned,
    AttemptFailed,
    BecameReady,
    CancelRecorded,
    CheckpointStored,
    ChunkStored,
    Completed,
    Cost,
    Disposition,
    Event,
    NamespaceCreated,
    NamespaceDeleted,
    NamespaceEvent,
    PolicyDeleted,
    PolicySet,
    Redriven,
    Reprioritised,
    Returned,
    Submitted,
    WebhookDelivered,
    WebhookGivenUp,
    WebhookRetried,
)
from coordinator.core.history import HistoryKind, remember, remember_checkpoint
from coordinator.core.model import WAITING, Task, TaskState, Usage
from coordinator.core.policies import evolve_policies
from coordinator.core.state import State
from coordinator.core.webhooks import begin_deliveries, evolve_webhooks

MOST_TOKENS, MOST_REQUESTS = 2**64 - 1, 2**32 - 1  # uint64 and uint32: a sum beyond them could not be journalled


class IllegalEvent(Exception):
    """An event that the state doesn't allow: a bug, or a journal that isn't ours."""


def evolve(state: State, event: Event, date_ms: int) -> Task:
    """Applies one event that was decided at `date_ms` (the store's time) and answers its task, as it is after it.

    Raises:
        IllegalEvent: the event doesn't fit the state, which is unchanged.
    """
    kind = type(event)
    if kind is Submitted:
        return _submitted(state, event, date_ms)  # type: ignore[arg-type]  # a chain of `is` costs a third of `match` here
    task = state.by_number.get(event.number)
    if task is None:
        if kind is Redriven:
            return _redriven(state, event, date_ms)  # type: ignore[arg-type]
        raise IllegalEvent(f"{event} names a task that is not live")
    if state.walk is not None:  # a snapshot is being taken: 10 ns when none is
        state.walk.before_change(task)
    if kind is Assigned:
        _assigned(state, task, event, date_ms)  # type: ignore[arg-type]
    elif kind is Completed:
        _completed(state, task, event, date_ms)  # type: ignore[arg-type]
    elif kind is Acknowledged:
        _require(task, event, task.state is TaskState.RUNNING)
        task.acknowledged = True
    elif kind is BecameReady:
        _became_ready(state, task, event, date_ms)
    else:
        _seldom(state, task, event, date_ms)
        task.changed_ms = date_ms
    return task


def _seldom(state: State, task: Task, event: Event, date_ms: int) -> None:
    match event:
        case AttemptFailed():
            _attempt_failed(state, task, event, date_ms)
        case Returned():
            _require(task, event, task.state is TaskState.RUNNING)
            remember(task, HistoryKind.ATTEMPT_RETURNED, date_ms, TaskState.PENDING, reason=event.reason, cost=event.cost)
            task.state = TaskState.PENDING
            task.attempt -= 1  # the next assignment makes the same attempt
            task.undelivered += event.cost is Cost.DELIVERY
            if event.cost is Cost.NONE:  # the agent gave it back: that result was taken, and may be sent again
                task.result_fence = task.fence
            task.ready_at_ms = date_ms
            task.acknowledged = False
        case CancelRecorded():
            _require(task, event, task.state in WAITING if event.ended else task.state is TaskState.RUNNING)
            state_after = TaskState.CANCELLED if event.ended else task.state
            remember(task, HistoryKind.CANCEL_REQUESTED, date_ms, state_after, reason=event.reason)
            task.cancel_reason = event.reason
            if event.ended:
                _end(state, task, TaskState.CANCELLED, date_ms)
        case CheckpointStored():
            _require(task, event, task.state is TaskState.RUNNING)
            remember_checkpoint(task, date_ms)
            task.checkpoint = event.data
        case ChunkStored():
            _require(task, event, task.state is TaskState.RUNNING and event.offset >= task.chunk_end)
            task.chunks = task.chunks or bytearray()
            if event.offset > task.chunk_end:  # a piece is missing: what is held must be one piece, for its offset to be known
                task.chunks.clear()
            task.chunks += event.data
            task.chunk_end = event.offset + len(event.data)
        case Reprioritised():
            remember(task, HistoryKind.REPRIORITISED, date_ms, task.state, reason=event.reason, priority=event.priority)
            task.spec = task.spec.at(event.priority)
            task.reprioritised = event.priority
        case _:
            raise IllegalEvent(f"{event} doesn't fit {task}")


def evolve_beside_tasks(state: State, event: NamespaceEvent, date_ms: int) -> None:
    """Applies an event that is no task's: `evolve` for those."""
    match event:
        case PolicySet() | PolicyDeleted():
            evolve_policies(state, event, date_ms)
        case WebhookDelivered() | WebhookGivenUp() | WebhookRetried():
            evolve_webhooks(state, event, date_ms)
        case NamespaceCreated() | NamespaceDeleted():
            pass  # of the namespaces that there are, not of one's state
        case unreachable:
            assert_never(unreachable)


def _submitted(state: State, event: Submitted, date_ms: int) -> Task:
    spec = event.spec
    if event.number < state.next_number or spec.task_id in state.tasks:
        raise IllegalEvent(f"task {spec.task_id} submitted twice, or out of order")
    task = Task(event.number, spec, date_ms)
    state.tasks[spec.task_id] = task
    state.by_number[event.number] = task
    state.next_number = event.number + 1
    state.bytes += len(spec.request)
    return task


def _redriven(state: State, event: Redriven, date_ms: int) -> Task:
    ended = event.ended
    spec = ended.spec
    if spec.task_id in state.tasks or event.number < state.next_number:
        raise IllegalEvent(f"task {spec.task_id} redriven while it is live, or out of order")
    task = Task(event.number, spec, ended.created_ms)
    task.run_created_ms = task.changed_ms = date_ms
    if task.ready_at_ms <= date_ms:  # a delay isn't waited for again
        task.place = event.number
        task.first_ready_ms = task.ready_at_ms = date_ms
    task.reprioritised = ended.reprioritised
    task.run = ended.run + 1
    task.fence = ended.fence
    task.result_fence = ended.result_fence  # that result was taken, and may be sent again
    task.agent = ended.agent
    task.usage = ended.usage
    task.failure = ended.failure
    task.history = ended.history
    remember(
        task,
        HistoryKind.REDRIVEN,
        date_ms,
        TaskState.PENDING,
        reason=event.reason,
        priority=ended.reprioritised,
        request_id=event.request_id,
    )
    state.tasks[spec.task_id] = task
    state.by_number[event.number] = task
    state.next_number = event.number + 1
    state.bytes += len(spec.request)
    state.ended.pop(spec.task_id, None)
    return task


def _became_ready(state: State, task: Task, event: Event, date_ms: int) -> None:
    """Its place is a number that no task gets, and greater than those of all that have been submitted so far."""
    _require(task, event, task.state is TaskState.PENDING and not task.place)
    task.place = state.next_number
    state.next_number += 1
    task.first_ready_ms = date_ms


def _assigned(state: State, task: Task, event: Assigned, date_ms: int) -> None:
    if task.state not in WAITING or event.fence <= task.fence or not task.place:
        raise IllegalEvent(f"{event} doesn't fit {task}")
    state.retrying -= task.state is TaskState.RETRYING
    task.state = TaskState.RUNNING
    task.agent = event.agent
    task.attempt = event.attempt
    task.fence = event.fence
    task.started_ms = task.changed_ms = date_ms
    task.acknowledged = False
    task.chunks = None
    task.chunk_end = 0
    if state.rates.in_use:
        state.rates.note(task.spec, date_ms)


def _completed(state: State, task: Task, event: Completed, date_ms: int) -> None:
    _require(task, event, task.state is TaskState.RUNNING)
    task.outcome = event.outcome
    task.result_fence = task.fence
    if event.usage:
        task.usage = merge_usage(task.usage, event.usage)
    _end(state, task, TaskState.COMPLETED, date_ms)


_STATE_AFTER = {
    Disposition.RETRY: TaskState.RETRYING,
    Disposition.FAIL: TaskState.FAILED,
    Disposition.CANCEL: TaskState.CANCELLED,
}


def _attempt_failed(state: State, task: Task, event: AttemptFailed, date_ms: int) -> None:
    given_up_waiting = event.disposition is Disposition.FAIL and event.cost is Cost.NONE
    _require(task, event, task.state is TaskState.RUNNING or (given_up_waiting and task.state in WAITING))
    retried = event.disposition is Disposition.RETRY
    remember(
        task,
        HistoryKind.ATTEMPT_FAILED if task.state is TaskState.RUNNING else HistoryKind.GIVEN_UP,
        date_ms,
        _STATE_AFTER[event.disposition],
        failure=event.failure,
        cost=Cost.NONE if event.cost is Cost.RETRY and not retried else event.cost,  # as it is counted
        ready_at_ms=event.ready_at_ms if retried else 0,
    )
    task.failure = event.failure
    task.retries += retried and event.cost is Cost.RETRY
    task.crashes += event.cost is Cost.CRASH
    task.undelivered += event.cost is Cost.DELIVERY
    task.acknowledged = False
    if event.reported:
        task.result_fence = task.fence
    if event.usage:
        task.usage = merge_usage(task.usage, event.usage)
    match event.disposition:
        case Disposition.RETRY:
            task.state = TaskState.RETRYING
            state.retrying += 1
            task.ready_at_ms = event.ready_at_ms
        case Disposition.FAIL:
            _end(state, task, TaskState.FAILED, date_ms)
        case Disposition.CANCEL:
            _end(state, task, TaskState.CANCELLED, date_ms)


def _end(state: State, task: Task, end: TaskState, date_ms: int) -> None:
    state.retrying -= task.state is TaskState.RETRYING
    state.bytes -= len(task.spec.request)
    task.state = end
    task.ended_ms = task.changed_ms = date_ms
    del state.tasks[task.spec.task_id]
    del state.by_number[task.number]
    state.ended[task.spec.task_id] = task
    if state.hooks or task.spec.webhook is not None:
        begin_deliveries(state, task)


def _require(task: Task, event: Event, holds: bool) -> None:  # noqa: FBT001
    if not holds:
        raise IllegalEvent(f"{event} doesn't fit {task}")


def merge_usage(known: Sequence[Usage], more: Sequence[Usage]) -> tuple[Usage, ...]:
    """Adds up two lists of usage, one entry per model, in order of first appearance; up to what a record can hold."""
    by_model = {usage.model: usage for usage in known}
    for usage in more:
        old = by_model.get(usage.model)
        by_model[usage.model] = (
            usage
            if old is None
            else Usage(
                usage.model,
                min(old.input_tokens + usage.input_tokens, MOST_TOKENS),
                min(old.output_tokens + usage.output_tokens, MOST_TOKENS),
                min(old.requests + usage.requests, MOST_REQUESTS),
            )
        )
    return tuple(by_model.values())
