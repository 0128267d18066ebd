"""What the garbage collector must look at stays bounded, and what it was spared is looked at in the end."""

import gc
import weakref

import pytest

from coordinator.collector import FULL_S, PERIOD_S, YOUNG_TASKS, Collector


class Tasks:
    live = submitted = 0

    def __call__(self):
        return self.live, self.submitted

    def come(self, count):
        self.live += count
        self.submitted += count


@pytest.fixture
def calls(monkeypatch):
    """What was asked of `gc`, in order."""
    asked = []
    for name in ("freeze", "unfreeze", "collect", "enable"):
        monkeypatch.setattr(gc, name, lambda *arguments, name=name: asked.append((name, *arguments)))
    return asked


AWAY = [("collect",), ("freeze",)]


def test_tasks_that_came_are_put_away_once_there_are_many(calls):
    tasks = Tasks()
    collector = Collector(count=tasks)
    collector.begin()
    assert calls == [("freeze",), ("enable",)], "what was recovered needs no look"
    calls.clear()
    tasks.come(YOUNG_TASKS)
    collector.look()
    assert calls == []
    tasks.come(1)
    collector.look()
    assert calls == AWAY
    collector.look()
    assert calls == AWAY


def test_so_are_those_of_a_queue_that_stays_as_deep_as_it_is(calls):
    tasks = Tasks()
    tasks.come(10 * YOUNG_TASKS)
    collector = Collector(count=tasks)
    collector.begin()
    calls.clear()
    tasks.come(YOUNG_TASKS + 1)
    tasks.live -= YOUNG_TASKS + 1
    collector.look()
    assert calls == AWAY


def test_a_short_queue_is_left_to_the_collector_however_much_passes(calls):
    tasks = Tasks()
    collector = Collector(count=tasks)
    collector.begin()
    calls.clear()
    for _ in range(100):
        tasks.come(YOUNG_TASKS)
        tasks.live = 1000
        collector.look()
    assert calls == []


def test_everything_in_sight_is_looked_at_once_a_minute(calls):
    tasks = Tasks()
    collector = Collector(count=tasks)
    collector.begin()
    calls.clear()
    for _ in range(round(3 * FULL_S / PERIOD_S)):
        collector.look()
    assert calls == [("collect",)] * 3


def test_not_sooner_after_it_was_looked_at_for_another_reason(calls):
    tasks = Tasks()
    collector = Collector(count=tasks)
    collector.begin()
    calls.clear()
    for _ in range(round(FULL_S / PERIOD_S) - 1):
        collector.look()
    tasks.come(YOUNG_TASKS + 1)
    collector.look()
    assert calls == AWAY
    for _ in range(round(FULL_S / PERIOD_S) - 1):
        collector.look()
    assert calls == AWAY


def test_a_cycle_that_outlived_its_youth_is_found_within_a_minute():
    class Knot:
        pass

    collector = Collector(count=Tasks())
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        knot = Knot()
        knot.itself = knot
        gone = weakref.ref(knot)
        gc.collect(1)  # it is in use, and old now
        del knot
        gc.collect(1)
        assert gone() is not None
        for _ in range(round(FULL_S / PERIOD_S)):
            collector.look()
        assert gone() is None
    finally:
        (gc.enable if was_enabled else gc.disable)()


def test_a_shard_that_was_recovered_again_counts_from_the_start(calls):
    tasks = Tasks()
    tasks.come(10 * YOUNG_TASKS)
    collector = Collector(count=tasks)
    collector.begin()
    calls.clear()
    tasks.live, tasks.submitted = 12 * YOUNG_TASKS, 0
    collector.look()
    assert calls == AWAY


def test_everything_is_looked_at_once_most_tasks_have_gone(calls):
    tasks = Tasks()
    tasks.come(10 * YOUNG_TASKS)
    collector = Collector(count=tasks)
    collector.begin()
    calls.clear()
    tasks.live = YOUNG_TASKS - 1
    for _ in range(3):
        collector.look()
    assert calls == [("unfreeze",), ("collect",), ("freeze",)]


def test_a_cycle_that_was_put_away_alive_is_found_in_the_end():
    class Knot:
        pass

    tasks = Tasks()
    collector = Collector(count=tasks)
    was_enabled = gc.isenabled()
    try:
        knot = Knot()
        knot.itself = knot
        gone = weakref.ref(knot)
        tasks.come(10 * YOUNG_TASKS)
        collector.look()
        del knot
        gc.collect()
        assert gone() is not None
        tasks.live = 0
        collector.look()
        assert gone() is None
    finally:
        gc.unfreeze()
        (gc.enable if was_enabled else gc.disable)()
