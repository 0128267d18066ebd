"""Tasks as callers see them, with what only the scheduler knows: why they wait, and how far they are."""

from __future__ import annotations

from typing import cast

from muster.v1 import common_pb2, event_pb2, task_pb2

from coordinator import convert
from coordinator.convert_timing import show_dates, timing_in
from coordinator.core.explain import WaitKind, WaitReason, explain, waits_for
from coordinator.core.model import UNTIMED, Attempt, Task
from coordinator.core.scheduler import Scheduler
from coordinator.rpc.task_history import history_of, history_of_record


def live_view(scheduler: Scheduler, task: Task, view: task_pb2.TaskView.ValueType) -> task_pb2.Task:
    """A task in memory."""
    agent = scheduler.load.agents.get(task.agent)
    attempt = agent.running.get(task.number) if agent is not None else None
    message = task_view(task, view, attempt if attempt is not None and attempt.task is task else None)
    reason = None if task.ended_ms else waits_for(scheduler, task)
    if reason is not None:
        message.waits_for.CopyFrom(reason_view(reason))
    return message


def task_view(task: Task, view: task_pb2.TaskView.ValueType, attempt: Attempt | None = None) -> task_pb2.Task:
    """What the durable state says of a task; `attempt` is its running attempt, if the load map has one."""
    message = task_pb2.Task(
        task_id=task.spec.task_id,
        task_type=task.spec.task_type,
        state=convert.STATE_OUT[task.state],
        priority=cast("common_pb2.Priority.ValueType", task.spec.priority),
        run=task.run,
        attempt=task.attempt,
        fence=task.fence,
        agent_name=task.agent,
        retry_count=task.retries,
        max_retries=task.spec.retry.max_retries,
        crash_count=task.crashes,
        undelivered_count=task.undelivered,
        create_time=convert.timestamp(task.created_ms),
        cancel_requested=task.cancel_reason is not None,
        usage=convert.usage_out(task.usage),
    )
    if task.started_ms:
        message.start_time.CopyFrom(convert.timestamp(task.started_ms))
    if task.ended_ms:
        message.end_time.CopyFrom(convert.timestamp(task.ended_ms))
    if task.failure is not None:
        message.last_failure.CopyFrom(convert.failure_out(task.failure))
    if attempt is not None:
        message.cancel_delivered = attempt.cancel_delivered
        if attempt.progress is not None:
            message.progress.CopyFrom(convert.progress_out(attempt.progress))
    if task.spec.timing is not UNTIMED:
        show_dates(
            message, task.spec.timing, created_ms=task.created_ms, run_created_ms=task.run_created_ms, first_ready_ms=task.first_ready_ms
        )
    spec = common_pb2.TaskSpec.FromString(task.spec.request)
    message.parent_task_id = spec.parent_task_id
    if task.spec.labels:
        message.labels.update(task.spec.labels)
    if view == task_pb2.TASK_VIEW_FULL:
        message.spec.CopyFrom(spec)
        message.checkpoint = task.checkpoint
        message.history.extend(history_of(task))
        if task.ended_ms:
            message.outcome.MergeFromString(convert.outcome_bytes(task))
    return message


def record_view(record: event_pb2.TaskRecord, view: task_pb2.TaskView.ValueType) -> task_pb2.Task:
    """A retained task as a client sees it."""
    spec = common_pb2.TaskSpec.FromString(record.request)
    message = task_pb2.Task(
        task_id=spec.task_id,
        task_type=spec.task_type,
        state=record.state,
        priority=record.priority or spec.priority or common_pb2.PRIORITY_NORMAL,
        run=record.run,
        attempt=record.attempt,
        fence=record.fence,
        agent_name=record.agent_name,
        retry_count=record.retry_count,
        max_retries=record.max_retries,
        crash_count=record.crash_count,
        undelivered_count=record.undelivered_count,
        create_time=convert.timestamp(record.create_ms),
        end_time=convert.timestamp(record.end_ms),
        cancel_requested=record.state == common_pb2.TASK_STATE_CANCELLED,
        parent_task_id=spec.parent_task_id,
        usage=record.usage,
        labels=spec.labels,
    )
    if record.start_ms:
        message.start_time.CopyFrom(convert.timestamp(record.start_ms))
    timing = timing_in(spec)
    if timing != UNTIMED:
        never_ready = timing.ready_ms(record.create_ms) > record.create_ms and not record.first_ready_ms
        first_ready_ms = 0 if never_ready else record.first_ready_ms or record.create_ms
        run_created_ms = record.run_create_ms or record.create_ms
        show_dates(message, timing, created_ms=record.create_ms, run_created_ms=run_created_ms, first_ready_ms=first_ready_ms)
    if record.HasField("last_failure"):
        message.last_failure.CopyFrom(record.last_failure)
    if view == task_pb2.TASK_VIEW_FULL:
        message.spec.CopyFrom(spec)
        message.outcome.MergeFromString(record.outcome)
        message.history.extend(history_of_record(record))
    return message


def reason_view(reason: WaitReason) -> task_pb2.WaitReason:
    """Why a task waits."""
    message = task_pb2.WaitReason(kind=cast("task_pb2.WaitKind.ValueType", reason.kind.value), message=reason.message)
    if reason.until_ms:
        message.until_time.CopyFrom(convert.timestamp(reason.until_ms))
    return message


def explained(scheduler: Scheduler, task: Task, store_is_out: bool) -> task_pb2.ExplainTaskResponse:  # noqa: FBT001
    """Why a live task waits, or where it runs."""
    why = explain(scheduler, task)
    response = task_pb2.ExplainTaskResponse(task=live_view(scheduler, task, task_pb2.TASK_VIEW_BASIC), ahead=why.ahead, summary=why.summary)
    for agent, reasons in why.agents:
        verdict = response.agents.add(agent_name=agent.name, running=len(agent.running), max_concurrent_tasks=agent.capacity)
        for kind, message in reasons:
            verdict.ruled_out.add(kind=cast("task_pb2.RuledOutKind.ValueType", kind.value), message=message)
    if store_is_out and why.waits_for is not None:
        out = WaitReason(WaitKind.STORE_UNAVAILABLE, "the coordinator can't reach its store, and assigns nothing until it is back")
        response.task.waits_for.CopyFrom(reason_view(out))
        response.summary = f"It waits because {out.message}. Besides: {why.summary}"
    return response
