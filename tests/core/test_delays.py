"""Delayed tasks: when they become ready, and where they stand then (G4)."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from muster.v1 import common_pb2

from coordinator import convert
from coordinator.core.events import Assigned, BecameReady, Submitted
from coordinator.core.evolve import IllegalEvent, evolve
from coordinator.core.explain import WaitKind, explain, waits_for
from coordinator.core.model import RetryPolicy, Settings, TaskState, Timing
from coordinator.core.state import State
from coordinator.core.submits import CancelVerdict, submit
from coordinator.core.ticks import MAX_DATES
from coordinator.core.timing import Misfit
from coordinator.errors import InvalidRequest
from tests.support.core_world import FAILED, FIRST_DATE_MS, CoreWorld, durable, replay, spec_of

DAY_S = 24 * 3600


@pytest.fixture
def world():
    return CoreWorld()


def order(world):
    return [task_id for task_id, _ in world.assignments()]


@pytest.mark.parametrize("options", [{"delay_s": 5}, {"not_before_ms": FIRST_DATE_MS + 5000}])
def test_it_waits_for_its_date_and_no_longer(world, options):
    world.join("ann")
    task = world.submit("later", **options)
    assert (task.state, task.place, task.ready_at_ms) == (TaskState.PENDING, 0, FIRST_DATE_MS + 5000)
    world.advance(4.999)
    assert world.running("ann") == []
    world.advance(0.021)
    assert world.running("ann") == ["later"]
    assert task.first_ready_ms == world.date_ms


def test_it_is_explained_while_it_waits(world):
    world.join("ann")
    for task_id, options, words in [
        ("delay", {"delay_s": 5}, "its delay hasn't ended"),
        ("date", {"not_before_ms": FIRST_DATE_MS + 5000}, "its not_before hasn't come"),
    ]:
        task = world.submit(task_id, **options)
        reason = waits_for(world.scheduler, task)
        assert (reason.kind, reason.message, reason.until_ms) == (WaitKind.DELAYED, words, FIRST_DATE_MS + 5000)
        assert explain(world.scheduler, task).summary == f"It waits because {words}.", "it has no age yet"


@pytest.mark.parametrize("options", [{"not_before_ms": FIRST_DATE_MS}, {"not_before_ms": -5000}, {"delay_s": 0}])
def test_a_date_that_has_passed_is_now(world, options):
    world.join("ann")
    task = world.submit("now", **options)
    assert world.running("ann") == ["now"]
    assert (task.place, task.first_ready_ms) == (task.number, FIRST_DATE_MS)
    assert not any(isinstance(event, BecameReady) for event in world.events)


def test_its_place_is_behind_those_that_were_ready_before_it(world):
    world.submit("later", delay_s=1)
    world.submit("soon")
    world.advance(0.9)
    world.submit("before")
    world.advance(0.2)
    world.submit("after")
    world.join("ann", capacity=4)
    assert order(world) == ["soon", "before", "later", "after"]


def test_those_that_become_ready_together_go_by_date_then_by_submit(world):
    world.submit("third", delay_s=1.019)
    world.submit("first", delay_s=1.0)
    world.submit("second", delay_s=1.0)
    world.advance(3)
    world.join("ann", capacity=3)
    assert order(world) == ["first", "second", "third"]


def test_its_age_counts_from_then():
    world = CoreWorld(settings=Settings(ageing_period_s=10))
    world.submit("aged", priority=1, delay_s=100)
    world.advance(100.1)
    world.advance(5, ticks=5)
    task = world.task("aged")
    assert world.scheduler.ages.level(task) == 1, "the hundred seconds before don't count"
    world.submit("normal", priority=2)
    world.advance(16, ticks=16)
    world.submit("fresh", priority=2)
    world.join("ann", capacity=3)
    assert order(world) == ["aged", "normal", "fresh"]


def test_a_retried_one_takes_its_place_again(world):
    world.join("ann", capacity=1)
    world.submit("later", delay_s=1, max_retries=3)
    world.advance(1.1)
    place = world.task("later").place
    world.ready("ann", 0)
    world.finish("ann", "later", FAILED)
    world.submit("other")
    world.advance(2)
    world.ready("ann", 1)
    assert world.task("later").place == place
    assert order(world) == ["later", "later"]


def test_it_can_be_cancelled_while_it_waits(world):
    world.submit("later", delay_s=5)
    assert world.cancel("later") is CancelVerdict.CANCELLED
    world.advance(6)
    assert not any(isinstance(event, BecameReady) for event in world.events)
    assert world.scheduler.dates.next_due() is None


def test_a_restart_loses_nothing_and_decides_nothing(world):
    world.submit("passes", delay_s=5)
    world.submit("ahead", delay_s=50)
    world.submit("has come", delay_s=1)
    world.advance(2)
    world.date_ms += 10_000  # while nobody serves
    lived = durable(world.scheduler.state)
    world.crash()
    assert durable(world.scheduler.state) == lived
    world.join("ann")
    assert order(world) == ["has come"], "until the tick"
    world.advance(0.03)
    assert order(world) == ["has come", "passes"]
    world.advance(50)
    assert list(dict.fromkeys(order(world))) == ["has come", "passes", "ahead"]
    assert durable(replay(world.journal)) == durable(world.scheduler.state)


def test_a_snapshot_keeps_those_that_wait_and_those_that_waited(world):
    world.submit("ahead", delay_s=50)
    world.submit("had waited", delay_s=1)
    world.advance(2)
    world.submit("plain")
    world.begin_snapshot()
    while world.go_on_with_snapshot(1):
        pass
    lived = durable(world.scheduler.state)
    assert durable(world.recovered()) == lived
    world.crash()
    world.join("ann")
    assert order(world) == ["had waited", "plain"]


def test_a_hundred_thousand_that_come_at_once_come_in_steps(world):
    """And in their order, though all are in one slot of the wheel."""
    count = 4 * MAX_DATES + 7
    for number in range(count):
        submit(world.scheduler, spec_of(f"task{number}", delay_s=1), world.now)
    world.commit()
    steps = []
    world.advance(1.1)
    while sum(steps) < count:
        ready = [event for event in world.events if isinstance(event, BecameReady)]
        steps.append(len(ready) - sum(steps))
        assert [event.number for event in ready] == list(range(1, len(ready) + 1))
        world.advance(0.005)
    assert steps == [MAX_DATES] * 4 + [7]


def test_too_far_is_refused_in_a_sentence(world):
    far = spec_of("far", not_before_ms=FIRST_DATE_MS + 367 * DAY_S * 1000)
    assert submit(world.scheduler, far, world.now) == Misfit("not_before", "not_before is 367 days away: at most 366 are allowed")
    assert world.scheduler.state.find("far") is None
    near = spec_of("near", not_before_ms=FIRST_DATE_MS + 366 * DAY_S * 1000)
    world.submit(near)


def test_a_known_id_is_the_same_task_whenever_it_is_sent_again(world):
    spec = spec_of("later", not_before_ms=FIRST_DATE_MS + 5000, deadline_s=6)
    task = world.submit(spec)
    world.date_ms -= 10_000  # a date that would be refused now
    assert submit(world.scheduler, spec, world.now) is task


def test_dates_are_rounded_up_so_that_nothing_comes_early():
    spec = spec_of("fine", delay_s=0.0000004, deadline_s=1.0004, queue_timeout_s=0.0001)
    assert spec.timing == Timing(delay_ms=1, deadline_ms=1001, queue_timeout_ms=1)


@pytest.mark.parametrize("seconds, nanos", [(2**60, 0), (-(2**60), 0), (0, -1), (0, 10**9)])
def test_a_date_that_is_none_is_refused(seconds, nanos):
    message = common_pb2.TaskSpec(task_id="id", task_type="work", not_before=Timestamp(seconds=seconds, nanos=nanos))
    with pytest.raises(InvalidRequest, match="not_before is no valid Timestamp") as refused:
        convert.spec_in(message, RetryPolicy(), convert.Bounds())
    assert refused.value.field == "not_before"


def test_evolve_lets_nobody_have_what_is_delayed_and_fixes_a_place_once():
    state = State()
    delayed, plain = spec_of("delayed", delay_s=1), spec_of("plain")
    evolve(state, Submitted(1, delayed), 1000)
    evolve(state, Submitted(2, plain), 1000)
    for event in (Assigned(1, "ann", 1, 5), BecameReady(2)):
        with pytest.raises(IllegalEvent):
            evolve(state, event, 1500)
    task = evolve(state, BecameReady(1), 2000)
    assert (task.place, task.first_ready_ms, state.next_number) == (3, 2000, 4)
    with pytest.raises(IllegalEvent):
        evolve(state, BecameReady(1), 2000)
    evolve(state, Submitted(4, spec_of("next")), 2000)
    evolve(state, Assigned(1, "ann", 1, 5), 2000)
