"""What a namespace's state does by itself: ends what is due, on the store's clock, and forgets old history. Timers, no polling.

The coordinator's clock only carries the store's on between two answers.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from coordinator.ports import Clock
from coordinator.state.model import Command, Compact, ExpireDue, ExtendAll, Limits, Verdict

log = logging.getLogger(__name__)

EXPIRE_LIMIT = 1_000  # a call: some milliseconds of the store
COMPACT_LIMIT = 500
SWEEP_SPACING_S = 0.05  # with thousands of deadlines a second, one call is for many
STALLED_S = 1.0  # a timer as late as this: signs of life have been waiting to be read, too
_CLOSENESS = 100  # history outgrows its bounds by at most a hundredth...
_SLOWEST_COMPACTION_S = 15 * 60.0
_FASTEST_COMPACTION_S = 1.0


class Chores:
    """Of one namespace.

    Args:
        namespace: whose; for the log.
        clock: the machine's clock of durations.
        limits: of the namespace.
        wake: called when something is due.
    """

    def __init__(self, *, namespace: str, clock: Clock, limits: Limits, wake: Callable[[], None]) -> None:
        self._namespace = namespace
        self._clock = clock
        self._limits = limits
        self._wake = wake
        self._date_ms = 0  # the store's, and when it said so
        self._said_s = 0.0
        self._extend = False
        self._expire = False
        self._sweep: asyncio.TimerHandle | None = None
        self._sweep_at_s = 0.0
        self._swept_s = float("-inf")
        self._compact = False
        self._compaction: asyncio.TimerHandle | None = None
        self._revision = 0
        self._compacted_revision = 0  # which history was last bounded at
        self._changed_s = clock.now_s()
        self._period_s = min(max(limits.keep_ms / 1000 / _CLOSENESS, _FASTEST_COMPACTION_S), _SLOWEST_COMPACTION_S)
        self._closed = False

    # --- what the writer asks for ---------------------------------------------------------------------------------------------------

    def due(self) -> Sequence[Command]:
        """What is to be done now: deadlines are moved before any of them is looked at."""
        commands: list[Command] = []
        if self._extend:
            commands.append(ExtendAll())
        elif self._expire:
            commands.append(ExpireDue(EXPIRE_LIMIT, self._now_ms()))
        if self._compact:
            commands.append(Compact(0, COMPACT_LIMIT))
        self._extend = self._expire = self._compact = False
        return commands

    def done(self, command: Command, verdict: Verdict) -> None:
        """What became of it: what has more to do is done again."""
        if isinstance(command, ExpireDue):
            self._swept_s = self._clock.now_s()
            self._expire = verdict.more
        elif isinstance(command, Compact):
            self._compact = verdict.more
        if verdict.more:
            self._wake()

    def written(self, *, date_ms: int, next_due_ms: int | None, revision: int) -> None:
        """The store has answered.

        Args:
            date_ms: its time.
            next_due_ms: the next deadline.
            revision: of the namespace.
        """
        self._date_ms, self._said_s = max(date_ms, self._now_ms()), self._clock.now_s()
        self._arm_sweep(next_due_ms)
        if revision > self._revision:
            self._revision, self._changed_s = revision, self._said_s
            self._arm_compaction()
            if revision - self._compacted_revision > max(self._limits.keep_revisions // _CLOSENESS, COMPACT_LIMIT):
                self._compact_now(revision)

    # --- what happens ---------------------------------------------------------------------------------------------------------------

    def extend(self) -> None:
        """Nobody could show signs of life for a while: everything gets its time again before anything ends."""
        self._extend = True
        self._wake()

    def close(self) -> None:
        """No more timers."""
        self._closed = True
        for timer in (self._sweep, self._compaction):
            if timer is not None:
                timer.cancel()

    def _now_ms(self) -> int:
        return self._date_ms + max(int((self._clock.now_s() - self._said_s) * 1000), 0)

    def _arm_sweep(self, next_due_ms: int | None) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        if next_due_ms is None or self._closed or self._expire:
            return
        now_s = self._clock.now_s()
        wait_s = max((next_due_ms + 1 - self._now_ms()) / 1000, self._swept_s + SWEEP_SPACING_S - now_s, 0.0)
        self._sweep_at_s = now_s + wait_s
        self._sweep = asyncio.get_running_loop().call_later(wait_s, self._sweep_now)

    def _sweep_now(self) -> None:
        self._sweep = None
        late_s = self._clock.now_s() - self._sweep_at_s
        if late_s > STALLED_S:
            log.warning("state.stalled namespace=%s stalled_s=%.2f", self._namespace, late_s)
            self._extend = True
        self._expire = True
        self._wake()

    def _arm_compaction(self) -> None:
        if self._compaction is None and not self._closed:
            self._compaction = asyncio.get_running_loop().call_later(self._period_s, self._compact_by_age)

    def _compact_by_age(self) -> None:
        self._compaction = None
        if self._clock.now_s() - self._changed_s <= self._limits.keep_ms / 1000 + self._period_s:
            self._arm_compaction()  # until the last event is too old, too
        self._compact = True
        self._wake()

    def _compact_now(self, revision: int) -> None:
        self._compacted_revision = revision
        self._compact = True
        self._wake()
