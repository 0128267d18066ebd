"""The two kinds of time that the core is given. It must not know what they are used for."""

from coordinator.core.model import Now
from coordinator.ports import Clock


class Timekeeper:
    """Durations on the engine's own clock, which stands still during stalls and outages; dates on the store's.

    Args:
        clock: the machine's clock of durations.
        date_ms: the store's time now, and never less than what the journal already says.
        stall_s: a gap between two `observe` calls above this was a stall, in which nothing may have timed out.
    """

    def __init__(self, *, clock: Clock, date_ms: int, stall_s: float) -> None:
        self._clock = clock
        self._stall_s = stall_s
        self._excluded_s = 0.0
        self._frozen_at_s: float | None = None
        self._observed_s = clock.now_s()
        self._date_ms = date_ms
        self._date_at_s = self._observed_s

    def now(self) -> Now:
        """The time, in both kinds."""
        real_s = self._clock.now_s()
        mono_s = (real_s if self._frozen_at_s is None else self._frozen_at_s) - self._excluded_s
        return Now(mono_s, self._date_ms + int((real_s - self._date_at_s) * 1000))

    def store_said(self, date_ms: int) -> int:
        """Takes over the store's time, never backwards. Answers by how many milliseconds it was ahead of ours."""
        real_s = self._clock.now_s()
        ours_ms = self._date_ms + int((real_s - self._date_at_s) * 1000)
        if date_ms > ours_ms:
            self._date_ms, self._date_at_s = date_ms, real_s
        return date_ms - ours_ms

    def observe(self) -> float:
        """Answers the length of the stall that has just ended, or 0; liveness deadlines have been moved by it.

        To be called at least every quarter of `stall_s`.
        """
        real_s = self._clock.now_s()
        gap_s = real_s - self._observed_s
        self._observed_s = real_s
        if self._frozen_at_s is not None or gap_s <= self._stall_s:
            return 0.0
        self._excluded_s += gap_s
        return gap_s

    def freeze(self) -> None:
        """The store is out: durations stand still."""
        if self._frozen_at_s is None:
            self._frozen_at_s = self._clock.now_s()

    def thaw(self) -> None:
        """The store is back: durations go on from where they stood."""
        if self._frozen_at_s is not None:
            self._observed_s = self._clock.now_s()
            self._excluded_s += self._observed_s - self._frozen_at_s
            self._frozen_at_s = None
