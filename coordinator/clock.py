"""The one place where the coordinator reads the machine's clock of durations."""

import time


class BootClock:
    """CLOCK_BOOTTIME where there is one: it goes on while the machine sleeps, so that leases end when they should."""

    def __init__(self) -> None:
        self._clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def now_s(self) -> float:
        """Seconds from an arbitrary start."""
        return time.clock_gettime(self._clock)
