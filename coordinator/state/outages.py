"""Asking the store until it answers, and what is known of an outage meanwhile."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from coordinator.errors import Unavailable
from coordinator.ports import Clock, StoreCorrupt, StoreOutage

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_RETRY_S, LAST_RETRY_S = 0.05, 1.0  # between repeats during an outage
OUT_AFTER_S = 1.0  # a store that hangs is out long before a call gives up; and a read isn't tried for longer


class Outage:
    """Whether the store is out, as far as one namespace's writer knows.

    Args:
        namespace: whose; for the log.
        clock: the machine's clock of durations.
        over: called when an outage is over.
    """

    def __init__(self, *, namespace: str, clock: Clock, over: Callable[[], None]) -> None:
        self._namespace = namespace
        self._clock = clock
        self._over = over
        self.since_s: float | None = None

    async def until_answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks the same again and again until the store answers."""
        retry_s = FIRST_RETRY_S
        loop = asyncio.get_running_loop()
        while True:
            slow = loop.call_later(OUT_AFTER_S, self._begins, "the store doesn't answer")
            try:
                answer = await ask()
            except StoreOutage as error:
                self._begins(str(error))
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, LAST_RETRY_S)
                continue
            finally:
                slow.cancel()
            self._ends()
            return answer

    def _begins(self, reason: str) -> None:
        if self.since_s is None:
            log.error("state.store_out namespace=%s reason=%s", self._namespace, reason)
            self.since_s = self._clock.now_s()

    def _ends(self) -> None:
        if self.since_s is not None:
            log.warning("state.store_back namespace=%s out_s=%.2f", self._namespace, self._clock.now_s() - self.since_s)
            self.since_s = None
            self._over()


async def keep_asking(ask: Callable[[], Awaitable[T]]) -> T:
    """Asks again and again until the store answers: for readers that nobody waits for."""
    retry_s = FIRST_RETRY_S
    while True:
        try:
            return await ask()
        except StoreOutage:
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, LAST_RETRY_S)


async def read_within(ask: Callable[[], Awaitable[T]]) -> T:
    """Asks again and again for a second.

    Raises:
        Unavailable: the store didn't answer in time, or what must not be.
    """
    try:
        async with asyncio.timeout(OUT_AFTER_S):
            return await keep_asking(ask)
    except TimeoutError:
        raise Unavailable("the store can't be reached: try again") from None
    except StoreCorrupt as error:
        log.error("state.corrupt reason=%s", error)  # noqa: TRY400 - its traceback says nothing more
        raise Unavailable("the store holds something that this coordinator can't read: see its log", reason="STORE_CORRUPT") from None
