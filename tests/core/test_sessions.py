"""Agents come, go and come back; nothing they don't hold stays with them (G9)."""

import pytest

from coordinator.core.effects import Assign, CloseSession, DrainSession
from coordinator.core.load_map import AgentStatus
from coordinator.core.model import FailureKind, Settings, TaskState
from coordinator.core.reports import RenewVerdict, Verdict
from coordinator.core.sessions import ReconcileVerdict, drain, draining, lost
from tests.support.core_world import CoreWorld


@pytest.fixture
def world():
    return CoreWorld()


def test_an_agent_gets_nothing_before_it_is_ready(world):
    world.connect("agent")
    world.submit("task")
    assert world.running("agent") == []
    world.ready("agent", 1)
    assert world.running("agent") == ["task"]


def test_the_ready_level_may_be_below_the_capacity_and_never_above_it(world):
    for number in range(20):
        world.submit(f"task{number}")
    world.join("agent", capacity=5, limit=3)
    assert len(world.running("agent")) == 3
    world.ready("agent", 50)
    assert len(world.running("agent")) == 5


def test_an_agent_that_comes_back_in_time_keeps_what_it_runs(world):
    world.join("agent")
    task = world.submit("task")
    world.acknowledge("agent", "task")
    world.lose("agent")
    world.advance(14)
    assert world.connect("agent", in_flight={"task": task.fence}) == [ReconcileVerdict.KEEP]
    world.advance(20)
    assert (world.running("agent"), task.crashes) == (["task"], 0)
    assert world.finish("agent", "task") is Verdict.ACCEPTED


def test_what_a_hello_lists_has_arrived_although_its_acknowledgement_was_lost(world):
    world.join("agent")
    task = world.submit("task")
    world.lose("agent")
    assert world.connect("agent", in_flight={"task": task.fence}) == [ReconcileVerdict.KEEP]
    assert world.scheduler.load.agents["agent"].running[task.number].has_arrived()
    world.advance(20)
    assert world.running("agent") == ["task"]
    assert task.undelivered == 0


def test_the_same_holds_after_a_crash_of_the_coordinator(world):
    world.join("agent")
    fence = world.submit("task").fence
    world.crash()
    assert world.connect("agent", in_flight={"task": fence}) == [ReconcileVerdict.KEEP]
    world.advance(29, ticks=3)
    assert world.renew("agent", "task") is RenewVerdict.EXTENDED
    world.advance(29, ticks=3)
    task = world.task("task")
    assert (task.state, task.attempt, task.undelivered) == (TaskState.RUNNING, 1, 0)


def test_an_assignment_that_never_arrived_goes_back_at_once_at_no_cost_in_attempts(world):
    world.join("agent")
    task = world.submit("task")
    fence = task.fence
    world.lose("agent")
    world.connect("agent")
    assert (task.state, task.attempt, task.undelivered, task.crashes, task.retries) == (TaskState.PENDING, 0, 1, 0, 0)
    world.ready("agent", 1)
    assert (task.state, task.attempt) == (TaskState.RUNNING, 1)
    assert task.fence > fence


def test_an_attempt_that_was_forgotten_after_it_had_arrived_is_a_crash(world):
    world.join("agent")
    task = world.submit("task")
    world.acknowledge("agent", "task")
    world.connect("agent", nonce="another process")
    assert (task.state, task.crashes, task.undelivered) == (TaskState.RETRYING, 1, 0)
    assert task.failure.kind is FailureKind.LEASE_LOST


def test_a_hello_is_told_what_is_no_longer_its_own(world):
    world.join("agent", capacity=2)
    kept, cancelled = world.submit("kept"), world.submit("cancelled")
    world.cancel("cancelled")
    claims = {"kept": kept.fence, "cancelled": cancelled.fence, "unknown": 5}
    assert world.connect("agent", in_flight=claims) == [ReconcileVerdict.KEEP, ReconcileVerdict.CANCEL, ReconcileVerdict.DROP]
    assert world.connect("agent", in_flight={"kept": kept.fence - 1}) == [ReconcileVerdict.DROP]


def test_what_another_agent_runs_is_not_handed_out_to_whoever_claims_it(world):
    world.join("agent")
    task = world.submit("task")
    assert world.connect("thief", in_flight={"task": task.fence}) == [ReconcileVerdict.DROP]
    assert world.running("agent") == ["task"]


def test_the_newest_session_wins_and_the_old_one_is_told_why(world):
    world.join("agent")
    old = world.agent("agent").session
    world.connect("agent", nonce="another process")
    (closed,) = [effect for effect in world.effects if isinstance(effect, CloseSession)]
    assert closed.session == old
    assert "another process" in closed.message
    lost(world.scheduler, old, world.now)  # the old stream ends only now
    world.commit()
    assert world.agent("agent").status is AgentStatus.CONNECTED


def test_a_lost_agent_is_given_its_grace_and_no_longer(world):
    world.join("agent")
    task = world.submit("task")
    world.acknowledge("agent", "task")
    world.lose("agent")
    world.advance(14.9)
    assert task.state is TaskState.RUNNING
    world.advance(0.4)
    assert (task.state, task.crashes) == (TaskState.RETRYING, 1)
    assert "agent" not in world.scheduler.load.agents


def test_a_lost_agent_that_runs_nothing_is_forgotten_at_once(world):
    world.join("agent")
    world.lose("agent")
    assert not world.scheduler.load.agents
    assert not world.scheduler.load.by_session


def test_a_lost_agent_gets_nothing(world):
    world.join("agent")
    world.submit("first")
    world.lose("agent")
    world.submit("second")
    assert world.running("agent") == ["first"]


def test_after_a_takeover_nothing_is_given_up_before_one_lease_has_passed(world):
    world.join("agent")
    task = world.submit(task_id := "task", run_timeout_s=5, progress_timeout_s=5)
    world.acknowledge("agent", task_id)
    world.advance(4)
    world.crash()
    world.advance(29.9, ticks=10)
    task = world.task(task_id)
    assert (task.state, task.crashes, task.retries) == (TaskState.RUNNING, 0, 0)
    world.advance(0.5)
    assert task.state is TaskState.RETRYING


def test_a_takeover_starts_with_higher_fences(world):
    world.join("agent")
    fences = [world.submit("task").fence]
    for _ in range(3):
        world.crash()
        world.connect("agent", nonce="another process")
        world.ready("agent", 1)
        fences.append(world.task("task").fence)
    assert fences == sorted(set(fences))
    assert [fence >> 20 for fence in fences] == [1000, 1001, 1002, 1003]


def test_after_an_outage_every_lease_and_grace_has_one_more_period(world):
    world.join("agent")
    world.submit("held")
    world.acknowledge("agent", "held")
    world.join("lost")
    world.submit("grace")
    world.acknowledge("lost", "grace")
    world.lose("lost")
    world.advance(14)
    world.scheduler.extend_leases(world.now)
    world.advance(29, ticks=10)
    assert (world.running("agent"), world.running("lost")) == (["held"], ["grace"])
    world.advance(2)
    assert world.task("held").crashes == world.task("grace").crashes == 1


def test_a_draining_agent_finishes_what_it_has_and_gets_nothing_new(world):
    world.join("agent")
    world.submit("first")
    draining(world.agent("agent"))
    world.submit("second")
    assert world.running("agent") == ["first"]
    assert world.finish("agent", "first") is Verdict.ACCEPTED
    assert world.running("agent") == []


def test_an_operator_s_drain_is_told_to_the_agent(world):
    agent = world.join("agent")
    drain(world.scheduler, agent, 30, "a new version")
    world.commit()
    assert DrainSession(agent.session, 30, "a new version") in world.effects
    assert agent.status is AgentStatus.DRAINING


def test_an_assignment_is_sent_to_the_session_of_the_decision(world):
    agent = world.join("agent")
    task = world.submit("task", payload=b"input")
    (assign,) = [effect for effect in world.effects if isinstance(effect, Assign)]
    assert assign == Assign(agent.session, "task", task.spec.request, 1, 1, task.fence, b"")


def test_an_agent_that_comes_back_with_other_capabilities_is_given_only_those(world):
    world.join("agent", ["a"])
    world.join("agent", ["b"])
    world.submit("first", task_type="a")
    world.submit("second", task_type="b")
    assert world.running("agent") == ["second"]


def test_many_agents_may_live_and_settings_may_differ():
    world = CoreWorld(settings=Settings(session_grace_s=1))
    world.join("agent")
    world.submit("task")
    world.lose("agent")
    world.advance(1.3)
    assert world.task("task").undelivered == 1
