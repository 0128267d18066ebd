"""The agent as its author sees it: handlers by task type, served until told to stop."""

import asyncio
import contextlib
import dataclasses
import functools
import logging
import os
import pickle
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Literal, TypeVar

from agent_node import clock, ids
from agent_node.backoff import Backoff
from agent_node.client import SubmitMiddleware
from agent_node.connection import Target, default_address
from agent_node.context import Context
from agent_node.handler import Handler, Isolation, Middleware
from agent_node.handler_clients import ClientOptions
from agent_node.handoff import Mailbox
from agent_node.held import Capability, Identity
from agent_node.instructions import SetLimits, Start, StopHandler
from agent_node.loop_lag import LoopLagProbe
from agent_node.payloads import Payloads
from agent_node.reports import Report
from agent_node.runner import Runner
from agent_node.session import Session
from agent_node.signature import is_async, payload_type, with_payload
from agent_node.stream_thread import StreamThread
from agent_node.transport import HandlerInstruction, Transport
from agent_node.wire_text import wire_text

_log = logging.getLogger("muster.agent")

SDK = "muster-python/0.1.0"
MAX_CAPACITY = 10_000
MAX_NAME_CHARACTERS = 128
_CLEAN_UP_S = 1.0  # what async handlers get after the stream is gone

HandlerFunction = TypeVar("HandlerFunction", bound=Callable[[Context], Any] | Callable[[Context, Any], Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """Who an agent is and where it works."""

    name: str
    address: str = field(default_factory=default_address)
    namespace: str = "default"
    capacity: int = 10  # tasks at a time
    labels: Mapping[str, str] = field(default_factory=dict)
    drain_deadline_s: float = 30.0  # how long handlers may go on once the agent leaves
    payloads: Payloads | None = None  # what payloads and results go through
    middleware: tuple[Middleware, ...] = ()  # around handlers
    submit_middleware: tuple[SubmitMiddleware, ...] = ()  # around what handlers submit

    def __post_init__(self) -> None:
        _check_name("an agent's name", self.name)
        if not 1 <= self.capacity <= MAX_CAPACITY:
            raise ValueError(f"capacity must be 1 to {MAX_CAPACITY:,}, not {self.capacity}")
        if self.drain_deadline_s < 0:
            raise ValueError(f"drain_deadline_s can't be negative, and is {self.drain_deadline_s}")


class Agent:
    """Runs tasks of the types that it has handlers for.

    Args:
        name: unique among the namespace's live agents, and the same after a restart if you want to recognise it. By default made of
            the host's name, the process id and a random tail.
        address: the coordinator's `host:port`, or those of several, comma separated, or a DNS name that has several; by default
            MUSTER_ADDRESS of the environment, or else 127.0.0.1:7450.
        namespace: an existing namespace; `serve` raises NotFoundError for another.
        capacity: how many tasks it runs at a time, 1 to 10,000; default 10.
        labels: facts that tasks can ask for (`Scheduling.selectors`), at most 32, keys and values of 1 to 128 characters.
        drain_deadline_s: once it leaves, seconds that handlers may go on before they are cancelled and their tasks given back; default 30.
        payloads: what payloads went through before they travelled, and what results, and what handlers submit, go through; None is nothing.
        middleware: around every handler, in the event loop, the first outermost; see `Middleware`.
        submit_middleware: around what handlers submit with `ctx.client` and `ctx.blocking_client`; as `Client(middleware=...)`.

    Raises:
        ValueError: an argument is out of its range.

    Several agents may serve in one process, and in one event loop.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        address: str | None = None,
        namespace: str = "default",
        capacity: int = 10,
        labels: Mapping[str, str] | None = None,
        drain_deadline_s: float = 30.0,
        payloads: Payloads | None = None,
        middleware: Sequence[Middleware] = (),
        submit_middleware: Sequence[SubmitMiddleware] = (),
    ) -> None:
        self.settings = AgentSettings(
            name=default_agent_name() if name is None else name,
            address=address or default_address(),
            namespace=namespace,
            capacity=capacity,
            labels=dict(labels or {}),
            drain_deadline_s=drain_deadline_s,
            payloads=payloads,
            middleware=tuple(middleware),
            submit_middleware=tuple(submit_middleware),
        )
        self._handlers: dict[str, Handler] = {}
        self._serving: _Serving | None = None

    @property
    def name(self) -> str:
        """The agent's name."""
        return self.settings.name

    @property
    def task_types(self) -> list[str]:
        """The types that it has handlers for."""
        return list(self._handlers)

    def handler(
        self, task_type: str, *, isolation: Literal["thread", "process"] | None = None, max_concurrent: int = 0, version: int = 0
    ) -> Callable[[HandlerFunction], HandlerFunction]:
        """Decorates the handler of a task type: a function of a Context, or of a Context and a payload.

        A payload is read into the type that its parameter is annotated with: `bytes` as they are, `str` as text, and from JSON a
        dataclass, a pydantic model, or what JSON has, such as `list[int]`. One that doesn't fit fails the task without a retry, and says
        where.

        It returns bytes, str, None, what JSON can hold, a dataclass or a pydantic model.

        An async function runs in the event loop, and a cancel raises CancelledError in it. A plain one runs in a thread, where
        `ctx.cancelled` says that it should stop. With `isolation="process"` either runs in a child process that a cancel kills; the
        function must be one that the child can import: defined at the top of a module.

        Args:
            task_type: what clients submit, 1 to 128 characters.
            isolation: None for the event loop or a thread, by the function's kind; "thread" or "process" to say so.
            max_concurrent: how many of this type it runs at a time, within its capacity; 0 is no limit of its own.
            version: a number that grows when tasks may need the newer handler, which they ask for as `min_version`; 0 is none.

        Raises:
            ValueError: the type has a handler, or isn't 1 to 128 characters; the isolation doesn't suit the function; or its payload's type
                is missing, can't be found, or can't be read from JSON.
        """
        _check_name("a task type", task_type)
        if task_type in self._handlers:
            raise ValueError(f"{task_type!r} has a handler already")
        if min(max_concurrent, version) < 0:
            raise ValueError(f"max_concurrent and version of {task_type!r} can't be negative")

        def register(function: HandlerFunction) -> HandlerFunction:
            where = _isolation(function, isolation)
            payload_type(function)
            called = function if where is Isolation.PROCESS else with_payload(function)
            self._handlers[task_type] = Handler(task_type, called, where, max_concurrent, version)
            return function

        return register

    def override(
        self, *, name: str | None = None, address: str | None = None, namespace: str | None = None, capacity: int | None = None
    ) -> None:
        """Changes, before it serves, what is not None: for command lines. The arguments are the constructor's.

        Raises:
            ValueError: a value is out of its range.
        """
        given = {"name": name, "address": address, "namespace": namespace, "capacity": capacity}
        self.settings = dataclasses.replace(self.settings, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]

    async def serve(self) -> None:
        """Serves until drained or stopped. Cancelling it stops at once; the tasks it ran go to other agents when their leases end.

        Raises:
            RefusedError: another process took the agent's name (reason SESSION_SUPERSEDED), or the coordinator will not have it, such
                as for an unknown namespace (NotFoundError). A coordinator that can't be reached is waited for.
            RuntimeError: it is serving already, has no handler, or has one for a process and payloads or submit middleware that can't go
                there.
        """
        if self._serving is not None:
            raise RuntimeError(f"agent {self.name!r} is serving already")
        if not self._handlers:
            raise RuntimeError(f"agent {self.name!r} has no handler: decorate one with @agent.handler(...)")
        if any(handler.isolation is Isolation.PROCESS for handler in self._handlers.values()):
            _check_portable(self.settings)
        self._serving = _Serving(self.settings, dict(self._handlers))
        try:
            await self._serving.run()
        finally:
            self._serving = None

    def drain(self, reason: str = "drain", *, deadline_s: float | None = None) -> None:
        """Has `serve` take no new work, finish what runs, and return. From any thread; without effect when it isn't serving.

        Args:
            reason: why, shown by the coordinator.
            deadline_s: seconds after which handlers are cancelled and their tasks given back; None is the agent's own.
        """
        if self._serving is not None:
            self._serving.drain(reason, deadline_s)

    def stop(self) -> None:
        """Has `serve` return at once, whatever runs. From any thread."""
        if self._serving is not None:
            self._serving.stop()

    def run(self) -> None:
        """Serves, blocking. SIGTERM and SIGINT drain; a second one ends the process at once, with exit code 128 + its number.

        Raises:
            RefusedError, RuntimeError: as `serve`.
        """
        if threading.current_thread() is not threading.main_thread():
            asyncio.run(self.serve())
            return
        signals = (signal.SIGTERM, signal.SIGINT)
        on_signal = _DrainThenExit(self)
        # Python's own handlers rather than the loop's: these run although a handler blocks the loop.
        before = [signal.signal(number, on_signal) for number in signals]
        try:
            asyncio.run(self.serve())
        finally:
            for number, handler in zip(signals, before, strict=True):
                signal.signal(number, handler)


def default_agent_name() -> str:
    """A name that no other agent has, and that says where it runs."""
    host = os.uname().nodename.split(".")[0] if hasattr(os, "uname") else ""
    return f"{host[:80] or 'agent'}-{os.getpid()}-{ids.new_task_id()[-6:]}"


class _DrainThenExit:
    """What run() does with signals."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature is Python's
        if self._asked:
            os._exit(128 + number)  # nothing gentler gets past a handler that doesn't stop
        self._asked = True
        self._agent.drain(signal.Signals(number).name)


class _Serving:
    """One call of serve(): everything that it needs, connected. Constructed in the thread of the user's loop."""

    def __init__(self, settings: AgentSettings, handlers: dict[str, Handler]) -> None:
        loop = asyncio.get_running_loop()
        self._streams = StreamThread.acquire()
        target = Target(settings.address, settings.namespace)
        identity = Identity(
            agent_name=settings.name,
            session_nonce=ids.new_task_id(),
            capabilities=[Capability(each.task_type, each.max_concurrent, each.version) for each in handlers.values()],
            labels=settings.labels,
            capacity=settings.capacity,
            sdk=SDK,
        )
        instructions: Mailbox[HandlerInstruction] = Mailbox(loop, self._obey)
        self._transport = Transport(
            session=Session(identity=identity, drain_deadline_s=settings.drain_deadline_s),
            target=target,
            agent_name=settings.name,
            backoff=Backoff(),
            now_s=clock.now_s,
            loop_lag_s=LoopLagProbe(loop, now_s=clock.now_s).measure,
            instruct=instructions.put_all,
        )
        reports: Mailbox[Report] = Mailbox(self._streams.loop, self._transport.take_reports)
        self._runner = Runner(
            handlers=handlers,
            capacity=settings.capacity,
            report=reports.put_all,
            loop=loop,
            name=settings.name,
            client_options=ClientOptions(target, settings.payloads, settings.submit_middleware, settings.name),
            middleware=settings.middleware,
            payloads=settings.payloads,
        )

    async def run(self) -> None:
        """Until the session finishes, is refused, or is stopped."""
        try:
            await asyncio.wrap_future(self._streams.submit(self._transport.run()))
        finally:
            self._runner.close()
            await self._runner.wait_closed(within_s=_CLEAN_UP_S)
            await self._streams.release()

    def drain(self, reason: str, deadline_s: float | None) -> None:
        self._tell(functools.partial(self._transport.drain, reason, deadline_s))

    def stop(self) -> None:
        self._tell(self._transport.stop)

    def _tell(self, what: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended by itself just now, and only its cleaning up is left
            self._streams.loop.call_soon_threadsafe(what)

    def _obey(self, instructions: list[HandlerInstruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Start(attempts):
                    self._runner.start(attempts)
                case StopHandler(attempt, cause, reason):
                    self._runner.stop_handler(attempt, cause, reason)
                case SetLimits(limits):
                    self._runner.set_limits(limits)


def _check_name(what: str, name: str) -> None:
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        raise ValueError(f"{what} is 1 to {MAX_NAME_CHARACTERS} characters long, and {name[:40]!r} is {len(name)}")
    if wire_text(name) != name:
        raise ValueError(f"{what} is text that UTF-8 can hold, and {name!r} isn't")


def _check_portable(settings: AgentSettings) -> None:
    try:
        pickle.dumps((settings.payloads, settings.submit_middleware))
    except Exception as error:  # a user's object may fail in any way
        raise RuntimeError(
            "the payloads and submit_middleware of an agent with process handlers go to their processes, so they must be picklable, "
            f"and functions at the top of a module: {error}"
        ) from error


def _isolation(function: Callable[..., Any], asked: str | None) -> Isolation:
    match asked:
        case None:
            return Isolation.LOOP if is_async(function) else Isolation.THREAD
        case "thread" if is_async(function):
            raise ValueError("an async handler runs in the event loop or in a process, not in a thread")
        case "thread":
            return Isolation.THREAD
        case "process":
            return Isolation.PROCESS
        case _:
            raise ValueError(f'isolation is None, "thread" or "process", not {asked!r}')
