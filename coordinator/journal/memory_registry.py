"""The register of coordinators in memory, for tests and simulations: what `redis_registry` promises."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from coordinator.cluster.ports import IdInUse, LiveMember, Member, id_in_use


@dataclass(slots=True)
class MemoryMembers:
    """The register's data, which all coordinators share."""

    members: dict[str, tuple[int, Member]] = field(default_factory=dict)
    ears: set[asyncio.Event] = field(default_factory=set)


async def _nothing() -> None:
    """Nothing goes wrong."""


class MemoryMemberRegistry:
    """Implements `coordinator.cluster.ports.MemberRegistry`.

    Args:
        data: what is shared.
        now_ms: the store's time.
        fault: awaited before each call: it may wait, or raise StoreOutage.
    """

    def __init__(self, *, data: MemoryMembers, now_ms: Callable[[], int], fault: Callable[[], Awaitable[None]] = _nothing) -> None:
        self._data = data
        self._now_ms = now_ms
        self._fault = fault
        self._joined = False
        self._ear = asyncio.Event()
        data.ears.add(self._ear)

    async def renew(self, me: Member, *, ttl_s: float) -> Sequence[LiveMember]:
        """See MemberRegistry."""
        await self._fault()
        now_ms, members = self._now_ms(), self._data.members
        for name in [name for name, (stop_ms, _) in members.items() if stop_ms <= now_ms]:
            del members[name]
        known = members.get(me.coordinator_id)
        if known is not None and known[1].incarnation != me.incarnation:
            other = known[1]
            if self._joined or (other.host, other.listen) != (me.host, me.listen):
                raise IdInUse(id_in_use(other))
        self._joined = True
        members[me.coordinator_id] = (now_ms + round(ttl_s * 1000), me)
        return [LiveMember(member, (stop_ms - now_ms) / 1000) for stop_ms, member in members.values()]

    async def leave(self, me: Member) -> None:
        """See MemberRegistry."""
        await self._fault()
        known = self._data.members.get(me.coordinator_id)
        if known is not None and known[1].incarnation == me.incarnation:
            del self._data.members[me.coordinator_id]

    async def nudge(self) -> None:
        """See MemberRegistry."""
        await self._fault()
        for ear in self._data.ears:
            ear.set()

    async def nudged(self) -> None:
        """See MemberRegistry."""
        await self._ear.wait()
        self._ear.clear()

    async def close(self) -> None:
        """See MemberRegistry."""
        self._data.ears.discard(self._ear)
