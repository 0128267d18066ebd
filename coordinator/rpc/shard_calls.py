"""What operators ask of a shard as a whole."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from muster.v1 import admin_pb2

from coordinator.errors import InvalidRequest, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordinator.engine.shard import Shard

DIGEST_TIMEOUT_S = 60.0  # a million tasks take some 10 s of an event loop, which does other things as well


async def shard_digest(shards: Sequence[Shard], number: int, *, release: str) -> admin_pb2.GetShardDigestResponse:
    """Takes a digest of a shard's live state.

    Raises:
        InvalidRequest: there is no such shard.
        Unavailable: it isn't served here, or a snapshot is being taken.
    """
    if number >= len(shards):
        raise InvalidRequest(f"there is no shard {number}: there are {len(shards)}, from 0 on", field="shard")
    shard = shards[number]
    shard.require_served()
    epoch = shard.epoch
    asked = shard.snapshots.digests.ask()
    try:
        await shard.durable_write()  # wakes the writer, which begins it
        await asyncio.wait([asked], timeout=DIGEST_TIMEOUT_S)
        if not asked.done() or asked.cancelled():
            raise Unavailable(f"shard {number} takes a snapshot, or was rebuilt: try again", reason="SHARD_BUSY")
        digest = asked.result()
    finally:
        asked.cancel()
    return admin_pb2.GetShardDigestResponse(
        sequence=digest.sequence, epoch=epoch, live_tasks=digest.tasks, digest=digest.digest, release=release
    )
