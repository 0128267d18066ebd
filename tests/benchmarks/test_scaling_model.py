"""The model of several coordinators over one store: where its limits lie."""

import pytest

from benchmarks.scaling_model import StoreCosts, simulate

CORE_S = 25e-6  # a task, on a coordinator's core: 40,000 a second
STORE = StoreCosts(task_s=8e-6, commit_s=50e-6, flush_s=100e-6)


def rate(store: StoreCosts, coordinators: int) -> float:
    return simulate(store, coordinator_task_s=CORE_S, coordinators=coordinators).tasks_per_s


def test_one_coordinator_does_what_its_core_can():
    alone = simulate(STORE, coordinator_task_s=CORE_S, coordinators=1)
    assert alone.tasks_per_s == pytest.approx(40_000, rel=0.02)
    assert alone.first_limit == "the coordinators' cores"


def test_two_do_twice_as_much():
    assert rate(STORE, 2) == pytest.approx(80_000, rel=0.05)


def test_many_are_held_up_by_the_stores_thread():
    many = simulate(STORE, coordinator_task_s=CORE_S, coordinators=16)
    assert 100_000 < many.tasks_per_s < 1 / STORE.task_s
    assert many.first_limit == "the store's thread"
    assert many.coordinator_busy < 0.5


def test_commits_that_arrive_together_share_a_flush():
    slow_disk = StoreCosts(task_s=1e-6, commit_s=1e-6, flush_s=2e-3)
    assert rate(slow_disk, 4) == pytest.approx(4 * rate(slow_disk, 1), rel=0.1)
    slow_commits = StoreCosts(task_s=1e-6, commit_s=30e-3, flush_s=1e-6)
    assert rate(slow_commits, 4) < 1.5 * rate(slow_commits, 1)


def test_a_model_without_coordinators_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        rate(STORE, 0)
