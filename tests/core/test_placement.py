"""Who gets what, in which order (G3, G4)."""

import pytest

from coordinator.core.model import Settings, TaskState
from coordinator.core.submits import CancelVerdict, Refused, submit
from tests.support.core_world import FAILED, GIVEN_BACK, CoreWorld, spec_of


@pytest.fixture
def world():
    return CoreWorld()


def work_through(world, name):
    """The agent takes one task after the other. Answers their ids in order."""
    order = []
    while running := world.running(name):
        order += running
        world.finish(name, running[0])
    return order


def test_first_in_first_out_within_a_priority(world):
    for number in range(5):
        world.submit(f"task{number}")
    world.join("agent", capacity=1)
    assert work_through(world, "agent") == [f"task{number}" for number in range(5)]


def test_the_higher_priority_goes_first_over_all_types(world):
    for task_id, task_type, priority in [
        ("a-low", "a", 1),
        ("b-high", "b", 3),
        ("a-critical", "a", 4),
        ("b-normal", "b", 2),
        ("a-high", "a", 3),
    ]:
        world.submit(task_id, task_type=task_type, priority=priority)
    world.join("agent", ["a", "b"], capacity=1)
    assert work_through(world, "agent") == ["a-critical", "b-high", "a-high", "b-normal", "a-low"]


def test_types_take_turns_by_age_and_none_is_preferred(world):
    for number in range(6):
        world.submit(f"task{number}", task_type="ab"[number % 2])
    world.join("agent", ["a", "b"], capacity=1)
    assert work_through(world, "agent") == [f"task{number}" for number in range(6)]


def test_the_order_holds_also_when_many_slots_open_at_once(world):
    for number in range(12):
        world.submit(f"task{number}", task_type="abc"[number % 3], priority=2 + (number == 7))
    world.join("agent", ["a", "b", "c"], capacity=10)
    assert world.running("agent") == [f"task{number}" for number in (7, 0, 1, 2, 3, 4, 5, 6, 8, 9)]


def test_a_task_that_nobody_can_take_delays_no_other(world):
    for number in range(50):
        world.submit(f"stuck{number}", task_type="nobody", priority=4)
    world.submit("task", priority=1)
    world.join("agent", capacity=1)
    assert world.running("agent") == ["task"]
    world.submit("next")
    assert work_through(world, "agent") == ["task", "next"]


def test_nor_does_one_whose_agents_are_full(world):
    world.join("busy", ["a"], capacity=1)
    world.submit("running", task_type="a")
    world.submit("waiting", task_type="a", priority=4)
    world.join("free", ["b"])
    world.submit("task", task_type="b", priority=1)
    assert world.running("free") == ["task"]


def test_a_retried_task_takes_its_place_again_after_its_backoff(world):
    world.join("agent", capacity=1)
    for number in range(3):
        world.submit(f"task{number}")
    world.finish("agent", "task0", FAILED)
    assert world.running("agent") == ["task1"]
    world.advance(1)
    world.finish("agent", "task1")
    assert work_through(world, "agent") == ["task0", "task2"]


def test_a_returned_task_takes_its_place_again_at_once(world):
    world.join("agent", capacity=1)
    for number in range(3):
        world.submit(f"task{number}")
    world.finish("agent", "task0", GIVEN_BACK)
    assert world.running("agent") == ["task0"]


def test_the_place_survives_a_crash(world):
    world.join("agent", capacity=1)
    for number in range(3):
        world.submit(f"task{number}")
    world.finish("agent", "task0", FAILED)
    world.crash()
    world.advance(1)
    world.connect("agent", nonce="another process")
    world.ready("agent", 1)
    assert work_through(world, "agent") == ["task0", "task1", "task2"]


def test_the_least_loaded_agent_takes_it(world):
    world.join("small", capacity=2)
    world.join("large", capacity=10)
    for number in range(12):
        world.submit(f"task{number}")
    assert (len(world.running("small")), len(world.running("large"))) == (2, 10)
    loads = {"small": 0, "large": 0}
    for _, name in world.assignments():
        other = "large" if name == "small" else "small"
        capacity = {"small": 2, "large": 10}
        assert loads[name] / capacity[name] <= loads[other] / capacity[other] or loads[other] == capacity[other]
        loads[name] += 1


def test_the_longest_idle_of_equals_takes_it_whatever_else_they_can_do(world):
    world.join("narrow", ["a"])
    world.join("wide", ["a", "b"])
    for number in range(6):
        world.submit(f"task{number}", task_type="a")
        world.finish(world.task(f"task{number}").agent, f"task{number}")
    assert [name for _, name in world.assignments()] == ["narrow", "wide"] * 3


def test_loads_within_a_sixteenth_of_a_large_capacity_are_equal_so_that_tasks_travel_together(world):
    world.join("a", capacity=160)
    world.join("b", capacity=160)
    for number in range(30):
        world.submit(f"task{number}")
    assert world.running("a") == [f"task{number}" for number in (*range(10), *range(20, 30))]
    assert world.running("b") == [f"task{number}" for number in range(10, 20)]


def test_capacity_and_capability_hold(world):
    world.join("agent", ["a"], capacity=3)
    for number in range(10):
        world.submit(f"a{number}", task_type="a")
        world.submit(f"b{number}", task_type="b")
    assert world.running("agent") == ["a0", "a1", "a2"]


def test_a_cancelled_task_is_passed_over(world):
    for number in range(3):
        world.submit(f"task{number}")
    assert world.cancel("task1") is CancelVerdict.CANCELLED
    assert world.cancel("task1") is CancelVerdict.ALREADY_ENDED
    world.join("agent", capacity=1)
    assert work_through(world, "agent") == ["task0", "task2"]


def test_a_task_cancelled_in_its_backoff_never_comes_back(world):
    world.join("agent")
    world.submit("task")
    world.finish("agent", "task", FAILED)
    assert world.cancel("task") is CancelVerdict.CANCELLED
    world.advance(120, ticks=5)
    assert (len(world.ends("task")), world.running("agent")) == (1, [])


def test_cancelling_a_running_task_twice_is_recorded_once(world):
    world.join("agent")
    world.submit("task")
    assert [world.cancel("task"), world.cancel("task")] == [CancelVerdict.REQUESTED] * 2
    assert world.cancel("nothing") is CancelVerdict.NOT_FOUND
    assert sum(type(event).__name__ == "CancelRecorded" for event in world.events) == 1


def test_the_same_id_again_is_the_same_task(world):
    first = world.submit("task", payload=b"input")
    events = len(world.events)
    assert world.submit("task", payload=b"input") is first
    assert world.submit("task", payload=b"other") is first, "the caller compares what was asked for"
    assert len(world.events) == events


def test_also_when_it_has_just_ended(world):
    world.join("agent")
    first = world.submit("task")
    world.finish("agent", "task")
    assert world.submit("task") is first
    assert first.state is TaskState.COMPLETED


def test_a_queue_whose_payloads_fill_the_memory_takes_nothing_new():
    size = len(spec_of("first", payload=b"x" * 100).request)
    world = CoreWorld(settings=Settings(max_live_bytes=2 * size))
    world.submit("first", payload=b"x" * 100)
    world.submit("other", payload=b"x" * 100)
    assert submit(world.scheduler, spec_of("third", payload=b""), world.now) is Refused.MEMORY_FULL
    world.cancel("first")
    world.submit("third", payload=b"x" * 100)
    assert world.scheduler.state.bytes == 2 * size


def test_a_full_queue_takes_nothing_new_and_keeps_what_it_has():
    world = CoreWorld(settings=Settings(max_live_tasks=2))
    first = world.submit("first")
    world.submit("second")
    assert submit(world.scheduler, spec_of("third"), world.now) is Refused.QUEUE_FULL
    assert world.submit("first") is first, "what was taken is still known"
    world.cancel("first")
    world.submit("third")
