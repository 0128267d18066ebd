"""TaskService: for the programs that have work done."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from muster.v1 import task_pb2, task_pb2_grpc

from coordinator import convert
from coordinator.checks import check_name
from coordinator.core import submits
from coordinator.core.model import Task, TaskState
from coordinator.core.submits import CancelVerdict
from coordinator.engine.intake import Duplicate, take_in
from coordinator.errors import InvalidRequest, NotFound
from coordinator.rpc.client_session import MAX_BATCH_TASKS, ClientSession, checked
from coordinator.rpc.outgoing import serve_stream
from coordinator.rpc.status import refusal_of
from coordinator.rpc.task_list import list_page
from coordinator.rpc.task_views import explained, live_view, record_view
from coordinator.rpc.watching import serve_watch

if TYPE_CHECKING:
    from coordinator.convert import Bounds
    from coordinator.engine.namespace import Namespace
    from coordinator.engine.shard import Shard
    from coordinator.ids import Entropy
    from coordinator.rpc.shards import Shards

Context = Any  # grpc.aio.ServicerContext[Any, Any]


class TaskService(task_pb2_grpc.TaskServiceServicer):
    """See muster/v1/task.proto.

    Args:
        shards: where namespaces live.
        bounds: sizes that tasks must keep to.
        entropy: makes session ids.
    """

    def __init__(self, *, shards: Shards, bounds: Bounds, entropy: Entropy) -> None:
        self._shards = shards
        self._bounds = bounds
        self._entropy = entropy

    async def Session(self, request_iterator: AsyncIterator[task_pb2.SessionRequest], context: Context) -> None:  # type: ignore[override]  # it writes to the context, so that one wrapper serves all
        shard, namespace = self._shards.called(context)
        session = ClientSession(
            shard=shard,
            namespace=namespace,
            session=self._entropy.nonce(),
            bounds=self._bounds,
            owner_address=self._shards.owner_address(shard),
        )
        await serve_stream(context, session.sender, session.read(request_iterator))

    async def SubmitTasks(self, request: task_pb2.SubmitTasksRequest, context: Context) -> task_pb2.SubmitTasksResponse:
        shard, namespace = self._shards.called(context)
        shard.require_store()
        if not 0 < len(request.tasks) <= MAX_BATCH_TASKS:
            raise InvalidRequest(f"tasks has {len(request.tasks)} entries: give 1 to {MAX_BATCH_TASKS}", field="tasks")
        exceptions = dict(await take_in(shard, namespace, checked(request.tasks, namespace, self._bounds), None))
        await shard.durable_write()
        response = task_pb2.SubmitTasksResponse()
        for index, message in enumerate(request.tasks):
            verdict = exceptions.get(index)
            if verdict is None:
                response.tasks.add(task_id=message.task_id, verdict=task_pb2.SUBMIT_VERDICT_ACCEPTED)
            elif isinstance(verdict, Duplicate):
                response.tasks.add(task_id=message.task_id, verdict=task_pb2.SUBMIT_VERDICT_DUPLICATE)
            else:
                response.tasks.add(task_id=message.task_id, verdict=task_pb2.SUBMIT_VERDICT_REFUSED, refusal=refusal_of(verdict))
        return response

    async def GetTask(self, request: task_pb2.GetTaskRequest, context: Context) -> task_pb2.GetTaskResponse:
        shard, namespace = self._shards.called(context)
        task_id = check_name(request.task_id, "task_id")
        task = namespace.scheduler.state.find(task_id)
        view = (
            live_view(namespace.scheduler, task, request.view)
            if task is not None
            else await _recorded(shard, namespace, task_id, request.view)
        )
        view.read_time.CopyFrom(convert.timestamp(shard.now().date_ms))
        await shard.durable()
        return task_pb2.GetTaskResponse(task=view)

    async def ListTasks(self, request: task_pb2.ListTasksRequest, context: Context) -> task_pb2.ListTasksResponse:
        shard, namespace = self._shards.called(context)
        return await list_page(shard, namespace, request)

    async def WatchTasks(self, request: task_pb2.WatchTasksRequest, context: Context) -> None:  # type: ignore[override]  # it writes to the context, so that one wrapper serves all
        shard, namespace = self._shards.called(context)
        await serve_watch(shard, namespace, request, context)

    async def CancelTasks(self, request: task_pb2.CancelTasksRequest, context: Context) -> task_pb2.CancelTasksResponse:
        shard, namespace = self._shards.called(context)
        shard.require_store()
        if not 0 < len(request.task_ids) <= MAX_BATCH_TASKS:
            raise InvalidRequest(f"task_ids has {len(request.task_ids)} entries: give 1 to {MAX_BATCH_TASKS}", field="task_ids")
        reason = request.reason[: convert.MAX_FAILURE_MESSAGE]
        now = shard.now()
        verdicts = [submits.cancel(namespace.scheduler, task_id, reason, now) for task_id in request.task_ids]
        shard.decided(namespace, now)
        await shard.durable_write()  # before the look-up: the shard may be rebuilt meanwhile, and then this wouldn't be of its journal
        unknown = [task_id for task_id, verdict in zip(request.task_ids, verdicts, strict=True) if verdict is CancelVerdict.NOT_FOUND]
        if unknown:
            records = dict(zip(unknown, await shard.records.get(namespace.name, unknown), strict=True))
            verdicts = [
                CancelVerdict.ALREADY_ENDED if verdict is CancelVerdict.NOT_FOUND and records[task_id] is not None else verdict
                for task_id, verdict in zip(request.task_ids, verdicts, strict=True)
            ]
        response = task_pb2.CancelTasksResponse()
        for task_id, verdict in zip(request.task_ids, verdicts, strict=True):
            response.tasks.add(task_id=task_id, verdict=verdict.value)
        return response

    async def ExplainTask(self, request: task_pb2.ExplainTaskRequest, context: Context) -> task_pb2.ExplainTaskResponse:
        shard, namespace = self._shards.called(context)
        task_id = check_name(request.task_id, "task_id")
        task = namespace.scheduler.state.tasks.get(task_id)
        if task is not None:
            response = explained(namespace.scheduler, task, shard.outage_since_s is not None)
            if shard.outage_since_s is None:  # "why does it wait?" has an answer during an outage, too, and shows nothing else
                await shard.durable()
            return response
        ended = namespace.scheduler.state.ended.get(task_id)
        view = (
            live_view(namespace.scheduler, ended, task_pb2.TASK_VIEW_BASIC)
            if ended is not None
            else await _recorded(shard, namespace, task_id, task_pb2.TASK_VIEW_BASIC)
        )
        await shard.durable()
        state = TaskState(view.state).name
        return task_pb2.ExplainTaskResponse(task=view, summary=f"It has ended: {state}.")


async def _recorded(shard: Shard, namespace: Namespace, task_id: str, view: task_pb2.TaskView.ValueType) -> task_pb2.Task:
    """A task that isn't in memory, from its record. Raises NotFound."""
    with shard.records.open():
        (blob,) = await shard.records.get(namespace.name, [task_id])
        late: Task | None = namespace.scheduler.state.find(task_id)
        if late is not None:
            return live_view(namespace.scheduler, late, view)
    if blob is None:
        raise NotFound(f"task {task_id!r} is not known, or its record has expired", reason="TASK_NOT_FOUND")
    return record_view(convert.record_in(blob), view)
