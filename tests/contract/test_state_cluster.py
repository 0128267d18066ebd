"""Shared state in a cluster of three nodes: every call of a shard names all that it touches, and finds it on one node."""

import shutil
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis

from coordinator.journal.layout import ShardKeys
from coordinator.journal.redis_store import RedisShardStore
from coordinator.journal.server_binary import find_server_binary
from coordinator.state.layout import StateKeys
from coordinator.state.model import Compact, Outcome, RevokeLease
from coordinator.state.redis_store import RedisStateStore
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.state_backings import StateClock, StateWriter

NODES = 3
SLOTS = 16384


@pytest.fixture(params=["valkey", pytest.param("redis", marks=pytest.mark.redis)])
async def nodes(request, children, tmp_path):
    """A client of each node."""
    binary = find_server_binary() if request.param == "valkey" else Path(shutil.which("redis-server"))
    clients = []
    async with AsyncExitStack() as closing:
        for number in range(NODES):
            directory = tmp_path / f"node-{number}"
            directory.mkdir()
            flags = {"cluster-enabled": "yes", "dir": directory, "bind": "127.0.0.1", "port": free_port(), "cluster-port": free_port()}
            words = [str(binary), *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]
            await children.start(words, name=f"node-{number}").wait_for_port(flags["port"])
            client = Redis(port=flags["port"], protocol=2, socket_timeout=None)
            closing.push_async_callback(client.aclose)
            first, stop = SLOTS * number // NODES, SLOTS * (number + 1) // NODES
            await client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, stop - 1)
            if clients:
                await clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", flags["port"], flags["cluster-port"])
            clients.append(client)

        async def formed():
            infos = [await client.execute_command("CLUSTER", "INFO") for client in clients]
            return all(b"cluster_state:ok" in info and b"cluster_size:3" in info for info in infos)

        await eventually(formed, within_s=30, message="the nodes to know each other")
        yield clients


async def test_shards_lie_on_all_nodes_and_each_on_one(nodes):
    homes = set()
    for number in range(12):
        keys = ShardKeys(prefix="muster", shard=number)
        slot = await nodes[0].execute_command("CLUSTER", "KEYSLOT", keys.head)
        home = slot * NODES // SLOTS
        if home in homes:
            continue
        homes.add(home)
        pool = nodes[home].connection_pool
        shard = RedisShardStore(pool=pool, keys=keys, new_nonce=lambda: "nonce")
        store = RedisStateStore(pool=pool, keys=StateKeys(shard=keys), token=shard.token)
        await shard.claim()
        await everything(StateWriter(store=store, clock=StateClock()))
        await store.close()
        await shard.close()
    assert homes == set(range(NODES))


async def everything(writer):
    """Each call of the port, once."""
    lease = await writer.lease(60_000)
    await writer.put("a", lease_id=lease)
    await writer.put("big", b"B" * 5000, ttl_ms=60_000)
    token = (await writer.acquire("holder")).revision
    await writer.acquire("waiter")
    assert await writer.lock() == ("holder", ["waiter"])
    assert await writer.keys() == ["a", "big"]
    assert len(await writer.told()) == 2
    assert (await writer.store.entry_at("default", "a", 2)).value == b"v"
    assert len((await writer.store.history("default", "a", after=0, limit=9, max_bytes=99)).events) == 1
    assert (await writer.do(RevokeLease(lease))).number == 1
    assert (await writer.delete("b", prefix=True)).number == 1
    assert (await writer.expire()).outcome is Outcome.DONE
    assert (await writer.do(Compact(token, 10))).number == 2
    assert (await writer.facts()).keys == 0
    assert await writer.store.drop("default", limit=10) is False
    assert (await writer.facts()).revision == 0
