"""How late an event loop answers, asked from another thread."""

import asyncio
from collections.abc import Callable


class LoopLagProbe:
    """Asks `loop` to answer, once per `measure`, and takes the time.

    Args:
        loop: the one in question.
        now_s: the clock.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, now_s: Callable[[], float]) -> None:
        self._loop = loop
        self._now_s = now_s
        self._asked_s: float | None = None
        self._last_lag_s = 0.0

    def measure(self) -> float:
        """Seconds that the last question took, or that the present one has been waiting. Asks the next when none waits."""
        asked_s = self._asked_s
        now_s = self._now_s()
        if asked_s is not None:
            return max(now_s - asked_s, self._last_lag_s)
        self._asked_s = now_s
        try:
            self._loop.call_soon_threadsafe(self._answer)
        except RuntimeError:  # it has ended: nobody is late any more
            self._asked_s = None
        return self._last_lag_s

    def _answer(self) -> None:
        if self._asked_s is not None:
            self._last_lag_s = self._now_s() - self._asked_s
            self._asked_s = None
