"""Whether this coordinator can do its work now: for each shard serve it, or forward to who does. What probes are answered follows from it.

That the process lives shows in that it answers at all: its event loop runs. Whether it is ready is another question: restarting a
coordinator because its store is out would help nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordinator.cluster.directory import Directory
    from coordinator.engine.shard import Shard
    from coordinator.ports import Clock

LOOK_EVERY_S = 0.25
MAX_NAMED = 8  # shards in a sentence


class ShardState(Enum):
    """How a shard is, for those who call here."""

    SERVING = "serving"
    RECOVERING = "recovering"  # ours, and not served yet, or again
    OUT = "out"  # ours, and its store doesn't answer
    ELSEWHERE = "elsewhere"  # another coordinator's: calls for it are forwarded
    UNOWNED = "unowned"  # nobody's, as far as this coordinator knows


@dataclass(frozen=True, slots=True)
class ShardHealth:
    """One shard."""

    number: int
    state: ShardState
    owner: str  # a coordinator's id; empty where nobody is known to own it
    for_s: float  # how long it has been RECOVERING or OUT; 0 otherwise


@dataclass(frozen=True, slots=True)
class Report:
    """How a coordinator is: ready exactly when there is no reason why not."""

    reasons: tuple[str, ...]
    shards: tuple[ShardHealth, ...]

    @property
    def is_ready(self) -> bool:
        """Whether calls should be sent here."""
        return not self.reasons


class Health:
    """Looks at the shards, and tells when readiness changes.

    Args:
        shards: by number.
        directory: who owns which.
        clock: counts how long something lasts.
        patience_s: what is ours may be out, or being recovered, for so long before this coordinator isn't ready any more.
    """

    def __init__(self, *, shards: Sequence[Shard], directory: Directory, clock: Clock, patience_s: float) -> None:
        self._shards = shards
        self._directory = directory
        self._clock = clock
        self._patience_s = patience_s
        self._unserved_since_s: dict[int, float] = {}
        self._told: bool | None = None
        self._tell: Callable[[bool], Awaitable[None]] | None = None
        self.has_started = False  # set once all is served that is ours to begin with
        self.is_ending = False  # set before anything else ends

    def report(self) -> Report:
        """How it is now."""
        shards = tuple(map(self._shard, self._shards))
        reasons = []
        if self.is_ending:
            reasons.append("it is ending")
        elif not self.has_started:
            reasons.append("it is starting: what is its own isn't recovered yet")
        for state, what in ((ShardState.OUT, "the store doesn't answer"), (ShardState.RECOVERING, "being recovered")):
            late = [one for one in shards if one.state is state and one.for_s > self._patience_s]
            if late:
                longest_s = max(one.for_s for one in late)
                reasons.append(f"{what}, for {longest_s:.1f} s now: {_named(late)}")
        return Report(tuple(reasons), shards)

    async def look(self) -> None:
        """Tells whether it is ready, if that has changed."""
        is_ready = self.report().is_ready
        if is_ready is not self._told and self._tell is not None:
            self._told = is_ready
            await self._tell(is_ready)

    async def run(self, tell: Callable[[bool], Awaitable[None]]) -> None:
        """Tells `tell` whether it is ready, at once and whenever that changes, until cancelled."""
        self._tell = tell
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    def _shard(self, shard: Shard) -> ShardHealth:
        number, owner = shard.number, self._directory.owner_of(shard.number)
        if not self._directory.is_mine(number):
            self._unserved_since_s.pop(number, None)
            state = ShardState.UNOWNED if owner is None else ShardState.ELSEWHERE
            return ShardHealth(number, state, owner.coordinator_id if owner is not None else "", 0.0)
        if not shard.serving:
            now_s = self._clock.now_s()
            return ShardHealth(number, ShardState.RECOVERING, self._directory.me, now_s - self._unserved_since_s.setdefault(number, now_s))
        self._unserved_since_s.pop(number, None)
        if shard.outage_since_s is not None:
            return ShardHealth(number, ShardState.OUT, self._directory.me, self._clock.now_s() - shard.outage_since_s)
        return ShardHealth(number, ShardState.SERVING, self._directory.me, 0.0)


def _named(shards: Sequence[ShardHealth]) -> str:
    numbers = ", ".join(str(one.number) for one in shards[:MAX_NAMED])
    more = f" and {len(shards) - MAX_NAMED} more" if len(shards) > MAX_NAMED else ""
    return f"shard{'s' if len(shards) > 1 else ''} {numbers}{more}"
