"""Keeps Python's garbage collector from stopping the event loop for long, however many tasks there are.

A collection looks at every object it is responsible for: at a million tasks that takes most of a second. Tasks are freed by counting, so
once they have lived for a moment they are put out of the collector's sight (`gc.freeze`). Cycles are still found among what is young. What
was in a cycle when it was put away is found when there are few tasks again.

gRPC makes a cycle of some ten objects for each call. Most are found young; those that were in use just then move on to a generation
that Python, left alone, would look at after hours. So everything in sight is looked at once a minute: it is no more than YOUNG_TASKS allow.
"""

import asyncio
import gc
from collections.abc import Callable, Sequence

from coordinator.engine.shard import Shard

YOUNG_TASKS = 10_000  # looking at them takes about 10 ms, and more where they were made of records
PERIOD_S = 0.25  # how often to look: it takes 10 us
FULL_S = 60.0  # how often everything in sight is looked at
THRESHOLDS = (50_000, 50, 100)  # the default ones take a twelfth of the time for nothing


def prepare() -> None:
    """At the start of the process, and no collections until the shards are recovered: `begin`."""
    gc.freeze()
    gc.disable()
    gc.set_threshold(*THRESHOLDS)


class Collector:
    """Puts tasks out of the collector's sight as they come, and back into it when most have gone.

    Args:
        count: how many tasks are live, and how many ever came.
    """

    def __init__(self, *, count: Callable[[], tuple[int, int]]) -> None:
        self._count = count
        self._live = self._submitted = 0  # when tasks were put away last
        self._most_live = 0  # since everything was looked at last, in sight or not
        self._unseen_s = 0.0  # since everything in sight was looked at last

    def begin(self) -> None:
        """The shards are recovered: collections may begin, of what comes from now on."""
        self._put_away()
        gc.enable()

    async def run(self) -> None:
        """Looks after it until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            self.look()

    def look(self) -> None:
        """Does what is due."""
        live, submitted = self._count()
        came = submitted - self._submitted if submitted >= self._submitted else submitted  # less: a shard was recovered again
        self._unseen_s += PERIOD_S
        if max(live - self._live, min(live, came)) > YOUNG_TASKS:
            self._collect()  # else the cycles among them would be put away, too
            self._put_away()
        elif live < YOUNG_TASKS <= self._most_live // 2:
            gc.unfreeze()
            self._collect()
            self._put_away()
            self._most_live = live
        elif self._unseen_s >= FULL_S:
            self._collect()

    def _collect(self) -> None:
        gc.collect()
        self._unseen_s = 0.0

    def _put_away(self) -> None:
        gc.freeze()
        self._live, self._submitted = self._count()
        self._most_live = max(self._most_live, self._live)


def count_tasks(shards: Sequence[Shard]) -> tuple[int, int]:
    """How many tasks of these shards are live, waiting webhooks included, and how many came since they were recovered."""
    schedulers = [namespace.scheduler for shard in shards for namespace in shard.namespaces.values()]
    live = sum(len(one.state.tasks) + len(one.state.deliveries.pending) for one in schedulers)
    return live, sum(one.totals.submitted + one.totals.redriven for one in schedulers)
