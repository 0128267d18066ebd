"""A store that fills up refuses submits, drains, and takes them again (G7), on a real Valkey."""

import asyncio
import logging
from contextlib import asynccontextmanager

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
async def running(tmp_path):
    settings = CoordinatorSettings(listen="127.0.0.1:0", data_dir=tmp_path, shards=1, store_memory_bytes=LIMIT_BYTES, stop_grace_s=0.0)
    async with coordinator(settings) as coordinator_here:
        yield coordinator_here


@pytest.fixture
def address(running):
    return f"127.0.0.1:{running.port}"


@asynccontextmanager
async def serving_agent(address, task_type="works"):
    """An agent that answers with the length of the payload."""
    agent = Agent(f"agent-{task_type}", address=address)

    @agent.handler(task_type)
    async def work(context):
        return len(context.payload)

    serving = asyncio.create_task(agent.serve())
    try:
        yield
    finally:
        agent.stop()
        await serving


async def fill(client, name):
    """Submits until one is refused. Answers the handles of what was taken, and the refusal."""
    taken = []
    while True:
        try:
            taken.append(await client.submit("waits", PAYLOAD, task_id=f"{name}-{len(taken)}"))
        except LimitError as refusal:
            return taken, refusal


async def test_it_refuses_drains_and_takes_again_and_again(running, address):
    """Each round fills the store: the next one's tasks find room only because it was made."""
    async with Client(address) as client, serving_agent(address):
        for number in range(3):
            taken, refusal = await fill(client, f"round-{number}")
            assert len(taken) > 100  # from 70 % on, where it isn't tight any more, 160 fit
            assert refusal.metadata["limit"] == "store_memory"
            assert refusal.retry_after_s > 0
            assert f"submits stop at {FULL_PERCENT} %" in str(refusal)
            again = await client.submit("waits", PAYLOAD, task_id=taken[0].task_id)
            assert again.task_id == taken[0].task_id, "what is there already is the same task"
            with pytest.raises(LimitError):
                await client.submit("works", b"", task_id="small")
            async with serving_agent(address, "waits"), asyncio.timeout(60):
                results = await asyncio.gather(*(handle.result() for handle in taken))
            assert {result.json() for result in results} == {len(PAYLOAD)}

            async def takes(number=number):
                try:
                    await client.submit("works", b"", task_id=f"after-{number}")
                except LimitError:
                    return False
                return not running.shards[0].room.is_tight()

            await eventually(takes, within_s=30, message="submits to be taken again, and room for many")


async def test_a_server_with_no_room_at_all_is_an_outage_that_ends(address, tmp_path, caplog):
    """Somebody else has filled it: the very completion is refused, until there is room again."""
    caplog.set_level(logging.CRITICAL, logger="coordinator")
    store = Redis(unix_socket_path=str(tmp_path / "store.sock"))
    async with Client(address) as client:
        handle = await client.submit("works", b"done")
        await store.config_set("maxmemory", 1)
        async with serving_agent(address):
            await asyncio.sleep(0.5)
            await store.config_set("maxmemory", LIMIT_BYTES)
            async with asyncio.timeout(30):
                assert (await handle.result()).json() == 4
    await store.aclose()
