"""The history of concurrent clients of shared state, over whatever is killed meanwhile."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable

from agent_node import Client
from tests.chaos.state_clients import Clients
from tests.e2e.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.linearizability import Operation

PER_PHASE = 700  # answers between two kills


async def recorded(deployment: Deployment, *, seed: int, kills: Iterable[Callable[[], Awaitable[None]]] = ()) -> list[Operation]:
    """The history of six clients, three of them of the SDK's.

    Args:
        deployment: what they talk to.
        seed: decides what they do.
        kills: what happens between, each after some hundred answers, and as many again at the end.
    """
    clients = Clients(random.Random(seed))
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        opened = [await stack.enter_async_context(Client(deployment.address, connect_timeout_s=60.0)) for _ in range(3)]
        for number, client in enumerate(opened):
            group.create_task(clients.through_sdk(f"sdk {number}", client))
        for number in range(3):
            group.create_task(clients.by_hand(f"hand {number}", deployment.address, opened[number]))

        async def more() -> None:
            enough = len(clients.history) + PER_PHASE
            await eventually(lambda: len(clients.history) >= enough, within_s=60, message="answers")

        for kill in kills:
            await more()
            await kill()
        await more()
        clients.stopping = True
    return clients.history
