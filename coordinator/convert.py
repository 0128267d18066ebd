"""The one module that knows both worlds: protos and the core. Checks what comes in, and says field by field what is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from sys import intern
from typing import cast

from google.protobuf.duration_pb2 import Duration
from muster.v1 import common_pb2, event_pb2

from coordinator import convert_webhooks
from coordinator.checks import MAX_ID_CHARS, check_name
from coordinator.convert_scheduling import labels_in, reported_cost, scheduling_in
from coordinator.convert_timing import MAX_DURATION_S, duration, seconds, timestamp, timing_in
from coordinator.core.events import Cost
from coordinator.core.history import HistoryEntry, HistoryKind
from coordinator.core.model import (
    MAX_FAILURE_MESSAGE,
    Failure,
    FailureKind,
    Progress,
    RetryPolicy,
    Spec,
    Task,
    TaskState,
    Usage,
)
from coordinator.core.reports import Failed, GivenBack, Result, Stopped, Success
from coordinator.errors import InvalidRequest
from coordinator.webhook_urls import PUBLIC_ONLY, WebhookRules

__all__ = ["MAX_DURATION_S", "MAX_FAILURE_MESSAGE", "duration", "seconds", "timestamp"]  # what is defined elsewhere

MAX_STACK_TRACE = 16384
MAX_OPTIONS_BYTES = 8 * 1024  # of a task beside its payload: with a checkpoint, too, it must fit into one message to an agent
MAX_OUTCOME_EXTRA_BYTES = 64 * 1024  # of an outcome beside its payload: usage of some hundred models
MAX_USAGE_ENTRIES = 64  # per report; the SDK sends no more
MAX_PROGRESS_MESSAGE = 1024


@dataclass(frozen=True, slots=True)
class Bounds:
    """What requests must keep to; sizes in bytes."""

    max_payload_bytes: int = 1024 * 1024
    max_checkpoint_bytes: int = 256 * 1024
    webhooks: WebhookRules = PUBLIC_ONLY  # where they may go


def spec_in(message: common_pb2.TaskSpec, defaults: RetryPolicy, bounds: Bounds) -> Spec:
    """A submitted task, checked.

    Raises:
        InvalidRequest: names the field at fault.
    """
    payload_bytes = len(message.payload)
    if payload_bytes > bounds.max_payload_bytes:
        raise InvalidRequest(
            f"payload has {payload_bytes} bytes: at most {bounds.max_payload_bytes} are allowed; store it elsewhere and send a reference",
            field="payload",
            reason="PAYLOAD_TOO_LARGE",
            metadata={"limit": str(bounds.max_payload_bytes), "size": str(payload_bytes)},
        )
    check_name(message.task_id, "task_id")
    check_name(message.task_type, "task_type")
    if message.parent_task_id:
        check_name(message.parent_task_id, "parent_task_id")
    request = message.SerializeToString()
    if len(request) - payload_bytes > MAX_OPTIONS_BYTES:
        raise _options_too_large(message, len(request) - payload_bytes)
    spec = spec_stored(message, request, defaults)
    if spec.webhook is not None:
        convert_webhooks.webhook_in(message.webhook, bounds.webhooks)
    return spec


def _options_too_large(message: common_pb2.TaskSpec, size: int) -> InvalidRequest:
    longest = max(("content_type", "traceparent", "tracestate", "labels"), key=lambda field: len(str(getattr(message, field))))
    return InvalidRequest(
        f"the task has {size} bytes beside its payload: at most {MAX_OPTIONS_BYTES} are allowed; shorten {longest}",
        field=longest,
        reason="TASK_TOO_LARGE",
        metadata={"limit": str(MAX_OPTIONS_BYTES), "size": str(size)},
    )


def spec_stored(message: common_pb2.TaskSpec, request: bytes, defaults: RetryPolicy) -> Spec:
    """The spec of a message that was checked before; `defaults` are those in force then."""
    priority = message.priority or common_pb2.PRIORITY_NORMAL
    if priority not in _PRIORITIES:
        raise InvalidRequest(f"priority {priority} is unknown: use 1 (LOW) to 4 (CRITICAL)", field="priority")
    spec = Spec(
        message.task_id,
        intern(message.task_type),  # one string for all tasks of a type: 60 bytes less for each, and 50 ns
        priority,
        request,
        retry_in(message.retry_policy, defaults) if message.HasField("retry_policy") else defaults,
        _timeout_in(message.run_timeout, "run_timeout") if message.HasField("run_timeout") else None,
        _timeout_in(message.progress_timeout, "progress_timeout") if message.HasField("progress_timeout") else None,
        *(scheduling_in(message.scheduling, message.task_type) if message.HasField("scheduling") else ()),
    )
    if message.HasField("deadline") or message.HasField("queue_timeout") or message.WhichOneof("start"):  # 0.2 us
        spec.timing = timing_in(message)
    if message.labels:
        spec.labels = labels_in(message.labels)
    if parent := message.parent_task_id:
        spec.parent = intern(parent)  # one string for all its children
    if message.HasField("webhook"):
        spec.webhook = convert_webhooks.webhook_stored(message.webhook)
    return spec


_PRIORITIES = frozenset((1, 2, 3, 4))


def _timeout_in(message: Duration, field: str) -> float:
    value = seconds(message, field)
    if value == 0:
        raise InvalidRequest(f"{field} is zero: leave it out for no limit", field=field)
    return value


def retry_in(message: common_pb2.RetryPolicy, defaults: RetryPolicy, field: str = "retry_policy") -> RetryPolicy:
    """A retry policy with the defaults where it says nothing."""
    multiplier = message.backoff_multiplier or defaults.multiplier
    if not 1 <= multiplier <= 1000:  # written so that NaN fails too
        raise InvalidRequest(f"backoff_multiplier is {multiplier:g}: use 1 to 1000", field=f"{field}.backoff_multiplier")
    return RetryPolicy(
        max_retries=message.max_retries if message.HasField("max_retries") else defaults.max_retries,
        initial_backoff_s=(
            seconds(message.initial_backoff, f"{field}.initial_backoff")
            if message.HasField("initial_backoff")
            else defaults.initial_backoff_s
        ),
        max_backoff_s=(seconds(message.max_backoff, f"{field}.max_backoff") if message.HasField("max_backoff") else defaults.max_backoff_s),
        multiplier=multiplier,
        max_crashes=message.max_crashes if message.HasField("max_crashes") else defaults.max_crashes,
        is_of_type=defaults.is_of_type,
    )


def defaults_out(defaults: RetryPolicy) -> event_pb2.TaskDefaults:
    """The defaults in force, for the journal."""
    return event_pb2.TaskDefaults(
        max_retries=defaults.max_retries,
        max_crashes=defaults.max_crashes,
        initial_backoff_ms=round(defaults.initial_backoff_s * 1000),
        max_backoff_ms=round(defaults.max_backoff_s * 1000),
        backoff_multiplier=defaults.multiplier,
    )


def defaults_in(message: event_pb2.TaskDefaults) -> RetryPolicy:
    """Journalled defaults."""
    return RetryPolicy(
        max_retries=message.max_retries,
        initial_backoff_s=message.initial_backoff_ms / 1000,
        max_backoff_s=message.max_backoff_ms / 1000,
        multiplier=message.backoff_multiplier,
        max_crashes=message.max_crashes,
    )


def same_as_recorded(record: bytes, request: bytes) -> bool:
    """Whether a serialized TaskSpec describes the task of a record."""
    known = event_pb2.TaskRecord.FromString(record)
    if known.request_digest:
        return known.request_digest == request_digest(request)
    return same_task(known.request, request)


def record_in(record: bytes) -> event_pb2.TaskRecord:
    """A stored record."""
    return event_pb2.TaskRecord.FromString(record)


def same_task(one: bytes, other: bytes) -> bool:
    """Whether two serialized TaskSpecs describe the same task: everything but the trace context (G6)."""
    if one == other:
        return True
    return _identity(one) == _identity(other)


def _identity(request: bytes) -> common_pb2.TaskSpec:
    message = common_pb2.TaskSpec.FromString(request)
    message.ClearField("traceparent")
    message.ClearField("tracestate")
    return message


def request_digest(request: bytes) -> bytes:
    """What a serialized TaskSpec is known by once its payload is gone."""
    return sha256(_identity(request).SerializeToString(deterministic=True)).digest()


def failure_in(message: common_pb2.Failure) -> Failure:
    """An agent's failure, shortened to what is kept."""
    kind = message.kind or common_pb2.FAILURE_KIND_APPLICATION
    return Failure(
        kind=FailureKind(kind) if kind in _FAILURE_KINDS else FailureKind.APPLICATION,
        message=message.message[:MAX_FAILURE_MESSAGE],
        error_type=message.type[:MAX_ID_CHARS],
        stack_trace=message.stack_trace[-MAX_STACK_TRACE:],
        non_retryable=message.non_retryable,
        retry_after_s=(  # divided once, so that replay reads the very number that was decided on
            min(max((message.retry_after.seconds * 10**9 + message.retry_after.nanos) / 1e9, 0.0), MAX_DURATION_S)
            if message.HasField("retry_after")
            else None
        ),
    )


_FAILURE_KINDS = frozenset(kind.value for kind in FailureKind)


def failure_out(failure: Failure) -> common_pb2.Failure:
    """A failure as a message."""
    message = common_pb2.Failure(
        kind=cast("common_pb2.FailureKind.ValueType", failure.kind.value),
        message=failure.message,
        type=failure.error_type,
        stack_trace=failure.stack_trace,
        non_retryable=failure.non_retryable,
    )
    if failure.retry_after_s is not None:
        message.retry_after.CopyFrom(duration(failure.retry_after_s))
    return message


def usage_in(messages: Iterable[common_pb2.Usage]) -> tuple[Usage, ...]:
    """Usage, one entry per model; what is more than anybody can mean is left out."""
    return tuple(
        Usage(one.model[:MAX_ID_CHARS], one.input_tokens, one.output_tokens, one.requests) for one in islice(messages, MAX_USAGE_ENTRIES)
    )


def usage_out(usage: Sequence[Usage]) -> list[common_pb2.Usage]:
    """Usage as messages."""
    return [
        common_pb2.Usage(model=one.model, input_tokens=one.input_tokens, output_tokens=one.output_tokens, requests=one.requests)
        for one in usage
    ]


def progress_in(message: common_pb2.Progress) -> Progress:
    """How far an attempt is; what isn't a number is 0."""
    return Progress(_finite(message.current), _finite(message.total), message.message[:MAX_PROGRESS_MESSAGE])


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def progress_out(progress: Progress) -> common_pb2.Progress:
    """How far an attempt is, as a message."""
    return common_pb2.Progress(current=progress.current, total=progress.total, message=progress.message)


def result_in(outcome: common_pb2.Outcome, bounds: Bounds) -> Result:
    """What an agent says an attempt came to.

    Raises:
        InvalidRequest: no outcome is set, or the payload is over the limit.
    """
    usage = usage_in(outcome.usage) if outcome.usage else ()
    cost = reported_cost(outcome.cost) if outcome.cost else 0.0
    if outcome.HasField("success"):
        size = len(outcome.success.payload)
        if size > bounds.max_payload_bytes:
            raise InvalidRequest(
                f"the result has {size} bytes: at most {bounds.max_payload_bytes} are allowed; store it elsewhere and return a reference",
                field="outcome.success.payload",
                reason="PAYLOAD_TOO_LARGE",
            )
        blob = outcome.SerializeToString()
        if len(blob) - size > MAX_OUTCOME_EXTRA_BYTES:
            raise InvalidRequest(
                f"the outcome has {len(blob) - size} bytes beside its payload: at most {MAX_OUTCOME_EXTRA_BYTES} are allowed",
                field="outcome",
                reason="OUTCOME_TOO_LARGE",
            )
        return Success(blob, usage, cost)
    match outcome.WhichOneof("result"):
        case "failure":
            return Failed(failure_in(outcome.failure), usage, cost)
        case "cancelled":
            return Stopped(outcome.cancelled.reason[:MAX_FAILURE_MESSAGE], usage, cost)
        case "returned":
            return GivenBack(outcome.returned.reason[:MAX_FAILURE_MESSAGE])
        case _:
            raise InvalidRequest("the result has no outcome: set success, failure, cancelled or returned", field="outcome")


def outcome_bytes(task: Task) -> bytes:
    """How an ended task ended, serialized."""
    if task.state is TaskState.COMPLETED:
        return task.outcome
    outcome = common_pb2.Outcome(usage=usage_out(task.usage))
    if task.state is TaskState.CANCELLED:
        outcome.cancelled.reason = task.cancel_reason or ""
        outcome.cancelled.SetInParent()
    elif task.failure is not None:
        outcome.failure.CopyFrom(failure_out(task.failure))
    return outcome.SerializeToString()


def record_out(task: Task) -> bytes:
    """What stays of an ended task, serialized."""
    record = event_pb2.TaskRecord()  # field by field: by keyword it takes a quarter longer
    record.request = task.spec.request
    record.outcome = outcome_bytes(task)
    record.state = STATE_OUT[task.state]
    record.number = task.number
    record.fence = task.fence
    record.run = task.run
    record.attempt = task.attempt
    record.agent_name = task.agent
    record.create_ms = task.created_ms
    record.start_ms = task.started_ms
    record.end_ms = task.ended_ms
    record.max_retries = task.spec.retry.max_retries
    record.result_fence = task.result_fence
    if task.first_ready_ms != task.created_ms:
        record.first_ready_ms = task.first_ready_ms
    if task.run_created_ms != task.created_ms:
        record.run_create_ms = task.run_created_ms
    if task.history or task.usage or task.chunks:
        _seldom_recorded(record, task)
    return record.SerializeToString()


def _seldom_recorded(record: event_pb2.TaskRecord, task: Task) -> None:
    record.retry_count = task.retries
    record.crash_count = task.crashes
    record.undelivered_count = task.undelivered
    record.usage.extend(usage_out(task.usage))
    record.history.extend(map(history_out, task.history))
    record.priority = cast("common_pb2.Priority.ValueType", task.reprioritised)
    if task.failure is not None:
        record.last_failure.CopyFrom(failure_out(task.failure))
    if task.chunks:
        record.chunks = bytes(task.chunks)
        record.chunk_offset = task.chunk_end - len(task.chunks)


def history_out(entry: HistoryEntry) -> event_pb2.HistoryEntry:
    """An entry of a task's history, to be stored."""
    message = event_pb2.HistoryEntry(
        date_ms=entry.date_ms,
        kind=cast("common_pb2.TaskHistoryKind.ValueType", entry.kind.value),
        state=STATE_OUT[entry.state],
        run=entry.run,
        attempt=entry.attempt,
        fence=entry.fence,
        agent_name=entry.agent,
        start_ms=entry.started_ms,
        reason=entry.reason,
        cost=cast("common_pb2.AttemptCost.ValueType", entry.cost.value),
        ready_at_ms=entry.ready_at_ms,
        checkpoints=entry.checkpoints,
        omitted=entry.omitted,
        priority=cast("common_pb2.Priority.ValueType", entry.priority),
        request_id=entry.request_id,
    )
    if entry.failure is not None:
        message.failure.CopyFrom(failure_out(entry.failure))
    return message


def history_in(messages: Iterable[event_pb2.HistoryEntry]) -> tuple[HistoryEntry, ...]:
    """A stored history."""
    return tuple(
        HistoryEntry(
            date_ms=message.date_ms,
            kind=HistoryKind(message.kind),
            state=TaskState(message.state),
            run=message.run,
            attempt=message.attempt,
            fence=message.fence,
            agent=message.agent_name,
            started_ms=message.start_ms,
            failure=failure_in(message.failure) if message.HasField("failure") else None,
            reason=message.reason,
            cost=Cost(message.cost),
            ready_at_ms=message.ready_at_ms,
            checkpoints=message.checkpoints,
            omitted=message.omitted,
            priority=message.priority,
            request_id=message.request_id,
        )
        for message in messages
    )


STATE_OUT = {
    TaskState.PENDING: common_pb2.TASK_STATE_PENDING,
    TaskState.RUNNING: common_pb2.TASK_STATE_RUNNING,
    TaskState.RETRYING: common_pb2.TASK_STATE_RETRYING,
    TaskState.COMPLETED: common_pb2.TASK_STATE_COMPLETED,
    TaskState.FAILED: common_pb2.TASK_STATE_FAILED,
    TaskState.CANCELLED: common_pb2.TASK_STATE_CANCELLED,
}
