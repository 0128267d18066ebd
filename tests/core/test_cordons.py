"""A cordoned agent finishes what it runs and gets nothing new, whenever it comes; others do its work."""

import pytest

from coordinator.core.explain import RuledOut, WaitKind, explain, waits_for
from coordinator.core.load_map import AgentStatus
from coordinator.core.policies import CordonPolicy, PolicyKind, PolicyName, StandingPolicy
from coordinator.core.sessions import draining
from tests.support.core_world import FIRST_DATE_MS, CoreWorld


@pytest.fixture
def world():
    return CoreWorld()


def uncordon(world, agent):
    return world.delete_policy(PolicyName(PolicyKind.CORDON, agent))


def why(world, task_id):
    return waits_for(world.scheduler, world.task(task_id))


def reasons(world, task_id, agent):
    return dict(explain(world.scheduler, world.task(task_id)).agents)[world.agent(agent)]


def test_a_cordoned_agent_finishes_what_it_runs_and_gets_nothing_new(world):
    world.join("ann", capacity=2)
    world.submit("runs")
    world.set_policy(CordonPolicy("ann", "a new disk"))
    assert world.agent("ann").status is AgentStatus.CORDONED
    world.submit("waits")
    assert world.renew("ann", "runs").name == "EXTENDED"
    world.finish("ann", "runs")
    world.ready("ann", 2)
    assert world.running("ann") == []
    assert reasons(world, "waits", "ann") == [(RuledOut.CORDONED, "it is cordoned: a new disk")]
    assert why(world, "waits").kind is WaitKind.AGENTS_DRAINING
    assert why(world, "waits").message == "every agent that offers work is cordoned"
    assert uncordon(world, "ann")
    assert world.running("ann") == ["waits"]


def test_others_take_what_a_cordoned_agent_would_have(world):
    world.join("ann")
    world.join("bob")
    world.set_policy(CordonPolicy("ann"))
    for number in range(4):
        world.submit(f"task{number}", sticky_key="s")
    assert len(world.running("bob")) == 4


def test_a_sticky_key_goes_elsewhere(world):
    world.join("ann")
    world.submit("first", sticky_key="s")
    world.join("bob")
    world.set_policy(CordonPolicy("ann"))
    world.submit("second", sticky_key="s")
    uncordon(world, "ann")
    world.submit("third", sticky_key="s")
    assert world.running("bob") == ["second", "third"]


def test_a_cordon_holds_for_an_agent_that_comes_later_and_over_a_restart(world):
    world.set_policy(CordonPolicy("ann"))
    world.submit("task")
    world.join("ann")
    assert world.running("ann") == []
    world.crash()
    world.join("ann")
    assert world.running("ann") == []
    assert world.scheduler.state.policies == {PolicyName(PolicyKind.CORDON, "ann"): StandingPolicy(CordonPolicy("ann"), FIRST_DATE_MS)}
    uncordon(world, "ann")
    assert world.running("ann") == ["task"]


def test_what_drains_goes_on_draining_whatever_its_cordon(world):
    world.join("ann")
    draining(world.agent("ann"))
    world.set_policy(CordonPolicy("ann"))
    assert world.agent("ann").status is AgentStatus.DRAINING
    uncordon(world, "ann")
    assert world.agent("ann").status is AgentStatus.DRAINING
    world.set_policy(CordonPolicy("bob"))
    world.join("bob")
    draining(world.agent("bob"))
    assert world.agent("bob").status is AgentStatus.DRAINING
    world.submit("task")
    assert why(world, "task").message == "every agent that offers work is draining"


def test_a_cordon_of_an_agent_that_is_away_changes_nothing_else(world):
    world.join("ann")
    world.submit("task")
    world.lose("ann")
    world.set_policy(CordonPolicy("ann"))
    assert world.agent("ann").status is AgentStatus.DISCONNECTED
    uncordon(world, "ann")
    assert world.agent("ann").status is AgentStatus.DISCONNECTED


def test_another_agent_is_kept_for_a_heavy_task_when_the_one_that_was_is_cordoned(world):
    for name in ("ann", "bob"):
        world.join(name, capacity=2)
    for number in range(4):
        world.submit(f"light{number}")
    world.submit("heavy", slots=2, priority=4)
    for task_id in (world.running("ann")[0], world.running("bob")[0]):
        world.finish(world.task(task_id).agent, task_id)
    kept = next(name for name in ("ann", "bob") if world.agent(name).reserved)
    world.set_policy(CordonPolicy(kept))
    other = "bob" if kept == "ann" else "ann"
    assert (world.agent(kept).reserved, world.agent(other).reserved) == (0, 2)
