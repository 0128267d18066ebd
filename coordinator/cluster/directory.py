"""Who owns which shard, as far as this coordinator knows: a hint for whoever forwards calls. The truth is the shard's head in the store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Owner:
    """Who owns a shard.

    Args:
        coordinator_id: its id.
        address: where other coordinators, agents and clients reach it, as host:port.
        epoch: of its claim: a later owner's is larger.
        since_ms: when it claimed the shard, on the store's clock.
    """

    coordinator_id: str
    address: str
    epoch: int = 0
    since_ms: int = 0


class Directory:
    """The owners of all shards.

    Args:
        me: this coordinator's id.
        shards: how many there are.
        owners: those that are known to begin with, by shard.
    """

    def __init__(self, *, me: str, shards: int, owners: Mapping[int, Owner] | None = None) -> None:
        self.me = me
        self.shards = shards
        self._owners: dict[int, Owner] = dict(owners or {})
        self._changed = asyncio.Event()

    def owner_of(self, shard: int) -> Owner | None:
        """A shard's owner; None when nobody is known to own it."""
        return self._owners.get(shard)

    def is_mine(self, shard: int) -> bool:
        """Whether this coordinator owns it."""
        owner = self._owners.get(shard)
        return owner is not None and owner.coordinator_id == self.me

    def set_owner(self, shard: int, owner: Owner | None) -> None:
        """A shard has another owner, or none."""
        if owner == self._owners.get(shard):
            return
        if owner is None:
            del self._owners[shard]
        else:
            self._owners[shard] = owner
        self._changed.set()
        self._changed = asyncio.Event()

    def addresses(self) -> frozenset[str]:
        """Where the other owners are."""
        return frozenset(owner.address for owner in self._owners.values() if owner.coordinator_id != self.me)

    async def changed(self) -> None:
        """Waits until some shard has another owner than now."""
        await self._changed.wait()
