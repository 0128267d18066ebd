"""AdminService: for operators."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.v1 import admin_pb2, admin_pb2_grpc, bulk_pb2

from coordinator import convert
from coordinator.core.load_map import AgentStatus
from coordinator.errors import InvalidRequest, Unavailable
from coordinator.ports import StoreCorrupt, StoreOutage
from coordinator.rpc import bulk_calls
from coordinator.rpc.agent_service import load_map_rows
from coordinator.rpc.breaker_calls import reset_breakers
from coordinator.rpc.cluster_calls import cluster_view
from coordinator.rpc.limit_calls import list_limits
from coordinator.rpc.namespace_calls import delete, list_namespaces, namespace_view
from coordinator.rpc.policy_calls import delete_policies, list_policies, set_policies
from coordinator.rpc.queue_views import queue_history, queue_stats
from coordinator.rpc.shard_calls import shard_digest
from coordinator.rpc.shards import MAX_SHOWN_CHARS
from coordinator.rpc.webhook_calls import list_deliveries, retry_deliveries

if TYPE_CHECKING:
    from coordinator.cluster.cluster import Cluster
    from coordinator.engine.webhooks import WebhookDispatcher
    from coordinator.loop_stalls import LoopStalls
    from coordinator.rpc.everywhere import Others
    from coordinator.rpc.shards import Shards
    from coordinator.webhook_urls import WebhookRules

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
        webhooks: knows how deliveries fare.
        webhook_rules: where webhooks may go.
        others: the other coordinators.
        cluster: who owns what.
    """

    def __init__(
        self,
        *,
        shards: Shards,
        facts: Facts,
        stalls: LoopStalls,
        webhooks: WebhookDispatcher,
        webhook_rules: WebhookRules,
        others: Others,
        cluster: Cluster,
    ) -> None:
        self._cluster = cluster
        self._others = others
        self._shards = shards
        self._facts = facts
        self._stalls = stalls
        self._webhooks = webhooks
        self._webhook_rules = webhook_rules

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
        return admin_pb2.CreateNamespaceResponse(namespace=namespace_view(shard, namespace))

    async def DeleteNamespace(self, request: admin_pb2.DeleteNamespaceRequest, context: Context) -> admin_pb2.DeleteNamespaceResponse:
        return await delete(self._shards.of(request.name), request)

    async def ListNamespaces(self, request: admin_pb2.ListNamespacesRequest, context: Context) -> admin_pb2.ListNamespacesResponse:
        return await list_namespaces(self._shards, self._others, request, context)

    async def GetQueueStats(self, request: admin_pb2.GetQueueStatsRequest, context: Context) -> admin_pb2.GetQueueStatsResponse:
        shard, namespace = self._shards.called(context)
        response = queue_stats(shard, namespace)
        await shard.durable()
        try:
            response.retained = await shard.store.count_ended(namespace.name)
        except (StoreOutage, StoreCorrupt) as error:
            raise Unavailable(f"the store can't be read now ({error}): try again") from error
        return response

    async def GetQueueHistory(self, request: admin_pb2.GetQueueHistoryRequest, context: Context) -> admin_pb2.GetQueueHistoryResponse:
        return await queue_history(*self._shards.called(context), request.task_type)

    async def GetLoadMap(self, request: admin_pb2.GetLoadMapRequest, context: Context) -> admin_pb2.GetLoadMapResponse:
        shard, namespace = self._shards.called(context)
        agents = sorted(namespace.scheduler.load.agents.values(), key=lambda agent: agent.name)
        response = admin_pb2.GetLoadMapResponse(
            agents=load_map_rows(namespace.scheduler, agents),
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
            lost_writes=sum(shard.lost.entries + shard.state.lost_revisions for shard in self._shards.all),
        )

    async def GetCluster(self, request: admin_pb2.GetClusterRequest, context: Context) -> admin_pb2.GetClusterResponse:
        return cluster_view(self._cluster)

    async def SetPolicies(self, request: admin_pb2.SetPoliciesRequest, context: Context) -> admin_pb2.SetPoliciesResponse:
        return await set_policies(*self._shards.called(context), request, self._webhook_rules)

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

    async def ListWebhookDeliveries(
        self, request: admin_pb2.ListWebhookDeliveriesRequest, context: Context
    ) -> admin_pb2.ListWebhookDeliveriesResponse:
        return await list_deliveries(*self._shards.called(context), request, self._webhooks)

    async def RetryWebhookDeliveries(
        self, request: admin_pb2.RetryWebhookDeliveriesRequest, context: Context
    ) -> admin_pb2.RetryWebhookDeliveriesResponse:
        return await retry_deliveries(*self._shards.called(context), request, self._webhooks)

    async def GetShardDigest(self, request: admin_pb2.GetShardDigestRequest, context: Context) -> admin_pb2.GetShardDigestResponse:
        return await shard_digest(self._shards.all, request.shard, release=self._facts.version)

    async def ListLimits(self, request: admin_pb2.ListLimitsRequest, context: Context) -> admin_pb2.ListLimitsResponse:
        return await list_limits(*self._shards.called(context), request)

    async def ResetBreakers(self, request: admin_pb2.ResetBreakersRequest, context: Context) -> admin_pb2.ResetBreakersResponse:
        return await reset_breakers(*self._shards.called(context), request)
