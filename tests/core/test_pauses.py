"""Pauses hold up what they name and nothing else, and what goes on is just what waited."""

import pytest
from muster.v1 import common_pb2

from coordinator.core.explain import WaitKind, explain, waits_for
from coordinator.core.model import Settings, TaskState
from coordinator.core.policies import (
    ConcurrencyLimitPolicy,
    CordonPolicy,
    PausePolicy,
    PolicyKind,
    PolicyName,
    RateLimitPolicy,
    WeightPolicy,
)
from tests.support.core_world import FAILED, FIRST_DATE_MS, GIVEN_BACK, CoreWorld

ALL = ""


@pytest.fixture
def world():
    return CoreWorld()


def resume(world, task_type=ALL):
    return world.delete_policy(PolicyName(PolicyKind.PAUSE, task_type))


def why(world, task_id):
    return waits_for(world.scheduler, world.task(task_id))


# --- what a pause holds up ---


@pytest.mark.parametrize("paused", ["work", "wo*", ALL])
def test_what_is_paused_is_taken_in_and_not_assigned_until_it_goes_on(world, paused):
    world.join("ann")
    world.submit("runs")
    world.set_policy(PausePolicy(paused))
    world.submit("waits")
    world.finish("ann", "runs")  # a result is taken, and the slot stays free
    assert world.task("runs").state is TaskState.COMPLETED
    world.advance(3600)
    world.join("bob")
    assert world.running("ann") == world.running("bob") == []
    assert resume(world, paused)
    assert world.assignments()[1:] == [("waits", "ann")]


def test_a_paused_type_delays_no_other(world):
    world.set_policy(PausePolicy("work"))
    for number in range(3):
        world.submit(f"work{number}", priority=4)
        world.submit(f"other{number}", task_type="other")
    world.join("ann", ["work", "other"])
    assert world.running("ann") == ["other0", "other1", "other2"]
    assert resume(world, "work")
    assert world.running("ann")[3:] == ["work0", "work1", "work2"]


def test_a_retry_and_what_an_agent_gives_back_wait_too(world):
    world.join("ann")
    world.submit("retried")
    world.submit("given-back")
    world.set_policy(PausePolicy("work"))
    world.finish("ann", "retried", FAILED)
    world.finish("ann", "given-back", GIVEN_BACK)
    world.advance(100)
    assert world.running("ann") == []
    assert why(world, "retried").kind is WaitKind.PAUSED
    assert resume(world, "work")
    assert world.running("ann") == ["retried", "given-back"]


def test_a_delay_ends_in_a_pause_and_its_task_takes_its_place_then(world):
    world.set_policy(PausePolicy("work"))
    world.submit("delayed", delay_s=5)
    assert why(world, "delayed").kind is WaitKind.DELAYED
    world.advance(6)
    world.submit("later")
    world.join("ann", capacity=1)
    resume(world, "work")
    assert world.running("ann") == ["delayed"]


def test_deadlines_pass_in_a_pause(world):
    world.set_policy(PausePolicy("work"))
    world.submit("queued", queue_timeout_s=5)
    world.submit("dated", deadline_s=5)
    world.advance(6)
    assert {world.task(one).state for one in ("queued", "dated")} == {TaskState.FAILED}


def test_what_waits_in_a_pause_ages(world):
    world = CoreWorld(settings=Settings(ageing_period_s=10))
    for paused in ("work", ALL):
        world.set_policy(PausePolicy(paused))
    world.submit("old", priority=1)
    world.advance(60, ticks=6)
    world.submit("new", priority=3)
    resume(world, "work")
    resume(world)
    world.join("ann", capacity=1)
    assert world.running("ann") == ["old"]


def test_what_is_paused_can_be_cancelled(world):
    world.set_policy(PausePolicy("work"))
    world.submit("task", concurrency_key="k")
    world.cancel("task")
    assert world.task("task").state is TaskState.CANCELLED


def test_what_two_pauses_hold_up_waits_for_both(world):
    world.join("ann")
    for paused in ("work", "w*", ALL):
        world.set_policy(PausePolicy(paused))
    world.submit("task")
    for paused in ("work", ALL, "w*"):
        assert world.running("ann") == []
        assert resume(world, paused)
    assert world.running("ann") == ["task"]


def test_a_pause_that_is_set_anew_has_another_reason_and_holds(world):
    world.join("ann")
    world.set_policy(PausePolicy("work", "the first"))
    world.submit("task")
    world.set_policy(PausePolicy("work", "the second"))
    assert "the second" in why(world, "task").message
    assert world.running("ann") == []
    resume(world, "work")
    assert world.running("ann") == ["task"]


# --- until when ---


@pytest.mark.parametrize("paused", ["work", ALL])
def test_a_pause_ends_by_itself(world, paused):
    world.set_policy(PausePolicy(paused, "", 60_000))
    world.submit("task")
    world.join("ann")
    assert why(world, "task").until_ms == FIRST_DATE_MS + 60_000
    assert world.scheduler.next_due()[1] == FIRST_DATE_MS + 60_000
    world.advance(59.9)
    assert world.running("ann") == []
    world.advance(0.1)
    assert world.running("ann") == ["task"]
    assert not world.scheduler.state.policies
    assert world.scheduler.pauses.next_end_ms is None


def test_a_pause_ends_over_a_restart_as_it_was_meant(world):
    for paused in ("work", ALL):
        world.set_policy(PausePolicy(paused, "", 60_000))
    world.set_policy(PausePolicy("other"))
    world.advance(40)
    world.crash()
    world.submit("task")
    world.submit("waits", task_type="other")
    world.join("ann", ["work", "other"])
    assert why(world, "task").until_ms == FIRST_DATE_MS + 60_000
    world.advance(20)
    assert world.running("ann") == ["task"]
    assert list(world.scheduler.state.policies) == [PolicyName(PolicyKind.PAUSE, "other")]


def test_of_several_pauses_the_last_end_is_told(world):
    world.set_policy(PausePolicy("work", "short", 10_000))
    world.set_policy(PausePolicy("w*", "long", 20_000))
    world.submit("task")
    assert why(world, "task").until_ms == FIRST_DATE_MS + 20_000
    world.set_policy(PausePolicy(ALL, "for ever"))
    assert (why(world, "task").message, why(world, "task").until_ms) == ("the namespace is paused: for ever", 0)


def test_each_of_several_pauses_ends_at_its_own_time(world):
    world.join("ann", ["first", "second"])
    for task_type, for_ms in (("second", 20_000), ("first", 10_000)):
        world.set_policy(PausePolicy(task_type, "", for_ms))
        world.submit(task_type, task_type=task_type)
    world.advance(10)
    assert world.running("ann") == ["first"]
    world.advance(9.9)
    assert world.running("ann") == ["first"]
    world.advance(0.1)
    assert world.running("ann") == ["first", "second"]


def test_a_pause_that_was_made_longer_or_endless_does_not_end_when_it_would_have(world):
    world.set_policy(PausePolicy("work", "", 10_000))
    world.set_policy(PausePolicy("work"))
    world.submit("task")
    world.join("ann")
    world.advance(20)
    assert world.running("ann") == []


# --- interplay ---


@pytest.mark.parametrize("limit", [ConcurrencyLimitPolicy("k", "", 1), RateLimitPolicy("k", "", 1, 60_000)])
def test_what_is_paused_uses_up_no_room_of_a_limit(world, limit):
    world.set_policy(limit)
    world.set_policy(PausePolicy("paused"))
    world.join("ann", ["paused", "work"], capacity=1)
    world.submit("busy")
    world.submit("paused", task_type="paused", priority=4, concurrency_key="k", rate_key="k")
    world.submit("free", concurrency_key="k", rate_key="k")
    world.finish("ann", "busy")
    assert world.running("ann") == ["free"]
    resume(world, "paused")
    world.finish("ann", "free")
    world.advance(61)
    assert world.running("ann") == ["paused"]


def test_a_pause_of_what_limits_hold_up_ends_for_all_of_it(world):
    """Also where types share a pool, and where agents of several kinds can take them."""
    world.set_policy(ConcurrencyLimitPolicy("", "both*", 2))
    world.join("ann", ["both1", "both2"], capacity=1)
    world.join("bob", ["both1"], capacity=1)
    for kind in ("both1", "both2", "alone"):
        for number in range(3):
            world.submit(f"{kind}-{number}", task_type=kind, concurrency_key=f"k{number}", priority=3 - number)
    assert world.running("ann") + world.running("bob") == ["both1-0", "both1-1"]
    world.set_policy(PausePolicy("both1"))
    world.set_policy(PausePolicy("alone"))
    world.submit("both1-3", task_type="both1", concurrency_key="k3", priority=4)
    world.finish("ann", "both1-0")
    world.finish("bob", "both1-1")
    assert (world.running("ann"), world.running("bob")) == (["both2-0"], [])
    world.join("cat", ["alone"])
    resume(world, "alone")
    assert world.running("cat") == ["alone-0", "alone-1", "alone-2"]
    resume(world, "both1")
    assert world.running("bob") == ["both1-3"]


def zone(name):
    return [common_pb2.LabelSelector(label="zone", operator=common_pb2.LABEL_OPERATOR_IN, values=[name])]


def test_limited_tasks_of_a_type_that_different_agents_take_are_found_by_theirs_again(world):
    """While the type is paused they wait together, beside what nobody can take."""
    world.submit("nobody's", task_type="nobody", concurrency_key="k")
    world.set_policy(PausePolicy("work"))
    for name in ("a", "b"):
        world.join(name, labels={"zone": name}, capacity=3)
        for number in range(2):
            world.submit(f"{name}{number}", selectors=zone(name), concurrency_key=f"k{number}")
    world.submit("any", concurrency_key="k")
    resume(world, "work")
    assert {*world.running("a"), *world.running("b")} == {"a0", "a1", "b0", "b1", "any"}
    assert {"a0", "a1"} <= set(world.running("a"))


def test_agents_that_come_and_go_in_a_pause_find_nothing_until_it_ends(world):
    world.set_policy(PausePolicy("work"))
    for number in range(2):
        world.submit(f"task{number}", concurrency_key="k" if number else "")
    world.join("ann")
    world.lose("ann")
    world.join("bob", labels={"zone": "a"})
    world.join("cat", capacity=1)
    world.lose("bob")
    assert world.assignments() == []
    resume(world, "work")
    assert world.running("cat") == ["task0"]


def world_of_heavy():
    """An agent with two slots, of which the first runs something light."""
    world = CoreWorld()
    world.join("ann", ["heavy", "light"], capacity=2)
    world.submit("light0", task_type="light")
    return world


def test_no_agent_is_kept_for_a_heavy_task_that_is_paused():
    world = world_of_heavy()
    world.submit("light1", task_type="light")
    world.submit("heavy", task_type="heavy", slots=2, priority=4)
    world.submit("light2", task_type="light")
    world.finish("ann", "light1")
    assert (world.running("ann"), world.agent("ann").reserved) == (["light0"], 2)
    world.set_policy(PausePolicy("heavy"))
    assert (world.running("ann"), world.agent("ann").reserved) == (["light0", "light2"], 0)
    world.submit("light3", task_type="light")
    resume(world, "heavy")
    world.finish("ann", "light2")
    assert (world.running("ann"), world.agent("ann").reserved) == (["light0"], 2)
    world.finish("ann", "light0")
    assert world.running("ann") == ["heavy"]


@pytest.mark.parametrize("paused", ["heavy", ALL])
@pytest.mark.parametrize("key", ["", "k"])
def test_an_agent_is_kept_for_a_heavy_task_that_came_in_a_pause(paused, key):
    world = world_of_heavy()
    world.submit("light1", task_type="light")
    world.set_policy(PausePolicy(paused))
    world.submit("heavy", task_type="heavy", slots=2, priority=4, concurrency_key=key)
    world.submit("light2", task_type="light")
    resume(world, paused)
    world.finish("ann", "light1")
    assert (world.running("ann"), world.agent("ann").reserved) == (["light0"], 2)
    world.finish("ann", "light0")
    assert world.running("ann") == ["heavy"]


def test_a_key_that_was_paused_does_not_catch_up(world):
    """It was served nothing meanwhile; it goes on as an equal of those that were."""
    world.set_policy(WeightPolicy("b", 1.0))
    world.set_policy(PausePolicy("paused"))
    for number in range(200):
        world.submit(f"a{number}", task_type="paused", fairness_key="a")
        world.submit(f"b{number}", fairness_key="b")
        world.submit(f"c{number}", fairness_key="c")
    world.join("ann", ["paused", "work"], capacity=1)
    for _ in range(100):
        world.finish("ann", world.running("ann")[0])
    resume(world, "paused")
    served = ""
    for _ in range(60):
        world.finish("ann", world.running("ann")[0])
        served += world.running("ann")[0][0]
    for key in "abc":
        assert served.count(key) == pytest.approx(20, abs=1)
    assert served[:6].count("a") <= 3


# --- what is told ---


def test_a_task_says_which_pause_holds_it_up(world):
    world.submit("task", task_type="llm.chat")
    assert why(world, "task").kind is WaitKind.NO_CAPABLE_AGENT
    world.set_policy(PausePolicy("llm.*", "the provider is down"))
    reason = why(world, "task")
    assert (reason.kind, reason.message, reason.until_ms) == (WaitKind.PAUSED, "task type llm.* is paused: the provider is down", 0)
    assert "paused: the provider is down" in explain(world.scheduler, world.task("task")).summary
    resume(world, "llm.*")
    world.set_policy(PausePolicy(ALL))
    assert why(world, "task").message == "the namespace is paused"


@pytest.mark.parametrize("in_snapshot", [True, False])
def test_pauses_and_cordons_hold_over_a_restart(world, in_snapshot):
    for policy in (PausePolicy("work", "why", 3_600_000), PausePolicy(ALL), CordonPolicy("ann", "because")):
        world.set_policy(policy)
    if in_snapshot:
        world.begin_snapshot()
        world.advance(1)
        assert not world.go_on_with_snapshot(10)
    resume(world)
    known = dict(world.scheduler.state.policies)
    world.crash()
    assert world.scheduler.state.policies == known
    world.submit("task")
    world.submit("other", task_type="other")
    world.join("ann", ["work", "other"])
    world.join("bob", ["work", "other"])
    assert (world.running("ann"), world.running("bob")) == ([], ["other"])
