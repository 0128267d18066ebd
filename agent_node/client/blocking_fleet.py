"""The part of a BlockingClient that is about the fleet, as `fleet_calls` is of a Client."""

import builtins
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TypeVar

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
from muster.v1.admin_pb2_grpc import AdminServiceStub
from muster.v1.agent_pb2 import AgentInfo, DrainAgentRequest, DrainAgentResponse, ListAgentsRequest
from muster.v1.agent_pb2_grpc import AgentServiceStub
from muster.v1.policy_pb2 import Policy, PolicyKind, PolicyName

from agent_node.connection import duration

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class BlockingFleetCalls(ABC):
    """Calls about agents, queues, namespaces, policies and the coordinator."""

    _agents: AgentServiceStub
    _admin: AdminServiceStub

    def agents(self) -> Sequence[AgentInfo]:
        """The namespace's agents, with what they can do and what they run."""
        agents: builtins.list[AgentInfo] = []
        request = ListAgentsRequest()
        while True:
            response = self._call(self._agents.ListAgents, request)
            agents.extend(response.agents)
            if not response.next_page_token:
                return agents
            request.page_token = response.next_page_token

    def drain_agent(self, name: str, *, deadline_s: float | None = None, reason: str = "") -> DrainAgentResponse:
        """Tells an agent to take no new work and to end; see `Client.drain_agent`."""
        request = DrainAgentRequest(agent_name=name, reason=reason)
        if deadline_s is not None:
            request.deadline.CopyFrom(duration(deadline_s))
        return self._call(self._agents.DrainAgent, request)

    def queue_stats(self) -> GetQueueStatsResponse:
        """What waits and what runs, by task type and priority."""
        return self._call(self._admin.GetQueueStats, GetQueueStatsRequest())

    def load_map(self) -> GetLoadMapResponse:
        """Who runs what."""
        return self._call(self._admin.GetLoadMap, GetLoadMapRequest())

    def create_namespace(self, name: str) -> Namespace:
        """Creates a namespace, or returns the one there is."""
        return self._call(self._admin.CreateNamespace, CreateNamespaceRequest(name=name)).namespace

    def namespaces(self) -> Sequence[Namespace]:
        """All namespaces, by name."""
        namespaces: builtins.list[Namespace] = []
        request = ListNamespacesRequest()
        while True:
            response = self._call(self._admin.ListNamespaces, request)
            namespaces.extend(response.namespaces)
            if not response.next_page_token:
                return namespaces
            request.page_token = response.next_page_token

    def coordinator(self) -> GetCoordinatorResponse:
        """What the coordinator is: version, store, what its acknowledgements survive."""
        return self._call(self._admin.GetCoordinator, GetCoordinatorRequest())

    def set_policies(self, policies: Iterable[Policy]) -> Sequence[Policy]:
        """Sets policies of the namespace: all of them, or none; see `Client.set_policies`."""
        return self._call(self._admin.SetPolicies, SetPoliciesRequest(policies=policies)).policies

    def delete_policies(self, names: Iterable[PolicyName]) -> Sequence[PolicyName]:
        """Deletes policies of the namespace. Returns the names of those that were there."""
        return self._call(self._admin.DeletePolicies, DeletePoliciesRequest(names=names)).names

    def policies(self, kind: PolicyKind.ValueType | None = None) -> Sequence[Policy]:
        """The namespace's policies, by kind and key; those of one kind, if it is given."""
        policies: builtins.list[Policy] = []
        request = ListPoliciesRequest(kind=kind or 0, page_size=1000)  # type: ignore[arg-type]  # 0 is every kind
        while True:
            response = self._call(self._admin.ListPolicies, request)
            policies.extend(response.policies)
            if not response.next_page_token:
                return policies
            request.page_token = response.next_page_token

    @abstractmethod
    def _call(self, method: "grpc.UnaryUnaryMultiCallable[_Request, _Response]", request: _Request) -> _Response:
        """Makes a call, and raises what it failed with as one of our errors."""
