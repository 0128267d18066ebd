"""How long ago the store said that a shard is this coordinator's, and what follows. It must not know how the store is asked.

An append says so. A shard that appends nothing asks, so that a coordinator that lost a shard notices, and answers no read from a past that
is longer ago than the period. Where others may come, it has the shard under a lease, which each answer of the store extends; then nothing
is told to anybody once the lease is over by our clock, before the store has said again whose the shard is.
"""

from coordinator.ports import Clock, Held

CONFIRM_AFTER_S = 3.0  # where nobody else can come: sixteen shards at rest ask five times a second, some tenths of a millisecond each
RENEWALS_PER_LEASE = 3  # so that one that fails isn't the end


class ShardLost(Exception):
    """Another coordinator owns the shard now: this one must not write to it, nor answer for it.

    Args:
        message: what happened.
        held: by whom, where that is known.
    """

    def __init__(self, message: str, *, held: Held | None = None) -> None:
        super().__init__(message)
        self.held = held


class Ownership:
    """What is known of who owns a shard.

    Args:
        clock: the machine's, which goes on while the process is stopped.
        lease_s: how long the shard stays ours unheard; 0 where nobody else can come.
    """

    def __init__(self, *, clock: Clock, lease_s: float = 0.0) -> None:
        self.confirm_after_s = min(CONFIRM_AFTER_S, lease_s / RENEWALS_PER_LEASE) if lease_s else CONFIRM_AFTER_S
        self.lease_s = lease_s
        self._clock = clock
        self._confirmed_s = clock.now_s()

    def confirmed(self, at_s: float) -> None:
        """The store was asked at `at_s`, and it is still ours."""
        self._confirmed_s = at_s

    def doubt(self) -> None:
        """It is to be asked before anything more is said."""
        self._confirmed_s = min(self._confirmed_s, self._clock.now_s() - self.confirm_after_s)

    def is_doubtful(self) -> bool:
        """Whether the store must be asked before anything more is said."""
        return self._clock.now_s() - self._confirmed_s >= self.confirm_after_s

    def is_over(self) -> bool:
        """Whether the lease has ended as far as we know: somebody else may have the shard by now."""
        return self.lease_s > 0 and self._clock.now_s() - self._confirmed_s >= self.lease_s
