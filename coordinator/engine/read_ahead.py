"""Reads a shard's snapshot and journal before it is ours, since its owner may be dead: then only what came since is left to read.

What was read may be out of date, and wrong if the store has since lost the end of the journal: `recover` looks at the last entry again.
"""

import asyncio
import logging

from coordinator.engine.lost_writes import LostWrites
from coordinator.engine.recovery import Recovered, read_all
from coordinator.ports import JournalCodec, JournalTooNew, ShardStore, StoreCorrupt, StoreOutage

log = logging.getLogger(__name__)


class ReadAhead:
    """What is read ahead of one shard.

    Args:
        store: the shard's.
        codec: how it is written.
        lost: knows what the store should hold.
    """

    def __init__(self, *, store: ShardStore, codec: JournalCodec, lost: LostWrites | None = None) -> None:
        self._store = store
        self._codec = codec
        self._lost = lost
        self._reading: asyncio.Task[Recovered | None] | None = None

    def begin(self) -> None:
        """Begins to read, unless that was begun."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read(), name="read-ahead")

    def drop(self) -> None:
        """It isn't needed."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    async def take(self) -> Recovered | None:
        """What was read, once that is done; None if nothing was, or it failed."""
        reading, self._reading = self._reading, None
        return await reading if reading is not None else None

    async def _read(self) -> Recovered | None:
        try:
            _, snapshot = await self._store.look()
            return await read_all(self._store, self._codec, snapshot, lost=self._lost)
        except (
            StoreOutage,
            StoreCorrupt,
            JournalTooNew,
            KeyError,
        ) as error:  # its owner trims it meanwhile, or worse: then it is read anew
            log.debug("read_ahead.failed reason=%s", error)
            return None
