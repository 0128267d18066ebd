"""A shard that others may claim: it is kept, suspended, given up and handed over as its lease says."""

import asyncio

import pytest

from coordinator.engine.ownership import ShardLost
from coordinator.engine.recovery import READ_PAGE
from coordinator.errors import Unavailable
from coordinator.journal.memory_store import Fault, MemoryShardStore, StoreCall
from coordinator.ports import ALONE, Claim, Claimant, Held
from tests.engine.test_shard import Bench, on_a_bench
from tests.support.virtual_loop import run_virtually

LEASE_S = 3.0
ME = Claimant(coordinator_id="me", address="me:7450", lease_ms=int(LEASE_S * 1000))
RIVAL = Claimant(coordinator_id="rival", address="rival:7450", lease_ms=int(LEASE_S * 1000))


def rival(bench):
    return MemoryShardStore(shard=bench.data, now_ms=bench.store._now_ms)


async def lost(bench):
    with pytest.raises(ShardLost) as raised:
        await bench.running
    bench.running = asyncio.create_task(asyncio.sleep(0))
    return raised.value


class Sink:
    """A client's stream."""

    namespace_name = "default"

    def __init__(self):
        self.error = None

    def close(self, error):
        self.error = error

    def gone(self, message):
        raise AssertionError(message)


def test_a_shard_at_rest_is_kept_for_ever():
    async def story(bench):
        for _ in range(600):
            await asyncio.sleep(0.1)
            assert isinstance(await rival(bench).claim(RIVAL), Held)

    on_a_bench(story, ME)


def test_a_shard_without_namespaces_is_kept_too():
    async def main(loop):
        bench = Bench(loop)
        bench.shard._default_here = False
        running = asyncio.create_task(bench.shard.run(asyncio.Event(), ME))
        await asyncio.sleep(60)
        assert isinstance(await rival(bench).claim(RIVAL), Held)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run_virtually(main)


def test_what_another_has_is_not_taken_and_it_is_said_whose_it_is():
    async def main(loop):
        bench = Bench(loop)
        await rival(bench).claim(RIVAL)
        with pytest.raises(ShardLost) as raised:
            await bench.shard.run(asyncio.Event(), ME)
        assert (raised.value.held.coordinator_id, raised.value.held.address) == ("rival", "rival:7450")
        assert not bench.shard.serving

    run_virtually(main)


def test_a_recovery_that_takes_longer_than_the_lease_keeps_it():
    async def main(loop):
        async with Bench(loop) as bench:
            for number in range(5 * READ_PAGE):
                bench.submit(f"task-{number}")
                await bench.shard.durable()
        slow = Bench(loop, ME)
        slow.data = bench.data
        slow.store._shard = bench.data

        async def slowly(call):
            await asyncio.sleep(LEASE_S / 2 if call is StoreCall.READ else 0.001)
            return Fault.NONE

        slow.store._fault = slowly
        began_s = loop.time()
        recovering = asyncio.create_task(slow.__aenter__())
        while not recovering.done():
            await asyncio.sleep(0.1)
            if slow.data.claimant is ME:
                assert isinstance(await rival(slow).claim(RIVAL), Held)
        await recovering
        assert loop.time() - began_s > 2 * LEASE_S
        await slow.__aexit__()

    run_virtually(main)


def test_what_became_durable_in_time_is_told_only_if_nobody_else_has_come_since():
    """The process stops after the store has answered, and goes on when somebody else has long decided other things."""

    async def story(bench):
        append = bench.store.append

        async def then_stop(**arguments):
            appended = await append(**arguments)
            bench.ahead_s += 2 * LEASE_S
            await rival(bench).claim(ALONE)
            return appended

        bench.store.append = then_stop
        told = []
        bench.submit("task")
        bench.shard.when_durable(lambda: told.append(True))
        await lost(bench)
        assert told == []

    on_a_bench(story, ME)


def test_what_became_durable_in_time_is_told_when_nobody_came():
    async def story(bench):
        append = bench.store.append

        async def then_stop(**arguments):
            appended = await append(**arguments)
            bench.ahead_s += 2 * LEASE_S
            return appended

        bench.store.append = then_stop
        told = []
        bench.submit("task")
        bench.shard.when_durable(lambda: told.append(True))
        await bench.shard.durable_write()
        assert told == [True]

    on_a_bench(story, ME)


def test_an_owner_that_cannot_renew_is_suspended_before_its_lease_ends_and_resumes_if_nobody_came():
    async def story(bench):
        await asyncio.sleep(10)
        bench.faults[StoreCall.CONFIRM] = Fault.BEFORE
        left_s = (bench.data.lease_until_ms - bench.store._now_ms()) / 1000
        while not bench.shard.is_suspended():
            await asyncio.sleep(0.01)
            left_s = (bench.data.lease_until_ms - bench.store._now_ms()) / 1000
        assert left_s > 0.5
        with pytest.raises(Unavailable):
            await bench.shard.durable()
        await asyncio.sleep(60)
        bench.faults.clear()
        await bench.shard.durable_write()
        assert not bench.shard.is_suspended()
        bench.submit("task")
        await bench.shard.durable_write()

    on_a_bench(story, ME)


def test_an_owner_that_was_stopped_for_a_lease_is_suspended_at_once():
    async def story(bench):
        assert not bench.shard.is_suspended()
        bench.ahead_s += LEASE_S
        assert bench.shard.is_suspended()

    on_a_bench(story, ME)


def test_an_owner_that_cannot_renew_and_lost_the_shard_ends_its_streams():
    async def story(bench):
        sink = Sink()
        bench.shard.client_streams.add(sink)
        sequence = bench.data.sequence
        bench.faults |= {StoreCall.CONFIRM: Fault.BEFORE, StoreCall.APPEND: Fault.BEFORE}
        await asyncio.sleep(2 * LEASE_S)
        bench.submit("task")
        assert isinstance(await rival(bench).claim(RIVAL), Claim)
        bench.faults.clear()
        await lost(bench)
        assert (sink.error.reason, sink.error.metadata) == ("SHARD_MOVED", {"owner": "owner-of-0:7450"})
        assert bench.data.sequence == sequence

    on_a_bench(story, ME)


def test_what_was_decided_is_written_before_the_shard_is_handed_over():
    async def story(bench):
        sink, told = Sink(), []
        bench.shard.client_streams.add(sink)
        bench.submit("written alone")
        await asyncio.sleep(0)
        bench.submit("written last")
        bench.shard.when_durable(lambda: told.append(sink.error))
        bench.shard.hand_over(offer_to="rival", offer_ms=3000)
        await asyncio.sleep(0.0015)  # an append takes a millisecond
        bench.submit("too late")
        late = asyncio.create_task(bench.shard.durable_write())
        await bench.running
        assert told == [None]
        assert sink.error.reason == "SHARD_MOVED"
        with pytest.raises(Unavailable):
            await late
        assert isinstance(await MemoryShardStore(shard=bench.data, now_ms=bench.store._now_ms).claim(ME), Held)
        claim = await rival(bench).claim(RIVAL)
        assert claim.sequence == bench.data.sequence
        successor = Bench(bench.loop)
        successor.store._shard = bench.data
        async with successor:
            assert set(successor.scheduler.state.tasks) == {"written alone", "written last"}

    on_a_bench(story, ME)


def test_a_shard_that_never_rests_is_handed_over_all_the_same():
    async def story(bench):
        async def busy():
            for number in range(10_000):
                bench.submit(f"task-{number}")
                await asyncio.sleep(0.0001)

        work = asyncio.create_task(busy())
        await asyncio.sleep(0)
        bench.shard.hand_over()
        await bench.running
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        assert bench.data.owner is None

    on_a_bench(story, ME)


def test_a_store_that_is_out_does_not_keep_a_shard_from_being_let_go():
    async def story(bench):
        bench.faults[StoreCall.RELEASE] = Fault.BEFORE
        bench.shard.hand_over()
        await bench.running
        assert not bench.shard.serving
        assert isinstance(await rival(bench).claim(RIVAL), Held), "until the lease ends"

    on_a_bench(story, ME)


def test_a_shard_that_was_handed_over_can_be_run_again():
    async def story(bench):
        bench.submit("task")
        bench.shard.hand_over()
        await bench.running
        started = asyncio.Event()
        bench.running = asyncio.create_task(bench.shard.run(started, ME))
        await started.wait()
        assert "task" in bench.shard.namespace("default").scheduler.state.tasks
        await bench.shard.durable_write()

    on_a_bench(story, ME)


def test_nobody_reads_a_shard_that_is_being_given_up():
    async def story(bench):
        seen = []

        async def watching(call):
            if call is StoreCall.RELEASE:
                with pytest.raises(Unavailable):
                    await bench.shard.durable()
                seen.append(call)
            return Fault.NONE

        bench.store._fault = watching
        bench.shard.hand_over()
        await bench.running
        assert seen

    on_a_bench(story, ME)
