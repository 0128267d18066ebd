"""Queue deadlines and deadlines of tasks: what must have begun, or ended, by when."""

import pytest

from coordinator.core.effects import Assign, StopAttempt
from coordinator.core.history import HistoryKind
from coordinator.core.model import Failure, FailureKind, TaskState
from coordinator.core.placement import MAX_OVERDUE, place
from coordinator.core.reports import Failed, Verdict
from coordinator.core.submits import submit
from coordinator.core.ticks import MAX_DATES
from coordinator.core.timing import Misfit
from tests.support.core_world import FAILED, FIRST_DATE_MS, GIVEN_BACK, CoreWorld, durable, replay, spec_of

WIDE = {"max_retries": 9}


@pytest.fixture
def world():
    return CoreWorld()


def failed_with(task):
    return task.state, task.failure.kind


QUEUE_TIMEOUT = (TaskState.FAILED, FailureKind.QUEUE_TIMEOUT)
DEADLINE = (TaskState.FAILED, FailureKind.DEADLINE)


def stops(world):
    return [(effect.task_id, effect.lost, effect.reason) for effect in world.effects if isinstance(effect, StopAttempt)]


# --- before the first attempt ---


def test_what_nobody_takes_in_time_fails(world):
    task = world.submit("stale", queue_timeout_s=5)
    world.advance(4.999)
    assert task.state is TaskState.PENDING
    world.advance(0.021)
    assert failed_with(task) == QUEUE_TIMEOUT
    assert task.failure.message == "no agent was given it within its queue_timeout of 5 s"
    assert [entry.kind for entry in task.history] == [HistoryKind.GIVEN_UP]
    assert world.ends("stale") == [task]
    world.join("ann")
    assert world.running("ann") == []


def test_it_counts_from_when_a_task_becomes_ready(world):
    task = world.submit("later", delay_s=10, queue_timeout_s=5)
    world.advance(14.9, ticks=10)
    assert task.state is TaskState.PENDING
    world.advance(2)
    assert failed_with(task) == QUEUE_TIMEOUT


@pytest.mark.parametrize("after", [FAILED, GIVEN_BACK])
def test_what_was_assigned_once_has_met_it(world, after):
    """Also if that attempt failed, or came back: it waits as long as it must."""
    world.join("ann")
    task = world.submit("met", queue_timeout_s=5)
    world.ready("ann", 0)
    world.finish("ann", "met", after)
    world.advance(100)
    assert task.state in (TaskState.PENDING, TaskState.RETRYING)
    assert world.scheduler.expiries == {}, "nobody looks at it any more"


def test_it_is_exact_though_its_timer_is_coarse(world):
    """No agent is given a task after its date, not even within the timer's slot."""
    world.submit("stale", queue_timeout_s=5.001)
    world.submit("fine")
    world.mono_s += 5.001
    world.date_ms += 5001  # before the tick
    world.join("ann")
    assert world.running("ann") == ["fine"]
    assert failed_with(world.task("stale")) == QUEUE_TIMEOUT


def test_thousands_that_are_overdue_don_t_hold_up_a_turn(world):
    count = 2 * MAX_OVERDUE + 5
    for number in range(count):
        submit(world.scheduler, spec_of(f"stale{number}", queue_timeout_s=5), world.now)
    world.submit("fine")
    world.join("bob", capacity=2, limit=0)
    world.mono_s += 5
    world.date_ms += 5000
    world.ready("bob", 2)
    assert len(world.scheduler.state.tasks) == count + 1 - MAX_OVERDUE
    assert world.running("bob") == []
    world.advance(0)
    world.advance(0.02)
    assert world.running("bob") == ["fine"]
    assert not world.scheduler.postponed


def test_a_hundred_thousand_that_fail_at_once_fail_in_steps(world):
    for number in range(2 * MAX_DATES + 7):
        submit(world.scheduler, spec_of(f"stale{number}", queue_timeout_s=5), world.now)
    world.advance(5.1)
    assert len(world.scheduler.state.tasks) == MAX_DATES + 7
    world.advance(0.005)
    world.advance(0.005)
    assert not world.scheduler.state.tasks


# --- before its end ---


def test_what_waits_at_its_deadline_fails(world):
    task = world.submit("slow", deadline_s=5)
    world.advance(5.02)
    assert failed_with(task) == DEADLINE
    assert task.failure.message == "it had not ended by its deadline of 5 s: it was waiting"
    assert [entry.kind for entry in task.history] == [HistoryKind.GIVEN_UP]


def test_what_is_delayed_counts_from_when_it_was_accepted(world):
    task = world.submit("slow", delay_s=4, deadline_s=5)
    world.advance(5.02)
    assert failed_with(task) == DEADLINE


def test_what_runs_at_its_deadline_is_stopped(world):
    world.join("ann")
    task = world.submit("slow", deadline_s=5, **WIDE)
    fence = task.fence
    world.advance(4.9)
    assert world.running("ann") == ["slow"]
    world.advance(0.12)
    assert failed_with(task) == DEADLINE
    assert task.failure.message == "it had not ended by its deadline of 5 s: its attempt was still running"
    assert world.running("ann") == []
    assert stops(world) == [("slow", True, task.failure.message)]
    assert world.finish("ann", "slow", fence=fence) is Verdict.STALE
    assert [(entry.kind, entry.agent) for entry in task.history] == [(HistoryKind.ATTEMPT_FAILED, "ann")]


def test_a_cancel_that_was_recorded_goes_before_it(world):
    world.join("ann")
    task = world.submit("slow", deadline_s=5)
    world.cancel("slow")
    world.advance(6)
    assert task.state is TaskState.CANCELLED


def test_a_retry_that_could_not_begin_in_time_fails_at_once(world):
    """Jitter is 0.5, so the first backoff is half a second."""
    world.join("ann")
    task = world.submit("slow", deadline_s=5, **WIDE)
    world.advance(4.4)
    world.acknowledge("ann", "slow")
    world.finish("ann", "slow", FAILED)
    assert task.state is TaskState.RETRYING
    other = world.submit("other", deadline_s=5, **WIDE)
    world.advance(4.6)
    cause = Failure(FailureKind.PROVIDER_UNAVAILABLE, "it is down", "Down", "a trace", retry_after_s=0.1)
    world.finish("ann", "other", Failed(cause))
    assert failed_with(other) == DEADLINE
    assert other.failure.message == "no attempt could begin before its deadline of 5 s, and the last one failed: it is down"
    assert (other.failure.error_type, other.failure.stack_trace) == ("Down", "a trace")
    assert durable(replay(world.journal)) == durable(world.scheduler.state)


def test_a_long_cause_is_cut_as_the_journal_would_cut_it(world):
    world.join("ann")
    task = world.submit("slow", deadline_s=0.1, **WIDE)
    world.finish("ann", "slow", Failed(Failure(FailureKind.APPLICATION, "x" * 4096)))
    assert len(task.failure.message) == 4096


def test_what_was_never_delivered_goes_back_at_once_however_long_a_backoff_would_be(world):
    world.jitter = 1.0
    world.join("ann")
    task = world.submit("lost", deadline_s=10.5)
    world.advance(10.3, ticks=20)
    assert task.undelivered == 1
    assert task.state is TaskState.RUNNING, "it was given out again"


def test_its_agent_learns_how_long_it_has(world):
    world.submit("slow", deadline_s=5)
    world.submit("free", queue_timeout_s=5)
    world.advance(2)
    world.join("ann")
    left = {effect.task_id: effect.time_left_ms for effect in world.effects if isinstance(effect, Assign)}
    assert left == {"slow": 3000, "free": 0}


def test_the_earlier_of_two_deadlines_counts(world):
    both = world.submit("both", queue_timeout_s=3, deadline_s=5)
    other = world.submit("other", queue_timeout_s=5, deadline_s=3)
    world.advance(6)
    assert (failed_with(both), failed_with(other)) == (QUEUE_TIMEOUT, DEADLINE)


def test_a_deadline_holds_after_the_queue_deadline_was_met(world):
    world.join("ann")
    task = world.submit("both", queue_timeout_s=3, deadline_s=5)
    world.advance(4)
    assert task.state is TaskState.RUNNING
    world.advance(1.1)
    assert failed_with(task) == DEADLINE


def test_what_ends_in_time_leaves_nothing_behind(world):
    world.join("ann")
    for number in range(200):
        world.submit(f"quick{number}", deadline_s=10 + number, queue_timeout_s=5)
        world.finish("ann", f"quick{number}")
    assert world.scheduler.expiries == {}
    assert len(world.scheduler.dates._order) <= 100, "what is left of their slots is swept"
    assert world.scheduler.dates.next_due() is None
    assert len(world.scheduler.dates._slots) == 0


def test_a_restart_keeps_them(world):
    world.join("ann")
    running = world.submit("running", deadline_s=50, **WIDE)
    world.ready("ann", 0)
    world.submit("waiting", deadline_s=40, queue_timeout_s=30)
    world.submit("delayed", delay_s=20, queue_timeout_s=30)
    assert running.state is TaskState.RUNNING
    lived = durable(world.scheduler.state)
    world.crash()
    assert durable(world.scheduler.state) == lived
    tasks = {name: world.task(name) for name in ("running", "waiting", "delayed")}
    world.advance(30.1, ticks=31)
    assert failed_with(tasks["waiting"]) == QUEUE_TIMEOUT
    assert tasks["delayed"].state is TaskState.PENDING
    world.advance(25, ticks=25)
    assert failed_with(tasks["running"]) == DEADLINE
    assert failed_with(tasks["delayed"]) == QUEUE_TIMEOUT
    assert durable(replay(world.journal)) == {}


def test_a_deadline_before_its_beginning_is_refused_in_a_sentence(world):
    for options in ({"delay_s": 10}, {"not_before_ms": FIRST_DATE_MS + 10_000}):
        refused = submit(world.scheduler, spec_of("never", deadline_s=10, **options), world.now)
        assert isinstance(refused, Misfit)
        assert refused.field == "deadline"
        assert refused.message.startswith("deadline is 10 s, and the task becomes ready 10 s from now: ")
    world.submit("just", deadline_s=10.001, delay_s=10)


def test_turns_go_on_behind_one_that_is_overdue(world):
    """Its lane is left to others as if it had been assigned."""
    world.join("ann", ["a", "b"], capacity=1)
    world.submit("busy", task_type="a")
    for number in range(3):
        world.submit(f"stale{number}", task_type="a", priority=3, queue_timeout_s=1)
    world.submit("next", task_type="b")
    world.submit("last", task_type="a")
    world.date_ms += 1000
    world.finish("ann", "busy")
    assert world.running("ann") == ["next"]
    place(world.scheduler, world.now)
    world.finish("ann", "next")
    assert world.running("ann") == ["last"]
