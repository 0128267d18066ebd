"""The shard's rules, one by one, on a loop whose time jumps. The simulation has them all at once."""

import asyncio
import logging

import pytest

from coordinator.core.model import Capability, Settings, TaskState
from coordinator.core.policies import RateLimitPolicy, set_policy
from coordinator.core.reports import acknowledge, finish
from coordinator.core.sessions import Hello, hello, ready
from coordinator.engine.intake import Duplicate, take_in, take_in_new
from coordinator.engine.records import RecordReader
from coordinator.engine.shard import DEFAULT_NAMESPACE, Shard
from coordinator.engine.watches import Page, Watch
from coordinator.errors import AlreadyExists, LimitReached, Unavailable
from coordinator.ids import Entropy
from coordinator.journal import codec
from coordinator.journal.memory_store import Fault, MemoryShard, MemoryShardStore, StoreCall
from coordinator.ports import ALONE, MAX_READ_BYTES, EndedTask
from tests.support.core_world import FAILED, SUCCESS, spec_of
from tests.support.virtual_loop import run_virtually

SETTINGS = Settings()


class SlowRecords(MemoryShardStore):
    """Looks records up at once, and answers when told to."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.answer = asyncio.Event()
        self.answer.set()

    async def get_records(self, namespace, task_ids, *, max_bytes=MAX_READ_BYTES):
        records = await super().get_records(namespace, task_ids, max_bytes=max_bytes)
        await self.answer.wait()
        return records


class Bench:
    """One shard over a store in memory, and one agent."""

    def __init__(self, loop, claimant=ALONE):
        self.loop = loop
        self.claimant = claimant
        self.ahead_s = 0.0  # of the loop: as if the process had been stopped for so long
        self.faults = {}  # by kind of call
        self.data = MemoryShard()
        self.store = SlowRecords(shard=self.data, now_ms=lambda: 1_700_000_000_000 + int(loop.time() * 1000), fault=self.fault)
        self.shard = Shard(
            number=0,
            store=self.store,
            codec=codec,
            settings=SETTINGS,
            clock=self,
            entropy=Entropy(seed=1),
            default_here=True,
        )
        self.shard.owner_address = "owner-of-{}:7450".format
        self.running = None

    def now_s(self):
        return self.loop.time() + self.ahead_s

    async def fault(self, call):
        await asyncio.sleep(0.001)
        return self.faults.get(call, Fault.NONE)

    async def __aenter__(self):
        started = asyncio.Event()
        self.running = asyncio.create_task(self.shard.run(started, self.claimant))
        await started.wait()
        self.namespace = self.shard.namespace(DEFAULT_NAMESPACE)
        self.scheduler = self.namespace.scheduler
        hello(self.scheduler, "session", Hello("agent", "nonce", {"work": Capability()}, 10, [], {}), self.shard.now())
        ready(self.scheduler, self.agent, 10)
        self.decided()
        await self.shard.durable()
        return self

    async def __aexit__(self, *error):
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)

    @property
    def agent(self):
        return self.scheduler.load.agents["agent"]

    def decided(self):
        self.shard.decided(self.namespace, self.shard.now())

    def submit(self, task_id, **options):
        assert take_in_new(self.shard, self.namespace, [spec_of(task_id, **options)], None) == []
        return self.scheduler.state.tasks[task_id]

    def acknowledge(self, task):
        acknowledge(self.scheduler, self.agent, task.spec.task_id, task.fence, self.shard.now())
        self.decided()

    def finish(self, task, result=SUCCESS):
        finish(self.scheduler, self.agent, task.spec.task_id, task.fence, result, self.shard.now())
        self.decided()


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.CRITICAL, logger="coordinator")


def on_a_bench(story, claimant=ALONE):
    async def main(loop):
        async with Bench(loop, claimant) as bench:
            await story(bench)

    run_virtually(main)


def test_during_an_outage_no_lease_ends_and_afterwards_each_has_one_more_period():
    async def story(bench):
        task = bench.submit("task")
        bench.acknowledge(task)
        await asyncio.sleep(25)  # of a lease of 30
        bench.faults[StoreCall.APPEND] = Fault.BEFORE
        bench.submit("noticed by this write")
        await asyncio.sleep(100)
        assert bench.shard.outage_since_s is not None
        assert (task.state, task.crashes) == (TaskState.RUNNING, 0)
        bench.faults.clear()
        await asyncio.sleep(29)
        assert (task.state, task.crashes) == (TaskState.RUNNING, 0)
        await asyncio.sleep(3)
        assert task.crashes == 1

    on_a_bench(story)


def test_an_outage_is_no_running_time():
    async def story(bench):
        task = bench.submit("task", run_timeout_s=20)
        bench.acknowledge(task)
        await asyncio.sleep(5)
        bench.faults[StoreCall.APPEND] = Fault.BEFORE
        bench.submit("noticed by this write")
        await asyncio.sleep(100)
        bench.faults.clear()
        await asyncio.sleep(14)
        assert (task.state, task.retries) == (TaskState.RUNNING, 0)
        await asyncio.sleep(3)
        assert task.retries == 1

    on_a_bench(story)


def test_what_an_outage_held_up_counts_from_its_end():
    """Decided before, sent after it: the next may begin a period later."""

    async def story(bench):
        set_policy(bench.scheduler, RateLimitPolicy("key", "", 1, 10_000), bench.shard.now())
        bench.decided()
        await bench.shard.durable()
        bench.faults[StoreCall.APPEND] = Fault.BEFORE
        first = bench.submit("first", rate_key="key")
        second = bench.submit("second", rate_key="key")
        await asyncio.sleep(100)
        bench.faults.clear()
        await asyncio.sleep(8)
        assert (first.state, second.state) == (TaskState.RUNNING, TaskState.PENDING)
        await asyncio.sleep(4)
        assert second.state is TaskState.RUNNING

    on_a_bench(story)


def test_during_an_outage_nothing_new_is_begun_and_nothing_spins():
    async def story(bench):
        task = bench.submit("task")
        await bench.shard.durable()
        bench.faults[StoreCall.APPEND] = Fault.BEFORE
        bench.finish(task, FAILED)  # its backoff ends within the outage
        await asyncio.sleep(1)
        ticks, observe = [], bench.shard._time.observe
        bench.shard._time.observe = lambda: ticks.append(1) or observe()
        await asyncio.sleep(60)
        assert task.state is TaskState.RETRYING
        assert len(ticks) <= 70
        bench.faults.clear()
        await asyncio.sleep(3)
        assert task.state is TaskState.RUNNING

    on_a_bench(story)


def test_a_commit_whose_answer_was_lost_is_repeated_and_not_written_twice():
    async def story(bench):
        epoch = bench.data.epoch
        bench.faults[StoreCall.APPEND] = Fault.AFTER
        task = bench.submit("task")
        await asyncio.sleep(0.03)
        bench.faults.clear()
        await bench.shard.durable()
        assert bench.scheduler.state.tasks["task"] is task, "the shard wasn't rebuilt"
        assert bench.data.epoch == epoch
        assert list(bench.data.journal) == list(range(1, bench.data.sequence + 1))

    on_a_bench(story)


def test_a_task_that_ends_while_it_is_looked_up_is_not_taken_in_again():
    async def story(bench):
        bench.store.answer.clear()
        again = asyncio.create_task(take_in(bench.shard, bench.namespace, [spec_of("task")], None))
        await asyncio.sleep(0.1)  # the store has found nothing, and its answer is on its way
        task = bench.submit("task")
        bench.finish(task)
        await bench.shard.durable()
        await asyncio.sleep(0.3)
        bench.store.answer.set()
        ((index, _duplicate),) = await again
        assert index == 0
        assert not bench.scheduler.state.tasks
        await asyncio.sleep(0.1)
        assert bench.scheduler.state.find("task") is None, "nobody asks any more: it is forgotten"

    on_a_bench(story)


def test_a_task_that_an_older_look_up_kept_in_memory_is_not_taken_in_again():
    async def story(bench):
        with bench.shard.records.open():
            bench.finish(bench.submit("task"))
            await bench.shard.durable()
            assert bench.scheduler.state.find("task") is not None, "the look-up that is open keeps it"
            bench.store.answer.clear()
            again = asyncio.create_task(take_in(bench.shard, bench.namespace, [spec_of("task"), spec_of("other")], None))
            await asyncio.sleep(0.1)
        assert bench.scheduler.state.find("task") is None, "that look-up is over, and the other's answer on its way"
        bench.store.answer.set()
        ((index, verdict),) = await again
        assert index == 0
        assert isinstance(verdict, Duplicate)
        assert list(bench.scheduler.state.tasks) == ["other"]

    on_a_bench(story)


def test_what_was_looked_up_for_a_shard_that_stopped_meanwhile_is_refused():
    async def story(bench):
        bench.store.answer.clear()
        late = asyncio.create_task(take_in(bench.shard, bench.namespace, [spec_of("task")], None))
        await asyncio.sleep(0.1)
        bench.running.cancel()
        await asyncio.sleep(0.1)
        bench.store.answer.set()
        with pytest.raises(Unavailable):
            await late

    on_a_bench(story)


def test_no_answer_overtakes_its_commit():
    async def story(bench):
        bench.faults[StoreCall.APPEND] = Fault.BEFORE
        bench.submit("task")
        answers = []
        bench.shard.when_durable(lambda: answers.append(bench.data.sequence))
        before = bench.data.sequence
        await asyncio.sleep(10)
        assert answers == []
        bench.faults.clear()
        await bench.shard.durable_write()
        assert answers == [before + 1]

    on_a_bench(story)


def test_a_watch_that_was_never_released_ends_with_its_shard():
    async def story(bench):
        bench.data.sequence += 1  # somebody else has written
        bench.submit("task")
        watch = Watch(task_ids=["task"], matches=None, chunks=False, progress=False)
        bench.namespace.watches.announce(watch)
        bench.shard.tell_page(bench.namespace, watch, Page([], position=0, is_last=True))
        reading = asyncio.create_task(watch.take(10))
        bench.running.cancel()
        assert await asyncio.wait_for(reading, 5) == []
        assert watch.closed is not None

    on_a_bench(story)


def test_records_that_need_several_answers_all_come():
    async def story(bench):
        ended = [EndedTask("default", f"task-{i}", b"x" * (MAX_READ_BYTES // 2), 1) for i in range(5)]
        claim = await bench.store.claim()
        await bench.store.append(sequence=claim.sequence + 1, commit_nonce="n", blob=b"", ended=ended)
        records = await RecordReader(store=bench.store).get("default", [*(f"task-{i}" for i in range(5)), "none"])
        assert [record is None or len(record) for record in records] == [MAX_READ_BYTES // 2] * 5 + [True]

    on_a_bench(story)


def test_a_full_store_takes_nothing_new_and_all_else_goes_on():
    async def story(bench):
        task = bench.submit("task")
        bench.shard.room.seen(used_bytes=90, limit_bytes=100, free_disk_bytes=None, reserve_bytes=0)
        specs = [spec_of("new"), spec_of("task"), spec_of("task", payload=b"other")]
        refused, known, conflict = [verdict for _, verdict in take_in_new(bench.shard, bench.namespace, specs, None)]
        assert isinstance(refused, LimitReached)
        assert isinstance(known, Duplicate)
        assert isinstance(conflict, AlreadyExists)
        bench.finish(task)
        await bench.shard.durable_write()
        assert not bench.scheduler.state.tasks

    on_a_bench(story)
