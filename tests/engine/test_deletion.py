"""A namespace that is deleted is gone at once, and bit by bit from the store, whenever the coordinator crashes meanwhile."""

import asyncio
import logging

import pytest

from coordinator.core.model import Settings
from coordinator.core.policies import NamespaceLimitsPolicy, set_policy
from coordinator.core.submits import cancel
from coordinator.engine import sweeper as sweeping
from coordinator.engine.deletion import delete_namespace, purge
from coordinator.engine.intake import take_in
from coordinator.engine.shard import Shard
from coordinator.engine.snapshots import SnapshotSettings
from coordinator.engine.sweeper import Sweeper
from coordinator.engine.watches import Watch
from coordinator.errors import NotFound, Unavailable
from coordinator.ids import Entropy
from coordinator.journal import codec
from coordinator.journal.memory_store import Fault, MemoryShard, MemoryShardStore, StoreCall
from coordinator.ports import Retention, StoreOutage
from tests.support.core_world import spec_of
from tests.support.virtual_loop import run_virtually

KEEP = Retention(max_age_ms=24 * 3600 * 1000, max_count=1000, max_bytes=10**9)


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.CRITICAL, logger="coordinator")


class Bench:
    """A shard that can be killed and comes back, with namespaces to delete."""

    def __init__(self, loop, **options):
        self.loop = loop
        self.data = MemoryShard()
        self.options = options
        self.faults = {}
        self.running = None

    def now_s(self):
        return self.loop.time()

    async def fault(self, call):
        await asyncio.sleep(0.001)
        return self.faults.get(call, Fault.NONE)

    async def start(self):
        store = MemoryShardStore(shard=self.data, now_ms=lambda: 1_700_000_000_000 + int(self.loop.time() * 1000), fault=self.fault)
        self.shard = Shard(number=0, store=store, codec=codec, settings=Settings(), clock=self, entropy=Entropy(seed=1), **self.options)
        started = asyncio.Event()
        self.running = asyncio.create_task(self.shard.run(started))
        await started.wait()

    async def kill(self):
        self.running.cancel()
        await asyncio.wait([self.running])

    async def fill(self, name="blue", count=10, live=2):
        namespace = self.shard.create_namespace(name)
        await take_in(self.shard, namespace, [spec_of(f"t{number}", labels={"team": "red"}) for number in range(count)], None)
        for number in range(live, count):
            cancel(namespace.scheduler, f"t{number}", "", self.shard.now())
        self.shard.decided(namespace, self.shard.now())
        await self.shard.durable_write()
        return namespace

    async def purge(self, name="blue", limit=3, calls=100):
        await purge(self.shard, name, limit=limit, calls=calls)
        await self.shard.durable_write()

    def held(self, name="blue"):
        return self.data.namespaces.get(name)


def on_a_bench(story, **options):
    async def main(loop):
        bench = Bench(loop, **options)
        await bench.start()
        await story(bench)
        await bench.kill()

    run_virtually(main)


def test_it_is_gone_at_once_and_its_name_only_when_nothing_is_left():
    async def story(bench):
        namespace = await bench.fill()
        delete_namespace(bench.shard, namespace)
        with pytest.raises(NotFound, match="doesn't exist"):
            bench.shard.namespace("blue")
        with pytest.raises(NotFound, match="was deleted"):
            bench.shard.decided(namespace, bench.shard.now())
        with pytest.raises(NotFound, match="was deleted"):
            delete_namespace(bench.shard, namespace)
        await bench.shard.durable_write()
        with pytest.raises(Unavailable, match="still being removed") as caught:
            bench.shard.create_namespace("blue")
        assert caught.value.reason == "NAMESPACE_BEING_DELETED"
        await bench.purge(calls=1)
        assert len(bench.held().index) == 5
        await bench.purge()
        assert bench.held() is None
        again = bench.shard.create_namespace("blue")
        await bench.shard.durable_write()
        assert not again.scheduler.state.tasks
        assert await bench.shard.store.count_ended("blue") == 0
        assert (await take_in(bench.shard, again, [spec_of("t5")], None)) == [], "an id of the old one is as good as new"

    on_a_bench(story)


def test_fences_grow_though_the_namespace_is_another_one():
    """Whoever still holds an attempt of the old one must not be taken for who runs a task of the same id in the new one."""

    async def story(bench):
        old = await bench.fill()
        delete_namespace(bench.shard, old)
        await bench.shard.durable_write()
        await bench.purge()
        new = await bench.fill()
        assert new.scheduler.epoch > old.scheduler.epoch
        await bench.kill()
        await bench.start()
        assert bench.shard.namespace("blue").scheduler.epoch >= new.scheduler.epoch

    on_a_bench(story)


def test_nothing_is_removed_before_the_deletion_is_durable():
    async def story(bench):
        namespace = await bench.fill()
        bench.faults[StoreCall.APPEND] = Fault.BEFORE
        delete_namespace(bench.shard, namespace)
        await asyncio.sleep(0.5)
        await purge(bench.shard, "blue", limit=100, calls=5)
        assert len(bench.held().index) == 8
        await bench.kill()
        bench.faults.clear()
        await bench.start()
        assert len(bench.shard.namespace("blue").scheduler.state.tasks) == 2, "it was never deleted"

    on_a_bench(story)


@pytest.mark.parametrize("snapshot", [False, True])
@pytest.mark.parametrize("purged", [0, 1, 2, 3, 100])
def test_the_next_coordinator_goes_on_with_it(purged, snapshot):
    async def story(bench):
        other = await bench.fill("other")
        delete_namespace(bench.shard, await bench.fill())
        await bench.shard.durable_write()
        if purged:
            await bench.purge(calls=purged)
        if snapshot:
            for number in range(30):
                await take_in(bench.shard, other, [spec_of(f"more-{number}", payload=bytes(1000))], None)
                await bench.shard.durable_write()
            await asyncio.sleep(5)
            assert bench.data.snapshot is not None
            assert min(bench.data.journal) > 5, "what was journalled of the deletion is trimmed"
        await bench.kill()
        await bench.start()
        with pytest.raises(NotFound):
            bench.shard.namespace("blue")
        assert list(bench.shard.deleted) == ([] if purged == 100 else ["blue"])
        await bench.purge()
        assert bench.held() is None
        assert len(bench.shard.namespace("other").scheduler.state.tasks) == 2 + 30 * snapshot
        await bench.kill()
        await bench.start()
        assert not bench.shard.deleted
        bench.shard.create_namespace("blue")
        await bench.shard.durable_write()

    on_a_bench(story, snapshots=SnapshotSettings(min_journal_bytes=10_000))


def test_an_outage_puts_it_off():
    async def story(bench):
        delete_namespace(bench.shard, await bench.fill())
        await bench.shard.durable_write()
        bench.faults[StoreCall.EXPIRE] = Fault.AFTER
        with pytest.raises(StoreOutage):
            await bench.purge()
        assert "blue" in bench.shard.deleted
        bench.faults.clear()
        await bench.purge()
        assert bench.held() is None

    on_a_bench(story)


def test_who_follows_it_is_told():
    async def story(bench):
        namespace = await bench.fill()
        watch = Watch(task_ids=["t0"], matches=None, chunks=False, progress=False)
        namespace.watches.announce(watch)
        told = []

        class Client:
            namespace_name = "blue"

            def gone(self, message):
                told.append(message)

        class Other(Client):
            namespace_name = "other"

        bench.shard.client_streams |= {Client(), Other()}
        delete_namespace(bench.shard, namespace)
        assert told == [], "not before it is durable"
        await bench.shard.durable_write()
        assert told == ["namespace 'blue' was deleted"]
        assert (type(watch.closed), watch.closed.message) == (NotFound, "namespace 'blue' was deleted")
        bench.shard.client_streams.clear()

    on_a_bench(story)


def test_the_sweeper_does_it_some_at_a_time(monkeypatch):
    monkeypatch.setattr(sweeping, "MAX_PER_CALL", 1)
    monkeypatch.setattr(sweeping, "CALLS_PER_LOOK", 2)

    async def story(bench):
        sweep = asyncio.create_task(Sweeper(shards=[bench.shard], codec=codec, retention=KEEP, period_s=30.0).run())
        delete_namespace(bench.shard, await bench.fill())
        await bench.shard.durable_write()
        sizes = []
        while bench.held() is not None:
            sizes.append(len(bench.held().index))
            await asyncio.sleep(0.5)
        assert set(sizes) == {8, 6, 4, 2, 0}
        await asyncio.sleep(1)
        assert not bench.shard.deleted
        sweep.cancel()

    on_a_bench(story)


def test_a_namespace_retains_what_operators_say():
    async def story(bench):
        sweep = asyncio.create_task(Sweeper(shards=[bench.shard], codec=codec, retention=KEEP, period_s=30.0).run())
        blue, red = await bench.fill(), await bench.fill("red")
        set_policy(blue.scheduler, NamespaceLimitsPolicy(max_retained_tasks=3), bench.shard.now())
        set_policy(red.scheduler, NamespaceLimitsPolicy(retain_for_s=3600), bench.shard.now())
        for namespace in (blue, red):
            bench.shard.decided(namespace, bench.shard.now())
        await asyncio.sleep(500)
        assert [len(bench.held(name).index) for name in ("blue", "red")] == [8, 8], "G6: ten minutes"
        await asyncio.sleep(200)
        assert [len(bench.held(name).index) for name in ("blue", "red")] == [3, 8]
        await asyncio.sleep(3600)
        assert [len(bench.held(name).index) for name in ("blue", "red")] == [3, 0]
        sweep.cancel()

    on_a_bench(story)
