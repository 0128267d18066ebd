"""Middleware and payload codecs around handlers: with either, every handler is run by a task of the event loop.

That task decodes the payload, passes through the middleware, awaits the handler wherever it runs, and encodes what came of it. So there is
one kind of middleware for all handlers, and what it sets in its context reaches those in the loop and in threads. An agent with neither has
nothing of this on its way.
"""

import asyncio
import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from agent_node.attempt import Attempt, Failed, HandlerOutcome, Succeeded
from agent_node.context import Context, ContextHost
from agent_node.errors import ProcessFailedError
from agent_node.handler import CallNext, Handler, Isolation, Middleware
from agent_node.outcomes import from_value
from agent_node.payloads import About, Content, Payloads
from agent_node.processes import HandlerProcesses
from agent_node.threads import HandlerThreads


class Surroundings:
    """What is around one agent's handlers.

    Args:
        middleware: the first is the outermost.
        payloads: decodes payloads before, and encodes results after all middleware; None leaves both as they are.
        threads: where plain handlers run.
        processes: where those run that must be killable.
        loop: where everything else happens.
    """

    def __init__(
        self,
        *,
        middleware: Sequence[Middleware],
        payloads: Payloads | None,
        threads: HandlerThreads,
        processes: HandlerProcesses,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._middleware = tuple(reversed(middleware))
        self._payloads = payloads
        self._threads = threads
        self._processes = processes
        self._loop = loop
        self._closed = False

    def around(self, handler: Handler) -> Handler:
        """The handler with everything around it, as one for the event loop."""
        innermost: Callable[[Context], Any]
        match handler.isolation:
            case Isolation.LOOP:
                innermost = handler.function
            case Isolation.THREAD:
                innermost = functools.partial(self._in_thread, handler.function)
            case Isolation.PROCESS:
                innermost = functools.partial(self._in_process, handler.function)
        return Handler(handler.task_type, functools.partial(self._run, innermost), Isolation.LOOP)

    def close(self) -> None:
        """From now on nobody waits for a thread that doesn't stop."""
        self._closed = True

    async def _run(self, innermost: Callable[[Context], Any], context: Context) -> HandlerOutcome:
        attempt = context._attempt  # noqa: SLF001 - the context's other half
        payloads = self._payloads
        if payloads is not None and payloads.encoded(attempt.content_type):
            content = await payloads.decode(Content(attempt.payload, attempt.content_type), About("payload", context.task_id))
            attempt.payload, attempt.content_type = content.data, content.content_type
        call: CallNext = functools.partial(innermost, context)
        for middleware in self._middleware:
            call = functools.partial(middleware, context, call)
        outcome = from_value(await call())
        if payloads is not None and isinstance(outcome, Succeeded):
            content = await payloads.encode(Content(outcome.payload, outcome.content_type), About("result", context.task_id))
            return Succeeded(content.data, content.content_type)
        return outcome

    async def _in_thread(self, function: Callable[[Context], Any], context: Context) -> Any:
        attempt = context._attempt  # noqa: SLF001 - the context's other half
        inside = Context(attempt, context._host, in_event_loop=False)  # noqa: SLF001 - likewise
        value = await self._elsewhere(functools.partial(contextvars.copy_context().run, function, inside))
        if value is None and attempt.stop_seen:
            raise asyncio.CancelledError(attempt.stop_reason)
        return value

    async def _in_process(self, function: Callable[[Context], Any], context: Context) -> Succeeded:
        attempt: Attempt = context._attempt  # noqa: SLF001 - the context's other half
        host: ContextHost = context._host  # noqa: SLF001 - likewise
        child = self._processes.take(function)
        outcome: HandlerOutcome = await self._elsewhere(functools.partial(self._processes.run, child, attempt, host), stop=child.kill)
        match outcome:
            case Succeeded():
                return outcome
            case Failed():
                fields = {field.name: getattr(outcome, field.name) for field in dataclasses.fields(outcome)}
                raise ProcessFailedError(**fields)
            case _:
                raise asyncio.CancelledError(attempt.stop_reason)

    async def _elsewhere(self, work: Callable[[], Any], *, stop: Callable[[], None] = lambda: None) -> Any:
        """Does the work in a thread, and waits for its end: a cancellation only calls `stop`, for what doesn't stop keeps its slot."""
        done: asyncio.Future[tuple[Any, BaseException | None]] = self._loop.create_future()

        def job() -> None:
            try:
                ended: tuple[Any, BaseException | None] = (work(), None)
            except BaseException as error:  # noqa: BLE001 - a handler's sys.exit() ends its attempt, not this thread
                ended = (None, error)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(_settle, done, ended)

        self._threads.submit(job)
        while not done.done():
            try:
                await asyncio.shield(done)
            except asyncio.CancelledError:
                stop()
                task = asyncio.current_task()
                if self._closed or task is None:
                    raise
                task.uncancel()
        value, error = done.result()
        if error is None:
            return value
        if isinstance(error, (Exception, asyncio.CancelledError, SystemExit)):
            raise error
        raise RuntimeError(f"the handler raised {type(error).__qualname__}") from error


def _settle(done: "asyncio.Future[tuple[Any, BaseException | None]]", ended: tuple[Any, BaseException | None]) -> None:
    if not done.done():
        done.set_result(ended)
