"""Finding the coordinator that owns a shard, now or within a moment, and what is told when there is none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from coordinator.errors import Unavailable

if TYPE_CHECKING:
    from coordinator.cluster.directory import Directory, Owner
    from coordinator.rpc.peers import Peer, Peers

PATIENCE_S = 1.0  # a shard that is being moved is served again within half a second
AGAIN_S = 0.05  # between looks at an owner that can't be reached
UNTOUCHED_KEY = "muster-untouched"  # between coordinators: the call was refused before anything was done


def moved(shard: int, owner: Owner | None) -> Unavailable:
    """What a call is told whose shard is another coordinator's."""
    metadata = {"shard": str(shard)} | ({"owner": owner.address} if owner is not None else {})
    where = f" coordinator {owner.coordinator_id!r} at {owner.address}" if owner is not None else " another coordinator"
    return Unavailable(f"shard {shard} belongs to{where} now: call again", reason="SHARD_MOVED", retry_after_s=0.1, metadata=metadata)


def unserved(shard: int, owner: Owner | None) -> Unavailable:
    """What a call is told whose shard nobody serves."""
    why = (
        "has no owner now"
        if owner is None
        else f"belongs to coordinator {owner.coordinator_id!r}, which can't be reached at {owner.address}"
    )
    return Unavailable(f"shard {shard} {why}: try again", reason="SHARD_UNAVAILABLE", metadata={"shard": str(shard)})


class Owners:
    """The coordinators that own what this one doesn't, with channels to them.

    Args:
        directory: who owns what.
        peers: the channels.
        patience_s: how long to wait for an owner that can be reached.
    """

    def __init__(self, *, directory: Directory, peers: Peers, patience_s: float = PATIENCE_S) -> None:
        self.directory = directory
        self.peers = peers
        self.patience_s = patience_s
        self._now_s: Callable[[], float] = asyncio.get_running_loop().time

    def patience_ends_s(self) -> float:
        """Until when a call that begins now waits for an owner."""
        return self._now_s() + self.patience_s

    async def reach(self, shard: int, until_s: float, *, unlike: Owner | None = None) -> tuple[Owner, Peer] | None:
        """The shard's owner, with a channel that is connected; None when it is this coordinator.

        Args:
            shard: which one.
            until_s: how long to wait for one, by the event loop's time.
            unlike: one that has said that it isn't.

        Raises:
            Unavailable: there is none by then, or none that can be reached.
        """
        while True:
            if self.directory.is_mine(shard):
                return None
            owner = self.directory.owner_of(shard)
            peer = None
            if owner is not None and owner != unlike:
                peer = self.peers.at(owner.address)
                if peer.is_connected() or await peer.connected(until_s - self._now_s()):
                    return owner, peer
            left_s = until_s - self._now_s()
            if left_s <= 0:
                raise unserved(shard, owner)
            with contextlib.suppress(TimeoutError):  # an owner that isn't reached may be starting again where it was
                await asyncio.wait_for(self.directory.changed(), left_s if peer is None else min(AGAIN_S, left_s))
