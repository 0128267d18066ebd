"""Who fails again and again gets nothing for a while: what opens a breaker, and whose."""

import pytest

from coordinator.core.breaker_results import Results
from coordinator.core.breaker_rules import BreakerRules
from coordinator.core.breakers import OWN, BreakerState
from coordinator.core.explain import explain
from coordinator.core.model import Capability, Failure, FailureKind
from coordinator.core.policies import BreakerPolicy
from coordinator.core.reports import Failed
from coordinator.core.sessions import draining
from tests.support.breaker_world import FLEET, BreakerWorld
from tests.support.core_world import FAILED, FAILED_FOR_GOOD, GIVEN_BACK, STOPPED, SUCCESS

TIMED_OUT = Failed(Failure(FailureKind.RUN_TIMEOUT, "too slow"))


@pytest.fixture
def world():
    world = BreakerWorld()
    world.fleet()
    return world


# --- it opens ---


def test_five_failures_in_a_row_open_it_and_others_do_the_work(world):
    world.break_down("ann", times=4)
    assert world.state("ann") is BreakerState.CLOSED
    world.break_down("ann", times=1)
    assert world.state("ann") is BreakerState.OPEN
    assert world.who_gets("first", "second") == ["bob", ""]
    world.finish("bob", "first")
    assert world.running("bob") == ["second"]


def test_a_success_in_between_begins_the_row_anew(world):
    for result in (FAILED, FAILED, FAILED, FAILED, SUCCESS, FAILED, FAILED, FAILED, FAILED):
        world.run_at("ann", result)
    assert world.state("ann") is BreakerState.CLOSED


def test_half_of_twenty_results_open_it():
    world = BreakerWorld(consecutive_failures=0)
    world.fleet()
    for _ in range(9):
        world.run_at("ann", FAILED)
        world.run_at("ann", SUCCESS)
    world.run_at("ann", FAILED)
    assert world.state("ann") is BreakerState.CLOSED
    world.run_at("ann", FAILED)
    assert world.state("ann") is BreakerState.OPEN
    assert world.breaker("ann").reason == "11 of 20 attempts failed there within 60 s, the last with: it broke"


def test_what_is_longer_ago_than_the_window_is_not_counted():
    world = BreakerWorld(consecutive_failures=0, min_results=4)
    world.fleet()
    world.break_down("ann", times=3)
    world.advance(61, ticks=61)
    world.break_down("ann", times=3)
    assert world.state("ann") is BreakerState.CLOSED
    world.break_down("ann", times=1)
    assert world.state("ann") is BreakerState.OPEN


def test_one_task_counts_once_however_often_it_fails(world):
    world.ready("bob", 0)
    world.submit("bad", max_retries=20)
    for _ in range(15):
        world.advance(61)
        world.finish("ann", "bad", FAILED)
    assert world.state("ann") is BreakerState.CLOSED


@pytest.mark.parametrize("result", [FAILED_FOR_GOOD, STOPPED, GIVEN_BACK])
def test_what_is_no_fault_of_the_agent_counts_nothing(world, result):
    for _ in range(10):
        task_id = world.run_at("ann", result)
        world.cancel(task_id)
        for name in FLEET:
            for again in world.running(name):  # what is given back begins anew
                world.finish(name, again, STOPPED)
    assert world.scheduler.breakers.by_agent == {}


def test_a_failure_after_a_cancel_counts_nothing(world):
    for number in range(8):
        world.submit(f"task{number}")
        agent = world.task(f"task{number}").agent
        world.cancel(f"task{number}")
        world.finish(agent, f"task{number}", FAILED)
    assert world.scheduler.breakers.by_agent == {}


def test_timeouts_count(world):
    for _ in range(5):
        world.run_at("ann", TIMED_OUT)
    assert world.state("ann") is BreakerState.OPEN


def test_a_lost_lease_counts(world):
    world.ready("bob", 0)
    for number in range(5):
        world.submit(f"task{number}", max_crashes=0)
        world.acknowledge("ann", f"task{number}")
        world.advance(31)
    assert world.state("ann") is BreakerState.OPEN
    assert "nothing was heard of agent ann" in world.breaker("ann").reason


def test_a_process_that_dies_with_ten_tasks_has_failed_once():
    world = BreakerWorld()
    world.fleet(capacity=10)
    world.ready("bob", 0)
    for number in range(10):
        world.submit(f"task{number}", max_crashes=0)
        world.acknowledge("ann", f"task{number}")
    world.lose("ann")
    world.join("ann", capacity=10)
    assert world.breaker("ann").results.in_a_row == 1
    assert world.breaker("ann", OWN).results.in_a_row == 1


def test_a_breaker_outlives_its_agents_session(world):
    world.break_down("ann")
    world.lose("ann")
    assert "ann" not in world.scheduler.load.agents
    world.join("ann", capacity=1)
    assert world.who_gets("first", "second") == ["bob", ""]


def test_a_restart_of_the_coordinator_forgets_it(world):
    world.break_down("ann")
    world.crash()
    world.fleet()
    assert world.scheduler.breakers.by_agent == {}
    assert sorted(world.who_gets("first", "second")) == ["ann", "bob"]


# --- which of an agent's breakers ---


def test_another_type_goes_on_at_the_same_agent():
    world = BreakerWorld()
    world.fleet(types=("work", "play"))
    world.break_down("ann")
    assert (world.state("ann"), world.state("ann", OWN)) == (BreakerState.OPEN, BreakerState.CLOSED)
    assert world.run_at("ann", SUCCESS, "play")
    world.ready("bob", 0)
    assert world.who_gets("first") == [""]


def test_failures_of_two_types_open_the_agents_own():
    world = BreakerWorld()
    world.fleet(types=("work", "play"))
    for task_type in ("work", "play", "work", "play"):
        world.run_at("ann", FAILED, task_type)
    assert world.state("ann", OWN) is BreakerState.CLOSED
    world.run_at("ann", FAILED)
    assert world.state("ann", OWN) is BreakerState.OPEN
    world.ready("bob", 0)
    assert world.who_gets("first", task_type="play") == [""]
    world.ready("bob", 1)
    assert world.running("bob") == ["first"]


def test_a_breaker_for_a_type_holds_only_where_its_limit_does_not():
    """A type that has a limit at its agents has a room of its own, breaker or not."""
    world = BreakerWorld()
    for name in FLEET:
        world.join(name, {"work": Capability(max_concurrent=1), "play": Capability()}, capacity=3)
    world.break_down("ann")
    assert world.who_gets("first", "second") == ["bob", ""]
    world.finish("bob", "first")
    assert world.running("bob") == ["second"]


def test_what_a_type_explains_is_not_held_against_the_agent():
    world = BreakerWorld()
    world.fleet(types=("work", "play"), capacity=9)
    world.ready("bob", 0)
    for number in range(4):
        world.submit(f"old{number}", max_retries=0)
    world.break_down("ann")
    for number in range(4):
        world.finish("ann", f"old{number}", FAILED)
    for _ in range(4):
        world.run_at("ann", FAILED, "play")
        assert world.state("ann", OWN) is BreakerState.CLOSED


def test_whoever_is_free_gets_a_task_although_a_breaker_opens_in_the_same_moment():
    world = BreakerWorld(consecutive_failures=1)
    world.fleet("bob", types=("work", "play"))
    world.submit("at-bob", task_type="play", max_crashes=0)
    world.fleet("ann", types=("work", "play"))
    world.submit("at-ann", max_crashes=0)
    world.submit("waits")
    for name, task_id in (("bob", "at-bob"), ("ann", "at-ann")):
        world.acknowledge(name, task_id)
    world.set_policy(BreakerPolicy("play", consecutive_failures=0, failure_rate=0))
    world.advance(31)
    assert world.state("ann") is BreakerState.OPEN
    assert world.running("bob") == ["waits"]


# --- what is counted ---


def failing(results, number, task_type="work", at_s=1000.0):
    return results.failed(at_s, number, task_type, FAILED.failure)


def test_the_last_tasks_that_failed_are_known():
    results = Results(BreakerRules(consecutive_failures=100), of_agent=False)
    for number in range(1, 41):
        failing(results, number)
    for number in range(9, 41):
        failing(results, number)
    assert results.in_a_row == 40
    failing(results, 8)
    assert results.in_a_row == 41


def test_successes_leave_the_window_as_well():
    results = Results(BreakerRules(consecutive_failures=0, min_results=4, window_s=60), of_agent=False)
    failing(results, 1)
    for _ in range(20):
        results.succeeded(1000.0)
    for number in range(2, 5):
        assert not failing(results, number, at_s=1070.0)
    assert (results.successes, results.failures) == (0, 3)
    assert failing(results, 5, at_s=1071.0).startswith("4 of 4 attempts failed there")


def test_another_types_failure_of_long_ago_says_nothing_about_the_agent():
    results = Results(BreakerRules(consecutive_failures=3), of_agent=True)
    failing(results, 1, "play", at_s=1000.0)
    for number in range(2, 9):
        assert not failing(results, number, at_s=1061.0)
    assert failing(results, 9, "play", at_s=1062.0)


# --- never all of them ---


def test_an_agent_that_is_alone_is_never_shut_out():
    world = BreakerWorld()
    world.fleet("ann")
    world.break_down("ann", times=8)
    assert world.state("ann") is BreakerState.TOLERATED
    assert "at most 0 of 1 agents may be shut out of work, and 0 are" in world.breaker("ann").reason
    world.advance(31)
    assert world.state("ann") is BreakerState.CLOSED
    world.break_down("ann", times=5)
    assert world.state("ann") is BreakerState.TOLERATED


def test_when_a_type_fails_everywhere_half_of_the_agents_go_on_and_that_is_said():
    world = BreakerWorld()
    world.fleet("ann", "bob", "cai", "dan")
    for name in ("ann", "bob", "cai", "dan"):
        world.break_down(name)
    states = [world.state(name) for name in ("ann", "bob", "cai", "dan")]
    assert states == [BreakerState.OPEN, BreakerState.OPEN, BreakerState.TOLERATED, BreakerState.TOLERATED]
    assert "work fails at all 4 agents that offer it" in world.breaker("dan").reason
    assert "at all" not in world.breaker("cai").reason
    assert sorted(world.who_gets("first", "second", "third")) == ["", "cai", "dan"]
    summary = explain(world.scheduler, world.task("third")).summary
    assert "work fails at all 4 agents that offer it, so it is hardly the agents' fault." in summary


def test_agents_that_take_nothing_new_are_not_counted_on():
    world = BreakerWorld()
    world.fleet("ann", "bob", "cai", "dan")
    draining(world.agent("cai"))
    draining(world.agent("dan"))
    world.break_down("ann")
    assert world.state("ann") is BreakerState.OPEN
    world.break_down("bob")
    assert world.state("bob") is BreakerState.TOLERATED


def test_an_agents_own_breaker_leaves_somebody_for_each_of_its_types():
    world = BreakerWorld()
    world.fleet(types=("work", "play"))
    world.join("cai", ("play",))
    world.join("dan", ("work", "rare"))
    for task_type in ("rare", "work", "rare", "work", "rare"):
        world.run_at("dan", FAILED, task_type)
    assert world.state("dan", OWN) is BreakerState.TOLERATED
    assert "1 agents may be shut out of rare" in world.breaker("dan", OWN).reason
