"""What a client asks about the fleet: agents, queues, namespaces, policies, the coordinator."""

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

from agent_node.client.pauses import cordon_name, cordon_policy, pause_name, pause_policy
from agent_node.client.unary_calls import UnaryCalls
from agent_node.connection import duration


class FleetCalls(UnaryCalls):
    """The part of a Client that is about the fleet."""

    async def agents(self) -> Sequence[AgentInfo]:
        """The namespace's agents, with what they can do and what they run."""
        return [one async for page in self._pages(self._live.agents.ListAgents, ListAgentsRequest()) for one in page.agents]

    async def drain_agent(self, name: str, *, deadline_s: float | None = None, reason: str = "") -> DrainAgentResponse:
        """Tells an agent to take no new work, to finish or give back what it runs, and to end. Returns at once.

        Args:
            name: the agent.
            deadline_s: seconds until what still runs is given back; None is the coordinator's 30.
            reason: shown to the agent.

        Raises:
            NotFoundError: no agent of that name is connected.
        """
        request = DrainAgentRequest(agent_name=name, reason=reason)
        if deadline_s is not None:
            request.deadline.CopyFrom(duration(deadline_s))
        return await self._call(self._live.agents.DrainAgent, request)

    async def shard_digest(self, shard: int) -> GetShardDigestResponse:
        """What a shard's live state amounts to right after one journal entry: `muster admin check` compares it with the journal.

        Args:
            shard: its number.

        Raises:
            UnavailableError: it isn't served there, or takes a snapshot: ask again.
        """
        return await self._call(self._live.admin.GetShardDigest, GetShardDigestRequest(shard=shard))

    async def queue_stats(self) -> GetQueueStatsResponse:
        """What waits and what runs, by task type and priority."""
        return await self._call(self._live.admin.GetQueueStats, GetQueueStatsRequest())

    async def queue_history(self, task_type: str = "") -> GetQueueHistoryResponse:
        """What has happened over the last hour, by task type and priority: counts, and percentiles of waits and runs.

        Args:
            task_type: of this type alone, minute by minute; by default of all, and minute by minute in all.
        """
        return await self._call(self._live.admin.GetQueueHistory, GetQueueHistoryRequest(task_type=task_type))

    async def load_map(self) -> GetLoadMapResponse:
        """Who runs what."""
        return await self._call(self._live.admin.GetLoadMap, GetLoadMapRequest())

    async def create_namespace(self, name: str) -> Namespace:
        """Creates a namespace, or returns the one there is.

        Args:
            name: 1 to 63 lower-case letters, digits and dashes, beginning with a letter.
        """
        response = await self._call(self._live.admin.CreateNamespace, CreateNamespaceRequest(name=name))
        return response.namespace

    async def delete_namespace(self, name: str, *, force: bool = False, dry_run: bool = False) -> DeleteNamespaceResponse:
        """Deletes a namespace with all that it holds: tasks, records and policies. Returns what that was.

        Args:
            name: its name; "default" can't be deleted.
            force: although it has live tasks, which are cancelled with it.
            dry_run: delete nothing, and only say what would be.

        Raises:
            NotFoundError: there is none of this name.
            RefusedError: it has live tasks, and `force` isn't given.
        """
        request = DeleteNamespaceRequest(name=name, force=force, dry_run=dry_run)
        return await self._call(self._live.admin.DeleteNamespace, request)

    async def namespaces(self) -> Sequence[Namespace]:
        """All namespaces, by name."""
        return [one async for page in self._pages(self._live.admin.ListNamespaces, ListNamespacesRequest()) for one in page.namespaces]

    async def coordinator(self) -> GetCoordinatorResponse:
        """What the coordinator is: version, store, what its acknowledgements survive."""
        return await self._call(self._live.admin.GetCoordinator, GetCoordinatorRequest())

    async def cluster(self) -> GetClusterResponse:
        """The coordinators that share the store, and who owns which shard."""
        return await self._call(self._live.admin.GetCluster, GetClusterRequest())

    async def set_policies(self, policies: Iterable[Policy]) -> Sequence[Policy]:
        """Sets policies of the namespace, each in place of the one with its kind and key: all of them, or none.

        Args:
            policies: 1 to 1,000 messages of muster.v1.

        Raises:
            RefusedError: one of them isn't right.
            LimitError: the namespace would have more than 10,000.
        """
        return (await self._call(self._live.admin.SetPolicies, SetPoliciesRequest(policies=policies))).policies

    async def delete_policies(self, names: Iterable[PolicyName]) -> Sequence[PolicyName]:
        """Deletes policies of the namespace. Returns the names of those that were there.

        Args:
            names: 1 to 1,000 messages of muster.v1.
        """
        return (await self._call(self._live.admin.DeletePolicies, DeletePoliciesRequest(names=names))).names

    async def policies(self, kind: PolicyKind.ValueType | None = None) -> Sequence[Policy]:
        """The namespace's policies, by kind and key; those of one kind, if it is given."""
        request = ListPoliciesRequest(kind=kind or 0, page_size=1000)  # type: ignore[arg-type]  # 0 is every kind
        return [one async for page in self._pages(self._live.admin.ListPolicies, request) for one in page.policies]

    async def pause(self, task_type: str, *, reason: str = "", for_s: float | None = None) -> Policy:
        """Has nothing of a task type assigned until it is resumed. Tasks are accepted all the same, and what runs goes on.

        Args:
            task_type: a name, or a prefix that ends in "*"; "" is the whole namespace.
            reason: shown to whoever asks why a task waits; at most 256 characters.
            for_s: seconds after which the pause ends by itself; None has no end.

        Raises:
            RefusedError: one of them isn't right.
        """
        [standing] = await self.set_policies([pause_policy(task_type, reason, for_s)])
        return standing

    async def resume(self, task_type: str) -> bool:
        """Lifts a pause. Returns whether there was one.

        Args:
            task_type: as it was given to `pause`. Other pauses that name the type hold on.
        """
        return bool(await self.delete_policies([pause_name(task_type)]))

    async def cordon(self, agent_name: str, *, reason: str = "") -> Policy:
        """Has an agent given nothing new until it is uncordoned. It finishes what it runs, and stays connected.

        Args:
            agent_name: the agent; one that isn't connected is cordoned when it comes.
            reason: shown beside the agent; at most 256 characters.

        Raises:
            RefusedError: one of them isn't right.
        """
        [standing] = await self.set_policies([cordon_policy(agent_name, reason)])
        return standing

    async def uncordon(self, agent_name: str) -> bool:
        """Lets an agent get new work again. Returns whether it was cordoned."""
        return bool(await self.delete_policies([cordon_name(agent_name)]))

    async def reset_breakers(self, agent_name: str, task_type: str = "") -> Sequence[Breaker]:
        """Closes an agent's circuit breakers, so that it gets work again. Returns those that weren't closed, as they were.

        Args:
            agent_name: the agent, connected or not.
            task_type: its breaker for this type alone; empty: all of them.

        Raises:
            NotFoundError: no such agent is connected or has breakers.
        """
        request = ResetBreakersRequest(agent_name=agent_name, task_type=task_type)
        return list((await self._call(self._live.admin.ResetBreakers, request)).breakers)

    async def webhook_deliveries(
        self, state: WebhookDeliveryState.ValueType | None = None, *, limit: int = 100
    ) -> ListWebhookDeliveriesResponse:
        """The oldest of the webhooks' deliveries that wait or were given up, and how many there are.

        Args:
            state: WEBHOOK_DELIVERY_STATE_PENDING or WEBHOOK_DELIVERY_STATE_GIVEN_UP of muster.v1 for those alone.
            limit: at most so many of each; up to 1,000.
        """
        request = ListWebhookDeliveriesRequest(state=state or 0, page_size=limit)  # type: ignore[arg-type]  # 0 is both
        return await self._call(self._live.admin.ListWebhookDeliveries, request)

    async def retry_webhooks(self, numbers: Iterable[int] = (), *, all_given_up: bool = False) -> int:
        """Has webhooks tried again at once. Returns how many there were.

        Args:
            numbers: the deliveries', at most 1,000.
            all_given_up: instead, all that were given up.

        Raises:
            RefusedError: both are given, or neither.
        """
        request = RetryWebhookDeliveriesRequest(numbers=numbers, all_given_up=all_given_up)
        return (await self._call(self._live.admin.RetryWebhookDeliveries, request)).count

    async def limits(self) -> Sequence[LimitUse]:
        """The namespace's limits that are policies, and how much of each is in use, key by key."""
        return [one async for page in self._pages(self._live.admin.ListLimits, ListLimitsRequest(page_size=1000)) for one in page.limits]
