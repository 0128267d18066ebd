"""What was read of a shard before it was ours is gone on from, and only if the journal does."""

import asyncio

from coordinator.engine.read_ahead import ReadAhead
from coordinator.engine.recovery import READ_PAGE, recover
from coordinator.journal import codec
from coordinator.journal.memory_store import Fault, MemoryShardStore, StoreCall
from tests.engine.test_shard import Bench
from tests.support.virtual_loop import run_virtually


def with_a_journal(story, *, tasks=3 * READ_PAGE):
    """Runs a story over a shard with a journal whose owner is dead."""

    async def main(loop):
        async with Bench(loop) as bench:
            for number in range(tasks):
                bench.submit(f"task-{number}")
                await bench.shard.durable()
        bench.reads = 0

        async def counted(call):
            bench.reads += call is StoreCall.READ
            return bench.faults.get(call, Fault.NONE)

        bench.successor = MemoryShardStore(shard=bench.data, now_ms=bench.store._now_ms, fault=counted)
        bench.ahead = ReadAhead(store=bench.successor, codec=codec)
        await story(bench)

    run_virtually(main)


async def recovered(bench):
    bench.reads = 0
    claim = await bench.successor.claim()
    return await recover(bench.successor, codec, claim, ahead=await bench.ahead.take())


def tasks_of(found):
    return {task.spec.task_id for task in found.states["default"][0].tasks.values()}


def _owner_of(bench):
    owner = Bench(bench.loop)
    owner.data = bench.data
    owner.store._shard = bench.data
    return owner


def test_only_what_came_since_is_read():
    async def story(bench):
        bench.ahead.begin()
        bench.ahead.begin()
        await asyncio.sleep(1)
        async with _owner_of(bench) as owner:
            owner.submit("since")
            await owner.shard.durable()
        found = await recovered(bench)
        assert bench.reads <= 3
        assert "since" in tasks_of(found)
        assert len(tasks_of(found)) == 3 * READ_PAGE + 1
        assert found.sequence == bench.data.sequence

    with_a_journal(story)


def test_reading_that_isnt_done_is_waited_for():
    async def story(bench):
        bench.ahead.begin()
        assert len(tasks_of(await recovered(bench))) == 3 * READ_PAGE

    with_a_journal(story)


def test_a_journal_that_lost_its_end_and_went_on_otherwise_is_read_anew():
    async def story(bench):
        bench.ahead.begin()
        await asyncio.sleep(1)
        for _ in range(3):
            del bench.data.journal[bench.data.sequence]
            bench.data.sequence -= 1
        async with _owner_of(bench) as owner:
            for number in range(10):
                owner.submit(f"instead-{number}")
                await owner.shard.durable()
        names = tasks_of(await recovered(bench))
        assert {f"instead-{number}" for number in range(10)} <= names
        assert f"task-{3 * READ_PAGE - 1}" not in names

    with_a_journal(story)


def test_a_journal_that_is_shorter_now_is_read_anew():
    async def story(bench):
        bench.ahead.begin()
        await asyncio.sleep(1)
        for _ in range(3):
            del bench.data.journal[bench.data.sequence]
            bench.data.sequence -= 1
        assert f"task-{3 * READ_PAGE - 1}" not in tasks_of(await recovered(bench))

    with_a_journal(story)


def test_what_was_trimmed_since_is_read_anew():
    async def story(bench):
        bench.ahead.begin()
        await asyncio.sleep(1)
        async with _owner_of(bench) as owner:
            owner.shard.snapshots._settings = type(owner.shard.snapshots._settings)(min_journal_bytes=1)
            owner.submit("since")
            await owner.shard.durable()
            await asyncio.sleep(5)
            assert bench.data.snapshot is not None
            assert len(bench.data.journal) < 3
        assert "since" in tasks_of(await recovered(bench))

    with_a_journal(story)


def test_a_store_that_is_out_costs_nothing_but_the_time():
    async def story(bench):
        bench.faults[StoreCall.READ] = Fault.BEFORE
        bench.ahead.begin()
        await asyncio.sleep(1)
        bench.faults.clear()
        assert len(tasks_of(await recovered(bench))) == 3 * READ_PAGE

    with_a_journal(story)


def test_what_isnt_needed_is_dropped():
    async def story(bench):
        bench.ahead.begin()
        bench.ahead.drop()
        assert await bench.ahead.take() is None
        bench.ahead.drop()

    with_a_journal(story)
