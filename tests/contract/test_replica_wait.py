"""Acknowledgements that wait for replicas: nothing is answered, nor shown to anybody, that a replica doesn't have."""

import asyncio

import pytest

from coordinator.errors import Unavailable
from coordinator.journal.errors import StoreStartError
from coordinator.journal.opening import open_store
from coordinator.ports import AppendAnswer, StoreOutage
from coordinator.state.model import Put, Transaction
from coordinator.state.outages import read_within
from coordinator.state.ports import WriteAnswer
from tests.support.redis_servers import replicated, until
from tests.support.state_backings import StateClock, StateWriter

KINDS = ["valkey", pytest.param("redis", marks=pytest.mark.redis)]


@pytest.fixture(params=KINDS)
async def servers(request, children, tmp_path):
    """A primary and a replica."""
    async with replicated(children, tmp_path / "store", kind=request.param, sentinels=0) as store:
        yield store


@pytest.fixture
async def open_it(servers):
    opened = []

    async def open_one(wait_replicas):
        opened.append(await open_store(data_dir=None, redis_url=servers.url, shards=2, wait_replicas=wait_replicas))
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


def append(store, sequence):
    return store.shard(0).append(sequence=sequence, commit_nonce=f"n{sequence}", blob=b"b", ended=())


class TestJournal:
    async def test_what_the_replica_lacks_is_an_outage_until_it_has_it(self, open_it, servers):
        store = await open_it(1)
        await store.shard(0).claim()
        assert (await append(store, 1)).answer is AppendAnswer.APPLIED
        with servers.servers[1].stopped():
            for _ in range(2):  # the second finds it there, on a connection that has written nothing yet
                with pytest.raises(StoreOutage, match="NOREPLICAS 0 of 1"):
                    await append(store, 2)
            assert await servers.servers[0].ask("XLEN", "muster:{s0}:journal") == 2
            for read in (store.shard(0).read(after=0, limit=9), store.shard(0).get_records("default", ["t"])):
                with pytest.raises(StoreOutage):
                    await read
            with pytest.raises(StoreOutage):
                await store.shard(0).claim()
        assert (await append(store, 2)).answer is AppendAnswer.FENCED  # by the claim, which nobody has answered
        await store.shard(0).claim()
        assert await store.shard(0).read(after=0, limit=9) == [(1, b"b"), (2, b"b")]

    async def test_a_repeated_append_is_answered_once_the_replica_has_it(self, open_it, servers):
        store = await open_it(1)
        await store.shard(0).claim()
        with servers.servers[1].stopped(), pytest.raises(StoreOutage):
            await append(store, 1)
        assert (await append(store, 1)).answer is AppendAnswer.ALREADY_MINE

    async def test_a_read_waits_for_the_write_that_is_under_way(self, open_it, servers):
        store = await open_it(1)
        await store.shard(0).claim()
        with servers.servers[1].stopped():
            writing = asyncio.ensure_future(append(store, 1))
            await until(lambda: servers.servers[0].ask("XLEN", "muster:{s0}:journal"), message="the primary to have it")
            reading = asyncio.ensure_future(store.shard(0).read(after=0, limit=9))
            done, _ = await asyncio.wait([writing, reading], return_when=asyncio.FIRST_COMPLETED)
            assert done == {writing}
            assert isinstance(writing.exception(), StoreOutage)
        assert await reading == [(1, b"b")]  # it has waited for what the write had left behind

    async def test_without_it_nobody_waits(self, open_it, servers):
        store = await open_it(0)
        with servers.servers[1].stopped():
            await store.shard(0).claim()
            assert (await append(store, 1)).answer is AppendAnswer.APPLIED
            assert await store.shard(0).read(after=0, limit=9) == [(1, b"b")]


class TestState:
    async def test_what_the_replica_lacks_is_neither_answered_nor_shown(self, open_it, servers):
        store = await open_it(1)
        await store.shard(0).claim()
        writer = StateWriter(store=store.state(0), clock=StateClock())
        await writer.put("a")
        with servers.servers[1].stopped():
            for _ in range(2):
                with pytest.raises(StoreOutage, match="NOREPLICAS"):
                    await writer.batch(Transaction((Put("b", b"v"),)), nonce="twice")
            for read in (writer.get("b"), writer.events(), writer.facts(), writer.lock()):
                with pytest.raises(StoreOutage):
                    await read
            with pytest.raises(Unavailable):
                await read_within(lambda: writer.get("b"))
        assert (await writer.batch(Transaction((Put("b", b"v"),)), nonce="twice")).answer is WriteAnswer.ALREADY_MINE
        assert await writer.keys() == ["a", "b"]

    async def test_a_write_that_nobody_repeats_doesn_t_hold_reads_up_for_ever(self, open_it, servers):
        store = await open_it(1)
        await store.shard(0).claim()
        writer = StateWriter(store=store.state(0), clock=StateClock())
        with servers.servers[1].stopped(), pytest.raises(StoreOutage):
            await writer.put("a")
        assert await writer.keys() == ["a"]


class TestStart:
    async def test_too_few_replicas(self, open_it, servers):
        servers.servers[1].kill()
        with pytest.raises(
            StoreStartError, match=r"has no replica, and --durability wait-replicas:1 needs 1: start more, or wait for fewer"
        ):
            await open_it(1)

    async def test_fewer_than_are_wanted(self, open_it):
        with pytest.raises(StoreStartError, match=r"has 1 replica, and --durability wait-replicas:2 needs 2"):
            await open_it(2)

    async def test_what_it_promises(self, open_it, servers):
        report = (await open_it(1)).report
        where = "on the disks" if report.product == "Valkey" else "in the memory"
        assert (
            report.durability
            == f"every acknowledged write survives a killed server and a power cut; acknowledged writes are {where} of a replica, too"
        )
        assert report.warnings == ()

    async def test_replicas_without_a_log(self, open_it, servers):
        await servers.servers[1].client().config_set("appendonly", "no")
        report = (await open_it(1)).report
        assert "in the memory of a replica" in report.durability
        assert len(report.warnings) == (report.product == "Valkey")

    async def test_a_log_that_is_flushed_each_second_isn_t_waited_for(self, open_it, servers):
        await servers.servers[0].client().config_set("appendfsync", "everysec")
        report = (await open_it(1)).report
        assert "in the memory of a replica" in report.durability
        assert report.warnings == ()
