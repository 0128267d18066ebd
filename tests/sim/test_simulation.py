"""Whatever happens, in whatever order: what was acknowledged is durable, and every task has exactly one outcome.

A failing seed is named in the failure; `Simulation(seed=...).run()` repeats it exactly.
"""

from collections import Counter

import pytest

from tests.sim.simulation import Simulation

BATCH = 30
BATCHES = 10


@pytest.mark.parametrize("batch", range(BATCHES))
def test_the_guarantees_hold(batch, seed):
    counts = Counter()
    for offset in range(BATCH):
        simulation = Simulation(seed=seed + batch * BATCH + offset)
        simulation.run()
        counts += simulation.counts
    print(dict(counts))
    for what in ("coordinator killed", "split", "fenced", "outage", "answer lost", "agent died", "stream broken", "stale result", "cancel"):
        assert counts[what] > 0, f"{what} never happened: the simulation tests less than it says"


def test_the_same_seed_is_the_same_history(seed):
    histories = {Simulation(seed=seed).run() for _ in range(3)}
    assert len(histories) == 1
    assert Simulation(seed=seed + 1).run() not in histories
