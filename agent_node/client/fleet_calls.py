"""What a client asks about the fleet: agents, queues, namespaces, policies, the coordinator; and the unary calls of all its methods."""

import asyncio
import builtins
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import grpc
from muster.v1.admin_pb2 import (
    CreateNamespaceRequest,
    DeletePoliciesRequest,
    GetCoordinatorRequest,
    GetCoordinatorResponse,
    GetLoadMapRequest,
    GetLoadMapResponse,
    GetQueueStatsRequest,
    GetQueueStatsResponse,
    ListNamespacesRequest,
    ListPoliciesRequest,
    Namespace,
    SetPoliciesRequest,
)
from muster.v1.agent_pb2 import AgentInfo, DrainAgentRequest, DrainAgentResponse, ListAgentsRequest
from muster.v1.policy_pb2 import Policy, PolicyKind, PolicyName

from agent_node.client.stream import SessionStream
from agent_node.connection import duration, from_rpc_error

if TYPE_CHECKING:
    from muster.v1.admin_pb2_grpc import AdminServiceAsyncStub
    from muster.v1.agent_pb2_grpc import AgentServiceAsyncStub
    from muster.v1.task_pb2_grpc import TaskServiceAsyncStub

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


@dataclass(frozen=True)
class Opened:
    """What exists between opening and closing a client."""

    loop: asyncio.AbstractEventLoop  # the one that it was first used in
    channel: grpc.aio.Channel
    stream: SessionStream
    tasks: "TaskServiceAsyncStub"
    agents: "AgentServiceAsyncStub"
    admin: "AdminServiceAsyncStub"


class FleetCalls(ABC):
    """The part of a Client that is about the fleet.

    Args:
        metadata: of every call.
        call_timeout_s: every call's deadline in seconds.
    """

    def __init__(self, *, metadata: tuple[tuple[str, str], ...], call_timeout_s: float) -> None:
        self._metadata = metadata
        self._call_timeout_s = call_timeout_s

    @property
    @abstractmethod
    def _live(self) -> Opened:
        """What is open. Raises UnavailableError when the client is closed."""

    async def agents(self) -> Sequence[AgentInfo]:
        """The namespace's agents, with what they can do and what they run."""
        agents: builtins.list[AgentInfo] = []
        request = ListAgentsRequest()
        while True:
            response = await self._call(self._live.agents.ListAgents, request)
            agents.extend(response.agents)
            if not response.next_page_token:
                return agents
            request.page_token = response.next_page_token

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

    async def queue_stats(self) -> GetQueueStatsResponse:
        """What waits and what runs, by task type and priority."""
        return await self._call(self._live.admin.GetQueueStats, GetQueueStatsRequest())

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

    async def namespaces(self) -> Sequence[Namespace]:
        """All namespaces, by name."""
        namespaces: builtins.list[Namespace] = []
        request = ListNamespacesRequest()
        while True:
            response = await self._call(self._live.admin.ListNamespaces, request)
            namespaces.extend(response.namespaces)
            if not response.next_page_token:
                return namespaces
            request.page_token = response.next_page_token

    async def coordinator(self) -> GetCoordinatorResponse:
        """What the coordinator is: version, store, what its acknowledgements survive."""
        return await self._call(self._live.admin.GetCoordinator, GetCoordinatorRequest())

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
        policies: builtins.list[Policy] = []
        request = ListPoliciesRequest(kind=kind or 0, page_size=1000)  # type: ignore[arg-type]  # 0 is every kind
        while True:
            response = await self._call(self._live.admin.ListPolicies, request)
            policies.extend(response.policies)
            if not response.next_page_token:
                return policies
            request.page_token = response.next_page_token

    async def _call(self, method: "grpc.aio.UnaryUnaryMultiCallable[_Request, _Response]", request: _Request) -> _Response:
        try:
            return await method(request, metadata=self._metadata, timeout=self._call_timeout_s)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
