"""How long the coordinator's event loop stands still at worst. Everything that is answered waits for it."""

import asyncio

from coordinator.ports import Clock

PERIOD_S = 0.01  # a stall is measured up to this much too short, and 100 looks a second take a thousandth of a core


class LoopStalls:
    """Sets a timer again and again, and takes the longest time by which it was late. To be made in the loop in question.

    Args:
        clock: the machine's: a loop's own time may stand still while a callback runs.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._worst_s = 0.0
        self._due_s = 0.0
        self._timer: asyncio.TimerHandle
        self._arm()

    def _arm(self) -> None:
        self._due_s = self._clock.now_s() + PERIOD_S
        self._timer = self._loop.call_later(PERIOD_S, self._look)

    def _look(self) -> None:
        self._worst_s = max(self._worst_s, self._clock.now_s() - self._due_s)
        self._arm()

    def take_worst_s(self) -> float:
        """The longest stall since this was last asked, in seconds."""
        worst_s, self._worst_s = self._worst_s, 0.0
        return worst_s

    def close(self) -> None:
        """Looks no more."""
        self._timer.cancel()
