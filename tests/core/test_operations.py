"""Another priority, another run: what changes, what stays, and what a restart finds."""

import random

import pytest

from coordinator.core.events import EndedRun, Redriven
from coordinator.core.evolve import IllegalEvent, evolve
from coordinator.core.model import FailureKind, Settings, TaskState
from coordinator.core.operations import Priorities
from coordinator.core.policies import (
    TYPE_KEY,
    ConcurrencyLimitPolicy,
    PolicyKind,
    PolicyName,
    RateLimitPolicy,
    RetryDefaultsPolicy,
    WhenFull,
)
from coordinator.core.reports import Verdict
from coordinator.core.statistics import SUBMITTED
from coordinator.core.submits import Refused
from tests.core.test_snapshot import walked
from tests.support.core_world import FAILED, FAILED_FOR_GOOD, FIRST_DATE_MS, GIVEN_BACK, CoreWorld, durable, spec_of


@pytest.fixture
def world():
    return CoreWorld()


def order(world, *, capacity=1):
    """The ids of all that waits, as one agent gets them."""
    world.join("last", capacity=capacity)
    got = []
    while running := world.running("last"):
        got.append(running[0])
        world.finish("last", running[0])
    return got


class TestPriority:
    def test_it_goes_among_its_equals_by_age(self, world):
        for name in "abcd":
            world.submit(name, priority=3 if name in "ac" else 1)
        assert world.reprioritise("b", 3) is Priorities.CHANGED
        assert order(world) == ["a", "b", "c", "d"]

    def test_the_head_and_the_last_and_back(self, world):
        for name in "abcd":
            world.submit(name)
        world.reprioritise("a", 4)
        world.reprioritise("d", 3)
        world.reprioritise("a", 2)
        world.reprioritise("d", 2)
        assert order(world) == ["a", "b", "c", "d"]

    def test_nothing_changes_for_one_that_has_it(self, world):
        world.submit("a", priority=3)
        assert world.reprioritise("a", 3) is Priorities.AS_BEFORE
        assert not world.task("a").history

    def test_what_moved_away_may_come_back_in_any_way(self, world):
        """Its entry was passed over, or dropped, or stands there still."""
        for number in range(200):
            world.submit(f"t{number}")
        for number in range(50, 200):
            world.reprioritise(f"t{number}", 1)
        for number in range(50, 200):
            world.reprioritise(f"t{number}", 2)
        assert order(world) == [f"t{number}" for number in range(200)]

    def test_one_that_ran_elsewhere_meanwhile(self, world):
        for name in "ab":
            world.submit(name)
        world.reprioritise("b", 4)
        world.join("one", capacity=1)
        assert world.running("one") == ["b"]
        world.ready("one", 0)
        world.finish("one", "b", GIVEN_BACK)
        world.reprioritise("b", 2)
        assert order(world) == ["a", "b"]

    def test_one_in_its_backoff_and_one_that_runs(self, world):
        world.join("one", capacity=2)
        for name in "ab":
            world.submit(name)
        world.finish("one", "a", FAILED)
        world.reprioritise("a", 4)
        world.reprioritise("b", 1)
        assert (world.task("a").state, world.task("b").state) == (TaskState.RETRYING, TaskState.RUNNING)
        world.ready("one", 0)
        world.finish("one", "b", GIVEN_BACK)
        world.submit("c")
        world.advance(60)
        assert order(world) == ["a", "c", "b"]

    def test_chance_against_a_sorted_list(self):
        for seed in range(20):
            world, draw = CoreWorld(settings=Settings(ageing_period_s=0)), random.Random(seed)
            for number in range(60):
                world.submit(f"t{number}", priority=draw.randint(1, 4))
            for _ in range(200):
                name = f"t{draw.randrange(60)}"
                if name in world.scheduler.state.tasks:
                    world.cancel(name) if draw.random() < 0.1 else world.reprioritise(name, draw.randint(1, 4))
            waiting = sorted(world.scheduler.state.tasks.values(), key=lambda task: (-task.spec.priority, task.place))
            assert order(world) == [task.spec.task_id for task in waiting]

    def test_keys_of_their_own(self, world):
        for number in range(4):
            world.submit(f"t{number}", fairness_key="x")
        for number in range(4):
            world.reprioritise(f"t{number}", 3)
        world.reprioritise("t2", 2)
        assert order(world) == ["t0", "t1", "t3", "t2"]

    @pytest.mark.parametrize("limit", [{"concurrency_key": "k"}, {"rate_key": "r"}], ids=["concurrency", "rate"])
    def test_what_a_limit_holds_up(self, world, limit):
        world.set_policy(ConcurrencyLimitPolicy("k", "", 1))
        world.set_policy(RateLimitPolicy("r", "", 1, 1000))
        for name in "abcd":
            world.submit(name, **limit)
        world.reprioritise("c", 3)
        world.reprioritise("d", 4)
        world.reprioritise("d", 2)
        world.join("one", capacity=4)
        got = []
        for _ in range(4):
            got += world.running("one")
            world.finish("one", got[-1])
            world.advance(1.01)
        assert got == ["c", "a", "b", "d"]

    def test_a_queue_that_a_limit_takes_in_and_lets_go(self, world):
        """What has moved out of it, and stands in it still, goes with it."""
        for name in "abcd":
            world.submit(name)
        world.reprioritise("b", 3)
        world.set_policy(RateLimitPolicy("", "work", 1, 1000))
        world.reprioritise("b", 2)
        world.reprioritise("c", 4)
        world.delete_policy(PolicyName(PolicyKind.RATE_LIMIT, TYPE_KEY + "work"))
        assert order(world) == ["c", "a", "b", "d"]

    def test_it_ages_on(self, world):
        world.submit("a", priority=1)
        world.advance(119)
        world.reprioritise("a", 2)
        level = world.scheduler.ages.level
        world.advance(0.9)
        assert level(world.task("a")) == 3
        world.advance(1)
        assert level(world.task("a")) == 4
        world.reprioritise("a", 1)
        assert level(world.task("a")) == 3, "it is two minutes old"
        world.submit("b", priority=4)
        world.advance(58)
        assert order(world) == ["b", "a"]

    def test_one_becomes_critical_by_its_timer(self, world):
        """The timer of the queue that it has come into is its own."""
        world.submit("a", priority=1)
        world.advance(100)
        world.submit("young", priority=3)
        world.advance(1)
        world.reprioritise("a", 3)
        world.submit("b", priority=4)
        assert order(world) == ["a", "b", "young"]

    def test_one_in_its_delay(self, world):
        world.submit("a", delay_s=10)
        world.reprioritise("a", 4)
        world.submit("b", priority=3)
        world.advance(10.1)
        assert order(world) == ["a", "b"]

    def test_counts_go_with_it(self, world):
        """The invariants compare them with a look at all tasks after each step."""
        world.join("one", capacity=1)
        for name in ("runs", "waits"):
            world.submit(name)
        world.submit("delayed", delay_s=5)
        for name in ("runs", "waits", "delayed"):
            world.reprioritise(name, 4)
        row = world.scheduler.statistics.row("work", 4)
        assert (row.live(), row.running(), row.delayed) == (3, 1, 1)
        assert sum(row.counts) == 0, "nothing has happened there yet"
        world.advance(20)
        world.finish("one", "runs")
        assert (row.live(), row.running(), row.delayed) == (2, 1, 0)

    def test_a_restart_and_a_snapshot_know(self, world):
        for number in range(20):
            world.submit(f"t{number}")
        world.reprioritise("t3", 4)
        then, before = walked(world, meanwhile=lambda: world.reprioritise(f"t{len(world.journal) % 20}", 1))
        assert then == before
        lived = durable(world.scheduler.state)
        world.crash()
        assert durable(world.scheduler.state) == lived


def dead(world, *names):
    """Tasks that have failed for good."""
    world.join("one", capacity=10)
    for name in names:
        world.submit(name, payload=b"p")
        world.finish("one", name, FAILED_FOR_GOOD)


class TestRedrive:
    def test_a_new_run_counts_from_nothing_behind_what_waits(self, world):
        dead(world, "a")
        fence = world.ends("a")[0].fence
        world.ready("one", 0)
        world.submit("b")
        world.advance(300)
        task = world.redrive("a")
        assert (task.run, task.attempt, task.retries, task.fence, task.state) == (2, 0, 0, fence, TaskState.PENDING)
        assert (task.number, task.place) == (3, 3)
        assert world.scheduler.ages.level(task) == 2, "its age counts from here"
        assert [entry.kind.name for entry in task.history] == ["ATTEMPT_FAILED", "REDRIVEN"]
        assert (task.history[-1].run, task.history[-1].reason) == (2, "mended")
        assert order(world) == ["b", "a"]
        assert len(world.ends("a")) == 2

    def test_fences_grow_and_old_results_are_stale(self, world):
        dead(world, "a")
        fence = world.ends("a")[0].fence
        world.redrive("a")
        assert world.task("a").fence > fence
        assert world.finish("one", "a", fence=fence) is Verdict.DUPLICATE, "it is the result that ended the last run"
        assert world.finish("one", "a", fence=fence - 1) is Verdict.STALE
        assert world.finish("one", "a") is Verdict.ACCEPTED

    def test_it_survives_takeovers(self, world):
        dead(world, "a", "b")
        world.ready("one", 0)
        world.redrive("a", priority=4)
        lived = durable(world.scheduler.state)
        world.crash()
        assert durable(world.scheduler.state) == lived
        assert world.task("a").spec.priority == 4
        world.cancel("a")
        world.redrive("a")
        assert (world.task("a").run, world.task("a").spec.priority) == (3, 4)

    def test_a_snapshot_meanwhile_is_exact(self, world):
        dead(world, *(f"d{number}" for number in range(10)))
        world.ready("one", 0)
        for number in range(20):
            world.submit(f"t{number}")
        names = iter([f"d{number}" for number in range(10)])

        def meanwhile():
            if name := next(names, ""):
                world.redrive(name)

        then, before = walked(world, meanwhile=meanwhile)
        assert then == before
        assert durable(world.recovered()) == durable(world.scheduler.state)
        then, before = walked(world, meanwhile=lambda: None)
        assert then == before

    def test_its_durations_count_from_now(self, world):
        world.join("one", capacity=1)
        world.submit("a", deadline_s=10, queue_timeout_s=5)
        world.finish("one", "a", FAILED_FOR_GOOD)
        world.ready("one", 0)
        world.advance(3600)
        task = world.redrive("a")
        assert (task.created_ms, task.run_created_ms) == (FIRST_DATE_MS, world.date_ms)
        then, before = walked(world, meanwhile=lambda: None)
        assert then == before
        world.advance(4.9)
        world.crash()
        assert world.task("a").state is TaskState.PENDING
        world.advance(0.2)
        assert world.ends("a")[-1].failure.kind is FailureKind.QUEUE_TIMEOUT
        world.redrive("a")
        world.join("two", capacity=1)
        world.advance(9.9)
        assert world.task("a").state is TaskState.RUNNING
        world.advance(0.2)
        assert world.ends("a")[-1].failure.kind is FailureKind.DEADLINE
        assert [task.run for task in world.ends("a")] == [1, 2, 3]

    def test_a_delay_that_was_waited_for_is_over(self, world):
        world.join("one")
        world.submit("a", delay_s=10)
        world.advance(11)
        world.finish("one", "a", FAILED_FOR_GOOD)
        world.redrive("a")
        assert world.running("one") == ["a"]

    def test_a_date_that_is_ahead_is_waited_for(self, world):
        world.join("one")
        world.submit("a", delay_s=10, queue_timeout_s=5)
        world.cancel("a")
        world.advance(4)
        world.redrive("a")
        assert durable(world.recovered()) == durable(world.scheduler.state)
        world.advance(5.9)
        assert not world.running("one")
        world.advance(0.2)
        assert world.running("one") == ["a"]

    def test_limits_count_it(self, world):
        world.set_policy(ConcurrencyLimitPolicy("k", "", 1))
        world.join("one")
        world.submit("a", concurrency_key="k")
        world.cancel("a")
        world.finish("one", "a", FAILED_FOR_GOOD)
        world.submit("b", concurrency_key="k")
        world.redrive("a")
        assert world.scheduler.limits.use_of("k") == (2, 1)
        assert world.running("one") == ["b"]
        world.finish("one", "b")
        assert world.running("one") == ["a"]
        world.finish("one", "a")
        assert not world.scheduler.limits.keys

    def test_a_limit_that_refuses_more_refuses_it(self, world):
        world.set_policy(ConcurrencyLimitPolicy("k", "", 1, WhenFull.REJECT))
        for name in "ab":
            world.submit(name, concurrency_key="k")
            world.cancel(name)
        world.redrive("a")
        assert world.redrive("b") is Refused.KEY_FULL
        world.cancel("a")
        assert world.redrive("b").run == 2

    def test_a_limit_that_cancels_the_oldest_does(self, world):
        world.set_policy(ConcurrencyLimitPolicy("k", "", 1, WhenFull.CANCEL_OLDEST))
        world.submit("a", concurrency_key="k")
        world.submit("b", concurrency_key="k")
        assert world.ends("a"), "as for a new one"
        world.redrive("a")
        assert [task.spec.task_id for task in world.scheduler.state.tasks.values()] == ["a"]

    def test_a_full_queue_has_no_room(self):
        world = CoreWorld(settings=Settings(max_live_tasks=1))
        world.submit("a")
        world.cancel("a")
        world.submit("b")
        assert world.redrive("a") is Refused.QUEUE_FULL

    def test_it_is_found_and_counted(self, world):
        world.join("one")
        world.submit("a", labels={"team": "red"}, parent="p")
        world.finish("one", "a", FAILED_FOR_GOOD)
        world.ready("one", 0)
        before = world.scheduler.statistics.row("work", 2).counts[SUBMITTED]
        task = world.redrive("a", priority=3)
        index = world.scheduler.index
        assert index.of_label("team", ["red"]) == index.of_parents(["p"]) == index.of_tried() == [task.number]
        assert list(world.scheduler.state.by_number) == [task.number] == [world.scheduler.state.next_number - 1]
        row = world.scheduler.statistics.row("work", 3)
        assert (row.live(), row.counts[SUBMITTED], before) == (1, 1, 1)
        assert world.scheduler.totals.redriven == 1

    def test_webhooks_are_told_of_each_run(self, world):
        world.submit("a", webhook="https://own.example/")
        world.cancel("a")
        world.redrive("a")
        world.cancel("a")
        pending = world.scheduler.state.deliveries.pending.values()
        assert [(delivery.task_id, delivery.run) for delivery in pending] == [("a", 1), ("a", 2)]

    def test_the_retries_of_its_type_are_those_that_hold_now(self, world):
        world.submit(spec_of("a", "typed"))
        world.cancel("a")
        world.set_policy(RetryDefaultsPolicy("typed", 7))
        assert world.redrive("a").spec.retry.max_retries == 7
        assert world.recovered().tasks["a"].spec.retry.max_retries == 7

    @pytest.mark.parametrize("number, task_id", [(0, "b"), (7, "a")], ids=["out of order", "live"])
    def test_what_does_not_fit_changes_nothing(self, world, number, task_id):
        world.submit("a")
        run = EndedRun(spec_of(task_id), 0, 1, 1, 1, 1, "", (), None, ())
        with pytest.raises(IllegalEvent):
            evolve(world.scheduler.state, Redriven(number, run, ""), 1)
        assert list(world.scheduler.state.tasks) == ["a"]
