"""How much room the store has, and whether submits must wait for it (G7). It is asked now and then; in between, what is written counts."""

import asyncio
import logging
from collections.abc import Callable

from coordinator.errors import LimitReached
from coordinator.ports import StoreCorrupt, StoreGauge, StoreOutage

log = logging.getLogger(__name__)

FULL_PERCENT = 80  # of the store's memory: the rest is for completions, checkpoints and trimming
TIGHT_PERCENT = 70  # from here on results are dropped and snapshots are taken sooner
MIN_FREE_DISK_BYTES = 512 * 1024 * 1024  # with fsync always, Valkey exits on a full disk
PERIOD_S = 0.5  # at a hundred megabytes a second that is 50 MB; a look takes 0.3 ms
RETRY_AFTER_S = 2.0
WORTHWHILE_SHARE = 32  # what a snapshot must free of the memory to be taken sooner: it takes time itself
JOURNAL_SHARE = 16  # the journal may grow to this part of the memory before a snapshot is due, if that is less than the setting


class StoreRoom:
    """What is known of the room in a store. Without a look at one there is no limit."""

    def __init__(self) -> None:
        self._used_bytes = 0
        self._limit_bytes = 0  # 0: none
        self._free_disk_bytes: int | None = None  # None: not ours to know
        self._reserve_bytes = 0  # for the next snapshot
        self._was_full = False

    def seen(self, *, used_bytes: int, limit_bytes: int, free_disk_bytes: int | None, reserve_bytes: int) -> None:
        """The store was asked.

        Args:
            used_bytes: of its memory.
            limit_bytes: of its memory; 0 is none.
            free_disk_bytes: where it writes; None when that can't be seen.
            reserve_bytes: what the next snapshot will take.
        """
        self._used_bytes, self._limit_bytes = used_bytes, limit_bytes
        self._free_disk_bytes, self._reserve_bytes = free_disk_bytes, reserve_bytes
        is_full = self.refusal() is not None
        if is_full and not self._was_full:
            log.warning("store.full used=%d limit=%d free_disk=%s", used_bytes, limit_bytes, free_disk_bytes)
        elif self._was_full and not is_full:
            log.warning("store.roomy used=%d limit=%d free_disk=%s", used_bytes, limit_bytes, free_disk_bytes)
        self._was_full = is_full

    def wrote(self, count: int) -> None:
        """So many bytes were written to a journal since."""
        self._used_bytes += 2 * count  # what was submitted is in the next snapshot, too

    def journal_bytes(self, wanted: int) -> int:
        """How long the journal may get before a snapshot is due, where `wanted` is the setting."""
        return min(wanted, self._limit_bytes // JOURNAL_SHARE) if self._limit_bytes else wanted

    def worthwhile_bytes(self) -> int:
        """How much a snapshot must free to be taken where room is tight."""
        return self._limit_bytes // WORTHWHILE_SHARE

    def is_tight(self) -> bool:
        """Whether room should be made before submits must be refused."""
        return self._limit_bytes > 0 and self._wanted_bytes() >= self._limit_bytes * TIGHT_PERCENT // 100

    def _wanted_bytes(self) -> int:
        return self._used_bytes + self._reserve_bytes

    def refusal(self) -> LimitReached | None:
        """Why nothing new can be taken now; None when it can."""
        allowed = self._limit_bytes * FULL_PERCENT // 100
        if self._limit_bytes and self._wanted_bytes() >= allowed:
            return LimitReached(
                f"the store holds {self._used_bytes} bytes of {self._limit_bytes}, and keeps {self._reserve_bytes} for the next snapshot: "
                f"submits stop at {FULL_PERCENT} % so that what was accepted can end; submit again when some tasks have ended",
                limit="store_memory",
                used=self._wanted_bytes(),
                allowed=allowed,
                retry_after_s=RETRY_AFTER_S,
            )
        if self._free_disk_bytes is not None and self._free_disk_bytes < MIN_FREE_DISK_BYTES:
            return LimitReached(
                f"the store's disk has {self._free_disk_bytes} bytes free, and submits stop below {MIN_FREE_DISK_BYTES}: "
                "free some, and submit again",
                limit="free_disk",
                used=self._free_disk_bytes,
                allowed=MIN_FREE_DISK_BYTES,
                retry_after_s=RETRY_AFTER_S,
            )
        return None


async def watch_room(room: StoreRoom, gauge: StoreGauge, reserve_bytes: Callable[[], int]) -> None:
    """Asks the store again and again, until cancelled. While it doesn't answer, what was known stays.

    Args:
        room: is told.
        gauge: the store.
        reserve_bytes: what the next snapshots of all shards will take.
    """
    while True:
        try:
            fullness = await gauge.fullness()
        except (StoreOutage, StoreCorrupt) as error:
            log.debug("store.not_measured reason=%s", error)
        else:
            room.seen(
                used_bytes=fullness.used_bytes,
                limit_bytes=fullness.limit_bytes,
                free_disk_bytes=fullness.free_disk_bytes,
                reserve_bytes=reserve_bytes(),
            )
        await asyncio.sleep(PERIOD_S)
