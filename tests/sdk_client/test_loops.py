"""Event loops that end with their clients while others of the same process go on."""

import asyncio
from typing import Any

from agent_node import Client
from tests.support.fake_task_service import FakeTaskService, serving


async def test_a_loop_that_ends_leaves_nothing_behind_for_others() -> None:
    """grpc.aio has one queue of events per process: what comes for a loop that is closed is another one's error."""
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))

    async def use(address: str) -> None:
        async with Client(address, namespace="team-a", connect_timeout_s=5) as client:
            handle = await client.submit("work")
            waiting = asyncio.create_task(handle.result())
            await asyncio.sleep(0)
            waiting.cancel()

    async with serving(FakeTaskService()) as address:
        for _ in range(40):
            await asyncio.to_thread(lambda: asyncio.run(use(address)))
    assert errors == []
