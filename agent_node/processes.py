"""Child processes that run handlers which must be killable: one attempt at a time, kept for the next.

A child is driven by the handler thread that its attempt occupies, over one pipe. Both ends exchange small tuples. Children are
spawned, not forked: gRPC's threads don't survive a fork.
"""

import asyncio
import contextlib
import dataclasses
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from agent_node.attempt import Attempt, CheckpointVerdict, Failed, HandlerOutcome, Limits, Stopped
from agent_node.context import Context
from agent_node.errors import AttemptLostError, MusterError
from agent_node.handler_clients import ClientOptions, HandlerClients
from agent_node.outcomes import from_exception, from_value
from agent_node.reports import AttemptReports, Gathered, ReportsHost, reports_of
from agent_node.signature import is_async, with_payload

HandlerFunction = Callable[[Context], Any]

# What goes to a child: an attempt to run, or the answer to a checkpoint by its number.
_ToChild = tuple[Attempt, Limits] | tuple[int, CheckpointVerdict]
# What comes from it: reports, or how the attempt ended.
_FromChild = Gathered | HandlerOutcome

_REAP_S = 1.0


class ChildProcess:
    """One child. `run` belongs to one thread at a time; `kill` may come from another.

    Args:
        function: the handler, which the child imports by its module and name.
        client_options: for the handler's client.
    """

    def __init__(self, function: HandlerFunction, client_options: ClientOptions) -> None:
        self.function = function
        self._client_options = client_options
        self._killed = False
        self._lock = threading.Lock()
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None

    @property
    def usable(self) -> bool:
        """Whether another attempt may run in it."""
        return not self._killed and self._process is not None and self._process.is_alive()

    def run(self, attempt: Attempt, host: ReportsHost) -> HandlerOutcome:
        """Runs an attempt to its end, whatever end that is."""
        try:
            pipe = self._started()
            if pipe is None:
                return Stopped()
            self._send(pipe, (dataclasses.replace(attempt, reports=None), host.limits()))
            while True:
                said: _FromChild = pipe.recv()
                if not isinstance(said, Gathered):
                    return said
                self._relay(pipe, said, reports_of(attempt, host))
        except (EOFError, OSError):
            if self._killed:
                return Stopped()
            return Failed(f"the handler's process died with exit code {self._reap()}", kind="LEASE_LOST", error_type="ProcessDied")

    def kill(self) -> None:
        """Ends the child, whatever it does."""
        with self._lock:
            self._killed = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """Kills it, reaps it and lets go of the pipe."""
        self.kill()
        self._reap()
        if self._pipe is not None:
            self._pipe.close()

    def _started(self) -> Connection | None:
        """The pipe to a live child; None when it has been killed."""
        with self._lock:
            if self._killed:
                return None
            if self._process is None:
                spawn = multiprocessing.get_context("spawn")
                self._pipe, theirs = spawn.Pipe()
                arguments = (theirs, self.function, self._client_options)
                process = spawn.Process(target=_child_main, args=arguments, name="muster-handler", daemon=True)
                process.start()
                self._process = process
                theirs.close()
            return self._pipe

    def _send(self, pipe: Connection, what: _ToChild) -> None:
        with self._lock:
            if not self._killed:
                pipe.send(what)

    def _relay(self, pipe: Connection, gathered: Gathered, reports: AttemptReports) -> None:
        try:
            stored = reports.relay(gathered)
        except MusterError as error:
            stored = Future()
            stored.set_exception(error)
        if stored is not None and gathered.checkpoint is not None:
            sequence = gathered.checkpoint.sequence
            stored.add_done_callback(lambda future: self._answer(pipe, sequence, future.exception()))

    def _answer(self, pipe: Connection, sequence: int, error: BaseException | None) -> None:
        """In whichever thread brings the answer."""
        if error is None:
            verdict = CheckpointVerdict.STORED
        else:
            verdict = CheckpointVerdict.LOST if isinstance(error, AttemptLostError) else CheckpointVerdict.REFUSED
        with contextlib.suppress(OSError):  # it died meanwhile: `run` hears of that
            self._send(pipe, (sequence, verdict))

    def _reap(self) -> int | None:
        if self._process is None:
            return None
        self._process.join(_REAP_S)
        return self._process.exitcode


class HandlerProcesses:
    """The children of one agent: as many as run at a time, and idle ones kept for the next attempt of their handler.

    Args:
        client_options: for handlers' clients.
    """

    def __init__(self, client_options: ClientOptions) -> None:
        self._client_options = client_options
        self._lock = threading.Lock()
        self._children: set[ChildProcess] = set()
        self._idle: dict[HandlerFunction, list[ChildProcess]] = {}

    def take(self, function: HandlerFunction) -> ChildProcess:
        """An idle child for this handler, or a new one, which starts with its first attempt."""
        with self._lock:
            idle = self._idle.get(function, [])
            while idle:
                child = idle.pop()
                if child.usable:
                    return child
                self._children.discard(child)
            child = ChildProcess(function, self._client_options)
            self._children.add(child)
            return child

    def run(self, child: ChildProcess, attempt: Attempt, host: ReportsHost) -> HandlerOutcome:
        """Runs an attempt in a child that was taken, to whatever end, and takes the child back."""
        try:
            outcome = child.run(attempt, host)
        except BaseException as error:  # noqa: BLE001 - a handler that can't be pickled, a child that can't be started
            outcome = from_exception(error)
            child.kill()
        self.give_back(child)
        return outcome

    def give_back(self, child: ChildProcess) -> None:
        """Its attempt is over. A child that can't be used again is closed."""
        with self._lock:
            if child.usable:
                self._idle.setdefault(child.function, []).append(child)
                return
            self._children.discard(child)
        child.close()

    def close(self) -> None:
        """Kills all of them."""
        with self._lock:
            children, self._children = self._children, set()
            self._idle.clear()
        for child in children:
            child.kill()


class _ChildSide:
    """In the child: the surroundings of its one attempt at a time."""

    def __init__(self, pipe: Connection, client_options: ClientOptions) -> None:
        self._pipe = pipe
        self._client_options = client_options
        self._clients = HandlerClients(client_options)
        self._limits = Limits()
        self._lock = threading.Lock()
        self._current: Attempt | None = None
        self._attempts: queue.SimpleQueue[Attempt] = queue.SimpleQueue()

    def limits(self) -> Limits:
        return self._limits

    def changed(self, reports: AttemptReports) -> None:
        self._send(reports.take())

    def clients(self) -> HandlerClients:
        return self._clients

    def serve(self, function: HandlerFunction) -> None:
        """Runs attempts until the parent is gone."""
        threading.Thread(target=self._listen, name="muster-parent", daemon=True).start()
        while True:
            attempt = self._attempts.get()
            self._send(self._run(function, attempt))

    def _run(self, function: HandlerFunction, attempt: Attempt) -> HandlerOutcome:
        in_loop = is_async(function)
        context = Context(attempt, self, in_event_loop=in_loop)
        try:
            return from_value(asyncio.run(self._finish(function(context))) if in_loop else function(context))
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises, sys.exit() too, is its attempt's outcome
            return from_exception(error)

    async def _finish(self, running: Awaitable[object]) -> object:
        """The handler to its end; then closes what it opened in a loop that ends with it."""
        try:
            return await running
        finally:
            await self._clients.aclose()
            self._clients = HandlerClients(self._client_options)

    def _listen(self) -> None:
        while True:
            try:
                said: _ToChild = self._pipe.recv()
            except (EOFError, OSError):
                os._exit(0)  # nobody is left to report to, and the handler may never return
            first, second = said
            if isinstance(first, Attempt) and isinstance(second, Limits):
                self._current, self._limits = first, second
                self._attempts.put(first)
            elif isinstance(first, int) and isinstance(second, CheckpointVerdict) and self._current is not None and self._current.reports:
                self._current.reports.answer_checkpoint(first, second)

    def _send(self, what: _FromChild) -> None:
        with self._lock:
            self._pipe.send(what)


def _child_main(pipe: Connection, function: HandlerFunction, client_options: ClientOptions) -> None:
    # A Ctrl-C reaches the whole process group, and it is the parent's to act on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _ChildSide(pipe, client_options).serve(with_payload(function))
