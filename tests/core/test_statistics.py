"""What happened lately is counted by type and priority, in bounded memory; the invariants compare the counts with a look at all tasks."""

import pytest

from coordinator.core import statistics
from coordinator.core.statistics import (
    BUCKETS,
    CANCELLED,
    FAILED,
    INTERVAL_MS,
    RETRIED,
    RETURNED,
    SUBMITTED,
    Statistics,
    bucket_of,
    middle_ms,
    percentile_ms,
)
from tests.support.core_world import FAILED as BROKE
from tests.support.core_world import FAILED_FOR_GOOD, FIRST_DATE_MS, GIVEN_BACK, SUCCESS, CoreWorld, spec_of

MINUTE_MS = 60_000


@pytest.fixture
def world():
    world = CoreWorld()
    world.advance(0.001)
    return world


def row(world, task_type="work", priority=2):
    return world.scheduler.statistics.row(task_type, priority)


@pytest.mark.parametrize("time_ms", [0, 1, 15, 16, 17, 31, 32, 100, 999, 12_345, 65_535, 65_536, 10**7, 10**10])
def test_a_bucket_knows_its_times_closely(time_ms):
    assert abs(middle_ms(bucket_of(time_ms)) - time_ms) <= 0.0625 * time_ms


def test_buckets_grow_and_the_table_has_the_same():
    times = [*range(70_000), *(2**power for power in range(17, 50))]
    buckets = [bucket_of(time_ms) for time_ms in times]
    assert buckets == sorted(buckets)
    assert list(BUCKETS) == buckets[: len(BUCKETS)]
    assert bucket_of(-5) == 0


def test_percentiles_are_what_so_many_do_not_exceed():
    times = {}
    for time_ms in range(1, 1001):
        times[bucket_of(time_ms)] = times.get(bucket_of(time_ms), 0) + 1
    for share in (0.5, 0.9, 0.99):
        assert percentile_ms(times, share) == pytest.approx(1000 * share, rel=0.07)
    assert percentile_ms({}, 0.5) == 0
    assert percentile_ms({7: 1}, 0.99) == 7


def test_each_thing_is_counted_where_it_belongs(world):
    for name in ("done", "fails", "broke", "returned", "cancelled"):
        world.submit(spec_of(name))
    world.submit(spec_of("urgent", priority=4))
    world.advance(3)
    world.join("ann", ["work"], capacity=10)
    world.cancel("cancelled")
    world.advance(0.25)
    world.finish("ann", "done", SUCCESS)
    world.finish("ann", "fails", FAILED_FOR_GOOD)
    world.ready("ann", 0)
    world.finish("ann", "broke", BROKE)
    world.finish("ann", "returned", GIVEN_BACK)
    counted = row(world)
    assert [counted.counts[kind] for kind in (SUBMITTED, FAILED, CANCELLED, RETRIED, RETURNED)] == [5, 1, 0, 1, 3]
    assert counted.waits == {bucket_of(3000): 5}
    assert counted.runs == {bucket_of(250): 1}
    assert (counted.live(), counted.running(), counted.delayed) == (3, 1, 1)
    assert row(world, priority=4).counts[SUBMITTED] == 1


def test_a_restart_knows_what_is_live(world):
    world.join("ann", ["work"], capacity=1)
    world.submit(spec_of("runs"))
    world.submit(spec_of("waits"))
    world.crash()
    counted = row(world)
    assert (counted.live(), counted.running(), counted.counts[SUBMITTED]) == (2, 1, 0)


def test_intervals_become_minutes_and_go_after_an_hour(world):
    world.submit(spec_of("first"))
    world.advance(11)
    history = row(world).history
    assert [one.counts[SUBMITTED] for one in history.intervals] == [1]
    world.submit(spec_of("second"))
    world.advance(12, ticks=12)
    assert [one.counts[SUBMITTED] for one in history.intervals] == [1, 1]
    assert sum(one.counts[SUBMITTED] for one in history.minutes) == 2
    world.advance(70, ticks=70)
    assert list(history.intervals) == []
    assert sum(one.counts[SUBMITTED] for one in history.minutes) == 2
    world.advance(3700, ticks=370)
    assert row(world).history is None
    assert row(world).live() == 2, "it is still live"
    world.cancel("first")
    world.cancel("second")
    world.advance(5000, ticks=500)
    assert list(world.scheduler.statistics.rows()) == [], "nothing is left of what is over"
    assert not world.scheduler.statistics.types


def test_what_was_active_least_lately_is_added_to_the_rest(monkeypatch):
    monkeypatch.setattr(statistics, "MAX_HISTORIES", 3)
    counted = Statistics()
    counted.tick(FIRST_DATE_MS)
    for number in range(10):
        counted.row(f"type-{number}", 2).counts[SUBMITTED] += 1
        counted.row(f"type-{number}", 2).counts[CANCELLED] += 1
        counted.tick(FIRST_DATE_MS + (number + 1) * INTERVAL_MS)
    assert [row.key[0] for row in counted.kept()] == ["type-9", "type-8", "type-7"]
    assert sum(one.counts[SUBMITTED] for one in counted.rest.history.minutes) == 7
    assert sum(one.counts[SUBMITTED] for one in counted.total.minutes) == 10
    assert len(list(counted.rows())) == 3
    counted.row("type-7", 2).counts[SUBMITTED] += 1
    counted.tick(FIRST_DATE_MS + 11 * INTERVAL_MS)
    assert [row.key[0] for row in counted.kept()] == ["type-7", "type-9", "type-8"]


def test_a_tick_goes_over_so_many_rows_and_no_more(monkeypatch):
    monkeypatch.setattr(statistics, "MAX_LOOKED_AT", 10)
    counted = Statistics()
    counted.tick(FIRST_DATE_MS)
    for number in range(35):
        counted.row(f"type-{number}", 1).counts[SUBMITTED] += 1
    kept = []
    for _ in range(5):
        counted.tick(FIRST_DATE_MS + INTERVAL_MS)
        kept.append(len(counted.kept()))
    assert kept == [10, 20, 30, 35, 35]
    assert {one.start_ms for row in counted.kept() for one in row.history.intervals} == {FIRST_DATE_MS // INTERVAL_MS * INTERVAL_MS}


def test_a_row_that_comes_again_while_the_old_one_is_gone_over_stays():
    counted = Statistics()
    counted.tick(FIRST_DATE_MS)
    old = counted.row("a", 2)
    counted._forget(old)
    new = counted.row("a", 2)
    new.counts[SUBMITTED] += 1
    counted._look_at(old)
    assert counted.row("a", 2) is new


def test_a_window_is_a_little_longer_never_shorter():
    counted = Statistics()
    counted.tick(FIRST_DATE_MS)
    now_ms = FIRST_DATE_MS + 10 * 3_600_000 + 37_123
    for minutes in (1, 5, 60):
        step_ms = INTERVAL_MS if minutes == 1 else MINUTE_MS
        length_ms = now_ms - counted.window_start_ms(minutes=minutes, now_ms=now_ms)
        assert 0 <= length_ms - minutes * MINUTE_MS < step_ms
