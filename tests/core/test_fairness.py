"""Fairness keys share by weight (G4), whatever each has waiting, and over all lanes."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.core import fairness
from coordinator.core.model import Capability, Settings, ShareBy
from coordinator.core.placement import place
from coordinator.core.reports import Success
from tests.support.core_world import CoreWorld


def world_of(share_by=ShareBy.COST, **weights):
    return CoreWorld(settings=Settings(share_by=share_by, weights=weights, ageing_period_s=0))


def backlog(world, key, tasks, *, task_type="work", cost=0.0):
    for number in range(tasks):
        world.submit(f"{key}-{task_type}-{number}", task_type=task_type, fairness_key=key, cost=cost)


def serve(world, tasks, *, agent="agent", cost_of=lambda _: 0.0, seconds_of=None):
    """The agent finishes the first that it runs, again and again. Answers what each key has had: tasks, and cost."""
    had, spent = {}, {}
    for _ in range(tasks):
        task_id = world.running(agent)[0]
        key = task_id.split("-")[0]
        if seconds_of:
            world.mono_s += seconds_of(key)
        cost = cost_of(key)
        had[key] = had.get(key, 0) + 1
        spent[key] = spent.get(key, 0) + (cost or (seconds_of(key) if seconds_of else 1))
        assert world.finish(agent, task_id, Success(b"", (), cost)).name == "ACCEPTED"
    return had, spent


def test_keys_take_turns_however_much_each_has_waiting():
    world = world_of()
    backlog(world, "many", 100)
    backlog(world, "few", 10)
    world.join("agent", capacity=1)
    had, _ = serve(world, 20)
    assert had == {"many": 10, "few": 10}


def test_weights_are_shares():
    world = world_of(a=3.0, b=1.0)
    backlog(world, "a", 100)
    backlog(world, "b", 100)
    world.join("agent", capacity=1)
    had, _ = serve(world, 80)
    assert had == {"a": 60, "b": 20}


def test_a_weight_can_change_while_tasks_wait():
    world = world_of(a=3.0)
    backlog(world, "a", 200)
    backlog(world, "b", 200)
    world.join("agent", capacity=1)
    serve(world, 40)
    world.scheduler.fairness.set_weight("a", 1.0)
    had, _ = serve(world, 100)
    assert abs(had["a"] - had["b"]) <= 1


def test_tasks_without_a_key_share_as_one_key():
    world = world_of()
    backlog(world, "x", 50)
    for number in range(50):
        world.submit(f"-{number}")
    world.join("agent", capacity=1)
    had, _ = serve(world, 40)
    assert had == {"": 20, "x": 20}


def test_shares_count_over_all_lanes():
    """Key a has tasks of two types, key b of one: a gets no more for that."""
    world = world_of()
    backlog(world, "a", 100, task_type="t1")
    backlog(world, "a", 100, task_type="t2")
    backlog(world, "b", 100, task_type="t1")
    world.join("agent", ["t1", "t2"], capacity=1)
    had, _ = serve(world, 100)
    assert had == {"a": 50, "b": 50}


def test_a_key_saves_nothing_up_while_it_is_idle():
    world = world_of()
    backlog(world, "busy", 300)
    backlog(world, "other", 50)
    world.join("agent", capacity=1)
    serve(world, 101)  # the other is through, and long gone
    backlog(world, "late", 100)
    had, _ = serve(world, 60)
    assert abs(had["late"] - had["busy"]) <= 2


def test_a_key_that_comes_back_goes_behind_one_that_came_before_it():
    world = world_of()
    backlog(world, "a", 1)
    backlog(world, "b", 6)
    world.join("agent", capacity=1)
    serve(world, 3)
    world.submit("c-0", fairness_key="c")
    world.submit("a-later", fairness_key="a")
    world.finish("agent", world.running("agent")[0])
    assert world.running("agent") == ["c-0"]


def test_nor_in_a_lane_that_was_empty():
    world = world_of()
    backlog(world, "a", 200, task_type="t1")
    backlog(world, "b", 200, task_type="t1")
    world.join("agent", ["t1", "t2"], capacity=1)
    serve(world, 100)
    backlog(world, "late", 100, task_type="t2")
    had, _ = serve(world, 60)
    assert abs(had["late"] - 20) <= 2


def test_a_new_key_does_not_wait_for_what_other_agents_do():
    """One type is served ten times as fast as the other: whoever comes new to the slow one gets its share there at once."""
    world = world_of()
    for key in ("a", "b"):
        backlog(world, key, 300, task_type="fast")
    for key in ("c", "d"):
        backlog(world, key, 100, task_type="slow")
    world.join("quick", ["fast"], capacity=1)
    world.join("agent", ["slow"], capacity=1)
    serve(world, 300, agent="quick")
    serve(world, 30)
    backlog(world, "late", 100, task_type="slow")
    had, _ = serve(world, 30)
    assert abs(had["late"] - 10) <= 1


def test_a_key_saves_nothing_up_elsewhere_for_agents_that_are_new_to_a_lane():
    """A class that has served nothing yet says nothing about where a lane is: the lane says it."""
    world = world_of()
    for key in ("a", "b"):
        backlog(world, key, 300, task_type="t1")
    world.join("quick", ["t1"], capacity=1)
    serve(world, 200, agent="quick")
    backlog(world, "late", 10, task_type="nobody-does-this")  # it is in use, and has had nothing
    backlog(world, "late", 100, task_type="t1")
    world.join("agent", ["t1"], labels={"zone": "eu"}, capacity=1)
    had, _ = serve(world, 60)
    assert abs(had["late"] - 20) <= 1


def test_what_a_key_has_had_is_not_forgotten_when_it_pauses():
    """Else it would be served at once whenever it submits one task at a time."""
    world = world_of()
    backlog(world, "a", 200)
    world.join("agent", capacity=1)
    serve(world, 3)
    served = 0
    for number in range(40):
        backlog(world, "sly", 0)
        world.submit(f"sly-{number}", fairness_key="sly", cost=10)
        had, _ = serve(world, 5)
        served += had.get("sly", 0)
    assert served <= 200 / 10


@pytest.mark.parametrize("share_by", [ShareBy.TASKS, ShareBy.COST])
def test_shares_are_within_5_percent_over_10_000_tasks_at_saturation(share_by):
    weights = {"a": 1.0, "b": 2.0, "c": 5.0, "d": 12.0}
    costs = {"a": 4.0, "b": 1.0, "c": 0.5, "d": 2.0}
    world = CoreWorld(settings=Settings(share_by=share_by, weights=weights, ageing_period_s=0))
    world.commit = lambda: fast_commit(world)
    rng = random.Random(7)
    world.join("agent", ["t1", "t2"], capacity=8)
    numbers = dict.fromkeys(weights, 0)

    def top_up(key):
        numbers[key] += 1
        world.submit(f"{key}-{numbers[key]}", task_type=rng.choice(["t1", "t2"]), fairness_key=key, cost=costs[key])

    for key in weights:
        for _ in range(60):
            top_up(key)
    had = dict.fromkeys(weights, 0.0)
    for _ in range(10_000):
        task_id = rng.choice(world.running("agent"))
        key = task_id.split("-")[0]
        world.finish("agent", task_id, Success(b""))
        world.scheduler.state.settle(world.task(task_id))
        had[key] += 1 if share_by is ShareBy.TASKS else costs[key]
        top_up(key)
    total = sum(had.values())
    for key, weight in weights.items():
        assert had[key] / total == pytest.approx(weight / sum(weights.values()), rel=0.05), had


def fast_commit(world):
    """Without checking and journalling everything: ten thousand tasks are many."""
    place(world.scheduler, world.now)
    world.scheduler.take()


def test_a_cost_is_corrected_by_what_the_agent_reports():
    world = world_of()
    backlog(world, "dear", 300)
    backlog(world, "cheap", 300)
    world.join("agent", capacity=2)
    _, spent = serve(world, 300, cost_of=lambda key: 8.0 if key == "dear" else 0.5)
    assert spent["dear"] == pytest.approx(spent["cheap"], rel=0.15)


def test_a_cost_that_was_estimated_too_high_is_given_back():
    world = world_of()
    backlog(world, "careful", 300, cost=10.0)
    backlog(world, "exact", 300)
    world.join("agent", capacity=2)
    _, spent = serve(world, 200, cost_of=lambda _: 1.0)
    assert spent["careful"] == pytest.approx(spent["exact"], rel=0.15)


def test_seconds_are_measured_where_nobody_reports_them():
    world = world_of(ShareBy.SECONDS)
    backlog(world, "slow", 300)
    backlog(world, "quick", 300)
    world.join("agent", capacity=1)
    _, spent = serve(world, 200, seconds_of=lambda key: 6.0 if key == "slow" else 1.0)
    assert spent["slow"] == pytest.approx(spent["quick"], rel=0.1)


def test_a_cost_counts_for_nothing_where_tasks_are_shared():
    world = world_of(ShareBy.TASKS)
    backlog(world, "a", 50, cost=100.0)
    backlog(world, "b", 50)
    world.join("agent", capacity=1)
    had, _ = serve(world, 40, cost_of=lambda _: 5.0)
    assert had == {"a": 20, "b": 20}


def test_keys_that_are_gone_are_forgotten():
    world = world_of()
    world.commit = lambda: fast_commit(world)
    world.join("agent", capacity=1)
    for number in range(2 * fairness.MAX_IDLE):
        backlog(world, f"key{number}", 1)
        serve(world, 1)
    race = world.scheduler.fairness.races[2]
    assert len(race.shares) == len(race._idle) <= fairness.MAX_IDLE
    for number in range(fairness.MAX_IDLE * 3):
        world.submit(f"-{number}")
        serve(world, 1)
    assert not race.shares, "whoever uses no keys pays for none"


def test_without_keys_nothing_is_counted():
    world = world_of()
    world.join("agent", capacity=1)
    for number in range(10):
        world.submit(f"-{number}")
    serve(world, 10)
    race = world.scheduler.fairness.races[2]
    assert (race.shares, race.keyless.virtual) == ({}, 0.0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["submit", "submit", "finish", "cancel"]),
            st.sampled_from("abc"),
            st.sampled_from([0.0, 0.5, 3.0]),
            st.integers(0, 99),
        ),
        max_size=80,
    ),
    st.fixed_dictionaries({}, optional={"a": st.just(2.0), "b": st.just(0.5)}),
    st.integers(1, 2),
)
def test_the_next_one_is_whom_a_naive_model_says(operations, weights, capacity):
    """One lane, one priority. The model keeps a list of what waits, and a number per key."""
    world = world_of(**weights)
    world.join("agent", capacity=capacity)
    world.submit("other", task_type="never", fairness_key="z")  # so that there is always a key beside those that are served
    virtual, start, credit = {}, 0.0, {}
    waiting, running, estimate = [], {}, {}

    def assign():
        nonlocal start
        while waiting and len(running) < capacity:
            chosen = min(waiting, key=lambda each: (virtual[each[1]], each[0]))
            waiting.remove(chosen)
            number, key, cost = chosen
            start = virtual[key] = max(virtual[key], start)
            estimate[number] = cost or 1.0
            charge(key, cost or 1.0)
            running[number] = key

    def charge(key, cost):
        free = min(credit.get(key, 0.0), cost)
        credit[key] = credit.get(key, 0.0) - free
        virtual[key] += (cost - free) / weights.get(key, 1.0)

    def is_idle(key):
        return key not in running.values() and all(each[1] != key for each in waiting)

    for number, (operation, key, cost, pick) in enumerate(operations):
        if operation == "submit":
            if is_idle(key):
                virtual[key] = max(virtual.get(key, 0.0), start)
            waiting.append((number, key, cost))
            world.submit(f"{number}", fairness_key=key, cost=cost)
        elif operation == "finish" and running:
            done = sorted(running)[pick % len(running)]
            finished = running.pop(done)
            if cost > estimate[done]:
                charge(finished, cost - estimate[done])
            elif cost:
                credit[finished] = credit.get(finished, 0.0) + estimate[done] - cost
            world.finish("agent", f"{done}", Success(b"", (), cost))
        elif operation == "cancel" and waiting:
            gone = waiting.pop(pick % len(waiting))
            world.cancel(f"{gone[0]}")
        assign()
        assert sorted(world.running("agent")) == sorted(map(str, running)), (virtual, waiting)


def test_a_hundred_thousand_keys_are_not_scanned():
    """A submit and a finish look at a handful of entries, whatever waits."""
    world = world_of()
    world.commit = lambda: fast_commit(world)
    world.join("agent", {"work": Capability()}, capacity=1)
    for number in range(20_000):
        world.submit(f"key{number}-0", fairness_key=f"key{number}")
    lane = world.scheduler.ready.lanes["work"]
    looks = lane._best.looks
    serve(world, 1000)
    assert lane._best.looks - looks < 8000
