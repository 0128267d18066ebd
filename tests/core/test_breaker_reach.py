"""What else breakers have to do with: agents that are kept, limits, pauses, policies, operators, and what is told of them."""

import pytest

from coordinator.core.breakers import OWN, BreakerState, reset
from coordinator.core.explain import RuledOut, WaitKind, explain, waits_for
from coordinator.core.model import Failure, FailureKind
from coordinator.core.policies import BreakerPolicy, PausePolicy, PolicyKind, PolicyName
from coordinator.core.reports import Failed
from tests.support.breaker_world import FLEET, BreakerWorld
from tests.support.core_world import FAILED, SUCCESS

TIMED_OUT = Failed(Failure(FailureKind.RUN_TIMEOUT, "too slow"))


@pytest.fixture
def world():
    world = BreakerWorld()
    world.fleet()
    return world


# --- who is kept, limits, pauses ---


def test_an_agent_that_was_kept_for_a_heavy_task_is_let_go(world):
    world = BreakerWorld(consecutive_failures=1)
    world.fleet(capacity=2)
    for number in range(4):
        world.submit(f"light{number}", max_retries=0)
    world.submit("heavy", slots=2, priority=4)
    for task_id in (world.running("ann")[0], world.running("bob")[0]):
        world.finish(world.task(task_id).agent, task_id)
    kept = next(name for name in FLEET if world.agent(name).reserved)
    world.finish(kept, world.running(kept)[0], FAILED)
    other = "bob" if kept == "ann" else "ann"
    assert world.state(kept) is BreakerState.OPEN
    assert (world.agent(kept).reserved, world.agent(other).reserved) == (0, 2)


def test_it_is_let_go_for_its_own_breaker_too():
    world = BreakerWorld(consecutive_failures=2)
    world.fleet(types=("work", "play"), capacity=2)
    for number in range(2):
        world.submit(f"at-ann{number}", max_retries=0, task_type=("work", "play")[number])
        world.submit(f"at-bob{number}", max_retries=0)
    assert world.running("ann") == ["at-ann0", "at-ann1"]
    world.submit("heavy", slots=2, priority=4)
    world.finish("ann", "at-ann0", FAILED)
    assert world.agent("ann").reserved == 2
    world.finish("ann", "at-ann1", FAILED)
    assert world.state("ann", OWN) is BreakerState.OPEN
    assert world.agent("ann").reserved == 0


def test_limited_tasks_wait_for_the_same_breaker(world):
    world.ready("bob", 0)
    world.submit("runs", concurrency_key="c", max_retries=0)
    assert world.who_gets("first", "second", concurrency_key="c") == ["", ""]
    world.set_policy(BreakerPolicy("", consecutive_failures=1))
    world.finish("ann", "runs", FAILED)
    assert world.running("ann") == []
    world.advance(30.5)
    assert world.running("ann") == ["first"]


def test_a_type_that_is_paused_meanwhile_waits_for_both(world):
    world.submit("before")
    world.finish(world.task("before").agent, "before")
    world.break_down("ann")
    world.set_policy(PausePolicy("work"))
    world.submit("waits")
    world.advance(31)
    world.delete_policy(PolicyName(PolicyKind.PAUSE, "work"))
    assert world.task("waits").agent in FLEET
    world.finish(world.task("waits").agent, "waits")


def test_a_breaker_that_opens_while_its_type_is_paused(world):
    world.ready("bob", 0)
    world.submit("last", max_retries=0)
    world.set_policy(PausePolicy("work"))
    world.set_policy(BreakerPolicy("", consecutive_failures=1))
    world.finish("ann", "last", FAILED)
    assert world.state("ann") is BreakerState.OPEN
    world.submit("waits")
    world.delete_policy(PolicyName(PolicyKind.PAUSE, "work"))
    assert world.task("waits").agent == ""
    world.ready("bob", 1)
    assert world.task("waits").agent == "bob"


# --- policies and resets ---


def test_the_most_exact_policy_rules_a_type_and_what_it_leaves_out_is_the_namespaces(world):
    world.set_policy(BreakerPolicy("", open_s=7, consecutive_failures=3))
    world.set_policy(BreakerPolicy("wo*", consecutive_failures=2))
    world.break_down("ann", times=2)
    assert world.breaker("ann").due_s - world.mono_s == 7
    assert world.scheduler.breakers.rules("play").consecutive_failures == 3
    assert world.scheduler.breakers.rules(OWN).consecutive_failures == 3


def test_a_policy_that_opens_for_nothing_closes_what_is_open(world):
    world.break_down("ann")
    world.set_policy(BreakerPolicy("work", consecutive_failures=0, failure_rate=0))
    assert world.state("ann") is BreakerState.CLOSED
    world.set_policy(BreakerPolicy("", consecutive_failures=0, failure_rate=0))
    world.break_down("ann", times=30)
    assert world.scheduler.breakers.by_agent == {}
    world.delete_policy(PolicyName(PolicyKind.BREAKER, ""))
    world.delete_policy(PolicyName(PolicyKind.BREAKER, "work"))
    world.break_down("ann")
    assert world.state("ann") is BreakerState.OPEN


def test_a_new_policy_counts_anew_and_leaves_open_what_is(world):
    world.break_down("ann", times=5)
    world.break_down("bob", times=1)
    world.set_policy(BreakerPolicy("work", consecutive_failures=2))
    assert world.state("ann") is BreakerState.OPEN
    world.break_down("bob", times=1)
    assert world.state("bob") is BreakerState.CLOSED
    world.break_down("bob", times=1)
    assert world.state("bob") is BreakerState.TOLERATED


def test_a_policy_holds_over_a_restart(world):
    world.set_policy(BreakerPolicy("work", consecutive_failures=2))
    world.crash()
    world.fleet()
    world.break_down("ann", times=2)
    assert world.state("ann") is BreakerState.OPEN


def test_an_operator_closes_it(world):
    world.break_down("ann")
    world.ready("bob", 0)
    world.submit("waits")
    assert reset(world.scheduler, "ann", "play") == []
    closed = reset(world.scheduler, "ann", "work")
    assert [(one.agent, one.key) for one in closed] == [("ann", "work")]
    world.commit()
    assert world.running("ann") == ["waits"]
    assert reset(world.scheduler, "ann") == []


def test_an_operator_closes_an_agents_own():
    world = BreakerWorld()
    world.fleet(types=("work", "play"))
    for task_type in ("work", "play", "work", "play", "work"):
        world.run_at("ann", FAILED, task_type)
    world.ready("bob", 0)
    world.submit("waits")
    closed = reset(world.scheduler, "ann")
    assert [(one.agent, one.key) for one in closed] == [("ann", OWN)]
    assert world.scheduler.breakers.by_agent == {}
    world.commit()
    assert world.running("ann") == ["waits"]
    assert reset(world.scheduler, "nobody") == []


# --- what is told ---


def test_a_task_that_nobody_may_take_says_so(world):
    world.break_down("ann")
    world.ready("bob", 0)
    world.lose("bob")
    world.submit("waits")
    reason = waits_for(world.scheduler, world.task("waits"))
    assert reason.kind is WaitKind.BREAKER_OPEN
    assert reason.until_ms == world.breaker("ann").until_ms
    why = "5 tasks in a row failed there, the last with: it broke"
    assert reason.message == f"the agent that offers work fails: of ann, its breaker for work is open: {why}"
    [(agent, reasons)] = explain(world.scheduler, world.task("waits")).agents
    assert (agent.name, reasons) == ("ann", [(RuledOut.BREAKER_OPEN, f"its breaker for work is open: {why}")])
    world.advance(30.5)
    world.submit("next")
    reason = waits_for(world.scheduler, world.task("next"))
    assert (reason.kind, reason.until_ms) == (WaitKind.BREAKER_OPEN, 0)
    assert "its breaker for work waits for its probe waits: 5 tasks" in reason.message


def test_a_task_whose_other_agents_are_full_says_both(world):
    world.break_down("ann")
    world.submit("runs")
    world.submit("waits")
    reason = waits_for(world.scheduler, world.task("waits"))
    assert reason.kind is WaitKind.AGENTS_FULL
    assert reason.message == "the one agent that offers work is full, and the breakers of 1 more are open"


def test_an_agents_own_breaker_is_told(world):
    world = BreakerWorld(max_open_share=1)
    world.fleet("ann", types=("work", "play"))
    for task_type in ("work", "play", "work", "play", "work"):
        world.run_at("ann", FAILED, task_type)
    world.submit("waits", task_type="play")
    reason = waits_for(world.scheduler, world.task("waits"))
    assert (reason.kind, reason.message[:60]) == (WaitKind.BREAKER_OPEN, "the agent that offers play fails: of ann, its breaker is ope")


def test_agents_whose_tasks_succeed_have_none(world):
    for _ in range(30):
        world.run_at("ann", SUCCESS)
    assert world.agent("ann").breakers is None
