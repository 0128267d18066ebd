"""Calls that are under way to other coordinators: which end when their shard moves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

    from coordinator.cluster.directory import Directory, Owner

MOVED_GRACE_S = 1.0  # for an owner that has given a shard up to end its streams itself; one that was stopped never does


class ForwardedCall:
    """One of them, from its begin to its end: a context manager.

    Args:
        calls: all of them.
        shard: whose it is.
        owner: where it went.
        call: the call.
    """

    def __init__(self, calls: ForwardedCalls, shard: int, owner: Owner, call: Any) -> None:
        self._calls = calls
        self.shard = shard
        self.owner = owner
        self.call = call
        self.moved_to: Owner | None = None
        self.timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._calls.open.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._calls.open.discard(self)
        if self.timer is not None:
            self.timer.cancel()
        self.call.cancel()

    def end(self) -> None:
        """Its shard is somebody else's."""
        self.call.cancel()


class ForwardedCalls:
    """All of them.

    Args:
        directory: who owns what.
        grace_s: how long the old owner of a shard may take to end them.
    """

    def __init__(self, *, directory: Directory, grace_s: float = MOVED_GRACE_S) -> None:
        self._directory = directory
        self._grace_s = grace_s
        self.open: set[ForwardedCall] = set()

    def begin(self, shard: int, owner: Owner, call: Any) -> ForwardedCall:
        """A call that was sent to a shard's owner."""
        return ForwardedCall(self, shard, owner, call)

    def look(self) -> None:
        """After owners have changed: ends what is with the wrong ones, in a while."""
        for call in self.open:
            owner = self._directory.owner_of(call.shard)
            if owner is not None and owner != call.owner and call.timer is None:
                call.moved_to = owner
                call.timer = asyncio.get_running_loop().call_later(self._grace_s, call.end)
