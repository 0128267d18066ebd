"""The gRPC server: our services, reflection, and health."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection
from muster.v1 import admin_pb2, admin_pb2_grpc, agent_pb2, agent_pb2_grpc, state_pb2, state_pb2_grpc, task_pb2, task_pb2_grpc

from coordinator.rpc.status import StatusInterceptor

if TYPE_CHECKING:
    from coordinator.rpc.admin_service import AdminService
    from coordinator.rpc.agent_service import AgentService
    from coordinator.rpc.state_service import StateService
    from coordinator.rpc.task_service import TaskService

SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in ((task_pb2, "TaskService"), (agent_pb2, "AgentService"), (state_pb2, "StateService"), (admin_pb2, "AdminService"))
)

OPTIONS = (
    ("grpc.so_reuseport", 0),  # two coordinators must not share a port: calls would go to either
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Agents and clients ping idle connections through proxies: don't take that for abuse.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)


class ListenError(Exception):
    """The address can't be listened on; the message says why and what to do."""


class Server:
    """Serves on one address.

    Args:
        tasks: for clients.
        agents: for agents.
        state: for both.
        admin: for operators.
        forwarding: takes calls to other coordinators.
    """

    def __init__(
        self,
        *,
        tasks: TaskService,
        agents: AgentService,
        state: StateService,
        admin: AdminService,
        forwarding: grpc.aio.ServerInterceptor,
    ) -> None:
        self._server = grpc.aio.server(interceptors=[StatusInterceptor(), forwarding], options=OPTIONS)
        task_pb2_grpc.add_TaskServiceServicer_to_server(tasks, self._server)
        agent_pb2_grpc.add_AgentServiceServicer_to_server(agents, self._server)
        state_pb2_grpc.add_StateServiceServicer_to_server(state, self._server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, self._server)
        self._health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME), self._server
        )

    async def start(self, address: str) -> int:
        """Listens on `host:port`, and answers the port: the one that was free, for port 0.

        Raises:
            ListenError: the address is taken, or not ours.
        """
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ListenError(f"can't listen on {address}: it is in use, or isn't this machine's; choose another with --listen") from error
        await self._server.start()
        return port

    async def tell_readiness(self, is_ready: bool) -> None:  # noqa: FBT001 - what health checks are told
        """What health checks and their watches are told, for the server and for each service."""
        status = health_pb2.HealthCheckResponse.SERVING if is_ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *SERVICES):
            await self._health.set(service, status)

    async def stop(self, grace_s: float) -> None:
        """Takes no new calls, and ends open ones after `grace_s`."""
        await self.tell_readiness(False)
        await self._server.stop(grace_s)
