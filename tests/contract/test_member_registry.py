"""What a register of coordinators does: in memory, on the embedded Valkey, and on a redis-server of the system."""

import asyncio
import json
import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from coordinator.cluster.ports import HeldShard, IdInUse, Member
from coordinator.journal.layout import members_key
from coordinator.journal.memory_registry import MemoryMemberRegistry, MemoryMembers
from coordinator.journal.redis_registry import RedisMemberRegistry
from coordinator.journal.server_binary import find_server_binary
from coordinator.ports import StoreOutage
from tests.support.eventually import eventually
from tests.support.shard_backings import running_server

TTL_S = 60.0
A = Member("a", "a:1", "first run", host="here", listen="0.0.0.0:1", start_ms=7, shards=(HeldShard(3, 2**53 - 1, 5, True, 9, 8),))
B = Member("b", "b:1", "first run", host="there", listen="0.0.0.0:1")


@pytest.fixture(params=["memory", "valkey", pytest.param("redis", marks=pytest.mark.redis)])
async def registries(request, tmp_path):
    """Makes ways to one register."""
    if request.param == "memory":
        data, now_ms = MemoryMembers(), count(1_800_000_000_000, 10)
        yield lambda: MemoryMemberRegistry(data=data, now_ms=lambda: next(now_ms))
        return
    binary = find_server_binary() if request.param == "valkey" else Path(shutil.which("redis-server"))
    async with running_server(binary=binary, directory=tmp_path / "store") as server:
        made = []

        def make():
            made.append(RedisMemberRegistry(pool=server.client().connection_pool, key_prefix="muster", call_timeout_s=5))
            return made[-1]

        yield make
        for registry in made:
            await registry.close()


async def names(registry, me, *, ttl_s=TTL_S):
    return {one.member.coordinator_id for one in await registry.renew(me, ttl_s=ttl_s)}


async def test_all_that_live_are_answered_as_they_describe_themselves(registries):
    first, second = registries(), registries()
    assert [one.member for one in await first.renew(A, ttl_s=TTL_S)] == [A]
    live = await second.renew(B, ttl_s=2 * TTL_S)
    assert {one.member.coordinator_id: one.member for one in live} == {"a": A, "b": B}
    assert all(0 < one.for_s <= 2 * TTL_S for one in live)
    changed = replace(A, leaving=True, shards=())
    await first.renew(changed, ttl_s=TTL_S)
    assert changed in [one.member for one in await second.renew(B, ttl_s=TTL_S)]


async def test_who_is_not_heard_of_lives_no_more(registries):
    first, second = registries(), registries()
    await first.renew(A, ttl_s=0.05)

    async def alone():
        return await names(second, B) == {"b"}

    await eventually(alone, message="the other's end")
    assert await names(first, A) == {"a", "b"}, "it was only slow"


async def test_who_leaves_is_gone_at_once(registries):
    first, second = registries(), registries()
    await first.renew(A, ttl_s=TTL_S)
    await first.leave(A)
    await first.leave(A)
    assert await names(second, B) == {"b"}


async def test_an_id_that_another_has_is_refused_and_changes_nothing(registries):
    first, second = registries(), registries()
    await first.renew(A, ttl_s=TTL_S)
    for other in (
        replace(A, incarnation="another", host="elsewhere"),
        replace(A, incarnation="another", listen="0.0.0.0:2"),
    ):
        with pytest.raises(IdInUse, match="'a' serves at a:1 already: give each"):
            await second.renew(other, ttl_s=TTL_S)
    assert A in [one.member for one in await first.renew(A, ttl_s=TTL_S)]


async def test_whoever_has_bound_the_same_address_again_is_the_next_run(registries):
    """And the run before, should it live for all that, is told."""
    first, second = registries(), registries()
    await first.renew(A, ttl_s=TTL_S)
    again = replace(A, incarnation="second run")
    assert await names(second, again) == {"a"}
    with pytest.raises(IdInUse):
        await first.renew(A, ttl_s=TTL_S)
    await first.leave(A)
    assert await names(second, again) == {"a"}, "it isn't the one that left"


async def test_an_id_is_free_when_its_owner_lives_no_more(registries):
    first, second = registries(), registries()
    await first.renew(A, ttl_s=0.05)

    async def taken():
        try:
            return await second.renew(replace(A, incarnation="another", host="elsewhere"), ttl_s=TTL_S)
        except IdInUse:
            return None

    await eventually(taken, message="the id to be free")


async def test_a_nudge_wakes_the_others(registries):
    first, second = registries(), registries()

    async def nudged(registry):
        while True:
            await registry.nudged()
            woken.append(registry)

    woken = []
    ears = [asyncio.create_task(nudged(registry)) for registry in (first, second)]
    await asyncio.sleep(0)

    async def both():
        await first.nudge()
        return {first, second} <= set(woken)

    await eventually(both, message="both to be woken")
    for ear in ears:
        ear.cancel()
    await asyncio.gather(*ears, return_exceptions=True)


async def test_what_a_newer_release_says_beyond_is_left_out(tmp_path):
    async with running_server(binary=find_server_binary(), directory=tmp_path / "store") as server:
        registry = RedisMemberRegistry(pool=server.client().connection_pool, key_prefix="muster", call_timeout_s=5)
        said = {
            "coordinator_id": "n",
            "address": "n:1",
            "incarnation": "x",
            "mood": 7,
            "shards": [{"number": 0, "epoch": 1, "since_ms": 1}],
        }
        said["shards"][0] |= {"serving": True, "colour": "red"}
        await server.client().hset(members_key("muster"), "n", f"{10**14} {json.dumps(said)}")
        live = await registry.renew(B, ttl_s=TTL_S)
        assert Member("n", "n:1", "x", shards=(HeldShard(0, 1, 1, True),)) in [one.member for one in live]
        server.kill()
        with pytest.raises(StoreOutage):
            await registry.renew(B, ttl_s=TTL_S)
        with pytest.raises(StoreOutage):
            await registry.nudged()
        await registry.close()
