"""The SDK's clients and agents, given the address of a coordinator that owns nothing: they learn the owner's, and outlive either."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest

from agent_node import Agent, BlockingClient, Client
from tests.support.eventually import eventually
from tests.support.pair import HOME, NAMES, OTHER, SHARDS, Pair, side
from tests.support.ports import free_port
from tests.support.raw_owner import raw_owner


@asynccontextmanager
async def front_that_can_end():
    """A pair, and what ends its front."""
    async with AsyncExitStack() as ending:
        back = await ending.enter_async_context(side("back"))
        front_ending = await ending.enter_async_context(AsyncExitStack())
        front = await front_ending.enter_async_context(side("front"))
        pair = Pair(front, back)
        for shard in range(SHARDS):
            pair.move(shard, back.owner())
        yield pair, front_ending.aclose


async def direct(client, back):
    """Waits until a client's calls go to the owner."""
    routes = client._live.channel._routes

    async def is_there():
        await client.queue_stats()
        return routes.choose("default", client._live.channel._is_ready) == back.address

    await eventually(is_there, message="the way to the owner")


async def test_a_client_outlives_the_coordinator_that_it_was_given():
    async with front_that_can_end() as (pair, end_front), Client(pair.front.address) as client:
        first = await client.submit("work")
        await client.state.put("k", b"1")
        watch = client.state.watch("k")
        assert await watch.started()
        await direct(client, pair.back)
        await end_front()
        assert (await client.get(first.task_id)).task_id == first.task_id
        second = await client.submit("work")
        assert set(pair.back.scheduler.state.tasks) == {first.task_id, second.task_id}
        await client.state.put("k", b"2")
        assert (await anext(watch)).revision
        await watch.aclose()


async def test_an_agent_runs_on():
    agent = Agent("a")
    release = asyncio.Event()

    @agent.handler("work")
    async def work(ctx):
        await release.wait()
        return f"attempt {ctx.attempt}"

    async with front_that_can_end() as (pair, end_front), Client(pair.back.address) as client:
        agent.override(address=pair.front.address)
        serving = asyncio.create_task(agent.serve())
        try:
            task = await client.submit("work")
            await eventually(lambda: pair.back.scheduler.load.agents["a"].running if pair.back.scheduler.load.agents else None)
            await end_front()
            await eventually(lambda: pair.back.shard.agent_sinks, message="the agent to come back, directly")
            release.set()
            assert (await task.result(timeout_s=10)).payload == b"attempt 1"
        finally:
            agent.stop()
            await serving


async def test_single_calls_of_a_blocking_client():
    async with front_that_can_end() as (pair, end_front):
        client = BlockingClient(pair.front.address)
        try:
            await asyncio.to_thread(client.queue_stats)
            await eventually(lambda: pair.back.address in client._channel._ready, message="the way to the owner")
            await end_front()
            assert await asyncio.to_thread(client.queue_stats)
        finally:
            await asyncio.to_thread(client.close)


@pytest.mark.parametrize("kind", ["async", "blocking"])
async def test_the_given_addresses_are_tried_in_turn(pair, kind):
    address = f"127.0.0.1:{free_port()},{pair.front.address}"
    if kind == "async":
        async with Client(address) as client:
            assert await client.queue_stats()
            assert (await client.submit("work")).task_id in pair.back.scheduler.state.tasks
    else:
        blocking = BlockingClient(address)
        assert await asyncio.to_thread(blocking.queue_stats)
        await asyncio.to_thread(blocking.close)


async def test_an_agent_tries_them_in_turn(pair):
    agent = Agent("a", address=f"127.0.0.1:{free_port()},{pair.front.address}")
    agent.handler("work")(lambda ctx: None)
    serving = asyncio.create_task(agent.serve())
    await eventually(lambda: pair.back.shard.agent_sinks, message="the agent")
    agent.stop()
    await serving


async def test_a_failover_is_a_delay(pair):
    """Nobody owns the shard for longer than a coordinator waits, and then somebody else does."""
    async with Client(f"{pair.front.address},{pair.back.address}") as client:
        await direct(client, pair.back)
        pair.move(HOME, None)
        asyncio.get_running_loop().call_later(1.5, pair.move, HOME, pair.front.owner())
        asked, submitted = await asyncio.gather(client.queue_stats(), client.submit("work"))
        assert asked is not None
        assert submitted.task_id in pair.front.scheduler.state.tasks


async def test_an_owner_that_cannot_be_reached_from_here_costs_nothing(pair):
    """As behind a proxy: calls go on by the address that was given."""
    nowhere = f"127.0.0.1:{free_port()}"
    async with raw_owner() as proxy:

        async def answer(call):
            await call.context.send_initial_metadata((("muster-owner", nowhere),))
            await call.read()
            call.context.set_trailing_metadata((("muster-owner", nowhere),))
            await call.write(b"")

        proxy.answer = answer
        async with Client(proxy.address) as client:
            for number in range(5):
                await client.queue_stats()
                assert len(proxy.calls) == number + 1
        blocking = BlockingClient(proxy.address)
        for _ in range(5):
            await asyncio.to_thread(blocking.queue_stats)
        await asyncio.to_thread(blocking.close)
        assert len(proxy.calls) == 10


async def test_a_namespace_that_is_made_elsewhere_changes_no_way(pair):
    pair.move(OTHER, pair.front.owner())
    async with Client(pair.back.address) as client:
        await client.create_namespace(NAMES[OTHER])
        assert await client.queue_stats()
        assert not client._live.channel._routes._owners


async def test_a_closed_client_is_closed(pair):
    client = Client(pair.front.address)
    async with client:
        channel = client._live.channel
        await client.queue_stats()
    with pytest.raises(grpc.aio.UsageError, match="closed"):
        await channel.unary_unary("/muster.v1.TaskService/GetTask")(b"")
