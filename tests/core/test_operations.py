"""Another priority, another run: what changes, what stays, and what a restart finds."""

import random

import pytest

from coordinator.core.events import EndedRun, Redriven
from coordinator.core.evolve import IllegalEvent, evolve
from coordinator.core.model import Settings, TaskState
from coordinator.core.operations import Priorities
from coordinator.core.reports import Verdict
from tests.core.test_snapshot import walked
from tests.support.core_world import FAILED, FAILED_FOR_GOOD, GIVEN_BACK, CoreWorld, durable, spec_of


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
        assert world.finish("one", "a", fence=fence) is Verdict.STALE
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

    @pytest.mark.parametrize("number, task_id", [(0, "b"), (7, "a")], ids=["out of order", "live"])
    def test_what_does_not_fit_changes_nothing(self, world, number, task_id):
        world.submit("a")
        run = EndedRun(spec_of(task_id), 0, 1, 1, 1, "", (), None, ())
        with pytest.raises(IllegalEvent):
            evolve(world.scheduler.state, Redriven(number, run, ""), 1)
        assert list(world.scheduler.state.tasks) == ["a"]
