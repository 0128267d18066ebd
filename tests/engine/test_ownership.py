"""A shard that writes nothing notices soon that it was taken, or that its store is out, and asks no more often than it must."""

import asyncio

import pytest

from coordinator.engine.ownership import CONFIRM_AFTER_S, ShardLost
from coordinator.errors import Unavailable
from coordinator.journal.memory_store import Fault, MemoryShardStore, StoreCall
from tests.engine.test_shard import Bench, on_a_bench
from tests.support.virtual_loop import run_virtually

NOTICED_S = CONFIRM_AFTER_S + 1.5  # a tick, and the call


class Calls:
    """Counts what a bench's store is asked."""

    def __init__(self, bench):
        self.bench = bench
        self.confirmed = 0
        self._fault = bench.store._fault
        bench.store._fault = self

    async def __call__(self, call):
        self.confirmed += call is StoreCall.CONFIRM
        return await self._fault(call)


def rival(bench):
    return MemoryShardStore(shard=bench.data, now_ms=bench.store._now_ms)


async def lost(bench):
    with pytest.raises(ShardLost):
        await bench.running
    bench.running = asyncio.create_task(asyncio.sleep(0))
    return True


def test_a_shard_at_rest_notices_that_it_was_taken():
    async def story(bench):
        await asyncio.sleep(60)
        await rival(bench).claim()
        taken_s = bench.loop.time()
        assert await lost(bench)
        assert bench.loop.time() - taken_s <= NOTICED_S
        with pytest.raises(Unavailable):
            await bench.shard.durable()

    on_a_bench(story)


def test_no_read_is_older_than_the_period_even_after_a_pause():
    async def story(bench):
        await asyncio.sleep(60)
        await rival(bench).claim()
        bench.ahead_s = 600.0  # the process was stopped, and this read is the first that it does
        with pytest.raises(Unavailable):
            await bench.shard.durable()
        assert await lost(bench)

    on_a_bench(story)


def test_a_read_while_the_store_is_asked_waits_for_what_it_says():
    async def story(bench):
        bench.shard.ownership.doubt()
        await rival(bench).claim()
        with pytest.raises(Unavailable):
            await bench.shard.durable()
        assert await lost(bench)

    on_a_bench(story)


def test_a_journal_that_moved_is_noticed_at_rest():
    async def story(bench):
        await asyncio.sleep(60)
        bench.data.sequence += 1
        await asyncio.sleep(NOTICED_S)
        assert bench.running.done()  # this test's journal can't be read again: entry and head disagree
        await asyncio.gather(bench.running, return_exceptions=True)

    on_a_bench(story)


def test_an_outage_is_noticed_at_rest_and_ends():
    async def story(bench):
        task = bench.submit("task")
        bench.acknowledge(task)
        await asyncio.sleep(20)  # of a lease of 30
        bench.faults[StoreCall.CONFIRM] = Fault.BEFORE
        await asyncio.sleep(NOTICED_S)
        assert bench.shard.outage_since_s is not None
        with pytest.raises(Unavailable):
            await bench.shard.durable()
        await asyncio.sleep(100)
        assert task.crashes == 0
        bench.faults.clear()
        await bench.shard.durable_write()
        assert bench.shard.outage_since_s is None
        bench.submit("another")
        await bench.shard.durable()

    on_a_bench(story)


def test_what_is_decided_while_the_store_is_asked_is_written_next():
    async def story(bench):
        bench.faults[StoreCall.CONFIRM] = Fault.BEFORE
        bench.shard.ownership.doubt()
        reading = asyncio.create_task(bench.shard.durable_write())
        await asyncio.sleep(0.01)
        bench.submit("task")
        writing = asyncio.create_task(bench.shard.durable_write())
        await asyncio.sleep(0.01)
        assert (reading.done(), writing.done()) == (False, False)
        bench.faults.clear()
        await asyncio.gather(reading, writing)
        assert bench.data.sequence == len(bench.data.journal)

    on_a_bench(story)


def test_the_store_is_asked_only_when_it_must_be():
    async def story(bench):
        calls = Calls(bench)
        await asyncio.sleep(60)
        assert 12 <= calls.confirmed <= 60 / CONFIRM_AFTER_S
        calls.confirmed = 0
        for number in range(60):
            bench.submit(f"task-{number}")
            await asyncio.sleep(1)
        assert calls.confirmed == 0, "every append says it"

    on_a_bench(story)


def test_a_shard_without_namespaces_asks_nothing():
    async def main(loop):
        bench = Bench(loop)
        calls = Calls(bench)
        bench.shard._default_here = False
        running = asyncio.create_task(bench.shard.run(asyncio.Event()))
        await asyncio.sleep(60)
        assert calls.confirmed == 0
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run_virtually(main)
