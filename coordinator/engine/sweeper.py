"""Removes ended tasks past their retention, and makes room in a store that fills up: some at a time: commits go in between.

Where room is tight, results are dropped first, the oldest first; then ended tasks go that no promise covers any more (G6), whatever their
retention.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from coordinator.core.policies import NO_LIMITS, limits_of
from coordinator.engine.deletion import purge
from coordinator.engine.room import PERIOD_S as ROOM_PERIOD_S
from coordinator.engine.shard import Shard
from coordinator.ports import JournalCodec, Retention, StoreCorrupt, StoreOutage

log = logging.getLogger(__name__)

MAX_PER_CALL = 500
EXPIRED_PER_CALL = (
    2000  # a call takes the store some 4 ms; beside full load its round trips take longest, and bound how many tasks a second go
)
CALLS_PER_LOOK = 20  # where room is tight: then it is seen how much has come of them


class Sweeper:
    """Goes over all namespaces again and again.

    Args:
        shards: whose namespaces.
        codec: what can be left out of a record.
        retention: the bounds, per namespace.
        period_s: how long to rest when nothing is past its bounds.
    """

    def __init__(self, *, shards: Sequence[Shard], codec: JournalCodec, retention: Retention, period_s: float) -> None:
        self._shards = shards
        self._codec = codec
        self._retention = retention
        self._least = replace(retention, max_age_ms=0, max_count=0, max_bytes=0)  # what stays is what must
        self._period_s = period_s

    async def run(self) -> None:
        """Sweeps until cancelled."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() + self._period_s
        while True:
            await asyncio.sleep(min(self._period_s, ROOM_PERIOD_S))
            for shard in self._shards:
                for name in list(shard.deleted):
                    await self._purge(shard, name)
                for name in list(shard.namespaces) if shard.room.is_tight() else ():
                    await self._make_room(shard, name)
            if loop.time() >= due_s:
                for shard in self._shards:
                    for name in list(shard.namespaces):
                        await self._expire(shard, name, self._retention_of(shard, name), calls=None)
                due_s = loop.time() + self._period_s

    def _retention_of(self, shard: Shard, name: str) -> Retention:
        """A namespace's bounds: as operators have set them, or else the usual ones."""
        namespace, usual = shard.namespaces.get(name), self._retention
        limits = limits_of(namespace.scheduler.state) if namespace is not None else NO_LIMITS
        return replace(
            usual,
            max_age_ms=usual.max_age_ms if limits.retain_for_s is None else round(limits.retain_for_s * 1000),
            max_count=usual.max_count if limits.max_retained_tasks is None else limits.max_retained_tasks,
            max_bytes=usual.max_bytes if limits.max_retained_bytes is None else limits.max_retained_bytes,
        )

    async def _purge(self, shard: Shard, name: str) -> None:
        try:
            await purge(shard, name, limit=MAX_PER_CALL, calls=CALLS_PER_LOOK)
        except (StoreOutage, StoreCorrupt) as error:
            log.warning("sweep.failed shard=%d namespace=%s reason=%s", shard.number, name, error)

    async def _make_room(self, shard: Shard, name: str) -> None:
        dropped = await _repeat(
            lambda: shard.store.slim_ended(name, self._codec.slim_record, limit=MAX_PER_CALL), shard, name, calls=CALLS_PER_LOOK
        )
        if dropped:
            log.warning("sweep.results_dropped shard=%d namespace=%s count=%d", shard.number, name, dropped)
        else:
            await self._expire(shard, name, self._least, calls=CALLS_PER_LOOK)

    async def _expire(self, shard: Shard, name: str, retention: Retention, *, calls: int | None) -> None:
        removed = await _repeat(lambda: shard.store.expire_ended(name, retention, limit=EXPIRED_PER_CALL), shard, name, calls=calls)
        if removed:
            log.info("sweep.done shard=%d namespace=%s removed=%d", shard.number, name, removed)


async def _repeat(call: Callable[[], Awaitable[int]], shard: Shard, name: str, *, calls: int | None) -> int:
    """Calls until nothing is left to do, or so many times; None is no limit. Answers how much was done."""
    done = made = 0
    try:
        while calls is None or made < calls:
            made += 1
            count = await call()
            if not count:
                break
            done += count
            await asyncio.sleep(0)
    except (StoreOutage, StoreCorrupt) as error:
        log.warning("sweep.failed shard=%d namespace=%s reason=%s", shard.number, name, error)
    return done
