"""The streams' event loop ends with its last agent, while others of the process go on."""

import asyncio
import logging

from agent_node import Agent
from tests.support.eventually import eventually


def test_agents_that_are_cancelled_leave_nothing_behind_for_others(coordinator, caplog):
    """grpc.aio has one queue of events per process: what comes for a loop that is closed is another one's error."""

    async def serve_shortly(name):
        agent = Agent(name, address=coordinator.address)
        agent.handler("work")(lambda ctx: None)
        known = len(coordinator.streams)
        serving = asyncio.create_task(agent.serve())
        await eventually(lambda: len(coordinator.streams) > known, message="its stream")
        serving.cancel()
        await asyncio.wait([serving])

    with caplog.at_level(logging.ERROR, logger="asyncio"):
        for number in range(15):
            asyncio.run(serve_shortly(f"agent-{number}"))
    assert [record.getMessage() for record in caplog.records] == []
