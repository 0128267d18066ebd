"""Task ids, UUIDv7 (RFC 9562, section 5.7) at about a microsecond each, jitter, and secrets for webhooks.

The one place of the SDK that draws random numbers, and reads a wall clock for an id.
"""

import base64
import functools
import os
import random
import threading
import time
from collections.abc import Callable

_BATCH = 256
_COUNTER_LIMIT = 0x1000  # the 12 bits behind the version digit
_VARIANTS = "89ab"


class IdMint:
    """Mints UUIDv7s that grow: by the millisecond, and by a counter within it. Safe to use from several threads.

    Args:
        now_ms: milliseconds since 1970. When it steps back, or one millisecond needs more than 4,096 ids, the last time goes on.
        random_bytes: so many random bytes.
    """

    def __init__(self, *, now_ms: Callable[[], int], random_bytes: Callable[[int], bytes]) -> None:
        self._now_ms = now_ms
        self._random_bytes = random_bytes
        self._lock = threading.Lock()
        self._last_ms = -1
        self._prefix = ""
        self._counter = 0
        self._tails: list[str] = []

    def mint(self) -> str:
        """The next id, in the usual form of 36 characters."""
        with self._lock:
            now_ms = self._now_ms()
            if now_ms > self._last_ms:
                self._start(now_ms)
            elif self._counter >= _COUNTER_LIMIT:
                self._start(self._last_ms + 1)
            counter = self._counter
            self._counter = counter + 1
            if not self._tails:
                self._draw()
            return f"{self._prefix}{counter:03x}{self._tails.pop()}"

    def _start(self, ms: int) -> None:
        self._last_ms = ms
        self._counter = 0
        self._prefix = f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7"

    def _draw(self) -> None:
        digits = self._random_bytes(8 * _BATCH).hex()
        self._tails = [
            f"-{_VARIANTS[int(digits[at], 16) & 3]}{digits[at + 1 : at + 4]}-{digits[at + 4 : at + 16]}" for at in range(0, len(digits), 16)
        ]


def new_task_id() -> str:
    """A fresh UUIDv7, unique in the world and growing within this process."""
    return _process_mint().mint()


@functools.cache
def _process_mint() -> IdMint:
    # A forked child must not go on with the random bytes that its parent drew.
    os.register_at_fork(after_in_child=_process_mint.cache_clear)
    return IdMint(now_ms=lambda: time.time_ns() // 1_000_000, random_bytes=os.urandom)


def new_jitter() -> Callable[[], float]:
    """A source of random numbers from 0 up to 1."""
    return random.Random().random


def new_webhook_secret() -> str:
    """A secret to sign webhooks with: `whsec_` and 32 random bytes in base64."""
    return "whsec_" + base64.b64encode(os.urandom(32)).decode()
