"""Deadlines: what is given up when, and what it costs (G9)."""

import pytest

from coordinator.core.effects import StopAttempt
from coordinator.core.model import FailureKind, Progress, Settings, TaskState, Usage
from coordinator.core.reports import SignOfLife
from tests.support.core_world import FAILED, CoreWorld


@pytest.fixture
def world():
    made = CoreWorld()
    made.join("agent", capacity=2)
    return made


def sign(world, task_id, *, progress=None, usage=()):
    return SignOfLife(task_id, world.task(task_id).fence, progress, usage, cancel_delivered=False)


def test_an_assignment_that_nobody_acknowledges_goes_back_at_no_cost_in_attempts(world):
    task = world.submit("task")
    session, fence = world.agent("agent").session, task.fence
    world.advance(9.9)
    assert (task.state, task.fence) == (TaskState.RUNNING, fence)
    world.advance(0.4)
    assert (task.attempt, task.undelivered, task.retries, task.crashes) == (1, 1, 0, 0)
    assert task.fence > fence, "assigned again"
    (stop,) = [effect for effect in world.effects if isinstance(effect, StopAttempt)]
    assert (stop.session, stop.fence, stop.lost) == (session, fence, True)


def test_after_five_deliveries_it_is_a_dead_letter(world):
    world.submit("task")
    world.advance(60, ticks=240)
    assert world.assignments() == [("task", "agent")] * 5
    (ended,) = world.ends("task")
    assert (ended.state, ended.undelivered, ended.failure.kind) == (TaskState.FAILED, 5, FailureKind.UNDELIVERED)


def test_a_task_whose_agents_keep_dying_is_a_dead_letter(world):
    world.submit("task")
    for _ in range(4):
        world.acknowledge("agent", "task")
        world.advance(31)
    assert world.assignments() == [("task", "agent")] * 4
    (ended,) = world.ends("task")
    assert (ended.state, ended.crashes, ended.retries, ended.failure.kind) == (TaskState.FAILED, 4, 0, FailureKind.LEASE_LOST)
    assert world.scheduler.totals.crashed == 4


def test_max_crashes_is_the_task_s_own(world):
    world.submit("task", max_crashes=0)
    world.acknowledge("agent", "task")
    world.advance(31)
    assert world.ends("task")[0].state is TaskState.FAILED


def test_an_attempt_that_runs_too_long_costs_a_retry(world):
    task = world.submit("task", run_timeout_s=5)
    world.acknowledge("agent", "task")
    world.advance(4.9)
    world.renew("agent", sign(world, "task", progress=Progress(1, 2)))
    assert task.state is TaskState.RUNNING
    world.advance(0.4)
    assert (task.state, task.retries, task.crashes, task.failure.kind) == (TaskState.RETRYING, 1, 0, FailureKind.RUN_TIMEOUT)


def test_one_that_hangs_past_its_progress_timeout_loses_its_task_though_it_renews(world):
    task = world.submit("task", progress_timeout_s=5)
    world.acknowledge("agent", "task")
    for _ in range(5):
        world.advance(1)
        world.renew("agent", sign(world, "task", progress=Progress(1, 2)))
    assert task.state is TaskState.RUNNING
    world.advance(1.3)
    assert (task.state, task.retries, task.failure.kind) == (TaskState.RETRYING, 1, FailureKind.PROGRESS_TIMEOUT)


def test_progress_and_usage_both_count_as_movement(world):
    task = world.submit("task", progress_timeout_s=5)
    world.acknowledge("agent", "task")
    for step in range(1, 6):
        world.advance(4)
        world.renew("agent", sign(world, "task", progress=Progress(step, 10)))
    for step in range(1, 6):
        world.advance(4)
        world.renew("agent", sign(world, "task", usage=(Usage("m", step, 0, 1),)))
    assert (task.state, task.attempt) == (TaskState.RUNNING, 1)


def test_a_cancelled_attempt_that_is_given_up_is_cancelled(world):
    world.submit("task")
    world.acknowledge("agent", "task")
    world.cancel("task")
    world.advance(31)
    assert world.ends("task")[0].state is TaskState.CANCELLED


def test_an_agent_s_grace_and_its_attempts_leases_may_end_in_one_tick(world):
    """A coordinator that was held up finds both due at once: each attempt is given up once."""
    task = world.submit("task")
    world.acknowledge("agent", "task")
    world.advance(10.5)  # its timer stands at the lease now, behind the grace
    world.lose("agent")
    world.advance(1000)
    assert (task.state, task.crashes, task.undelivered) == (TaskState.RETRYING, 1, 0)


def test_a_retry_is_not_early_and_at_most_a_slot_late(world):
    world.submit("task")
    world.finish("agent", "task", FAILED)
    world.advance(0.499)
    assert world.task("task").state is TaskState.RETRYING
    world.advance(0.041)
    assert world.task("task").state is TaskState.RUNNING


def test_the_core_says_when_it_wants_to_be_woken(world):
    assert world.scheduler.next_due() == (None, None)
    world.submit("task")
    mono_s, date_ms = world.scheduler.next_due()
    assert world.mono_s + 10 <= mono_s <= world.mono_s + 10.25
    assert world.date_ms + 60_000 <= date_ms <= world.date_ms + 60_250, "when the next task that waits so long would be urgent"
    world.finish("agent", "task", FAILED)
    mono_s, date_ms = world.scheduler.next_due()
    assert mono_s >= world.mono_s + 60, "no attempt, and a breaker that has counted the failure is looked at when its window is over"
    assert world.date_ms + 500 <= date_ms <= world.date_ms + 520


def test_a_short_lease_may_be_set():
    world = CoreWorld(settings=Settings(lease_s=1, ack_timeout_s=0.5))
    world.join("agent")
    task = world.submit("task")
    world.acknowledge("agent", "task")
    world.advance(1.3)
    assert task.crashes == 1
