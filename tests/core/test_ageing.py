"""A ready task gets one priority more for each ageing period (G4), by one timer per queue."""

import pytest

from coordinator.core import ticks
from coordinator.core.explain import explain
from coordinator.core.model import Settings
from tests.support.core_world import FAILED, GIVEN_BACK, CoreWorld
from tests.support.oracle import AGE_SLOT_MS

PERIOD_S = 60.0


@pytest.fixture
def world():
    return CoreWorld(settings=Settings(ageing_period_s=PERIOD_S))


def levels(world):
    return {fifo.top.spec.task_id: fifo.level for lane in world.scheduler.ready.lanes.values() for fifo in lane.fifos() if fifo.rank()}


def test_one_priority_for_each_period_up_to_critical(world):
    world.submit("low", priority=1)
    seen = []
    for _ in range(5):
        seen.append(levels(world)["low"])
        world.advance(PERIOD_S)
        world.advance(AGE_SLOT_MS / 1000)
    assert seen == [1, 2, 3, 4, 4]


def test_not_a_moment_before_it_is_due(world):
    world.submit("low", priority=1)
    world.advance(PERIOD_S - 0.001)
    assert levels(world)["low"] == 1
    world.advance(0.001 + AGE_SLOT_MS / 1000)
    assert levels(world)["low"] == 2


def test_an_old_task_goes_before_a_young_one_of_higher_priority(world):
    world.join("agent", capacity=1)
    world.submit("running")
    world.submit("old", priority=1)
    world.advance(0, ticks=1)
    for _ in range(8):
        world.renew("agent", "running")
        world.advance(16)
    world.submit("young", priority=3)
    world.finish("agent", "running")
    assert world.running("agent") == ["old"], "it counts as HIGH by now, and is older"
    world.finish("agent", "old")
    assert world.running("agent") == ["young"]


def test_a_task_that_keeps_coming_behind_urgent_ones_waits_no_longer_than_it_takes_to_age():
    """Starvation: the agent is kept busy by HIGH tasks for ever, and a LOW one is served all the same, after two periods."""
    world = CoreWorld(settings=Settings(ageing_period_s=PERIOD_S, lease_s=1e9, ack_timeout_s=1e9))
    world.join("agent", capacity=1)
    world.submit("urgent0", priority=3)
    world.submit("low", priority=1)
    begun_s = world.mono_s
    number = 0
    while "low" not in world.running("agent"):
        number += 1
        world.submit(f"urgent{number}", priority=3)
        world.advance(1)
        world.finish("agent", world.running("agent")[0])
        assert number < 1000
    assert 2 * PERIOD_S <= world.mono_s - begun_s <= 2 * PERIOD_S + 2


def test_the_age_counts_from_the_first_time_that_it_was_ready(world):
    """As its place does: a retry loses neither."""
    world.join("agent", capacity=1)
    world.submit("task", priority=1)
    world.finish("agent", "task", FAILED)
    world.lose("agent")
    world.advance(PERIOD_S)
    world.advance(1)
    assert levels(world) == {"task": 2}


def test_the_age_survives_a_restart(world):
    world.submit("task", priority=1)
    world.advance(PERIOD_S + 1)
    world.crash()
    assert levels(world) == {"task": 2}


def test_an_old_head_that_comes_after_a_young_one_is_urgent_in_its_time(world):
    """After a restart tasks come by number, and one with a delay became ready later than those after it."""
    world.submit("young", priority=1, delay_s=30)
    world.submit("old", priority=1)
    world.advance(31)
    world.crash()
    world.advance(PERIOD_S - 31)
    world.advance(AGE_SLOT_MS / 1000)
    assert levels(world) == {"old": 2}


def test_zero_is_off():
    world = CoreWorld(settings=Settings(ageing_period_s=0))
    world.submit("low", priority=1)
    world.advance(10_000)
    assert levels(world) == {"low": 1}
    assert world.scheduler.next_due() == (None, None)


def test_one_timer_per_queue_whatever_waits_in_it(world):
    for number in range(100):
        world.submit(f"task{number}")
    wheel = world.scheduler.ages.wheel
    assert sum(map(len, wheel._slots.values())) == 1
    world.advance(PERIOD_S + 1)
    assert levels(world) == {"task0": 3}
    assert sum(map(len, wheel._slots.values())) == 1


def test_a_young_head_behind_an_old_one_is_not_urgent(world):
    world.submit("old", priority=2)
    world.advance(PERIOD_S / 2)
    world.submit("young", priority=2)
    world.advance(PERIOD_S / 2 + 1)
    world.cancel("old")
    assert levels(world) == {"young": 2}
    world.advance(PERIOD_S / 2 + 1)
    assert levels(world) == {"young": 3}, "its own step comes before the old one's next would have"


def test_a_tick_looks_at_so_many_queues_and_the_next_one_at_the_others(world, monkeypatch):
    monkeypatch.setattr(ticks, "MAX_AGED", 3)
    for number in range(8):
        world.submit(f"task{number}", task_type=f"type{number}")
    world.advance(PERIOD_S + 1)
    counts = [list(levels(world).values()).count(3)]
    while counts[-1] < 8:
        assert world.scheduler.next_due()[1] <= world.date_ms, "it is due at once"
        world.advance(0)
        counts.append(list(levels(world).values()).count(3))
    assert counts == [3, 6, 8]


def test_an_explanation_says_how_urgent_it_has_become(world):
    world.submit("task", priority=1)
    world.advance(PERIOD_S + 1)
    assert "it counts as NORMAL" in explain(world.scheduler, world.task("task")).summary
    world.advance(10 * PERIOD_S)
    assert "it counts as CRITICAL" in explain(world.scheduler, world.task("task")).summary


def test_an_aged_task_goes_before_what_has_long_waited_in_its_lane_with_a_higher_priority():
    world = CoreWorld(settings=Settings(ageing_period_s=PERIOD_S, lease_s=1e9, ack_timeout_s=1e9))
    world.join("agent", capacity=1)
    world.submit("running")
    world.submit("low", priority=1)
    world.advance(PERIOD_S)
    for number in range(5):
        world.submit(f"high{number}", priority=3)
    world.finish("agent", "running")
    world.advance(PERIOD_S - 1)
    world.advance(2)
    world.finish("agent", "high0")
    world.advance(3 * PERIOD_S)
    world.finish("agent", world.running("agent")[0])
    assert world.running("agent") == ["low"], "all are CRITICAL, and it is the oldest"


def test_a_returned_task_that_is_older_leads_its_lane_again():
    world = CoreWorld(settings=Settings(ageing_period_s=PERIOD_S, lease_s=1e9, ack_timeout_s=1e9))
    world.join("agent", capacity=1)
    world.submit("first")
    world.submit("low", priority=1)
    world.advance(PERIOD_S + 1)
    world.submit("third")
    world.finish("agent", "first", GIVEN_BACK)
    assert world.running("agent") == ["first"]
