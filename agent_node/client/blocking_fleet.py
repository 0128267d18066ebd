"""The part of a BlockingClient that is about the fleet, as `fleet_calls` is of a Client."""

from collections.abc import Iterable, Sequence

from muster.v1.admin_pb2 import (
    CreateNamespaceRequest,
    DeleteNamespaceRequest,
    DeleteNamespaceResponse,
    DeletePoliciesRequest,
    GetClusterRequest,
    GetClusterResponse,
    GetCoordinatorRequest,
    GetCoordinatorResponse,
    GetLoadMapRequest,
    GetLoadMapResponse,
    GetQueueHistoryRequest,
    GetQueueHistoryResponse,
    GetQueueStatsRequest,
    GetQueueStatsResponse,
    GetShardDigestRequest,
    GetShardDigestResponse,
    LimitUse,
    ListLimitsRequest,
    ListNamespacesRequest,
    ListPoliciesRequest,
    ListWebhookDeliveriesRequest,
    ListWebhookDeliveriesResponse,
    Namespace,
    ResetBreakersRequest,
    RetryWebhookDeliveriesRequest,
    SetPoliciesRequest,
    WebhookDeliveryState,
)
from muster.v1.agent_pb2 import AgentInfo, Breaker, DrainAgentRequest, DrainAgentResponse, ListAgentsRequest
from muster.v1.policy_pb2 import Policy, PolicyKind, PolicyName

from agent_node.client.blocking_calls import BlockingCalls
from agent_node.client.pauses import cordon_name, cordon_policy, pause_name, pause_policy
from agent_node.connection import duration


class BlockingFleetCalls(BlockingCalls):
    """Calls about agents, queues, namespaces, policies and the coordinator."""

    def agents(self) -> Sequence[AgentInfo]:
        """The namespace's agents, with what they can do and what they run."""
        return [one for page in self._pages(self._agents.ListAgents, ListAgentsRequest()) for one in page.agents]

    def drain_agent(self, name: str, *, deadline_s: float | None = None, reason: str = "") -> DrainAgentResponse:
        """Tells an agent to take no new work and to end; see `Client.drain_agent`."""
        request = DrainAgentRequest(agent_name=name, reason=reason)
        if deadline_s is not None:
            request.deadline.CopyFrom(duration(deadline_s))
        return self._call(self._agents.DrainAgent, request)

    def shard_digest(self, shard: int) -> GetShardDigestResponse:
        """What a shard's live state amounts to; see `Client.shard_digest`."""
        return self._call(self._admin.GetShardDigest, GetShardDigestRequest(shard=shard))

    def queue_stats(self) -> GetQueueStatsResponse:
        """What waits and what runs, by task type and priority."""
        return self._call(self._admin.GetQueueStats, GetQueueStatsRequest())

    def queue_history(self, task_type: str = "") -> GetQueueHistoryResponse:
        """What has happened over the last hour, by task type and priority; see `Client.queue_history`."""
        return self._call(self._admin.GetQueueHistory, GetQueueHistoryRequest(task_type=task_type))

    def load_map(self) -> GetLoadMapResponse:
        """Who runs what."""
        return self._call(self._admin.GetLoadMap, GetLoadMapRequest())

    def create_namespace(self, name: str) -> Namespace:
        """Creates a namespace, or returns the one there is."""
        return self._call(self._admin.CreateNamespace, CreateNamespaceRequest(name=name)).namespace

    def delete_namespace(self, name: str, *, force: bool = False, dry_run: bool = False) -> DeleteNamespaceResponse:
        """Deletes a namespace with all that it holds; see `Client.delete_namespace`."""
        return self._call(self._admin.DeleteNamespace, DeleteNamespaceRequest(name=name, force=force, dry_run=dry_run))

    def namespaces(self) -> Sequence[Namespace]:
        """All namespaces, by name."""
        return [one for page in self._pages(self._admin.ListNamespaces, ListNamespacesRequest()) for one in page.namespaces]

    def coordinator(self) -> GetCoordinatorResponse:
        """What the coordinator is: version, store, what its acknowledgements survive."""
        return self._call(self._admin.GetCoordinator, GetCoordinatorRequest())

    def cluster(self) -> GetClusterResponse:
        """The coordinators that share the store, and who owns which shard."""
        return self._call(self._admin.GetCluster, GetClusterRequest())

    def set_policies(self, policies: Iterable[Policy]) -> Sequence[Policy]:
        """Sets policies of the namespace: all of them, or none; see `Client.set_policies`."""
        return self._call(self._admin.SetPolicies, SetPoliciesRequest(policies=policies)).policies

    def delete_policies(self, names: Iterable[PolicyName]) -> Sequence[PolicyName]:
        """Deletes policies of the namespace. Returns the names of those that were there."""
        return self._call(self._admin.DeletePolicies, DeletePoliciesRequest(names=names)).names

    def policies(self, kind: PolicyKind.ValueType | None = None) -> Sequence[Policy]:
        """The namespace's policies, by kind and key; those of one kind, if it is given."""
        request = ListPoliciesRequest(kind=kind or 0, page_size=1000)  # type: ignore[arg-type]  # 0 is every kind
        return [one for page in self._pages(self._admin.ListPolicies, request) for one in page.policies]

    def pause(self, task_type: str, *, reason: str = "", for_s: float | None = None) -> Policy:
        """Has nothing of a task type assigned until it is resumed; "" is the whole namespace; see `Client.pause`."""
        [standing] = self.set_policies([pause_policy(task_type, reason, for_s)])
        return standing

    def resume(self, task_type: str) -> bool:
        """Lifts a pause. Returns whether there was one; see `Client.resume`."""
        return bool(self.delete_policies([pause_name(task_type)]))

    def cordon(self, agent_name: str, *, reason: str = "") -> Policy:
        """Has an agent given nothing new until it is uncordoned; see `Client.cordon`."""
        [standing] = self.set_policies([cordon_policy(agent_name, reason)])
        return standing

    def uncordon(self, agent_name: str) -> bool:
        """Lets an agent get new work again. Returns whether it was cordoned."""
        return bool(self.delete_policies([cordon_name(agent_name)]))

    def reset_breakers(self, agent_name: str, task_type: str = "") -> Sequence[Breaker]:
        """Closes an agent's circuit breakers, so that it gets work again; see `Client.reset_breakers`."""
        return list(self._call(self._admin.ResetBreakers, ResetBreakersRequest(agent_name=agent_name, task_type=task_type)).breakers)

    def webhook_deliveries(self, state: WebhookDeliveryState.ValueType | None = None, *, limit: int = 100) -> ListWebhookDeliveriesResponse:
        """The oldest of the webhooks' deliveries that wait or were given up; see `Client.webhook_deliveries`."""
        request = ListWebhookDeliveriesRequest(state=state or 0, page_size=limit)  # type: ignore[arg-type]  # 0 is both
        return self._call(self._admin.ListWebhookDeliveries, request)

    def retry_webhooks(self, numbers: Iterable[int] = (), *, all_given_up: bool = False) -> int:
        """Has webhooks tried again at once; see `Client.retry_webhooks`."""
        request = RetryWebhookDeliveriesRequest(numbers=numbers, all_given_up=all_given_up)
        return self._call(self._admin.RetryWebhookDeliveries, request).count

    def limits(self) -> Sequence[LimitUse]:
        """The namespace's limits that are policies, and how much of each is in use, key by key."""
        return [one for page in self._pages(self._admin.ListLimits, ListLimitsRequest(page_size=1000)) for one in page.limits]
