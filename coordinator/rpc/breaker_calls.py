"""The circuit breakers of a namespace's agents, as AdminService resets them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.v1 import admin_pb2

from coordinator.checks import check_name
from coordinator.convert_breakers import breaker_shown
from coordinator.core.breakers import reset
from coordinator.errors import NotFound

if TYPE_CHECKING:
    from coordinator.engine.namespace import Namespace
    from coordinator.engine.shard import Shard


async def reset_breakers(shard: Shard, namespace: Namespace, request: admin_pb2.ResetBreakersRequest) -> admin_pb2.ResetBreakersResponse:
    """Closes them.

    Raises:
        InvalidRequest: a name isn't right.
        NotFound: no such agent.
    """
    name = check_name(request.agent_name, "agent_name")
    if request.task_type:
        check_name(request.task_type, "task_type")
    scheduler = namespace.scheduler
    if name not in scheduler.load.agents and name not in scheduler.breakers.by_agent:
        raise NotFound(f"no agent {name!r} is connected or has breakers: `muster agents` lists those that are", reason="AGENT_NOT_FOUND")
    now = shard.now()
    closed = reset(scheduler, name, request.task_type)
    response = admin_pb2.ResetBreakersResponse(breakers=map(breaker_shown, closed))
    shard.decided(namespace, now)
    await shard.durable()
    return response
