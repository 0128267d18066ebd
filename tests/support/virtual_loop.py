"""An event loop whose time jumps to the next timer: a minute of waiting takes no time, and the same program runs the same way again."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class NothingWillHappen(AssertionError):
    """Everybody waits for somebody else: no callback is ready, and no timer is set."""


class LoopSpins(AssertionError):
    """Callbacks run and run, and time stands still: on a real machine a core would be busy with nothing."""


_MOST_ROUNDS_AT_ONCE = 10_000


class _Selector:
    """Instead of waiting for sockets, turns the clock on."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop
        self._rounds = 0

    def select(self, timeout: float | None) -> list[object]:
        if timeout is None:
            raise NothingWillHappen("all tasks wait, and no timer is set")
        before_s = self._loop.now_s
        self._loop.now_s += max(timeout, 0.0)
        self._rounds = self._rounds + 1 if self._loop.now_s == before_s else 0
        if self._rounds > _MOST_ROUNDS_AT_ONCE:
            raise LoopSpins(f"time stands still at {before_s} s")
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """A loop without sockets, threads or signals. `now_s` is its time in seconds, from 0.

    The first exception that no task and no future took is kept in `failure`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.failure: BaseException | None = None
        self._selector = _Selector(self)
        self._clock_resolution = 1e-9
        self.set_exception_handler(_keep_failure)

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self.now_s

    def _process_events(self, event_list: list[object]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody needs to be woken: there is one thread."""


def _keep_failure(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert isinstance(loop, VirtualLoop)
    if loop.failure is None:
        loop.failure = context.get("exception") or AssertionError(context["message"])


def run_virtually(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Runs `main(loop)` to its end in a loop of its own.

    Raises:
        BaseException: whatever `main` raised, or else what a callback or a forgotten task did.
    """
    loops: list[VirtualLoop] = []

    def make() -> VirtualLoop:
        loops.append(VirtualLoop())
        return loops[0]

    with asyncio.Runner(loop_factory=make) as runner:
        runner.get_loop()
        answer = runner.run(main(loops[0]))
    if loops[0].failure is not None:
        raise loops[0].failure
    return answer
