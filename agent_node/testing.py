"""For your own unit tests: a real coordinator in this process, with its store in memory, and your agents connected to it.

    async def test_greeting():
        async with muster_in_process(agent) as client:
            handle = await client.submit("greet", "Ada")
            assert (await handle.result()).text() == "hello Ada"

Queue, leases, retries and streams are the real ones, over gRPC on a free loopback port; only durability is missing. It needs the
extra `muster-agents[coordinator]`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from agent_node import clock
from agent_node.agent import Agent
from agent_node.client import Client, SubmitMiddleware
from agent_node.payloads import Payloads

try:
    from coordinator.convert import Bounds
    from coordinator.core.model import Settings
    from coordinator.journal.memory_store import MemoryShard, MemoryShardStore
    from coordinator.settings import CoordinatorSettings
    from coordinator.webhook_urls import WebhookRules, parse_networks
    from coordinator.wiring import serve
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"agent_node.testing runs a coordinator, which needs {missing.name!r}: pip install 'muster-agents[coordinator]'", name=missing.name
    ) from None

__all__ = ["local_coordinator", "muster_in_process"]


@asynccontextmanager
async def local_coordinator(
    *, lease_s: float = 30.0, session_grace_s: float = 15.0, webhook_allow: Sequence[str] = ()
) -> AsyncIterator[str]:
    """A coordinator in this process and event loop, forgotten at the end of the block.

    Args:
        lease_s: how many seconds it believes in an attempt without hearing of it; agents renew three times in it. Shorten it to test what
            happens when an agent hangs.
        session_grace_s: how many seconds a broken agent stream may take to come back. Shorten it to test what happens when one dies.
        webhook_allow: networks that webhooks may go to beside public addresses, such as "127.0.0.1" for a receiver of the test's own.

    Yields:
        Its address, `127.0.0.1:port`.
    """
    store = MemoryShardStore(shard=MemoryShard(), now_ms=clock.wall_ms)
    core = Settings(lease_s=lease_s, renew_period_s=lease_s / 3, session_grace_s=session_grace_s)
    bounds = Bounds(webhooks=WebhookRules(allowed=parse_networks(webhook_allow)))
    settings = CoordinatorSettings(listen="127.0.0.1:0", shards=1, core=core, bounds=bounds, stop_grace_s=0.0)
    async with serve(settings, [store], ("memory", "nothing survives the end of this process")) as running:
        yield f"127.0.0.1:{running.port}"


@asynccontextmanager
async def muster_in_process(
    *agents: Agent,
    lease_s: float = 30.0,
    session_grace_s: float = 15.0,
    payloads: Payloads | None = None,
    middleware: Sequence[SubmitMiddleware] = (),
) -> AsyncIterator[Client]:
    """A coordinator in this process, these agents serving it, and a client.

    Args:
        agents: yours; whatever address they were made with, they serve here. Their namespace must be "default".
        lease_s: see `local_coordinator`.
        session_grace_s: see `local_coordinator`.
        payloads: the client's; the agents have their own.
        middleware: the client's.

    Yields:
        A client. A submit waits for its agent to connect, as in real life.
    """
    async with local_coordinator(lease_s=lease_s, session_grace_s=session_grace_s) as address:
        for agent in agents:
            agent.override(address=address)
        serving = [asyncio.create_task(agent.serve(), name=f"agent {agent.name}") for agent in agents]
        try:
            async with Client(address, payloads=payloads, middleware=middleware) as client:
                yield client
        finally:
            for agent in agents:
                agent.stop()
            for task in serving:
                with contextlib.suppress(asyncio.CancelledError):
                    await task
