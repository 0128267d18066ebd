"""How long to wait before trying again: exponential with full jitter, so that many clients don't come back at once."""

from collections.abc import Callable

from agent_node.ids import new_jitter


class Backoff:
    """Waits that grow. The n-th is uniform between 0 and `first_s` times 2 to the n, at most `limit_s`.

    Full jitter as in "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).

    Args:
        first_s: the first wait's upper bound in seconds.
        limit_s: no bound grows past this.
        uniform: a number from 0 up to 1; by default a random one.
    """

    def __init__(self, *, first_s: float = 0.1, limit_s: float = 2.0, uniform: Callable[[], float] | None = None) -> None:
        self._first_s = first_s
        self._limit_s = limit_s
        self._uniform = uniform or new_jitter()
        self._bound_s = first_s

    def next_s(self) -> float:
        """The next wait in seconds."""
        wait_s = self._bound_s * self._uniform()
        self._bound_s = min(self._bound_s * 2, self._limit_s)
        return wait_s

    def reset(self) -> None:
        """It worked: the next wait is a first one."""
        self._bound_s = self._first_s
