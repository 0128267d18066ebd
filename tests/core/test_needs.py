"""Which agents may take a task: labels, versions, limits of a type, slots, and the agent that a sticky key had last."""

import pytest
from muster.v1 import common_pb2

from coordinator.core.explain import RuledOut, WaitKind, explain, waits_for
from coordinator.core.model import Capability, Settings
from tests.support.core_world import CoreWorld

IN, NOT_IN = common_pb2.LABEL_OPERATOR_IN, common_pb2.LABEL_OPERATOR_NOT_IN
EXISTS, NOT_EXISTS = common_pb2.LABEL_OPERATOR_EXISTS, common_pb2.LABEL_OPERATOR_NOT_EXISTS


@pytest.fixture
def world():
    return CoreWorld(settings=Settings(lease_s=1e9, ack_timeout_s=1e9))


def selector(label, operator, *values):
    return common_pb2.LabelSelector(label=label, operator=operator, values=values)


def why_not(world, task_id, name):
    answer = explain(world.scheduler, world.task(task_id))
    return next([reason for reason, _ in reasons] for agent, reasons in answer.agents if agent.name == name)


@pytest.mark.parametrize(
    "condition, takers",
    [
        (selector("zone", IN, "a"), ["in-a"]),
        (selector("zone", IN, "a", "b"), ["in-a", "in-b"]),
        (selector("zone", NOT_IN, "a"), ["in-b", "nowhere"]),
        (selector("zone", EXISTS), ["in-a", "in-b"]),
        (selector("zone", NOT_EXISTS), ["nowhere"]),
    ],
)
def test_selectors_choose_by_label(world, condition, takers):
    world.join("in-a", labels={"zone": "a"})
    world.join("in-b", labels={"zone": "b"})
    world.join("nowhere", labels={"gpu": "yes"})
    for number in range(6):
        world.submit(f"task{number}", selectors=[condition])
    assert sorted({world.task(f"task{number}").agent for number in range(6)}) == takers


def test_all_selectors_must_hold_and_the_others_tasks_are_not_held_up(world):
    world.join("half", labels={"gpu": "yes"}, capacity=1)
    both = [selector("gpu", EXISTS), selector("zone", IN, "a")]
    world.submit("picky", selectors=both, priority=4)
    world.submit("any")
    assert world.running("half") == ["any"]
    reason = waits_for(world.scheduler, world.task("picky"))
    assert reason.kind is WaitKind.NO_CAPABLE_AGENT
    assert reason.message == "it needs label zone=a: no connected agent that offers work has it"
    assert why_not(world, "picky", "half") == [RuledOut.MISSING_LABEL, RuledOut.AT_CAPACITY]
    world.join("whole", labels={"gpu": "yes", "zone": "a"})
    assert world.running("whole") == ["picky"]


def test_labels_that_no_one_agent_has_together(world):
    world.join("gpu", labels={"gpu": "yes"})
    world.join("zone", labels={"zone": "a"})
    world.submit("picky", selectors=[selector("gpu", EXISTS), selector("zone", IN, "a")])
    assert waits_for(world.scheduler, world.task("picky")).message == (
        "it needs labels gpu and zone=a: no connected agent that offers work has them all"
    )


def test_equal_needs_stand_in_one_lane(world):
    for number in range(10):
        wanted = [selector("a", IN, "1", "2"), selector("b", EXISTS)]
        world.submit(f"task{number}", selectors=wanted if number % 2 else wanted[::-1])
    assert len(world.scheduler.ready.lanes) == 1


def test_a_version_that_is_needed(world):
    world.join("old", {"work": Capability(version=1)})
    world.submit("new-style", min_version=2)
    assert waits_for(world.scheduler, world.task("new-style")).message == (
        "it needs version 2 or later: no connected agent that offers work has it"
    )
    assert why_not(world, "new-style", "old") == [RuledOut.VERSION_TOO_LOW]
    world.join("new", {"work": Capability(version=3)})
    assert world.running("new") == ["new-style"]


def test_an_agents_limit_for_a_type(world):
    world.join("agent", {"heavy": Capability(max_concurrent=2), "light": Capability()}, capacity=10)
    for number in range(4):
        world.submit(f"heavy{number}", task_type="heavy")
        world.submit(f"light{number}", task_type="light")
    assert world.running("agent") == ["heavy0", "light0", "heavy1", "light1", "light2", "light3"]
    assert why_not(world, "heavy2", "agent") == [RuledOut.AT_TYPE_LIMIT]
    world.finish("agent", "light0")
    assert "heavy2" not in world.running("agent")
    world.finish("agent", "heavy1")
    assert world.running("agent")[-1] == "heavy2"


def test_a_limit_counts_what_ran_before_the_hello(world):
    world.join("agent", ["work"], capacity=5)
    for number in range(3):
        world.submit(f"task{number}")
    held = {f"task{number}": world.task(f"task{number}").fence for number in range(3)}
    world.connect("agent", {"work": Capability(max_concurrent=3)}, in_flight=held, capacity=5)
    world.ready("agent", 5)
    world.submit("fourth")
    assert "fourth" not in world.running("agent")
    world.finish("agent", "task0")
    assert "fourth" in world.running("agent")


def test_a_task_takes_several_slots(world):
    world.join("agent", capacity=4)
    world.submit("three", slots=3)
    world.submit("two", slots=2)
    world.submit("one")
    assert world.running("agent") == ["three", "one"], "what fits goes, and what doesn't delays no other"
    assert world.agent("agent").busy == 4
    assert why_not(world, "two", "agent") == [RuledOut.AT_CAPACITY]
    world.finish("agent", "three")
    assert world.running("agent") == ["one", "two"]


def test_more_slots_than_any_agent_has(world):
    world.join("agent", capacity=4)
    world.submit("five", slots=5)
    world.submit("one")
    assert world.running("agent") == ["one"]
    assert waits_for(world.scheduler, world.task("five")).message == "it needs 5 slots: no connected agent that offers work has so many"
    assert why_not(world, "five", "agent") == [RuledOut.TOO_SMALL]


def test_a_heavy_task_is_not_starved_by_light_ones(world):
    """Slots get free one by one, and light tasks never end: without an agent kept for it, the heavy one would wait for ever."""
    world.join("agent", capacity=3)
    for number in range(3):
        world.submit(f"light{number}")
    world.submit("heavy", slots=3)
    begun_s, number = world.mono_s, 3
    while "heavy" not in world.running("agent"):
        world.submit(f"light{number}")
        number += 1
        world.advance(1)
        world.finish("agent", world.running("agent")[0])
        assert number < 1000, "starved"
    assert 120 <= world.mono_s - begun_s <= 126, "two periods to CRITICAL, and then as long as what runs takes"
    assert world.agent("agent").reserved == 0
    world.finish("agent", "heavy")
    assert len(world.running("agent")) == 3


def test_meanwhile_the_other_agents_go_on(world):
    for name in ("kept", "other"):
        world.join(name, capacity=2)
    for number in range(4):
        world.submit(f"light{number}", priority=1)
    world.submit("heavy", slots=2, priority=4)
    for number in range(4, 20):
        world.submit(f"light{number}", priority=1)
    first = world.running("kept")[0]
    world.finish("kept", first)
    assert world.agent("kept").reserved == 2
    assert why_not(world, "light10", "kept") == [RuledOut.RESERVED]
    for _ in range(5):
        world.finish("other", world.running("other")[0])
        assert len(world.running("other")) == 2
        assert len(world.running("kept")) == 1
    world.finish("kept", world.running("kept")[0])
    assert world.running("kept") == ["heavy"]


def test_what_goes_before_the_heavy_task_is_not_held_up(world):
    world.join("agent", capacity=2)
    for number in range(2):
        world.submit(f"light{number}", priority=1)
    world.submit("older", priority=4)
    world.submit("heavy", slots=2, priority=4)
    world.finish("agent", "light0")
    assert world.running("agent") == ["light1", "older"]
    assert world.agent("agent").reserved == 0
    world.finish("agent", "light1")
    assert world.agent("agent").reserved == 2, "now it is next"


def test_an_agent_is_let_go_when_what_it_was_kept_for_is_gone(world):
    world.join("agent", capacity=2)
    for number in range(4):
        world.submit(f"light{number}", priority=1)
    world.submit("heavy", slots=2, priority=4)
    world.finish("agent", "light0")
    assert len(world.running("agent")) == 1
    world.cancel("heavy")
    world.finish("agent", "light1")
    assert world.running("agent") == ["light2", "light3"]


def test_another_is_kept_when_the_first_goes(world):
    for name in ("a", "b"):
        world.join(name, capacity=2)
    for number in range(8):
        world.submit(f"light{number}", priority=1)
    world.submit("heavy", slots=2, priority=4)
    world.finish("a", world.running("a")[0])
    assert (world.agent("a").reserved, world.agent("b").reserved) == (2, 0)
    world.lose("a")
    world.finish("b", world.running("b")[0])
    assert world.agent("b").reserved == 2


# --- sticky keys ---


def test_a_sticky_key_goes_to_the_agent_that_had_it_last(world):
    for name in ("a", "b", "c"):
        world.join(name)
    for number in range(9):
        world.submit(f"task{number}", sticky_key=f"key{number % 3}")
        world.finish(world.task(f"task{number}").agent, f"task{number}")
    agents = [name for _, name in world.assignments()]
    assert agents == agents[:3] * 3
    assert len(set(agents)) == 3


def test_unless_it_is_much_busier_than_the_least_loaded(world):
    world.join("a", capacity=8)
    world.join("b", capacity=8)
    for number in range(5):
        world.submit(f"task{number}", sticky_key="key")
    agents = [name for _, name in world.assignments()]
    assert agents == [agents[0]] * 3 + [other for other in ("a", "b") if other != agents[0]] * 2, "2 of 8 is 25 points more than none"


def test_or_cannot_take_it(world):
    world.join("a", ["work", "other"], capacity=1)
    world.submit("first", sticky_key="key")
    world.join("b", capacity=1)
    world.submit("full", sticky_key="key")
    assert world.task("full").agent == "b"
    world.finish("a", "first")
    world.finish("b", "full")
    world.submit("other", task_type="other", sticky_key="key")
    assert world.task("other").agent == "a", "b doesn't offer it"


def test_or_lacks_a_label_that_it_needs(world):
    world.join("plain")
    world.submit("any", sticky_key="key")
    world.join("gpu", labels={"gpu": "yes"})
    world.finish("plain", "any")
    world.submit("picky", sticky_key="key", selectors=[selector("gpu", EXISTS)])
    assert world.task("picky").agent == "gpu"


def test_only_so_many_sticky_keys_are_remembered():
    world = CoreWorld(settings=Settings(max_sticky_keys=2))
    world.join("agent")
    for number in range(5):
        world.submit(f"task{number}", sticky_key=f"key{number}")
    assert list(world.scheduler.sticky) == ["key3", "key4"]


def test_no_agent_is_kept_from_what_goes_first_within_a_types_limit(world):
    """Such a type has a room of its own at its agents, and what waits there is as much a rival as what waits for any slot."""
    world.submit("light", priority=4)
    world.submit("heavy", slots=2, priority=4)
    world.join("agent", {"work": Capability(max_concurrent=1)}, capacity=2)
    assert world.running("agent") == ["light"]
