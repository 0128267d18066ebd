"""Who may say what about an attempt, and what it comes to (G2)."""

from contextlib import contextmanager

import pytest

from coordinator.core.model import Progress, Settings, TaskState, Usage
from coordinator.core.reports import RenewVerdict, SignOfLife, Verdict, checkpoint, chunk
from coordinator.core.submits import CancelVerdict
from tests.support.core_world import FAILED, FAILED_FOR_GOOD, GIVEN_BACK, STOPPED, SUCCESS, CoreWorld, durable

RESULTS = [SUCCESS, FAILED, FAILED_FOR_GOOD, STOPPED, GIVEN_BACK]


@pytest.fixture
def world():
    """One task, running on one of two agents."""
    made = CoreWorld()
    made.join("agent")
    made.submit("task")
    made.join("other")
    return made


@contextmanager
def nothing_changes(world):
    """A report that doesn't count decides nothing."""
    before = len(world.events), durable(world.scheduler.state)
    yield
    world.commit()
    assert (len(world.events), durable(world.scheduler.state)) == before


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_only_the_agent_that_holds_the_attempt_may_end_it(world, result):
    with nothing_changes(world):
        assert world.finish("other", "task", result) is Verdict.STALE
    assert world.finish("agent", "task", result) is Verdict.ACCEPTED


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_only_the_present_fence_may_end_it(world, result):
    fence = world.task("task").fence
    for stale in (0, 1, fence - 1, fence + 1):
        with nothing_changes(world):
            assert world.finish("agent", "task", result, fence=stale) is Verdict.STALE
    assert world.finish("agent", "task", result, fence=fence) is Verdict.ACCEPTED


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_a_result_that_is_sent_again_is_a_duplicate(world, result):
    fence = world.task("task").fence
    world.finish("agent", "task", result, fence=fence)
    world.lose("other")
    with nothing_changes(world):
        assert world.finish("agent", "task", result, fence=fence) is Verdict.DUPLICATE


def test_a_task_that_nobody_knows_is_unknown(world):
    with nothing_changes(world):
        assert world.finish("agent", "nothing", fence=1) is Verdict.UNKNOWN


def test_a_late_worker_cannot_complete_the_next_attempt(world):
    late = world.task("task").fence
    world.acknowledge("agent", "task")
    world.lose("other")
    world.advance(31)  # the lease is lost; the same agent gets the task again
    assert world.running("agent") == ["task"]
    assert world.task("task").fence > late
    with nothing_changes(world):
        assert world.finish("agent", "task", fence=late) is Verdict.STALE
    assert world.finish("agent", "task") is Verdict.ACCEPTED
    assert len(world.ends("task")) == 1


def test_a_failed_attempt_waits_for_its_backoff_and_is_made_again(world):
    world.finish("agent", "task", FAILED)
    task = world.task("task")
    assert (task.state, task.retries) == (TaskState.RETRYING, 1)
    world.advance(0.4)
    assert task.state is TaskState.RETRYING
    world.advance(0.2)
    assert (task.state, task.attempt) == (TaskState.RUNNING, 2)


def test_max_retries_3_means_four_attempts(world):
    for _ in range(4):
        world.finish(world.task("task").agent, "task", FAILED)
        world.advance(60)
        world.advance(0.1)
    assert [name for name, _ in world.assignments()] == ["task"] * 4
    (ended,) = world.ends("task")
    assert (ended.state, ended.attempt, ended.retries) == (TaskState.FAILED, 4, 3)


def test_what_is_given_back_costs_nothing_however_often(world):
    for _ in range(20):
        assert world.finish(world.task("task").agent, "task", GIVEN_BACK) is Verdict.ACCEPTED
    task = world.task("task")
    assert (task.state, task.attempt, task.retries, task.crashes, task.undelivered) == (TaskState.RUNNING, 1, 0, 0, 0)


@pytest.mark.parametrize("result", [FAILED, FAILED_FOR_GOOD, STOPPED, GIVEN_BACK], ids=lambda result: type(result).__name__)
def test_a_cancelled_attempt_that_ends_otherwise_than_well_is_cancelled(world, result):
    assert world.cancel("task") is CancelVerdict.REQUESTED
    world.finish("agent", "task", result)
    (ended,) = world.ends("task")
    assert ended.state is TaskState.CANCELLED


def test_a_success_that_arrives_first_stays_a_success(world):
    world.cancel("task")
    world.finish("agent", "task")
    (ended,) = world.ends("task")
    assert ended.state is TaskState.COMPLETED


def test_a_handler_that_stops_unasked_has_failed(world):
    world.finish("agent", "task", STOPPED)
    assert (world.task("task").state, world.task("task").retries) == (TaskState.RETRYING, 1)


def test_a_renewal_extends_the_lease_and_one_with_a_stale_fence_does_not(world):
    world.acknowledge("agent", "task")
    fence = world.task("task").fence
    for _ in range(5):
        world.advance(20)
        assert world.renew("agent", "task") is RenewVerdict.EXTENDED
        assert world.renew("other", "task") is RenewVerdict.LOST
    world.advance(20)
    assert world.renew("agent", SignOfLife("task", fence - 1, None, (), cancel_delivered=False)) is RenewVerdict.LOST
    world.advance(20)
    assert world.task("task").fence > fence, "given up"


def test_a_renewal_tells_of_a_cancel_and_hears_that_it_arrived(world):
    world.cancel("task")
    assert world.renew("agent", SignOfLife("task", world.task("task").fence, None, (), cancel_delivered=True)) is RenewVerdict.CANCEL
    assert world.agent("agent").running[world.task("task").number].cancel_delivered


@pytest.mark.parametrize(
    "report",
    [
        lambda world, agent, fence: world.renew("agent", "task"),
        lambda world, agent, fence: checkpoint(world.scheduler, agent, "task", fence, 1, b"point", world.now),
        lambda world, agent, fence: chunk(world.scheduler, agent, "task", fence, 0, b"piece", world.now),
    ],
    ids=["renew", "checkpoint", "chunk"],
)
def test_any_report_shows_that_the_assignment_arrived(world, report):
    report(world, world.agent("agent"), world.task("task").fence)
    world.commit()
    world.advance(15)
    assert world.task("task").acknowledged
    assert world.running("agent") == ["task"], "the time for the acknowledgement has passed, and it isn't missed"


def test_checkpoints_and_chunks_with_a_stale_fence_change_nothing(world):
    agent, fence = world.agent("agent"), world.task("task").fence
    for claimant, stale in [(agent, fence - 1), (world.agent("other"), fence)]:
        with nothing_changes(world):
            assert checkpoint(world.scheduler, claimant, "task", stale, 1, b"x", world.now) is Verdict.STALE
            assert chunk(world.scheduler, claimant, "task", stale, 0, b"x", world.now) is Verdict.STALE


def test_the_next_attempt_has_the_checkpoint(world):
    checkpoint(world.scheduler, world.agent("agent"), "task", world.task("task").fence, 1, b"point", world.now)
    world.finish("agent", "task", FAILED)
    world.advance(1)
    assert world.effects[-1].checkpoint == b"point"


def test_output_that_is_sent_again_is_skipped_and_the_bound_holds():
    world = CoreWorld(settings=Settings(max_chunk_bytes=8))
    world.join("agent")
    task = world.submit("task")
    agent = world.agent("agent")
    for offset, data in [(0, b"abc"), (0, b"abcd"), (2, b"c"), (4, b"ef"), (6, b"ghijkl"), (8, b"more")]:
        assert chunk(world.scheduler, agent, "task", task.fence, offset, data, world.now) is Verdict.ACCEPTED
    world.commit()
    assert bytes(task.chunks) == b"abcdefgh"


def test_usage_of_all_attempts_adds_up(world):
    world.finish("agent", "task", type(FAILED)(FAILED.failure, (Usage("m", 1, 2, 1),)))
    world.advance(1)
    world.finish(world.task("task").agent, "task", type(SUCCESS)(b"", (Usage("m", 10, 20, 1),)))
    assert world.task("task").usage == (Usage("m", 11, 22, 2),)


def test_progress_is_kept_when_a_renewal_has_none(world):
    fence = world.task("task").fence
    world.renew("agent", SignOfLife("task", fence, Progress(1, 4), (), cancel_delivered=False))
    world.renew("agent", "task")
    assert world.agent("agent").running[world.task("task").number].progress == Progress(1, 4)
