"""What goes when, where room is tight."""

import asyncio
import logging

import pytest
from muster.v1 import common_pb2, event_pb2

from coordinator.convert import same_as_recorded
from coordinator.core.submits import cancel
from coordinator.engine.intake import Duplicate, take_in
from coordinator.engine.shard import DEFAULT_NAMESPACE
from coordinator.engine.sweeper import Sweeper
from coordinator.errors import AlreadyExists
from coordinator.journal import codec
from coordinator.ports import Retention
from tests.engine.test_snapshots import Bench
from tests.support.core_world import spec_of
from tests.support.virtual_loop import run_virtually

KEEP = Retention(max_age_ms=24 * 3600 * 1000, max_count=1000, max_bytes=10**9)


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.CRITICAL, logger="coordinator")


def on_a_bench(story):
    async def main(loop):
        bench = Bench(loop)
        await bench.start()
        sweeper = Sweeper(shards=[bench.shard], codec=codec, retention=KEEP, period_s=30.0)
        sweeping = asyncio.create_task(sweeper.run())
        namespace = bench.shard.namespace(DEFAULT_NAMESPACE)
        await bench.submit(0, 10)
        for number in range(10):
            cancel(namespace.scheduler, f"task{number}", "", bench.shard.now())
        bench.shard.decided(namespace, bench.shard.now())
        await bench.shard.durable_write()
        try:
            await story(bench, namespace)
        finally:
            sweeping.cancel()
            await bench.stop()

    run_virtually(main)


def fill(bench, used):
    bench.shard.room.seen(used_bytes=used, limit_bytes=10**6, free_disk_bytes=None, reserve_bytes=0)


async def record(bench, task_id="task0"):
    (found,) = await bench.shard.store.get_records(DEFAULT_NAMESPACE, [task_id])
    return None if found is None else event_pb2.TaskRecord.FromString(found)


def test_with_room_everything_stays():
    async def story(bench, namespace):
        fill(bench, 500_000)
        await asyncio.sleep(3600)
        assert (await record(bench)).outcome

    on_a_bench(story)


def test_where_room_is_tight_results_go_first_and_the_rest_after_ten_minutes():
    async def story(bench, namespace):
        fill(bench, 750_000)
        await asyncio.sleep(300)
        left = await record(bench)
        assert left.outcome_dropped
        assert not left.outcome
        assert (left.state, left.number) == (common_pb2.TASK_STATE_CANCELLED, 1)
        again, other = [
            (await take_in(bench.shard, namespace, [spec_of("task0", payload=payload)], None))[0][1] for payload in (b"x" * 100, b"other")
        ]
        assert isinstance(again, Duplicate)
        assert isinstance(other, AlreadyExists)
        await asyncio.sleep(301)
        assert await record(bench) is None

    on_a_bench(story)


def test_a_slim_record_knows_its_task_and_is_small():
    spec = spec_of("task", payload=b"x" * 10_000)
    message = common_pb2.TaskSpec.FromString(spec.request)
    message.traceparent = "another trace"
    full = event_pb2.TaskRecord(request=spec.request, outcome=b"y" * 10_000, number=7, fence=8, chunks=b"z" * 1000).SerializeToString()
    slim = codec.slim_record(full)
    assert len(slim) < 100
    assert same_as_recorded(slim, spec.request)
    assert same_as_recorded(slim, message.SerializeToString())
    assert not same_as_recorded(slim, spec_of("task", payload=b"x" * 9_999).request)
    assert codec.slim_record(slim) == slim
    assert not event_pb2.TaskRecord.FromString(slim).HasField("last_failure")
