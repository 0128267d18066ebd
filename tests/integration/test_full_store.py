"""A store that fills up refuses submits, drains, and takes them again (G7), on a real Valkey."""

import asyncio
import logging

import pytest
from redis.asyncio import Redis

from agent_node import Agent, Client
from agent_node.errors import LimitError
from coordinator.engine.room import FULL_PERCENT
from coordinator.settings import CoordinatorSettings
from coordinator.wiring import coordinator
from tests.support.eventually import eventually

LIMIT_BYTES = 32 * 1024 * 1024
PAYLOAD = b"x" * 10_000


@pytest.fixture
async def address(tmp_path):
    settings = CoordinatorSettings(listen="127.0.0.1:0", data_dir=tmp_path, shards=1, store_memory_bytes=LIMIT_BYTES, stop_grace_s=0.0)
    async with coordinator(settings) as running:
        yield f"127.0.0.1:{running.port}"


async def fill(client, number=0):
    """Submits until one is refused. Answers the handles of what was taken, and the refusal."""
    taken = []
    while True:
        try:
            taken.append(await client.submit("work", PAYLOAD, task_id=f"task-{number + len(taken)}"))
        except LimitError as refusal:
            return taken, refusal


async def test_it_refuses_drains_and_takes_again(address, tmp_path):
    async with Client(address) as client:
        taken, refusal = await fill(client)
        assert len(taken) > 300
        assert refusal.metadata["limit"] == "store_memory"
        assert refusal.retry_after_s > 0
        assert f"submits stop at {FULL_PERCENT} %" in str(refusal)
        again = await client.submit("work", PAYLOAD, task_id="task-0")
        assert again.task_id == "task-0", "what is there already is the same task"
        with pytest.raises(LimitError):
            await client.submit("work", b"", task_id="small")

        agent = Agent("agent", address=address)

        @agent.handler("work")
        async def work(context):
            return len(context.payload)

        serving = asyncio.create_task(agent.serve())
        async with asyncio.timeout(60):
            results = await asyncio.gather(*(handle.result() for handle in taken))
        assert {result.json() for result in results} == {len(PAYLOAD)}

        async def takes():
            try:
                await client.submit("work", PAYLOAD, task_id="afterwards")
            except LimitError:
                return False
            return True

        await eventually(takes, within_s=20, message="submits to be taken again")
        agent.stop()
        await serving


async def test_a_server_with_no_room_at_all_is_an_outage_that_ends(address, tmp_path, caplog):
    """Somebody else has filled it: the very completion is refused, until there is room again."""
    caplog.set_level(logging.CRITICAL, logger="coordinator")
    store = Redis(unix_socket_path=str(tmp_path / "store.sock"))
    async with Client(address) as client:
        handle = await client.submit("work", b"")
        await store.config_set("maxmemory", 1)
        agent = Agent("agent", address=address)

        @agent.handler("work")
        async def work(context):
            return b"done"

        serving = asyncio.create_task(agent.serve())
        await asyncio.sleep(0.5)
        await store.config_set("maxmemory", LIMIT_BYTES)
        async with asyncio.timeout(30):
            assert (await handle.result()).payload == b"done"
        agent.stop()
        await serving
    await store.aclose()
