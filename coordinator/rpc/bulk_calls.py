"""What operators do to many tasks at once, as AdminService has it: cancel, reprioritise, redrive, purge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.v1 import bulk_pb2

from coordinator import convert, convert_operations
from coordinator.checks import check_name
from coordinator.core import submits
from coordinator.core.model import Now, Task
from coordinator.core.operations import reprioritise
from coordinator.rpc.bulk_ended import Purge, Redrive, on_ended
from coordinator.rpc.bulk_live import on_live
from coordinator.rpc.bulk_tally import Skip

if TYPE_CHECKING:
    from coordinator.engine.namespace import Namespace
    from coordinator.engine.shard import Shard


def _query(what: str, selection: bulk_pb2.TaskSelection) -> str:
    """What a page token is of."""
    return f"{what} {'dry' if selection.dry_run else ''} {selection.filter}"


async def cancel_matching(shard: Shard, namespace: Namespace, request: bulk_pb2.CancelMatchingTasksRequest) -> bulk_pb2.OperationProgress:
    """Cancels live tasks. Raises as `on_live` does."""
    shard.require_store()
    convert_operations.check_selection(request.selection)
    reason = request.reason[: convert.MAX_FAILURE_MESSAGE]

    def judge(task: Task) -> Skip | None:
        return None if task.cancel_reason is None else Skip.CANCEL_REQUESTED

    def act(task: Task, now: Now) -> None:
        submits.cancel(namespace.scheduler, task.spec.task_id, reason, now)

    return await on_live(shard, namespace, request.selection, _query("cancel", request.selection), judge, act)


async def reprioritise_tasks(shard: Shard, namespace: Namespace, request: bulk_pb2.ReprioritiseTasksRequest) -> bulk_pb2.OperationProgress:
    """Gives live tasks another priority. Raises as `on_live` does."""
    shard.require_store()
    convert_operations.check_selection(request.selection)
    priority = convert_operations.priority_in(request.priority, required=True)
    reason = request.reason[: convert.MAX_FAILURE_MESSAGE]

    def judge(task: Task) -> Skip | None:
        return Skip.SAME_PRIORITY if task.spec.priority == priority else None

    def act(task: Task, now: Now) -> None:
        reprioritise(namespace.scheduler, task, priority, reason, now)

    return await on_live(shard, namespace, request.selection, _query(f"priority {priority}", request.selection), judge, act)


async def redrive_tasks(shard: Shard, namespace: Namespace, request: bulk_pb2.RedriveTasksRequest) -> bulk_pb2.OperationProgress:
    """Begins the next run of ended tasks. Raises as `on_ended` does."""
    shard.require_store()
    convert_operations.check_selection(request.selection)
    priority = convert_operations.priority_in(request.priority, required=False)
    if request.request_id:
        check_name(request.request_id, "request_id")
    operation = Redrive(
        shard=shard,
        namespace=namespace,
        reason=request.reason[: convert.MAX_FAILURE_MESSAGE],
        priority=priority,
        request_id=request.request_id,
    )
    return await on_ended(shard, namespace, request.selection, _query(f"redrive {priority}", request.selection), operation)


async def purge_tasks(shard: Shard, namespace: Namespace, request: bulk_pb2.PurgeTasksRequest) -> bulk_pb2.OperationProgress:
    """Forgets ended tasks. Raises as `on_ended` does."""
    shard.require_store()
    convert_operations.check_selection(request.selection)
    operation = Purge(shard=shard, namespace=namespace)
    return await on_ended(shard, namespace, request.selection, _query("purge", request.selection), operation)
