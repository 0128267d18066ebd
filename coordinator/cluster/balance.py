"""Which coordinator should own which shard. Pure: everybody who sees the same comes to the same.

Each has as many shards as the others, or one more. A shard without an owner goes to whoever has fewest; one with an owner moves only
when its owner has at least two more than somebody else, and one at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """What one coordinator should do now.

    Attributes:
        claim: shards that it should claim.
        give: a shard that it should give up, and to whom.
    """

    claim: tuple[int, ...] = ()
    give: tuple[int, str] | None = None


def balance(*, members: Collection[str], owners: Mapping[int, str], shards: int, me: str, settled: bool = True) -> Plan:
    """What `me` should do.

    Args:
        members: ids of those that live and take shards, `me` among them.
        owners: of the shards that somebody owns who lives; one that isn't among `members` is about to leave.
        shards: how many there are.
        me: whose plan it is.
        settled: whether all shards that are owned are served. Until then none is moved.
    """
    loads = _loads(members, owners)
    orphans = [shard for shard in range(shards) if shard not in owners]
    if orphans:
        placed = _place(orphans, loads)
        return Plan(claim=tuple(shard for shard in orphans if placed[shard] == me))
    if not settled or not members or any(owner not in loads for owner in owners.values()):
        return Plan()
    most, least = max(loads, key=lambda name: (loads[name], name)), min(loads, key=lambda name: (loads[name], name))
    if most != me or loads[most] - loads[least] < 2:
        return Plan()
    return Plan(give=(max(shard for shard, owner in owners.items() if owner == me), least))


def _loads(members: Collection[str], owners: Mapping[int, str]) -> dict[str, int]:
    loads = dict.fromkeys(members, 0)
    for owner in owners.values():
        if owner in loads:
            loads[owner] += 1
    return loads


def _place(orphans: Collection[int], loads: dict[str, int]) -> dict[int, str]:
    """Who gets which, one after the other; `loads` grow."""
    placed = {}
    for shard in orphans:
        name = min(loads, key=lambda name: (loads[name], name))
        loads[name] += 1
        placed[shard] = name
    return placed
