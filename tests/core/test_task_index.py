"""Live tasks are found by what they have, and by nothing else; the invariants compare the index with a look at all of them."""

import pytest

from coordinator.core.model import TaskState
from coordinator.core.snapshot import restore, restored
from coordinator.core.state import State
from coordinator.core.submits import submit
from coordinator.core.task_index import BLOCK_BITS
from coordinator.filters import parse
from coordinator.rpc.task_search import facts_of, live_walk
from tests.support.core_world import FAILED, GIVEN_BACK, SUCCESS, CoreWorld, spec_of

BLOCK = 1 << BLOCK_BITS


@pytest.fixture
def world():
    return CoreWorld()


def looked_at(world, text, *, start=1):
    """The tasks that a search looks at, and those that it finds."""
    wanted = parse(text)
    seen = []

    def matches(task):
        seen.append(task.spec.task_id)
        return wanted.matches(facts_of(task))

    walk = live_walk(world.scheduler, wanted, start=start)
    found = []
    while not walk.is_over():
        found += [task.spec.task_id for task in walk.slice(matches, most=1000)]
    return seen, found


def fill(world, count=100, **options):
    """In one commit: the world looks at all tasks after each."""
    for number in range(count):
        submit(world.scheduler, spec_of(f"other-{number}", "other", **options), world.now)
    world.commit()


@pytest.mark.parametrize(
    "text, found",
    [
        ("labels.team = red", ["a", "b"]),
        ("labels.team = red AND labels.tier = 1", ["a"]),
        ("labels.team = red OR labels.team = blue", ["a", "b", "c"]),
        ("labels.team = green", []),
        ("labels.team = red AND labels.team = blue", []),
        ("parent_task_id = p", ["c", "d"]),
        ("parent_task_id = p AND task_type = other", []),
        ("task_id = b OR task_id = nobody", ["b"]),
        ("state = COMPLETED", []),
    ],
)
def test_labels_parents_and_ids_find_no_others(world, text, found):
    fill(world, labels={"team": "grey"}, parent="q")
    world.submit(spec_of("a", labels={"team": "red", "tier": "1"}))
    world.submit(spec_of("b", labels={"team": "red"}))
    world.submit(spec_of("c", labels={"team": "blue"}, parent="p"))
    world.submit(spec_of("d", parent="p"))
    seen, ids = looked_at(world, text)
    assert ids == found
    assert len(seen) <= max(2, len(found))


def test_what_has_ended_leaves_nothing_behind(world):
    world.join("ann", ["work"])
    for name in ("a", "b"):
        world.submit(spec_of(name, labels={"team": "red", "only": name}, parent="p"))
    world.cancel("b")
    world.finish("ann", "a", SUCCESS)
    assert (world.scheduler.index.labels, world.scheduler.index.parents) != ({}, {}), "b runs, and is being stopped"
    world.finish("ann", "b", SUCCESS)
    assert (world.scheduler.index.labels, world.scheduler.index.parents) == ({}, {})


def test_what_runs_and_what_was_tried_is_found_by_state_and_agent(world):
    world.join("ann", ["work"], capacity=3)
    for name in ("runs", "retries", "returned"):
        world.submit(spec_of(name))
    world.finish("ann", "retries", FAILED)
    world.ready("ann", 0)
    world.finish("ann", "returned", GIVEN_BACK)
    fill(world)
    assert looked_at(world, "state = RUNNING") == (["runs"], ["runs"])
    assert looked_at(world, "state = RETRYING") == (["retries", "returned"], ["retries"])
    assert looked_at(world, "agent = ann") == (["runs", "retries", "returned"],) * 2
    assert looked_at(world, "agent = bob")[1] == []
    world.crash()
    assert looked_at(world, "agent = ann") == (["runs", "retries", "returned"],) * 2
    world.cancel("returned")
    world.cancel("retries")
    assert looked_at(world, "agent = ann AND state != PENDING") == (["runs"], ["runs"])


def test_a_page_goes_on_where_the_one_before_ended(world):
    for number in range(50):
        world.submit(spec_of(f"t{number}", labels={"team": "red"} if number % 10 == 0 else {}))
    numbers = {task.spec.task_id: task.number for task in world.scheduler.state.tasks.values()}
    assert looked_at(world, "labels.team = red", start=numbers["t20"])[0] == ["t20", "t30", "t40"]


def test_what_most_have_is_not_sorted_out_first(world):
    for number in range(50):
        world.submit(spec_of(f"t{number}", labels={"team": "red"}))
    assert world.scheduler.index.count_of_label("team", ["red"]) == 50
    assert len(looked_at(world, "labels.team = red")[1]) == 50


def test_a_type_is_looked_for_only_where_it_was_seen(world):
    world.submit(spec_of("first", "rare"))
    fill(world, 3 * BLOCK)
    world.submit(spec_of("last", "rare"))
    seen, found = looked_at(world, "task_type = rare")
    assert found == ["first", "last"]
    assert len(seen) <= 2 * BLOCK
    assert looked_at(world, "task_type = nothing") == ([], [])
    assert looked_at(world, "task_type = rare", start=BLOCK * 3)[1] == ["last"]


def test_blocks_of_tasks_that_have_ended_go(world, monkeypatch):
    monkeypatch.setattr("coordinator.core.task_index._MIN_BLOCKS", 2)
    world.submit(spec_of("stays", "rare"))
    world.join("ann", ["other"], capacity=10)
    for number in range(20 * BLOCK):
        if number % BLOCK == 0:
            world.submit(spec_of(f"t{number}", "other"))
            world.finish("ann", f"t{number}", SUCCESS)
        world.scheduler.state.next_number = max(world.scheduler.state.next_number, number)
    assert len(world.scheduler.index._blocks) <= 5
    assert looked_at(world, "task_type = rare")[1] == ["stays"]


def test_a_recovered_state_has_its_tasks_by_age_whatever_the_pieces_order():
    world = CoreWorld()
    for name in ("a", "b", "c"):
        world.submit(spec_of(name))
    tasks = list(world.scheduler.state.tasks.values())
    state = State()
    for task in (tasks[1], tasks[2], tasks[0]):  # a snapshot's piece has those that only wait before all others
        restore(state, task)
    restored(state, 4)
    assert list(state.by_number) == [1, 2, 3]


def test_states_that_only_ended_tasks_have_need_no_look(world):
    fill(world)
    assert looked_at(world, "state = FAILED OR state = CANCELLED") == ([], [])
    assert TaskState.FAILED in parse("state != RUNNING").states()
