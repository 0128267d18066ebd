"""AdminService: for operators."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from muster.v1 import admin_pb2, admin_pb2_grpc, bulk_pb2, common_pb2

from coordinator import convert
from coordinator.core.explain import WaitKind, waits_for
from coordinator.core.load_map import AgentStatus
from coordinator.core.model import Task
from coordinator.errors import InvalidRequest, Unavailable
from coordinator.ports import StoreCorrupt, StoreOutage
from coordinator.rpc import bulk_calls
from coordinator.rpc.agent_service import load_map_rows
from coordinator.rpc.pages import PageToken, page_size
from coordinator.rpc.policy_calls import delete_policies, list_policies, set_policies
from coordinator.rpc.shards import MAX_SHOWN_CHARS

if TYPE_CHECKING:
    from coordinator.engine.namespace import Namespace
    from coordinator.engine.shard import Shard
    from coordinator.loop_stalls import LoopStalls
    from coordinator.rpc.shards import Shards

Context = Any  # grpc.aio.ServicerContext[Any, Any]
NAMESPACE_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a coordinator can say of itself."""

    version: str
    instance_id: str
    store: str
    durability: str
    start_ms: int


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """See muster/v1/admin.proto.

    Args:
        shards: where namespaces live.
        facts: what this coordinator is.
        stalls: how its event loop does.
    """

    def __init__(self, *, shards: Shards, facts: Facts, stalls: LoopStalls) -> None:
        self._shards = shards
        self._facts = facts
        self._stalls = stalls

    async def CreateNamespace(self, request: admin_pb2.CreateNamespaceRequest, context: Context) -> admin_pb2.CreateNamespaceResponse:
        if not NAMESPACE_NAME.fullmatch(request.name):
            raise InvalidRequest(
                f"name {request.name[:MAX_SHOWN_CHARS]!r} is not a namespace's: "
                "use 1 to 63 lower-case letters, digits and dashes, beginning with a letter",
                field="name",
            )
        shard = self._shards.of(request.name)
        shard.require_store()
        namespace = shard.create_namespace(request.name)
        await shard.durable_write()
        return admin_pb2.CreateNamespaceResponse(namespace=_namespace_view(shard, namespace))

    async def ListNamespaces(self, request: admin_pb2.ListNamespacesRequest, context: Context) -> admin_pb2.ListNamespacesResponse:
        size = page_size(request.page_size)
        token = PageToken.parse(request.page_token, query="namespaces")
        for shard in self._shards.all:
            shard.require_served()
        found = sorted(
            ((name, shard) for shard in self._shards.all for name in shard.namespaces if name > token.after), key=lambda entry: entry[0]
        )
        response = admin_pb2.ListNamespacesResponse(
            namespaces=[_namespace_view(shard, shard.namespaces[name]) for name, shard in found[:size]]
        )
        if len(found) > size:
            response.next_page_token = PageToken("namespaces", found[size - 1][0]).text()
        for shard in {shard.number: shard for _, shard in found[:size]}.values():
            await shard.durable()
        return response

    async def GetQueueStats(self, request: admin_pb2.GetQueueStatsRequest, context: Context) -> admin_pb2.GetQueueStatsResponse:
        shard, namespace = self._shards.called(context)
        response = _queue_stats(shard, namespace)
        await shard.durable()
        try:
            response.retained = await shard.store.count_ended(namespace.name)
        except (StoreOutage, StoreCorrupt) as error:
            raise Unavailable(f"the store can't be read now ({error}): try again") from error
        return response

    async def GetLoadMap(self, request: admin_pb2.GetLoadMapRequest, context: Context) -> admin_pb2.GetLoadMapResponse:
        shard, namespace = self._shards.called(context)
        agents = sorted(namespace.scheduler.load.agents.values(), key=lambda agent: agent.name)
        response = admin_pb2.GetLoadMapResponse(
            agents=load_map_rows(agents),
            capacity=sum(agent.capacity for agent in agents if agent.status is AgentStatus.CONNECTED),
            running=sum(len(agent.running) for agent in agents),
        )
        await shard.durable()
        return response

    async def GetCoordinator(self, request: admin_pb2.GetCoordinatorRequest, context: Context) -> admin_pb2.GetCoordinatorResponse:
        return admin_pb2.GetCoordinatorResponse(
            version=self._facts.version,
            instance_id=self._facts.instance_id,
            store=self._facts.store,
            durability=self._facts.durability,
            shards=len(self._shards.all),
            start_time=convert.timestamp(self._facts.start_ms),
            store_available=all(shard.outage_since_s is None for shard in self._shards.all),
            worst_loop_stall=convert.duration(self._stalls.take_worst_s()),
        )

    async def SetPolicies(self, request: admin_pb2.SetPoliciesRequest, context: Context) -> admin_pb2.SetPoliciesResponse:
        return await set_policies(*self._shards.called(context), request)

    async def DeletePolicies(self, request: admin_pb2.DeletePoliciesRequest, context: Context) -> admin_pb2.DeletePoliciesResponse:
        return await delete_policies(*self._shards.called(context), request)

    async def ListPolicies(self, request: admin_pb2.ListPoliciesRequest, context: Context) -> admin_pb2.ListPoliciesResponse:
        return await list_policies(*self._shards.called(context), request)

    async def CancelMatchingTasks(
        self, request: bulk_pb2.CancelMatchingTasksRequest, context: Context
    ) -> bulk_pb2.CancelMatchingTasksResponse:
        progress = await bulk_calls.cancel_matching(*self._shards.called(context), request)
        return bulk_pb2.CancelMatchingTasksResponse(progress=progress)

    async def ReprioritiseTasks(self, request: bulk_pb2.ReprioritiseTasksRequest, context: Context) -> bulk_pb2.ReprioritiseTasksResponse:
        progress = await bulk_calls.reprioritise_tasks(*self._shards.called(context), request)
        return bulk_pb2.ReprioritiseTasksResponse(progress=progress)

    async def RedriveTasks(self, request: bulk_pb2.RedriveTasksRequest, context: Context) -> bulk_pb2.RedriveTasksResponse:
        progress = await bulk_calls.redrive_tasks(*self._shards.called(context), request)
        return bulk_pb2.RedriveTasksResponse(progress=progress)

    async def PurgeTasks(self, request: bulk_pb2.PurgeTasksRequest, context: Context) -> bulk_pb2.PurgeTasksResponse:
        progress = await bulk_calls.purge_tasks(*self._shards.called(context), request)
        return bulk_pb2.PurgeTasksResponse(progress=progress)


def _namespace_view(shard: Shard, namespace: Namespace) -> admin_pb2.Namespace:
    return admin_pb2.Namespace(name=namespace.name, create_time=convert.timestamp(namespace.created_ms), shard=shard.number)


def _queue_stats(shard: Shard, namespace: Namespace) -> admin_pb2.GetQueueStatsResponse:
    scheduler = namespace.scheduler
    totals = scheduler.totals
    now_ms = shard.now().date_ms
    rows: dict[tuple[str, int], admin_pb2.QueueStats] = {}

    def row(task_type: str, priority: int) -> admin_pb2.QueueStats:
        key = (task_type, priority)
        if key not in rows:
            rows[key] = admin_pb2.QueueStats(task_type=task_type, priority=cast("common_pb2.Priority.ValueType", priority))
        return rows[key]

    oldest: dict[tuple[str, int], Task] = {}
    for lane in scheduler.ready.lanes.values():
        for fifo in lane.fifos():
            key = (lane.task_type, fifo.priority)
            row(*key).ready += fifo.live
            if fifo.rank() is not None and (key not in oldest or fifo.top.place < oldest[key].place):
                oldest[key] = fifo.top
    for key, head in oldest.items():
        stats = row(*key)
        stats.oldest_wait.CopyFrom(convert.duration(max(0, now_ms - head.created_ms) / 1000))
        reason = waits_for(scheduler, head)
        if reason is not None and reason.kind is not WaitKind.QUEUED:
            stats.waits_for = reason.message
    running = 0
    for backoff in scheduler.backoffs.values():
        row(backoff.task.spec.task_type, backoff.task.spec.priority).delayed += 1
    for agent in scheduler.load.agents.values():
        for attempt in agent.running.values():
            row(attempt.task.spec.task_type, attempt.task.spec.priority).running += 1
            running += 1
    return admin_pb2.GetQueueStatsResponse(
        queues=[rows[key] for key in sorted(rows)],
        pending=len(scheduler.state.tasks) - running - scheduler.state.retrying,
        running=running,
        retrying=scheduler.state.retrying,
        submitted_total=totals.submitted,
        completed_total=totals.completed,
        failed_total=totals.failed,
        cancelled_total=totals.cancelled,
        crashed_total=totals.crashed,
        stale_results_total=totals.stale_results,
        max_live_tasks=scheduler.settings.max_live_tasks,
    )
