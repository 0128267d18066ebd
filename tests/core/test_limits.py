"""Limits: at most so many of a key run, and at most so many begin in any period, whoever runs them, over restarts and changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.core.model import Settings
from coordinator.core.policies import ConcurrencyLimitPolicy, PolicyKind, PolicyName, RateLimitPolicy, WhenFull
from coordinator.core.rates import RateRule
from coordinator.core.submits import Refused, submit
from tests.support.core_world import FAILED, STOPPED, CoreWorld, spec_of


def at_most(number, key="k", when_full=WhenFull.WAIT):
    return ConcurrencyLimitPolicy(key, "", number, when_full)


def per_period(count, key="k", period_s=10.0):
    return RateLimitPolicy(key, "", count, round(period_s * 1000))


@pytest.fixture
def world():
    return CoreWorld()


def submit_many(world, count, prefix="t", **options):
    options = options or {"concurrency_key": "k"}
    return [world.submit(f"{prefix}{number}", **options) for number in range(count)]


# --- how many run ---


def test_so_many_of_a_key_run_on_all_agents_and_the_next_follows(world):
    world.set_policy(at_most(2))
    submit_many(world, 5)
    world.join("ann", capacity=1)
    world.join("bob")
    assert world.assignments() == [("t0", "ann"), ("t1", "bob")]
    world.finish("bob", "t1")
    assert world.assignments()[2:] == [("t2", "bob")]


def test_without_a_policy_a_key_limits_nothing(world):
    submit_many(world, 5, concurrency_key="k", rate_key="r")
    world.join("ann")
    assert len(world.running("ann")) == 5


def test_an_exhausted_key_delays_no_other(world):
    world.set_policy(at_most(1))
    submit_many(world, 100)
    world.submit("other", concurrency_key="other")
    world.submit("keyless", priority=1)
    world.join("ann")
    assert set(world.running("ann")) == {"t0", "other", "keyless"}


def test_a_head_that_nobody_can_take_uses_up_no_room(world):
    world.set_policy(at_most(1))
    world.submit("unserviceable", task_type="nobody", concurrency_key="k", priority=4)
    world.submit("full", task_type="full", concurrency_key="k", priority=4)
    world.join("busy", ["full"], capacity=1, limit=0)
    world.submit("served", concurrency_key="k")
    world.join("ann")
    assert world.running("ann") == ["served"]


def test_within_a_key_the_more_urgent_and_then_the_older_go_first(world):
    world.set_policy(at_most(1))
    for task_id, priority, task_type in [("low", 1, "work"), ("first", 2, "other"), ("second", 2, "work"), ("high", 3, "other")]:
        world.submit(task_id, task_type=task_type, priority=priority, concurrency_key="k")
    world.join("ann", ["work", "other"])
    for task_id in ("high", "first", "second", "low"):
        assert world.running("ann") == [task_id]
        world.finish("ann", task_id)


def test_a_prefix_limits_each_key_for_itself_and_the_best_pattern_holds(world):
    for pattern, number in [("*", 4), ("user:*", 2), ("user:vip*", 3), ("user:vip", 1)]:
        world.set_policy(at_most(number, pattern))
    for key in ("user:a", "user:b", "user:vip-1", "user:vip", "else"):
        submit_many(world, 5, prefix=key, concurrency_key=key)
    world.join("ann", capacity=100)
    running = world.running("ann")
    counts = {key: sum(task_id[:-1] == key for task_id in running) for key in ("user:a", "user:b", "user:vip-1", "user:vip", "else")}
    assert counts == {"user:a": 2, "user:b": 2, "user:vip-1": 3, "user:vip": 1, "else": 4}


def test_a_raised_limit_wakes_a_lowered_one_lets_finish_and_a_deleted_one_frees(world):
    world.set_policy(at_most(1))
    submit_many(world, 10)
    world.join("ann")
    world.set_policy(at_most(3))
    assert world.running("ann") == ["t0", "t1", "t2"]
    world.set_policy(at_most(1))
    world.finish("ann", "t0")
    world.finish("ann", "t1")
    assert world.running("ann") == ["t2"]
    world.finish("ann", "t2")
    assert world.running("ann") == ["t3"]
    assert world.delete_policy(PolicyName(PolicyKind.CONCURRENCY_LIMIT, "k"))
    assert len(world.running("ann")) == 7


@pytest.mark.parametrize("in_snapshot", [True, False])
def test_who_runs_counts_after_a_restart(world, in_snapshot):
    world.set_policy(at_most(2, "*"))
    submit_many(world, 5)
    world.join("ann")
    if in_snapshot:
        world.begin_snapshot()
        world.cancel("t4")
        while world.go_on_with_snapshot(2):
            pass
    world.crash()
    world.join("bob")
    assert world.running("bob") == []
    world.connect("ann", in_flight={"t0": world.task("t0").fence})  # it came back without t1
    assert [task_id for task_id, _ in world.assignments()[2:]] == ["t1"]
    world.finish("ann", "t0")
    assert [task_id for task_id, _ in world.assignments()[3:]] == ["t2"]


def test_a_retried_attempt_waits_for_the_key_again(world):
    world.set_policy(at_most(1))
    submit_many(world, 2)
    world.join("ann")
    world.finish("ann", "t0", FAILED)
    assert world.running("ann") == ["t1"]
    world.advance(5)
    assert world.running("ann") == ["t1"]
    world.finish("ann", "t1")
    assert world.running("ann") == ["t0"]


def test_a_type_is_limited_whatever_keys_its_tasks_have(world):
    submit_many(world, 6, fairness_key="f")
    world.submit("keyed", concurrency_key="k", fairness_key="f")
    world.join("ann", ["work", "other"], capacity=3)
    world.set_policy(ConcurrencyLimitPolicy("", "w*", 2))
    world.submit("other", task_type="other")
    world.finish("ann", "t0")
    world.finish("ann", "t1")
    assert world.running("ann") == ["t2", "other", "t3"]
    world.finish("ann", "t2")
    assert world.running("ann") == ["other", "t3", "t4"]
    world.set_policy(ConcurrencyLimitPolicy("", "work", 0))
    for task_id in ("t3", "t4"):
        world.finish("ann", task_id)
    assert world.running("ann") == ["other"]
    assert world.delete_policy(PolicyName(PolicyKind.CONCURRENCY_LIMIT, "task_type=work"))
    assert world.running("ann") == ["other", "t5", "keyed"]
    world.delete_policy(PolicyName(PolicyKind.CONCURRENCY_LIMIT, "task_type=w*"))
    world.crash()
    assert not world.scheduler.limits.types


# --- when full ---


def test_reject_refuses_what_would_be_too_much_in_one_batch_as_well(world):
    world.set_policy(at_most(2, when_full=WhenFull.REJECT))
    answers = [submit(world.scheduler, spec_of(f"t{number}", concurrency_key="k"), world.now) for number in range(4)]
    assert [answer is Refused.KEY_FULL for answer in answers] == [False, False, True, True]
    world.commit()
    assert submit(world.scheduler, spec_of("t1", concurrency_key="k"), world.now) is answers[1], "a known id is answered"
    world.join("ann")
    world.finish("ann", "t0")
    assert submit(world.scheduler, spec_of("t4", concurrency_key="k"), world.now) is not Refused.KEY_FULL
    world.set_policy(at_most(0, "none", when_full=WhenFull.REJECT))
    assert submit(world.scheduler, spec_of("t5", concurrency_key="none"), world.now) is Refused.KEY_FULL


def test_cancel_oldest_makes_room_once_the_oldest_has_stopped(world):
    world.set_policy(at_most(1, when_full=WhenFull.CANCEL_OLDEST))
    world.join("ann")
    world.submit("old", concurrency_key="k")
    world.submit("new", concurrency_key="k")
    assert world.running("ann") == ["old"]
    assert "task new took its place" in world.task("old").cancel_reason
    world.submit("newer", concurrency_key="k")
    assert world.task("new").ended_ms, "it waited, and was the oldest that wasn't being cancelled"
    world.finish("ann", "old", STOPPED)
    assert world.running("ann") == ["newer"]
    world.submit("newer", concurrency_key="k")
    assert world.task("newer").cancel_reason is None, "sent again, it doesn't replace itself"


# --- how many begin ---


def begun(world, key="k"):
    return len(world.assignments())


def test_so_many_begin_in_any_window(world):
    world.set_policy(per_period(3))
    submit_many(world, 9, rate_key="k")
    world.join("ann")
    assert begun(world) == 3
    world.advance(4)
    for task_id in list(world.running("ann")):
        world.finish("ann", task_id)
    assert begun(world) == 3, "what has ended has begun all the same"
    world.advance(5.9, ticks=60)
    assert begun(world) == 3
    world.advance(0.2, ticks=4)
    assert begun(world) == 6


def test_a_retry_is_a_start(world):
    world.set_policy(per_period(2))
    submit_many(world, 2, rate_key="k")
    world.join("ann")
    world.finish("ann", "t0", FAILED)
    world.advance(3, ticks=10)
    assert begun(world) == 2
    world.advance(7.1, ticks=10)
    assert begun(world) == 3


@pytest.mark.parametrize("in_snapshot", [True, False])
def test_what_began_counts_after_a_restart(world, in_snapshot):
    world.set_policy(per_period(3, "*"))
    world.set_policy(RateLimitPolicy("", "work", 3, 20_000))
    submit_many(world, 9, rate_key="k")
    world.join("ann")
    for task_id in list(world.running("ann")):
        world.finish("ann", task_id)
    world.advance(5)
    if in_snapshot:
        world.begin_snapshot()
        while world.go_on_with_snapshot(10):
            pass
    world.crash()
    world.join("bob")
    assert begun(world) == 3
    world.advance(5.1, ticks=5)
    assert begun(world) == 3, "the type's period isn't over"
    world.advance(10, ticks=10)
    assert begun(world) == 6


def test_changes_of_a_rate_hold_at_once_and_count_what_began(world):
    world.set_policy(per_period(1))
    submit_many(world, 9, rate_key="k")
    world.join("ann")
    world.set_policy(per_period(3))
    assert begun(world) == 3
    world.set_policy(per_period(2))
    world.advance(9, ticks=9)
    assert begun(world) == 3
    world.advance(1.1, ticks=5)
    assert begun(world) == 5
    assert world.delete_policy(PolicyName(PolicyKind.RATE_LIMIT, "k"))
    assert begun(world) == 9


def test_a_type_has_a_rate_too(world):
    world.set_policy(RateLimitPolicy("", "work", 2, 10_000))
    submit_many(world, 5, fairness_key="f")
    world.submit("other", task_type="other", fairness_key="f")
    world.join("ann", ["work", "other"])
    assert begun(world) == 3
    assert world.delete_policy(PolicyName(PolicyKind.RATE_LIMIT, "task_type=work"))
    assert begun(world) == 6


def test_what_was_sent_after_an_outage_counts_from_then(world):
    world.set_policy(per_period(2))
    submit_many(world, 4, rate_key="k")
    world.join("ann")
    before_ms = world.date_ms
    world.date_ms += 15_000
    world.scheduler.limits.postpone(before_ms, world.date_ms)
    world.advance(0.1, ticks=2)
    assert begun(world) == 2
    world.advance(10, ticks=10)
    assert begun(world) == 4


def test_both_keys_hold_and_neither_starves_the_other(world):
    world.set_policy(at_most(1, "user:*"))
    world.set_policy(per_period(2, "api"))
    for user in "ab":
        submit_many(world, 2, prefix=user, concurrency_key=f"user:{user}", rate_key="api")
    world.join("ann")
    assert world.running("ann") == ["a0", "b0"]
    world.finish("ann", "a0")
    world.advance(10.1, ticks=5)
    assert world.running("ann") == ["b0", "a1"]
    world.finish("ann", "b0")
    assert world.running("ann") == ["a1", "b1"]


# --- where agents come and go ---


def test_limited_tasks_follow_their_lanes_as_classes_come_and_go(world):
    world.set_policy(at_most(1))
    for number in range(3):
        world.submit(f"a{number}", task_type="a", concurrency_key="k")
        world.submit(f"b{number}", task_type="b", concurrency_key="k")
    world.join("ann", ["a"])
    world.join("bob", ["b"])
    world.join("cai", ["a", "b"])
    done = []
    for lost in ("ann", "bob", "cai", None, None, None):
        [(task_id, agent)] = [world.assignments()[-1]]
        world.finish(agent, task_id)
        done.append(task_id)
        if lost and world.running(lost) == []:
            world.lose(lost)
            world.join(lost, ["a"] if lost == "ann" else ["b"])
    assert done == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_heavy_tasks_of_a_key_wait_for_its_slots_and_for_the_key(world):
    world.set_policy(at_most(1))
    world.join("ann", capacity=3)
    world.submit("one", concurrency_key="k", slots=3)
    world.submit("two", concurrency_key="k", slots=3, priority=4)
    world.submit("light", concurrency_key="k", slots=1)
    for task_id in ("one", "two", "light"):
        assert world.running("ann") == [task_id]
        world.finish("ann", task_id)
    assert not world.scheduler.reserved


def test_nothing_stays_behind(world):
    world.set_policy(at_most(1, "*"))
    world.set_policy(per_period(1, "*", period_s=0.1))
    for number in range(50):
        world.submit(f"t{number}", task_type=f"type{number}", concurrency_key=f"c{number}", rate_key=f"r{number}")
    world.join("ann", [f"type{number}" for number in range(50)], capacity=50)
    for task_id in list(world.running("ann")):
        world.finish("ann", task_id)
    limits = world.scheduler.limits
    assert not any(map(len, (limits.keys, limits.rate_keys, limits.types, limits.type_rates)))
    assert all(not lane.pool.groups and not lane.pool.stands for lane in world.scheduler.ready.lanes.values() if lane.pool)
    world.advance(1)
    world.submit("last", concurrency_key="c", rate_key="r")
    world.join("bob")
    rule = world.scheduler.state.rates.keys["*"]
    assert len(rule.logs) <= 50, "logs that are over go, some with each start"


@given(
    count=st.sampled_from([1, 2, 129, 400]),
    gaps=st.lists(st.integers(0, 40), min_size=1, max_size=80),
    period_ms=st.sampled_from([1, 100, 1000]),
)
def test_no_window_has_more_starts_than_the_limit_says(count, gaps, period_ms):
    """Whenever the log has room, as many begin as it lets."""
    policy = RateLimitPolicy("k", "", count, period_ms)
    rule, starts, date_ms = RateRule(policy), [], 1_000_000
    for gap in gaps:
        date_ms += gap
        log = rule.logs.get("k")
        free = count - (log.used_at(date_ms, policy) if log is not None else 0)
        assert free > 0 or log.free_at(policy) > date_ms
        for _ in range(min(free, 150)):
            rule.note("k", date_ms)
            starts.append(date_ms)
    for first in set(starts):
        assert sum(first <= start < first + period_ms for start in starts) <= count


def test_a_start_within_a_slot_counts_for_a_whole_period_all_the_same():
    policy = RateLimitPolicy("k", "", 129, 12_800)
    rule = RateRule(policy)
    for _ in range(129):
        rule.note("k", 1_000_050)
    assert rule.logs["k"].starts == ((1_000_099, 129),), "slots of a 128th of the period"
    assert rule.logs["k"].used_at(1_012_849, policy) == 129
    assert rule.logs["k"].free_at(policy) == 1_012_899


def test_a_limited_task_that_has_aged_goes_before_younger_ones_of_other_keys():
    world = CoreWorld(settings=Settings(ageing_period_s=20))
    world.set_policy(at_most(1, "*"))
    world.submit("busy", priority=4)
    world.join("ann", capacity=1)
    world.submit("old", concurrency_key="k1", priority=1)
    world.advance(15, ticks=15)
    world.submit("young", concurrency_key="k2", priority=2)
    world.advance(6, ticks=6)
    world.finish("ann", "busy")
    assert world.running("ann") == ["old"]


def test_a_snapshot_that_met_the_newest_first_knows_the_oldest(world):
    world.set_policy(at_most(3, when_full=WhenFull.CANCEL_OLDEST))
    submit_many(world, 2)
    world.submit("t2", concurrency_key="k", priority=4)
    world.begin_snapshot()
    world.join("ann", capacity=1)
    assert world.running("ann") == ["t2"]
    while world.go_on_with_snapshot(1):
        pass
    world.crash()
    world.submit("new", concurrency_key="k")
    assert [number for number in range(3) if world.task(f"t{number}").cancel_reason is not None] == [0]


def test_what_comes_back_as_its_lane_gets_another_agent_is_not_forgotten(world):
    """It came back to a pool of two lanes, and its own lane has left that pool before anybody looked."""
    world.join("ann", ["a", "b"], capacity=1)
    world.submit("busy", task_type="a", rate_key="r")
    world.join("bob", ["a", "b"])
    world.submit("back", task_type="b", rate_key="r")
    assert world.running("bob") == ["back"]
    world.finish("ann", "busy")
    world.lose("bob")
    world.connect("bob", ["b"], nonce="second")  # holds nothing, and takes nothing yet
    assert world.running("ann") == ["back"]
