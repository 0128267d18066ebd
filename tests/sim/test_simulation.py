"""Whatever happens, in whatever order: what was acknowledged is durable, and every task has exactly one outcome.

A failing seed is named in the failure; `Simulation(seed=...).run()` repeats it exactly.
"""

import logging
from collections import Counter

import pytest

from coordinator.core import pauses, ticks
from coordinator.engine import commits
from tests.sim.simulation import Simulation

BATCHES = 9
SEEDS = 30  # per batch
HAPPENINGS = [
    "agent died",
    "agent fell ill",
    "agent frozen",
    "answer lost",
    "began at a snapshot",
    "cancel",
    "compared",
    "coordinator killed",
    "cordon answered",
    "date step",
    "delay ended",
    "fenced",
    "given up: DEADLINE",
    "given up: QUEUE_TIMEOUT",
    "journal trimmed",
    "namespace created anew",
    "namespace deleted",
    "namespace deleted with attempts under way",
    "namespace purged",
    "operation repeated",
    "outage",
    "pause answered",
    "probe",
    "probe failed",
    "probe succeeded",
    "purge",
    "redrive",
    "reprioritise",
    "result of a deleted namespace",
    "session broken",
    "snapshot cut short",
    "snapshot taken",
    "split",
    "stale result",
    "stopped at its deadline",
    "stream broken",
    "tolerated",
    "webhook deleted with its namespace",
    "webhook delivered",
    "webhook failed",
    "webhook gone",
    "webhook retried",
    "webhook unreachable",
    "webhooks due",
]


@pytest.fixture(autouse=True)
def quiet(caplog):
    """Thousands of outages and takeovers would be logged."""
    caplog.set_level(logging.CRITICAL, logger="coordinator")


@pytest.mark.parametrize("batch", range(BATCHES))
def test_the_guarantees_hold_whatever_happens(batch):
    counts = Counter()
    for seed in range(batch * SEEDS, (batch + 1) * SEEDS):
        simulation = Simulation(seed=seed)
        simulation.run()
        counts += simulation.counts
    print(dict(counts))
    assert set(HAPPENINGS) <= set(counts), "some of it never happened: the simulation tests less than it says"


def test_they_hold_when_nearly_every_commit_is_cut(monkeypatch, rng):
    monkeypatch.setattr(commits, "MAX_COMMIT_BYTES", 1200)  # two ends of tasks
    monkeypatch.setattr(commits, "MAX_COMMIT_EVENTS", 3)
    monkeypatch.setattr(commits, "MAX_WAITING_BYTES", 5000)
    for _ in range(SEEDS):
        Simulation(seed=rng.getrandbits(32)).run()


def test_they_hold_when_pauses_go_bit_by_bit(monkeypatch, rng):
    begun = []
    monkeypatch.setattr(pauses, "MAX_MOVED", 1)
    monkeypatch.setattr(ticks, "move", lambda scheduler: (begun.append(scheduler), pauses.move(scheduler)))
    for _ in range(SEEDS):
        Simulation(seed=rng.getrandbits(32)).run()
    assert len(begun) > SEEDS, "no pause took several steps"


def test_they_hold_for_seeds_that_nobody_tried_before(rng):
    for _ in range(SEEDS):
        Simulation(seed=rng.getrandbits(32)).run()


def test_the_same_seed_is_the_same_history(seed):
    histories = {Simulation(seed=seed).run() for _ in range(3)}
    assert len(histories) == 1
    assert Simulation(seed=seed + 1).run() not in histories


def test_a_failure_names_its_seed(monkeypatch):
    simulation = Simulation(seed=5)

    def broken(*_):
        raise AssertionError("broken on purpose")

    monkeypatch.setattr(simulation.auditor, "released", broken)
    with pytest.raises(AssertionError, match="broken on purpose") as caught:
        simulation.run()
    assert "seed 5" in caught.value.__notes__[0]
