"""Tasks as callers see them, with what only the scheduler knows: why they wait, and how far they are."""

from __future__ import annotations

from typing import cast

from muster.v1 import task_pb2

from coordinator import convert
from coordinator.core.explain import WaitKind, WaitReason, explain, waits_for
from coordinator.core.model import Task
from coordinator.core.scheduler import Scheduler


def live_view(scheduler: Scheduler, task: Task, view: task_pb2.TaskView.ValueType) -> task_pb2.Task:
    """A task in memory."""
    agent = scheduler.load.agents.get(task.agent)
    attempt = agent.running.get(task.number) if agent is not None else None
    message = convert.task_view(task, view, attempt if attempt is not None and attempt.task is task else None)
    reason = None if task.ended_ms else waits_for(scheduler, task)
    if reason is not None:
        message.waits_for.CopyFrom(reason_view(reason))
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
