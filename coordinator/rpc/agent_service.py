"""AgentService: the agents' streams, and the load map's rows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

from muster.v1 import agent_pb2, agent_pb2_grpc

from coordinator import convert
from coordinator.checks import check_name
from coordinator.convert_breakers import breakers_shown
from coordinator.convert_scheduling import capabilities_out
from coordinator.core import sessions
from coordinator.core.load_map import Agent
from coordinator.core.pauses import cordon_of
from coordinator.errors import NotFound
from coordinator.rpc.agent_stream import AgentStream
from coordinator.rpc.outgoing import MAX_MESSAGE_BYTES, serve_stream
from coordinator.rpc.pages import PageToken, page_size

if TYPE_CHECKING:
    import grpc.aio

    from coordinator.convert import Bounds
    from coordinator.core.scheduler import Scheduler
    from coordinator.ids import Entropy
    from coordinator.rpc.agent_presence import AgentPresence
    from coordinator.rpc.shards import Shards

DEFAULT_DRAIN_S = 30.0
MAX_TASK_IDS = 100


class AgentService(agent_pb2_grpc.AgentServiceServicer):
    """See muster/v1/agent.proto.

    Args:
        shards: where namespaces live.
        bounds: sizes that reports must keep to.
        entropy: makes session ids.
        presence: is told which agents come and go.
    """

    def __init__(self, *, shards: Shards, bounds: Bounds, entropy: Entropy, presence: AgentPresence) -> None:
        self._shards = shards
        self._bounds = bounds
        self._entropy = entropy
        self._presence = presence

    async def Connect(self, request_iterator: AsyncIterator[agent_pb2.ConnectRequest], context: grpc.aio.ServicerContext[Any, Any]) -> None:  # type: ignore[override]  # it writes to the context, so that one wrapper serves all
        shard, namespace = self._shards.called(context)
        stream = AgentStream(
            shard=shard,
            namespace=namespace,
            session=self._entropy.nonce(),
            bounds=self._bounds,
            presence=self._presence,
            owner_address=self._shards.owner_address(shard),
        )
        await serve_stream(context, stream.sender, stream.read(request_iterator))

    async def ListAgents(
        self, request: agent_pb2.ListAgentsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> agent_pb2.ListAgentsResponse:
        shard, namespace = self._shards.called(context)
        size = page_size(request.page_size)
        token = PageToken.parse(request.page_token, query="agents")
        names = sorted(name for name in namespace.scheduler.load.agents if name > token.after)
        response = agent_pb2.ListAgentsResponse()
        room = MAX_MESSAGE_BYTES
        for name in names[:size]:
            view = agent_view(namespace.scheduler, namespace.scheduler.load.agents[name])
            room -= view.ByteSize()
            if room < 0 and response.agents:
                break
            response.agents.append(view)
        if len(response.agents) < len(names):
            response.next_page_token = PageToken("agents", response.agents[-1].agent_name).text()
        await shard.durable()
        return response

    async def DrainAgent(
        self, request: agent_pb2.DrainAgentRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> agent_pb2.DrainAgentResponse:
        shard, namespace = self._shards.called(context)
        name = check_name(request.agent_name, "agent_name")
        deadline_s = convert.seconds(request.deadline, "deadline") if request.HasField("deadline") else DEFAULT_DRAIN_S
        agent = namespace.scheduler.load.agents.get(name)
        if agent is None or not agent.session:
            raise NotFound(f"no agent {name!r} is connected: `muster agents` lists those that are", reason="AGENT_NOT_FOUND")
        now = shard.now()
        sessions.drain(namespace.scheduler, agent, deadline_s, request.reason[: convert.MAX_FAILURE_MESSAGE] or "drained by an operator")
        shard.decided(namespace, now)
        view = agent_view(namespace.scheduler, agent)
        await shard.durable()
        return agent_pb2.DrainAgentResponse(agent=view)


def agent_view(scheduler: Scheduler, agent: Agent) -> agent_pb2.AgentInfo:
    """An agent as callers see it."""
    running = list(agent.running.values())
    cordon = cordon_of(scheduler, agent.name)
    return agent_pb2.AgentInfo(
        agent_name=agent.name,
        state=_STATES[agent.status.value],
        capabilities=capabilities_out(agent.capabilities),
        labels=agent.labels,
        max_concurrent_tasks=agent.capacity,
        ready_limit=agent.ready_limit,
        running=len(running),
        task_ids=[attempt.task.spec.task_id for attempt in running[:MAX_TASK_IDS]],
        since_time=convert.timestamp(agent.since_ms),
        sdk=agent.sdk,
        loop_lag=convert.duration(agent.loop_lag_s),
        cordon_reason=cordon.reason if cordon is not None else "",
        breakers=breakers_shown(agent.breakers),
    )


def load_map_rows(scheduler: Scheduler, agents: Iterable[Agent]) -> list[agent_pb2.AgentInfo]:
    """Agents in one message, which has no pages: beyond its room, lists are left out that ListAgents has."""
    rows = []
    room = MAX_MESSAGE_BYTES // 2
    for agent in agents:
        row = agent_view(scheduler, agent)
        room -= row.ByteSize()
        if room < 0:
            row.ClearField("task_ids")
            row.ClearField("labels")
            row.ClearField("capabilities")
            row.ClearField("breakers")
        rows.append(row)
    return rows


_STATES = {
    1: agent_pb2.AGENT_STATE_CONNECTED,
    2: agent_pb2.AGENT_STATE_DISCONNECTED,
    3: agent_pb2.AGENT_STATE_DRAINING,
    4: agent_pb2.AGENT_STATE_CORDONED,
}
