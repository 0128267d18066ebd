"""A breaker that is open lets one task through after its time: the probe tells how it goes on."""

import pytest

from coordinator.core.breakers import BreakerState
from coordinator.core.model import Failure, FailureKind
from coordinator.core.reports import Failed
from tests.support.breaker_world import BreakerWorld
from tests.support.core_world import FAILED, FAILED_FOR_GOOD, GIVEN_BACK, SUCCESS

TIMED_OUT = Failed(Failure(FailureKind.RUN_TIMEOUT, "too slow"))


@pytest.fixture
def world():
    world = BreakerWorld()
    world.fleet()
    return world


def test_after_its_time_one_task_is_the_probe_and_its_success_closes_it():
    world = BreakerWorld()
    world.fleet(capacity=2)
    world.ready("bob", 1)
    world.break_down("ann")
    world.ready("bob", 0)
    world.advance(29.5)
    assert world.who_gets("first", "second") == ["", ""]
    world.advance(0.8)
    assert world.running("ann") == ["first"]
    assert world.state("ann") is BreakerState.HALF_OPEN
    world.advance(5)
    assert world.running("ann") == ["first"]
    world.finish("ann", "first")
    assert world.state("ann") is BreakerState.CLOSED
    assert world.running("ann") == ["second"]
    assert world.scheduler.load.agents["ann"].group.guarded == {}


def test_each_probe_that_fails_doubles_the_time_up_to_its_bound(world):
    world.break_down("ann")
    world.ready("bob", 0)
    for wait_s in (30, 60, 120, 240, 300, 300):
        breaker = world.breaker("ann")
        assert breaker.due_s - world.mono_s == wait_s
        assert breaker.until_ms - world.date_ms == 1000 * wait_s
        world.advance(wait_s + 0.25)
        world.run_at("ann", FAILED)
        assert world.state("ann") is BreakerState.OPEN
    assert breaker.reason.endswith("failed: it broke")
    assert breaker.since_ms < world.date_ms - 1_000_000


def test_jitter_only_brings_it_forward():
    world = BreakerWorld()
    world.jitter = 0.999
    world.fleet()
    world.break_down("ann")
    assert 24 <= world.breaker("ann").due_s - world.mono_s < 24.1


@pytest.mark.parametrize("result", [FAILED_FOR_GOOD, GIVEN_BACK])
def test_a_probe_that_tells_nothing_is_followed_by_another(world, result):
    world.break_down("ann")
    world.ready("bob", 0)
    world.advance(30.5)
    world.submit("first", max_retries=0)
    world.submit("second")
    world.finish("ann", "first", result)
    assert world.state("ann") is BreakerState.HALF_OPEN
    assert len(world.running("ann")) == 1
    world.finish("ann", world.running("ann")[0])
    assert world.state("ann") is BreakerState.CLOSED


def test_a_probe_whose_agent_dies_has_failed(world):
    world.break_down("ann")
    world.ready("bob", 0)
    world.advance(30.5)
    world.submit("probe")
    world.acknowledge("ann", "probe")
    world.lose("ann")
    world.advance(15.3)
    assert world.state("ann") is BreakerState.OPEN
    assert world.breaker("ann").failed_probes == 1


def test_what_began_before_it_opened_neither_closes_it_nor_counts():
    world = BreakerWorld(open_s=5)
    world.fleet(capacity=3)
    world.ready("bob", 0)
    for number in range(2):
        world.submit(f"old{number}", max_retries=0)
    world.break_down("ann")
    world.finish("ann", "old0", SUCCESS)
    assert world.state("ann") is BreakerState.OPEN
    world.advance(5.5)
    world.submit("probe")
    world.finish("ann", "old1", FAILED)
    assert world.state("ann") is BreakerState.HALF_OPEN
    world.finish("ann", "probe", SUCCESS)
    assert world.state("ann") is BreakerState.CLOSED


def test_an_agent_that_comes_back_half_open_still_gets_one_task(world):
    world.break_down("ann")
    world.advance(30.5)
    world.lose("ann")
    world.ready("bob", 0)
    world.join("ann", capacity=3)
    assert world.who_gets("first", "second") == ["ann", ""]


def test_whoever_never_comes_back_is_forgotten(world):
    world.break_down("ann")
    world.lose("ann")
    world.advance(335, ticks=335)
    assert world.scheduler.breakers.by_agent == {}


def test_a_failure_that_stays_alone_is_forgotten(world):
    world.run_at("ann", FAILED)
    world.run_at("ann", SUCCESS)
    assert world.scheduler.load.agents["ann"].breakers is not None
    world.advance(121, ticks=121)
    assert world.scheduler.load.agents["ann"].breakers is None
    assert world.scheduler.breakers.by_agent == {}
