"""What the cluster asks of the outside world: a register of the coordinators that share a store. `journal` has the adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class HeldShard:
    """A shard that a coordinator owns, as it says of itself.

    Attributes:
        number: which one.
        epoch: of its claim.
        since_ms: when it claimed the shard, on the store's clock.
        serving: whether it has recovered it; until then its calls are refused.
        sequence: of the last commit.
        snapshot_sequence: of the commit that the last snapshot was taken after; 0 without one.
    """

    number: int
    epoch: int
    since_ms: int
    serving: bool
    sequence: int = 0
    snapshot_sequence: int = 0


@dataclass(frozen=True, slots=True)
class Member:
    """A coordinator, as it says of itself.

    Attributes:
        coordinator_id: its name, which no other has; it stays the same over restarts.
        address: where other coordinators, agents and clients reach it, as host:port.
        incarnation: a nonce of this run of it.
        host: the machine it runs on.
        listen: the address it is bound to there: whoever has bound it again knows that the run before has ended.
        start_ms: when it started, on the store's clock.
        leaving: whether it is handing over what it owns, and takes nothing more.
        shards: those that it owns.
    """

    coordinator_id: str
    address: str
    incarnation: str
    host: str = ""
    listen: str = ""
    start_ms: int = 0
    leaving: bool = False
    shards: tuple[HeldShard, ...] = ()


@dataclass(frozen=True, slots=True)
class LiveMember:
    """A member that has been heard of, and how long that is good for, in seconds."""

    member: Member
    for_s: float


class IdInUse(Exception):
    """Another coordinator that lives has this one's id; the message says where, and what to do."""


def id_in_use(other: Member) -> str:
    """The sentence for somebody whose id another coordinator has."""
    return (
        f"a coordinator with the id {other.coordinator_id!r} serves at {other.address} already: "
        "give each coordinator of a deployment an id of its own with --coordinator-id"
    )


class MemberRegistry(Protocol):
    """The coordinators that share a store. It is a hint: who owns a shard is what the shard's head says."""

    async def renew(self, me: Member, *, ttl_s: float) -> Sequence[LiveMember]:
        """Says that `me` lives, for `ttl_s`, and answers all that live, `me` among them.

        Raises:
            IdInUse: another coordinator with this id lives.
            StoreOutage: the store can't be reached, or it isn't known whether it was said.
        """

    async def leave(self, me: Member) -> None:
        """`me` lives no more, as far as anybody should care. Raises StoreOutage."""

    async def nudge(self) -> None:
        """Wakes all others: something has changed that they'd hear of by their next renewal. Whether it arrives isn't known."""

    async def nudged(self) -> None:
        """Waits until somebody nudges. It may return without, when a nudge may have been missed."""

    async def close(self) -> None:
        """Lets go of what it holds."""
