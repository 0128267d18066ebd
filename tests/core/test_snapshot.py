"""A snapshot is exact: every task as it was at one moment, however the state changes while it is taken."""

import random
from array import array

import pytest
from muster.v1 import event_pb2

from coordinator.core.model import Task
from coordinator.core.snapshot import Walk, restore
from coordinator.core.state import State
from coordinator.journal.codec import decode_snapshot, snapshot_encoder
from coordinator.journal.snapshot_codec import SNAPSHOT_VERSION
from coordinator.ports import JournalTooNew, SnapshotNamespace
from tests.support.core_world import FAILED, NAMESPACE, SUCCESS, CoreWorld, durable, spec_of

HEAD = SnapshotNamespace(NAMESPACE, 1, 7)


def walked(world, *, meanwhile, limit=3):
    """Takes a snapshot, with something happening between any two steps. Answers what it says, and what was so at its beginning."""
    before = durable(world.scheduler.state), world.scheduler.state.next_number
    world.begin_snapshot()
    while world.go_on_with_snapshot(limit):
        meanwhile()
    sequence, _ = world.snapshot
    tail = world.journal[sequence:]
    del world.journal[sequence:]
    then = world.recovered()
    world.journal += tail
    return (durable(then), then.next_number), before


@pytest.fixture
def world():
    world = CoreWorld()
    world.join("agent", capacity=5)
    for number in range(20):
        world.submit(f"task{number}")
    return world


def test_nothing_happens_meanwhile(world):
    then, before = walked(world, meanwhile=lambda: None)
    assert then == before
    assert len(then[0]) == 20


def test_tasks_end_and_come_meanwhile(world):
    def meanwhile():
        world.finish("agent", world.running("agent")[-1])
        world.cancel(f"task{rng.randrange(20)}")
        world.submit(f"new{len(world.journal)}")

    rng = random.Random(1)
    then, before = walked(world, meanwhile=meanwhile)
    assert then == before
    assert durable(world.recovered()) == durable(world.scheduler.state)


def test_tasks_change_twice_meanwhile(world):
    def meanwhile():
        for task_id in world.running("agent"):
            world.acknowledge("agent", task_id)
            world.finish("agent", task_id, FAILED)
        world.advance(3)

    then, before = walked(world, meanwhile=meanwhile, limit=1)
    assert then == before
    assert durable(world.recovered()) == durable(world.scheduler.state)


def test_the_next_one_looks_at_what_was_live_and_what_came_since_and_at_nothing_else(world):
    for number in range(1, 1000):
        world.submit(f"short{number}")
        world.cancel(f"short{number}")
    walked(world, meanwhile=lambda: None, limit=100)
    world.submit("new")
    looked = []
    world.scheduler.state.by_number = Spy(world.scheduler.state.by_number, looked)
    walked(world, meanwhile=lambda: None, limit=1)
    assert len(looked) == 21


class Spy(dict):
    def __init__(self, content, looked):
        super().__init__(content)
        self.looked = looked

    def get(self, number):
        self.looked.append(number)
        return super().get(number)


def test_a_task_that_is_not_found_by_its_number_is_no_snapshot(world):
    state = world.scheduler.state
    state.known_numbers, state.known_until = array("Q", [1, 2]), 20
    walk = Walk(state, lambda task: None)
    assert walk.step(10)
    with pytest.raises(RuntimeError, match="17 tasks"):
        walk.step(10)
    assert state.walk is None


def test_one_that_was_abandoned_is_told_nothing_more(world):
    world.begin_snapshot()
    walk = world.scheduler.state.walk
    walk.abandon()
    assert world.scheduler.state.walk is None
    world.begin_snapshot()
    walk.abandon()
    assert world.scheduler.state.walk is not None, "it ends nobody else's"


def test_every_field_of_a_task_survives(world):
    """A field that is new in `Task` or `Spec` must be told apart here, and kept."""
    task = world.scheduler.state.tasks["task0"]
    world.finish("agent", "task0", FAILED)
    kept = [task]
    for name in Task.__slots__:
        twin = task.snapshot()
        value = getattr(task, name)
        match value:
            case bool():
                changed = not value
            case int():
                changed = value + 1
            case str():
                changed = "other"
            case bytes():
                changed = b"other"
            case _:
                continue
        if name in ("number", "ended_ms", "outcome"):
            continue  # its key; and what only ended tasks have
        setattr(twin, name, changed)
        if name == "reprioritised":
            twin.spec = twin.spec.at(changed)
        kept.append(twin)
    for expected in kept:
        encoder = snapshot_encoder(sequence=1, date_ms=2, namespaces=[HEAD], max_bytes=1)
        encoder.add(HEAD, expected)
        state = State()
        ((_, (found,)),) = decode_snapshot(encoder.take()).parts
        restore(state, found)
        was = State()
        restore(was, expected)
        assert durable(state) == durable(was)


def test_pieces_are_bounded_and_name_every_namespace_first():
    heads = [HEAD, SnapshotNamespace("other", 2, 1)]
    encoder = snapshot_encoder(sequence=5, date_ms=6, namespaces=heads, max_bytes=1000)
    for number in range(1, 101):
        encoder.add(HEAD, Task(number, spec_of(f"task{number}", payload=b"x" * 100), 5))
    encoder.finish()
    pieces = list(iter(encoder.take, None))
    assert all(len(piece) < 1200 for piece in pieces)
    decoded = [decode_snapshot(piece) for piece in pieces]
    assert [namespace for namespace, _ in decoded[0].parts] == heads
    assert [(piece.sequence, piece.date_ms) for piece in decoded] == [(5, 6)] * len(pieces)
    numbers = [task.number for piece in decoded for _, tasks in piece.parts for task in tasks]
    assert numbers == list(range(1, 101))


def test_a_task_is_kept_as_it_was_when_it_was_added(world):
    task = world.scheduler.state.tasks["task0"]
    encoder = snapshot_encoder(sequence=1, date_ms=2, namespaces=[HEAD], max_bytes=10**6)
    encoder.add(HEAD, task)
    world.finish("agent", "task0", SUCCESS)
    encoder.finish()
    ((_, (found,)),) = decode_snapshot(encoder.take()).parts
    assert found.state.name == "RUNNING"


def test_a_newer_format_is_refused_in_a_sentence():
    blob = event_pb2.SnapshotChunk(format_version=SNAPSHOT_VERSION + 1).SerializeToString()
    with pytest.raises(JournalTooNew, match="start the newer release"):
        decode_snapshot(blob)


def test_a_task_that_is_there_twice_is_refused(world):
    task = world.scheduler.state.tasks["task0"]
    state = State()
    restore(state, task)
    with pytest.raises(ValueError, match="twice"):
        restore(state, task)
