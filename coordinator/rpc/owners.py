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
AGAIN_S = 0.02  # between looks at an owner that can't be reached, or has yet to recover the shard
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
        is_served: whether a shard of this coordinator has been recovered.
        patience_s: how long to wait for an owner that can be reached.
    """

    def __init__(self, *, directory: Directory, peers: Peers, is_served: Callable[[int], bool], patience_s: float = PATIENCE_S) -> None:
        self._is_served = is_served
        self.directory = directory
        self.peers = peers
        self.patience_s = patience_s
        self._now_s: Callable[[], float] = asyncio.get_running_loop().time

    def is_here(self, shard: int) -> bool:
        """Whether calls of a shard are handled by this coordinator, and now."""
        return self.directory.is_mine(shard) and self._is_served(shard)

    def patience_ends_s(self) -> float:
        """Until when a call that begins now waits for an owner."""
        return self._now_s() + self.patience_s

    async def until_here(self, shard: int) -> None:
        """For a call that another coordinator hands on: waits a moment for the shard to be recovered here.

        Raises:
            Unavailable: it is another's by now.
        """
        until_s = self.patience_ends_s()
        while self.directory.is_mine(shard) and not self._is_served(shard) and self._now_s() < until_s:  # noqa: ASYNC110 - nothing says when
            await asyncio.sleep(AGAIN_S)
        if not self.directory.is_mine(shard):
            raise moved(shard, self.directory.owner_of(shard))

    async def reach(self, shard: int, until_s: float, *, unlike: Owner | None = None) -> tuple[Owner, Peer] | None:
        """The shard's owner, with a channel that is connected; None when it is this coordinator. One that recovers the shard is waited for.

        Args:
            shard: which one.
            until_s: how long to wait for one, by the event loop's time.
            unlike: one that has said that it isn't.

        Raises:
            Unavailable: there is none by then, or none that can be reached.
        """
        while True:
            is_mine = self.directory.is_mine(shard)
            if is_mine and self._is_served(shard):
                return None
            owner = self.directory.owner_of(shard)
            peer = None
            if owner is not None and owner != unlike and not is_mine:
                peer = self.peers.at(owner.address)
                if peer.is_connected() or await peer.connected(until_s - self._now_s()):
                    return owner, peer
            left_s = until_s - self._now_s()
            if left_s <= 0:
                if is_mine:
                    return None  # whoever handles it says what it is doing
                raise unserved(shard, owner)
            with contextlib.suppress(TimeoutError):  # an owner that isn't reached may be starting again where it was
                await asyncio.wait_for(self.directory.changed(), left_s if peer is None and not is_mine else min(AGAIN_S, left_s))
