"""How long ago the store said that a shard is this coordinator's. It must not know how the store is asked.

An append says so. A shard that appends nothing asks, so that a coordinator that lost a shard notices, and answers no read from a past that
is longer ago than the period.
"""

from coordinator.ports import Clock

CONFIRM_AFTER_S = 3.0  # sixteen shards at rest ask five times a second, some tenths of a millisecond each


class ShardLost(Exception):
    """Another coordinator owns the shard now: this one must not write to it, nor answer for it."""


class Ownership:
    """What is known of who owns a shard.

    Args:
        clock: the machine's, which goes on while the process is stopped.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._confirmed_s = clock.now_s()

    def confirmed(self, at_s: float) -> None:
        """The store was asked at `at_s`, and it is still ours."""
        self._confirmed_s = at_s

    def doubt(self) -> None:
        """It is to be asked before anything more is said."""
        self._confirmed_s = self._clock.now_s() - CONFIRM_AFTER_S

    def is_doubtful(self) -> bool:
        """Whether the store must be asked before anything more is said."""
        return self._clock.now_s() - self._confirmed_s >= CONFIRM_AFTER_S
