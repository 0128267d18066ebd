"""A task type's handler: its function, where it runs, and what may be around it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from agent_node.context import Context

CallNext = Callable[[], Awaitable[Any]]
"""What is further inside: the next middleware, or the handler. It answers what that returns, and raises what that raises."""

Middleware = Callable[[Context, CallNext], Awaitable[Any]]
"""Something around handlers: `async def timed(ctx, call_next): ...; value = await call_next(); ...; return value`."""


class Isolation(Enum):
    """Where a handler runs."""

    LOOP = "loop"  # an async function, as a task
    THREAD = "thread"  # a plain function, in a thread
    PROCESS = "process"  # either, in a child process that a cancel kills


@dataclass(frozen=True, slots=True)
class Handler:
    """A task type's function, and where it runs. Of one for a process it is the user's own, which the child imports."""

    task_type: str
    function: Callable[..., Any]
    isolation: Isolation
    max_concurrent: int = 0  # of its type, at a time; 0 is no limit of its own
    version: int = 0
