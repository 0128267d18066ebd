"""Removes ended tasks past their retention, a bounded number at a time, so that the journal's appends are never held up."""

import asyncio
import logging
from collections.abc import Sequence

from coordinator.engine.shard import Shard
from coordinator.ports import Retention, StoreCorrupt, StoreOutage

log = logging.getLogger(__name__)

MAX_PER_CALL = 500


class Sweeper:
    """Goes over all namespaces again and again.

    Args:
        shards: whose namespaces.
        retention: the bounds, per namespace.
        period_s: how long to rest when nothing is past its bounds.
    """

    def __init__(self, *, shards: Sequence[Shard], retention: Retention, period_s: float) -> None:
        self._shards = shards
        self._retention = retention
        self._period_s = period_s

    async def run(self) -> None:
        """Sweeps until cancelled."""
        while True:
            await asyncio.sleep(self._period_s)
            for shard in self._shards:
                for name in list(shard.namespaces):
                    await self._sweep(shard, name)

    async def _sweep(self, shard: Shard, name: str) -> None:
        removed = 0
        try:
            while (gone := await shard.store.expire_ended(name, self._retention, limit=MAX_PER_CALL)) > 0:
                removed += gone
                await asyncio.sleep(0)
        except (StoreOutage, StoreCorrupt) as error:
            log.warning("sweep.failed shard=%d namespace=%s reason=%s", shard.number, name, error)
        if removed:
            log.info("sweep.done shard=%d namespace=%s removed=%d", shard.number, name, removed)
