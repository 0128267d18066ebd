"""The date on the store's clock, between the times that it is asked: what all coordinators of a deployment have in common."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from coordinator.ports import Clock, StoreOutage

log = logging.getLogger(__name__)

PERIOD_S = 600.0  # in which two clocks that run at their own pace part by some hundredths of a second


class StoreDate:
    """Carries the store's date forward.

    Args:
        clock: the machine's clock of durations.
        date_ms: what the store said just now.
        ask: asks it again.
    """

    def __init__(self, *, clock: Clock, date_ms: int, ask: Callable[[], Awaitable[int]]) -> None:
        self._clock = clock
        self._ask = ask
        self._ahead_ms = date_ms - clock.now_s() * 1000

    def now_ms(self) -> int:
        """The date in milliseconds since 1970."""
        return round(self._clock.now_s() * 1000 + self._ahead_ms)

    async def run(self) -> None:
        """Asks the store from time to time, until cancelled: its clock may be put right, or another server take its place."""
        while True:
            await asyncio.sleep(PERIOD_S)
            try:
                self._ahead_ms = await self._ask() - self._clock.now_s() * 1000
            except StoreOutage as error:
                log.debug("store_date.unknown reason=%s", error)
