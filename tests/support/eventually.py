"""Waiting for what happens elsewhere: the one place in the tests that polls."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

T = TypeVar("T")

_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.05


async def eventually(predicate: Callable[[], T | Awaitable[T]], *, within_s: float = 5.0, message: str = "") -> T:
    """Calls `predicate`, plain or async, until its answer is truthy, and returns that answer.

    An exception of the predicate is an error of the test, and ends the wait. An async predicate that hangs counts as not yet.

    Args:
        predicate: asked again and again; it must have no effect of its own.
        within_s: seconds after which the wait fails. The predicate is asked at least once.
        message: what was waited for, for the one who reads the failure.

    Raises:
        AssertionError: time is up; it holds the message and the last answer.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    pause_s = _FIRST_PAUSE_S
    while True:
        last: object = predicate()
        if inspect.isawaitable(last):
            last = await _within(last, seconds=max(deadline - loop.time(), _LONGEST_PAUSE_S))
        if last:
            return cast("T", last)
        if loop.time() >= deadline:
            raise AssertionError(f"not within {within_s:g} s: {message or 'the predicate'} (last answer: {last!r})")
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


async def _within(answer: Awaitable[object], *, seconds: float) -> object:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await answer
    except TimeoutError:
        if limit.expired():
            return None
        raise  # the predicate's own
