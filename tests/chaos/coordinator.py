"""The coordinator of a chaos run: `python -m tests.chaos.coordinator --chaos-clock FILE [--chaos-without GUARD ...] <its own options>`.

It is the coordinator but for this: its clocks may be stepped from outside, what a snapshot makes superfluous stays in the journal for the
checker, and guards may be missing, so that the checker can show that it notices.
"""

import argparse
import dataclasses
import json
import sys
import threading
from pathlib import Path

from coordinator import __main__ as command
from coordinator import wiring
from coordinator.clock import BootClock
from coordinator.core import load_map, reports
from coordinator.core.model import TaskState
from coordinator.engine import shard, timekeeping
from coordinator.journal import replica_wait
from coordinator.journal.redis_store import RedisShardStore
from coordinator.ports import Claim

_READ_EVERY_S = 0.05


class Clocks:
    """How far this process's clocks are off: what the file says, read again and again.

    Args:
        path: JSON with `date_ms`, by which every date of the store seems to be off, and `boot_s`, which has passed unseen, as it does while
            a machine sleeps.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.date_ms = 0
        self.boot_s = 0.0
        self.read()

    def read(self) -> None:
        said = json.loads(self._path.read_text())
        self.date_ms, self.boot_s = said["date_ms"], said["boot_s"]

    def follow(self) -> None:
        """Reads for ever."""
        never = threading.Event()
        while not never.wait(_READ_EVERY_S):
            self.read()


def step_clocks(clocks: Clocks) -> None:
    """From now on all that the coordinator's engine hears of clocks is off by so much."""

    class SteppedClock(BootClock):
        def now_s(self) -> float:
            return super().now_s() + clocks.boot_s

    class SteppedDates(timekeeping.Timekeeper):
        def store_said(self, date_ms: int) -> int:
            return super().store_said(date_ms + clocks.date_ms)

    claim = RedisShardStore.claim

    async def claim_later(self: RedisShardStore, *arguments, **named):
        claimed = await claim(self, *arguments, **named)
        return dataclasses.replace(claimed, date_ms=claimed.date_ms + clocks.date_ms) if isinstance(claimed, Claim) else claimed

    wiring.BootClock = SteppedClock
    shard.Timekeeper = SteppedDates
    RedisShardStore.claim = claim_later


def keep_journals() -> None:
    """Nothing is trimmed; recovery still begins at the last snapshot."""

    async def trim_nothing(self: RedisShardStore, *, limit: int) -> int:
        return 0

    RedisShardStore.trim_journal = trim_nothing


# Guards that can be missing.


def without_fences() -> None:
    """A report counts whoever sends it, and whatever attempt it is about."""

    def judge(scheduler, agent, task_id, fence):
        task = scheduler.state.tasks.get(task_id)
        if task is not None and task.state is TaskState.RUNNING:
            return task
        return reports.Verdict.DUPLICATE

    reports.judge = judge


def without_capacity() -> None:
    """Agents always have room for two more."""
    free_slots = load_map.Agent.free_slots
    load_map.Agent.free_slots = lambda self: free_slots(self) + 2


def without_waits() -> None:
    """An acknowledgement doesn't mean a replica, whatever the settings say."""
    replica_wait.ReplicaWait.__post_init__ = lambda self: object.__setattr__(self, "packed", b"")
    replica_wait.ReplicaWait.answers = 0
    replica_wait.ReplicaWait.check = lambda self, answers: None


GUARDS = {"fences": without_fences, "capacity": without_capacity, "waits": without_waits}


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--chaos-clock", type=Path, required=True)
    parser.add_argument("--chaos-without", choices=GUARDS, action="append", default=[])
    options, rest = parser.parse_known_args()
    clocks = Clocks(options.chaos_clock)
    threading.Thread(target=clocks.follow, daemon=True).start()
    step_clocks(clocks)
    keep_journals()
    for guard in options.chaos_without:
        GUARDS[guard]()
    sys.exit(command.main(rest))


if __name__ == "__main__":
    main()
