"""Shared state in a cluster of three nodes: every call of a shard names all that it touches, and finds it on one node."""

import pytest

from coordinator.journal.layout import ShardKeys
from coordinator.journal.redis_store import RedisShardStore
from coordinator.state.layout import StateKeys
from coordinator.state.model import Compact, Outcome, RevokeLease
from coordinator.state.redis_store import RedisStateStore
from tests.support.redis_servers import SLOTS, clustered
from tests.support.state_backings import StateClock, StateWriter

NODES = 3


@pytest.fixture(params=["valkey", pytest.param("redis", marks=pytest.mark.redis)])
async def nodes(request, children, tmp_path):
    """A client of each node."""
    async with clustered(children, tmp_path / "nodes", kind=request.param, primaries=NODES) as cluster:
        yield [node.client() for node in cluster.primaries]


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
