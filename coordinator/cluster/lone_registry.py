"""The register of a coordinator that has its store for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from coordinator.cluster.ports import LiveMember, Member


class LoneRegistry:
    """Implements `coordinator.cluster.ports.MemberRegistry`: there is nobody else."""

    async def renew(self, me: Member, *, ttl_s: float) -> Sequence[LiveMember]:
        """See MemberRegistry."""
        return (LiveMember(me, ttl_s),)

    async def leave(self, me: Member) -> None:
        """See MemberRegistry."""

    async def nudge(self) -> None:
        """See MemberRegistry."""

    async def nudged(self) -> None:
        """See MemberRegistry."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """See MemberRegistry."""
