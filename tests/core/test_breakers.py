"""Who fails again and again gets nothing for a while, and then one task: whatever else happens, somebody goes on working."""

import pytest

from coordinator.core.breaker_results import Results
from coordinator.core.breaker_rules import BreakerRules
from coordinator.core.breakers import OWN, BreakerState, reset
from coordinator.core.explain import RuledOut, WaitKind, explain, waits_for
from coordinator.core.model import Capability, Failure, FailureKind, Settings
from coordinator.core.policies import BreakerPolicy, PausePolicy, PolicyKind, PolicyName
from coordinator.core.reports import Failed
from coordinator.core.sessions import draining
from tests.support.core_world import FAILED, FAILED_FOR_GOOD, GIVEN_BACK, STOPPED, SUCCESS, CoreWorld

FLEET = ("ann", "bob")
TIMED_OUT = Failed(Failure(FailureKind.RUN_TIMEOUT, "too slow"))


class BreakerWorld(CoreWorld):
    """Agents of one slot, so that who is idle is given the next task."""

    def __init__(self, **rules):
        super().__init__(settings=Settings(breakers=BreakerRules(**rules)), jitter=0.0)
        self.serial = 0

    def fleet(self, *names, types=("work",), capacity=1):
        for name in names or FLEET:
            self.join(name, types, capacity=capacity)

    def run_at(self, name, result, task_type="work", **options):
        """A task that only this agent may have runs there, and comes to `result`; it isn't tried again."""
        self.serial += 1
        task_id = f"{name}-{self.serial}"
        others = [one for one in self.scheduler.load.agents.values() if one.name != name and one.session]
        limits = {one.name: one.ready_limit for one in others}
        for one in others:
            self.ready(one.name, 0)
        self.submit(task_id, task_type=task_type, max_retries=0, **options)
        assert task_id in self.running(name), f"{name} isn't given it"
        self.finish(name, task_id, result)
        for other, limit in limits.items():
            self.ready(other, limit)
        return task_id

    def break_down(self, name, task_type="work", times=5):
        for _ in range(times):
            self.run_at(name, FAILED, task_type)

    def state(self, name, key="work"):
        breaker = self.scheduler.breakers.by_agent.get(name, {}).get(key)
        return BreakerState.CLOSED if breaker is None else breaker.state

    def breaker(self, name, key="work"):
        return self.scheduler.breakers.by_agent[name][key]

    def who_gets(self, *task_ids, **options):
        for task_id in task_ids:
            self.submit(task_id, **options)
        return [self.task(task_id).agent for task_id in task_ids]


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


# --- probes ---


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
    assert reason.message == "all 1 agents that offer work are full, and the breakers of 1 more are open"


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
