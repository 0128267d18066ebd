"""The event loop that the benchmark's own processes run on: uvloop where it is installed, as the coordinator does."""

import asyncio
from collections.abc import Callable
from importlib.util import find_spec


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes a uvloop event loop, or None, which stands for asyncio's own."""
    if find_spec("uvloop") is None:
        return None
    from uvloop import new_event_loop

    return new_event_loop


def loop_name() -> str:
    """The loop's name, for the report."""
    return "asyncio" if find_spec("uvloop") is None else "uvloop"
