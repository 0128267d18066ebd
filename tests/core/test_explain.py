"""Why a task waits: the answer must be the scheduler's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.core import pauses
from coordinator.core.explain import MAX_AGENTS, RuledOut, WaitKind, explain, ruled_out, waits_for
from coordinator.core.model import Needs
from coordinator.core.policies import CordonPolicy, PausePolicy
from coordinator.core.sessions import draining
from tests.support.core_world import FAILED, CoreWorld

OFFERS = [("a",), ("b",), ("a", "b")]


@pytest.fixture
def world():
    return CoreWorld()


def kind(world, task_id="task"):
    return waits_for(world.scheduler, world.task(task_id)).kind


def test_nobody_offers_it(world):
    world.join("agent", ["other"])
    world.submit("task")
    assert kind(world) is WaitKind.NO_CAPABLE_AGENT
    answer = explain(world.scheduler, world.task("task"))
    assert [(agent.name, [reason for reason, _ in reasons]) for agent, reasons in answer.agents] == [
        ("agent", [RuledOut.MISSING_CAPABILITY])
    ]
    assert "no connected agent offers work" in answer.summary


def test_all_are_full(world):
    world.join("agent", capacity=1)
    for task_id in ("running", "ahead", "task"):
        world.submit(task_id)
    assert kind(world) is WaitKind.AGENTS_FULL
    assert "the one agent that offers work is full" in waits_for(world.scheduler, world.task("task")).message
    answer = explain(world.scheduler, world.task("task"))
    assert answer.ahead == 1
    assert answer.agents[0][1] == [(RuledOut.AT_CAPACITY, "it runs 1 of 1")]


def test_who_drains_or_is_cordoned_is_not_counted_as_full(world):
    for name in ("ann", "bob", "cid", "dan"):
        world.join(name, capacity=1)
    for number in range(4):
        world.submit(f"runs{number}")
    world.set_policy(CordonPolicy("cid"))
    draining(world.agent("dan"))
    world.submit("task")
    reason = waits_for(world.scheduler, world.task("task"))
    assert reason.kind is WaitKind.AGENTS_FULL
    assert reason.message == "all 2 agents that offer work are full, and 2 more are draining or cordoned"


def test_while_a_pause_is_lifted_bit_by_bit_that_is_why(world, monkeypatch):
    monkeypatch.setattr(pauses, "MAX_MOVED", 1)
    world.submit("task")
    world.set_policy(PausePolicy("work"))
    world.advance(1, ticks=9)
    world.delete_policy(PausePolicy("work").name)
    world.join("agent")
    reason = waits_for(world.scheduler, world.task("task"))
    assert (reason.kind, "a pause is being set or lifted" in reason.message) == (WaitKind.QUEUED, True)
    world.advance(1, ticks=9)
    assert world.running("agent") == ["task"]


def test_it_is_in_backoff(world):
    world.join("agent")
    world.submit("task")
    world.finish("agent", "task", FAILED)
    assert kind(world) is WaitKind.BACKOFF
    assert waits_for(world.scheduler, world.task("task")).until_ms == world.date_ms + 500


def test_all_drain(world):
    draining(world.join("agent"))
    world.submit("task")
    assert kind(world) is WaitKind.AGENTS_DRAINING
    assert explain(world.scheduler, world.task("task")).agents[0][1] == [(RuledOut.DRAINING, "it is draining")]


def test_not_ready_and_disconnected_agents_are_named(world):
    world.connect("silent")
    world.join("lost")
    world.submit("held")
    world.lose("lost")
    world.submit("task")
    reasons = {agent.name: [reason for reason, _ in why] for agent, why in explain(world.scheduler, world.task("task")).agents}
    assert reasons == {"silent": [RuledOut.NOT_READY], "lost": [RuledOut.DISCONNECTED]}


def test_a_running_task_does_not_wait(world):
    world.join("agent")
    world.submit("task")
    assert waits_for(world.scheduler, world.task("task")) is None
    assert explain(world.scheduler, world.task("task")).summary == "Agent agent runs it: attempt 1."


def test_the_answer_is_bounded(world):
    for number in range(MAX_AGENTS + 20):
        world.connect(f"agent{number}", OFFERS[number % 3])
    world.submit("task", task_type="a")
    answer = explain(world.scheduler, world.task("task"))
    assert len(answer.agents) == MAX_AGENTS
    assert all("a" in agent.capabilities for agent, _ in answer.agents[:80]), "those that offer the type come first"


FLEETS = st.lists(
    st.tuples(st.sampled_from(OFFERS), st.integers(1, 3), st.integers(0, 3), st.sampled_from(["stays", "stays", "drains", "goes", "busy"])),
    max_size=6,
)


def world_of(fleet, load):
    world = CoreWorld()
    for number, (offers, capacity, limit, fate) in enumerate(fleet):
        world.join(f"agent{number}", offers, capacity=capacity, limit=limit)
        if fate == "busy":
            for filler in range(capacity):
                world.submit(f"filler{number}.{filler}", task_type=offers[0])
    for number in range(load):
        world.submit(f"load{number}", task_type="ab"[number % 2])
    for number, (_, _, _, fate) in enumerate(fleet):
        if fate == "drains":
            draining(world.agent(f"agent{number}"))
        elif fate == "goes":
            world.lose(f"agent{number}")
    return world


@given(FLEETS, st.integers(0, 8))
def test_an_agent_is_ruled_out_exactly_when_placement_cannot_choose_it(fleet, load):
    for number in range(len(fleet)):
        world, name = world_of(fleet, load), f"agent{number}"
        agent = world.scheduler.load.agents.get(name)
        could = agent is not None and not ruled_out(agent, Needs("a"))
        for other in list(world.scheduler.load.agents.values()):
            if other.name != name and other.session:
                world.lose(other.name)
        task = world.submit("task", task_type="a", priority=4)
        assert task.agent == (name if could else "")
