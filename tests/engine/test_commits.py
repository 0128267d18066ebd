"""No append is larger than its bound, whatever gathers, and cutting changes nothing else."""

import asyncio

import pytest

from coordinator.core.effects import Assign, TaskChanged, TaskEnded
from coordinator.core.events import CheckpointStored
from coordinator.core.model import TaskState
from coordinator.core.reports import Success, checkpoint
from coordinator.core.submits import cancel
from coordinator.engine import commits
from coordinator.engine.commits import CommitQueue
from coordinator.engine.recovery import recover
from coordinator.journal import codec
from coordinator.journal.memory_store import Fault, StoreCall
from tests.engine.test_shard import Bench, on_a_bench
from tests.support.core_world import SUCCESS, CoreWorld
from tests.support.virtual_loop import run_virtually

KIB = 1024
BOUND = 64 * KIB
ROUGHLY = 4 * KIB  # what isn't counted, in the tests' commits


@pytest.fixture(autouse=True)
def bounds(monkeypatch):
    monkeypatch.setattr(commits, "MAX_COMMIT_BYTES", BOUND)


class Appends:
    """Keeps what a bench's store is asked to append; an append that is repeated counts once."""

    def __init__(self, bench):
        self.bench = bench
        self.sizes = {}
        self.order = []  # ids of tasks in the order of their ends
        self._append = bench.store.append
        bench.store.append = self

    async def __call__(self, *, sequence, commit_nonce, blob, ended, redriven):
        if sequence not in self.sizes:
            self.order += [task.task_id for task in ended]
        self.sizes[sequence] = len(blob) + sum(len(task.record) for task in ended)
        return await self._append(sequence=sequence, commit_nonce=commit_nonce, blob=blob, ended=ended, redriven=redriven)

    def are_bounded(self):
        assert all(size <= BOUND + ROUGHLY for size in self.sizes.values()), self.sizes
        return True


def test_what_gathers_in_an_outage_is_written_in_several_appends():
    async def story(bench):
        tasks = [bench.submit(f"task-{number}") for number in range(10)]
        await bench.shard.durable()
        appends = Appends(bench)
        bench.faults[StoreCall.APPEND] = Fault.BEFORE
        answered = []
        for number, task in enumerate(tasks):
            bench.acknowledge(task)
            checkpoint(bench.scheduler, bench.agent, task.spec.task_id, task.fence, 1, bytes(20 * KIB), bench.shard.now())
            bench.finish(task, Success(bytes(25 * KIB)))
            bench.shard.when_durable(lambda number=number: answered.append((number, len(bench.data.namespaces["default"].records))))
            await asyncio.sleep(0.01)
        await asyncio.sleep(20)
        bench.faults.clear()
        await bench.shard.durable_write()
        assert len(appends.sizes) >= 8
        assert appends.are_bounded()
        assert appends.order == [task.spec.task_id for task in tasks]
        assert [number for number, _ in answered] == list(range(10)), "answers keep their order"
        assert all(ended > number for number, ended in answered), "none overtook the commit that it waits for"
        assert answered[0][1] < 10, "nor did it wait for all of them"
        assert bench.shard.commits.is_empty()
        assert not bench.shard.commits.is_crowded()

    on_a_bench(story)


def test_what_one_command_decides_is_cut_too_and_replays_to_the_same_state():
    async def story(bench):
        for number in range(20):
            bench.submit(f"ends-{number}", task_type="nobody's", payload=bytes(20 * KIB))
            bench.submit(f"stays-{number}", task_type="nobody's")
        await bench.shard.durable()
        appends = Appends(bench)
        now = bench.shard.now()
        for number in range(20):
            cancel(bench.scheduler, f"ends-{number}", "no need", now)
        bench.decided()
        await bench.shard.durable()
        assert len(appends.sizes) >= 7
        assert appends.are_bounded()
        assert appends.order == [f"ends-{number}" for number in range(20)]
        dates = {codec.decode(bench.data.journal[sequence]).date_ms for sequence in appends.sizes}
        assert dates == {now.date_ms}, "what was decided at one time has one date"
        state, _created = (await recover(bench.store, codec, await bench.store.claim())).states["default"]
        assert list(state.tasks) == list(bench.scheduler.state.tasks) == [f"stays-{number}" for number in range(20)]

    on_a_bench(story)


def test_an_end_comes_with_its_record_and_no_effect_before_its_event():
    world = CoreWorld()
    agent = world.join("agent", ["work"], capacity=4)
    scheduler = world.scheduler
    scheduler.watch_all = True
    for number in range(8):
        world.submit(f"task-{number}", payload=bytes(20 * KIB))
    world.events.clear()
    world.effects.clear()
    for task in list(agent.running.values()):
        world.finish(agent.name, task.task.spec.task_id, SUCCESS)  # its slot goes to the next
    queue = CommitQueue()
    events, effects = list(world.events), list(world.effects)
    checkpointed = next(iter(agent.running.values())).task
    events.append(CheckpointStored(checkpointed.number, 1, bytes(50 * KIB)))
    queue.add("default", events, effects, BOUND + 1)
    parts = []
    while not queue.is_empty():
        parts.append(queue.take())
        queue.written()
    assert len(parts) >= 3
    assert [event for part in parts for _, event in part.events] == events
    assert [effect for part in parts for _, effect in part.effects] == effects
    assert all(part.size <= BOUND for part in parts)
    known = set()
    for part in parts:
        ended = {effect.task.number for _, effect in part.effects if isinstance(effect, TaskEnded)}
        completed = {event.number for _, event in part.events if type(event).__name__ == "Completed"}
        assert ended == completed
        known |= {(event.number, event.fence) for _, event in part.events if type(event).__name__ == "Assigned"}
        for _, effect in part.effects:
            if isinstance(effect, Assign):
                assert any(fence == effect.fence for _, fence in known)
            if isinstance(effect, TaskChanged) and effect.task.state is TaskState.RUNNING:
                assert (effect.task.number, effect.task.fence) in known


def test_many_small_events_are_cut_by_number(monkeypatch):
    monkeypatch.setattr(commits, "MAX_COMMIT_EVENTS", 50)

    async def story(bench):
        bench.faults[StoreCall.APPEND] = Fault.BEFORE
        for number in range(200):
            bench.submit(f"task-{number}", task_type="nobody's")
        await asyncio.sleep(1)
        before = bench.data.sequence
        bench.faults.clear()
        await bench.shard.durable_write()
        assert bench.data.sequence - before >= 4

    on_a_bench(story)


def test_a_shard_that_stops_fails_those_who_wait_for_any_of_its_commits():
    async def main(loop):
        async with Bench(loop) as bench:
            await bench.shard.durable()
            bench.faults[StoreCall.APPEND] = Fault.BEFORE
            waiting = []
            for number in range(4):
                bench.submit(f"task-{number}", payload=bytes(50 * KIB))
                waiting.append(asyncio.create_task(bench.shard.durable_write()))
                await asyncio.sleep(0.01)
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome).__name__ for outcome in outcomes] == ["Unavailable"] * 4

    run_virtually(main)


async def test_who_waits_for_room_gets_it_when_enough_was_written(monkeypatch):
    monkeypatch.setattr(commits, "MAX_WAITING_BYTES", BOUND)
    queue = CommitQueue()
    await queue.until_roomy()
    for number in range(3):
        queue.add("default", [CheckpointStored(number, 1, b"")], [], BOUND - 1)
    waiting = asyncio.create_task(queue.until_roomy())
    for is_crowded in (True, False):
        await asyncio.sleep(0)
        assert (queue.is_crowded(), waiting.done()) == (True, False)
        queue.take()
        await asyncio.sleep(0)
        assert not waiting.done(), "what is being written still takes its memory"
        queue.written()
        assert queue.is_crowded() is is_crowded
    await waiting


@pytest.mark.parametrize("ends", [1, 10], ids=["in the next commit", "cut itself"])
def test_an_answer_that_was_left_before_its_decision_goes_with_its_last_part(ends):
    world = CoreWorld()
    queue = CommitQueue()
    order = []
    queue.add("default", [CheckpointStored(1, 1, b"")], [], BOUND - 1)
    queue.last.answers.append(lambda: order.append("the one before"))
    queue.add("default", [], [], 0)  # a message that decided nothing
    queue.last.answers.append(lambda: order.append("this one"))
    for number in range(ends):
        world.submit(f"task-{number}", task_type="nobody's", payload=bytes(20 * KIB))
    world.events.clear()
    for number in range(ends):
        world.cancel(f"task-{number}")
    queue.add("default", world.events, [effect for effect in world.effects if isinstance(effect, TaskEnded)], ends * 21 * KIB)
    parts = []
    while queue.has_next():
        parts.append(queue.take())
    assert [len(part.answers) for part in parts] == [1] + [0] * (len(parts) - 2) + [1]
