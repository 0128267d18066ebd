"""When a shard takes snapshots, what comes to nothing, and what a recovery makes of what it finds."""

import asyncio
import logging

import pytest
from muster.v1 import event_pb2

from coordinator.core.model import Settings
from coordinator.core.submits import cancel
from coordinator.engine import commits
from coordinator.engine.intake import take_in_new
from coordinator.engine.ownership import ShardLost
from coordinator.engine.shard import DEFAULT_NAMESPACE, Shard
from coordinator.engine.snapshots import SnapshotSettings
from coordinator.ids import Entropy
from coordinator.journal import codec
from coordinator.journal.memory_store import Fault, MemoryShard, MemoryShardStore, StoreCall
from coordinator.ports import JournalTooNew, StoreCorrupt
from tests.support.core_world import durable, spec_of
from tests.support.virtual_loop import run_virtually

SMALL = SnapshotSettings(min_journal_bytes=10_000, piece_bytes=1_000, tasks_per_step=10)


class Bench:
    """Coordinators, one after the other, over one store in memory."""

    def __init__(self, loop, settings=SMALL):
        self.loop = loop
        self.settings = settings
        self.faults = {}  # by kind of call
        self.delays_s = {}
        self.calls = []
        self.data = MemoryShard()
        self.running = None

    def now_s(self):
        return self.loop.time()

    async def fault(self, call):
        self.calls.append(call)
        await asyncio.sleep(self.delays_s.get(call, 0.001))
        return self.faults.get(call, Fault.NONE)

    def open(self):
        return MemoryShardStore(shard=self.data, now_ms=lambda: 1_700_000_000_000 + int(self.loop.time() * 1000), fault=self.fault)

    async def start(self):
        self.shard = Shard(
            number=0,
            store=self.open(),
            codec=codec,
            settings=Settings(),
            clock=self,
            entropy=Entropy(seed=1),
            snapshots=self.settings,
            default_here=True,
        )
        started = asyncio.Event()
        self.running = asyncio.create_task(self.shard.run(started))
        waiting = asyncio.create_task(started.wait())
        await asyncio.wait([waiting, self.running], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self.running.done():
            self.running.result()

    async def stop(self):
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)

    @property
    def state(self):
        return self.shard.namespaces[DEFAULT_NAMESPACE].scheduler.state

    async def submit(self, first, count, payload=b"x" * 100):
        """In commits of ten."""
        for start in range(first, first + count, 10):
            specs = [spec_of(f"task{number}", payload=payload) for number in range(start, min(start + 10, first + count))]
            assert take_in_new(self.shard, self.shard.namespace(DEFAULT_NAMESPACE), specs, None) == []
            await self.shard.durable_write()


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.CRITICAL, logger="coordinator")


def on_a_bench(story, settings=SMALL):
    async def main(loop):
        bench = Bench(loop, settings)
        await bench.start()
        try:
            await story(bench)
        finally:
            await bench.stop()

    run_virtually(main)


def test_one_is_taken_when_the_journal_has_outgrown_its_bound_and_the_next_when_it_has_outgrown_that_one():
    async def story(bench):
        await bench.submit(0, 60)
        assert bench.data.snapshot is None
        await bench.submit(60, 40)
        await asyncio.sleep(1)
        first = bench.data.snapshot
        assert first is not None
        await bench.submit(100, 10)
        assert min(bench.data.journal) == first.sequence + 1, "the journal is trimmed behind it, and no further"
        await bench.submit(110, 190)
        await asyncio.sleep(1)
        second = bench.data.snapshot.stored()
        assert second.size_bytes > 2 * SMALL.min_journal_bytes
        await bench.submit(300, 110)
        await asyncio.sleep(1)
        assert bench.data.snapshot.stored() == second, "it must outgrow what it replaces"
        await bench.submit(410, 300)
        await asyncio.sleep(1)
        assert bench.data.snapshot.sequence > second.sequence

    on_a_bench(story)


def test_where_room_is_tight_one_is_taken_as_soon_as_it_frees_enough():
    def tight(bench):
        bench.shard.room.seen(used_bytes=75_000, limit_bytes=100_000, free_disk_bytes=None, reserve_bytes=0)
        assert bench.shard.room.is_tight()

    async def story(bench):
        await bench.submit(0, 100)
        await asyncio.sleep(1)
        first = bench.data.snapshot
        assert first is not None
        tight(bench)
        await bench.submit(100, 20)
        await asyncio.sleep(1)
        assert bench.data.snapshot is first, "it would free nothing: all tasks are live"
        for number in range(120):
            cancel(bench.shard.namespaces[DEFAULT_NAMESPACE].scheduler, f"task{number}", "", bench.shard.now())
        bench.shard.decided(bench.shard.namespace(DEFAULT_NAMESPACE), bench.shard.now())
        tight(bench)
        for _ in range(2):
            await bench.shard.durable_write()
        await asyncio.sleep(1)
        assert bench.data.snapshot.stored().size_bytes < 100

    on_a_bench(story)


def test_a_restart_begins_at_the_snapshot_and_finds_everything():
    async def story(bench):
        await bench.submit(0, 100)
        await asyncio.sleep(1)
        await bench.submit(100, 20)
        lived, number = durable(bench.state), bench.state.next_number
        for _ in range(2):
            await bench.stop()
            await bench.start()
            assert bench.data.snapshot is not None
            assert (durable(bench.state), bench.state.next_number) == (lived, number)
        await bench.submit(120, 10)
        assert len(bench.state.tasks) == 130

    on_a_bench(story)


def test_what_happens_while_it_is_written_is_not_in_it():
    async def story(bench):
        bench.delays_s[StoreCall.SNAPSHOT] = 0.01
        await bench.submit(0, 100)
        while bench.data.snapshot is None:
            await bench.submit(len(bench.state.tasks), 10)
        sequence = bench.data.snapshot.sequence
        assert sequence < bench.data.sequence - 10, "much was written meanwhile"
        lived = durable(bench.state)
        await bench.stop()
        await bench.start()
        assert durable(bench.state) == lived

    on_a_bench(story)


def test_one_that_the_store_refuses_is_tried_again_when_the_journal_has_grown():
    async def story(bench):
        bench.faults[StoreCall.SNAPSHOT] = Fault.BEFORE
        await bench.submit(0, 100)
        await asyncio.sleep(1)
        tried = bench.calls.count(StoreCall.SNAPSHOT)
        assert tried == 1
        assert bench.state.walk is None, "nothing is kept of it"
        await bench.submit(100, 30)
        await asyncio.sleep(1)
        assert bench.calls.count(StoreCall.SNAPSHOT) == 2
        bench.faults.clear()
        await bench.submit(130, 30)
        await asyncio.sleep(1)
        assert bench.data.snapshot is not None

    on_a_bench(story)


def test_it_is_not_current_before_its_entry_is_durable():
    async def story(bench):
        await bench.submit(0, 80)
        bench.delays_s[StoreCall.APPEND] = 0.5
        await bench.submit(80, 10)
        assert StoreCall.SNAPSHOT not in bench.calls
        await bench.submit(90, 10)
        await asyncio.sleep(0.1)
        assert bench.data.snapshot.sequence == bench.data.sequence

    on_a_bench(story)


def test_it_is_not_begun_while_something_else_waits_to_be_written(monkeypatch):
    """Memory is ahead of the commit that is written then."""
    monkeypatch.setattr(commits, "MAX_COMMIT_EVENTS", 10)

    async def story(bench):
        await bench.submit(0, 70)
        for number in range(70, 200):
            assert take_in_new(bench.shard, bench.shard.namespace(DEFAULT_NAMESPACE), [spec_of(f"task{number}")], None) == []
        await bench.shard.durable_write()
        await bench.submit(200, 20)
        await asyncio.sleep(1)
        assert bench.data.snapshot is not None
        lived = durable(bench.state)
        await bench.stop()
        await bench.start()
        assert durable(bench.state) == lived

    on_a_bench(story)


def test_a_shard_that_stops_in_the_middle_leaves_half_of_one_for_the_next_claim():
    async def story(bench):
        bench.delays_s[StoreCall.SNAPSHOT] = 0.5
        await bench.submit(0, 100)
        await asyncio.sleep(1)
        assert bench.data.unfinished is not None
        lived = durable(bench.state)
        await bench.stop()
        await asyncio.sleep(10)
        assert bench.data.snapshot is None, "nobody goes on with it"
        await bench.start()
        assert bench.data.unfinished is None
        assert durable(bench.state) == lived

    on_a_bench(story)


def test_a_long_journal_that_a_restart_finds_makes_one_due_and_what_was_not_trimmed_is_trimmed():
    async def story(bench):
        bench.faults = {StoreCall.SNAPSHOT: Fault.BEFORE}
        await bench.submit(0, 100)
        await bench.stop()
        bench.faults = {StoreCall.TRIM: Fault.BEFORE}
        await bench.start()
        await bench.submit(100, 1)
        await asyncio.sleep(1)
        assert bench.data.snapshot is not None
        assert min(bench.data.journal) == 1
        bench.faults.clear()
        await bench.stop()
        await bench.start()
        await bench.submit(101, 1)
        await asyncio.sleep(1)
        assert min(bench.data.journal) == bench.data.snapshot.sequence + 1

    on_a_bench(story)


def refused(spoil, expected, match):
    async def story(bench):
        await bench.submit(0, 100)
        await asyncio.sleep(1)
        await bench.submit(100, 40)
        await bench.stop()
        spoil(bench.data)
        with pytest.raises(expected, match=match):
            await bench.start()

    on_a_bench(story)


def drop(journal, place):
    del journal[sorted(journal)[place]]


def rewrite(pieces, **fields):
    piece = event_pb2.SnapshotChunk.FromString(pieces[1])
    for name, value in fields.items():
        setattr(piece, name, value)
    pieces[1] = piece.SerializeToString()


def test_a_gap_behind_the_snapshot_is_refused():
    refused(lambda data: drop(data.journal, 0), StoreCorrupt, "those between are missing")


def test_a_gap_in_the_journal_is_refused():
    refused(lambda data: drop(data.journal, 2), StoreCorrupt, "those between are missing")


def test_a_journal_that_ends_too_early_is_refused():
    refused(lambda data: drop(data.journal, -1), StoreCorrupt, "the journal ends at")


def test_a_trimmed_journal_without_its_snapshot_is_refused():
    refused(lambda data: setattr(data, "snapshot", None), StoreCorrupt, "the journal goes from entry 0 to")


def test_a_snapshot_with_a_piece_of_another_is_refused():
    refused(lambda data: rewrite(data.snapshot.pieces, sequence=5), StoreCorrupt, "a piece of one at 5")


def test_a_snapshot_with_a_task_that_is_there_twice_is_refused():
    refused(lambda data: data.snapshot.pieces.append(data.snapshot.pieces[1]), StoreCorrupt, "there twice")


def test_a_snapshot_of_a_newer_release_is_refused():
    refused(lambda data: rewrite(data.snapshot.pieces, format_version=99), JournalTooNew, "start the newer release")


def test_who_loses_the_shard_while_it_reads_says_so_and_not_that_the_journal_is_spoilt():
    async def story(bench):
        await bench.submit(0, 100)
        await asyncio.sleep(1)
        await bench.submit(100, 50)
        await bench.stop()
        bench.delays_s[StoreCall.READ] = 1.0
        starting = asyncio.create_task(bench.start())
        await asyncio.sleep(0.5)
        successor = bench.open()
        await successor.claim()
        drop(bench.data.journal, 0)  # it has taken a snapshot, and trimmed
        with pytest.raises(ShardLost):
            await starting

    on_a_bench(story)
