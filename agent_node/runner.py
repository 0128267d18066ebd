"""Runs handlers in the user's event loop, in threads and in child processes, never more than the capacity at a time.

Everything here happens in the thread of the user's loop, but for what says otherwise. It knows nothing of the stream.
"""

import asyncio
import contextvars
import functools
import threading
from collections import deque
from collections.abc import Callable, Sequence

from agent_node.attempt import Attempt, AttemptKey, Failed, HandlerOutcome, Limits, StopCause, Stopped
from agent_node.context import Context
from agent_node.handler import Handler, Isolation, Middleware
from agent_node.handler_clients import ClientOptions, HandlerClients
from agent_node.handoff import Mailbox
from agent_node.outcomes import from_exception, from_value
from agent_node.payloads import Payloads
from agent_node.processes import ChildProcess, HandlerProcesses
from agent_node.reports import AttemptReports, CancelDelivered, Ended, Report
from agent_node.surround import Surroundings
from agent_node.threads import HandlerThreads


class _Execution:
    """One handler at work, or waiting for its turn."""

    __slots__ = ("attempt", "child", "context", "handler", "started", "stop_asked", "task")

    def __init__(self, attempt: Attempt, handler: Handler, context: Context) -> None:
        self.attempt = attempt
        self.handler = handler
        self.context = context
        self.task: asyncio.Task[None] | None = None
        self.child: ChildProcess | None = None
        self.started = False
        self.stop_asked = False


class Runner:
    """Runs one agent's handlers.

    Args:
        handlers: by task type.
        capacity: how many at a time.
        report: takes what handlers end with and tell; called from any thread.
        loop: the user's, which runs in the thread that constructs this.
        name: the agent's, for threads.
        client_options: of the clients that handlers submit with.
        middleware: around all handlers, the first outermost.
        payloads: what payloads and results go through; None is nothing.
    """

    def __init__(
        self,
        *,
        handlers: dict[str, Handler],
        capacity: int,
        report: Callable[[list[Report]], None],
        loop: asyncio.AbstractEventLoop,
        name: str,
        client_options: ClientOptions,
        middleware: Sequence[Middleware] = (),
        payloads: Payloads | None = None,
    ) -> None:
        self._capacity = capacity
        self._report = report
        self._loop = loop
        self._executions: dict[AttemptKey, _Execution] = {}
        self._waiting: deque[_Execution] = deque()
        self._running = 0
        self._ready: deque[_Execution] = deque()  # for the loop, with a slot
        self._workers: set[asyncio.Task[None]] = set()
        self._spawning = 0  # how many workers the next turn may make; 0: none is due
        self._gathered: list[Report] = []
        self._limits = Limits()
        self._clients = HandlerClients(client_options)
        self._threads = HandlerThreads(name=f"muster-{name}")
        self._processes = HandlerProcesses(client_options)
        self._surroundings = Surroundings(
            middleware=middleware, payloads=payloads, threads=self._threads, processes=self._processes, loop=loop
        )
        around = bool(middleware) or payloads is not None
        self._handlers = {each.task_type: self._surroundings.around(each) for each in handlers.values()} if around else handlers
        self._left_threads: Mailbox[_Execution] = Mailbox(loop, self._leave_all)
        self._closed = False
        self._thread = threading.get_ident()

    @property
    def running(self) -> int:
        """Handlers at work now."""
        return self._running

    def start(self, attempts: list[Attempt]) -> None:
        """Runs these, as slots are free."""
        for attempt in attempts:
            handler = self._handlers.get(attempt.task_type)
            if handler is None:
                self._tell(Ended(attempt, Failed(f"this agent has no handler for {attempt.task_type!r}", kind="NO_HANDLER")))
                continue
            execution = _Execution(attempt, handler, Context(attempt, self, in_event_loop=handler.isolation is Isolation.LOOP))
            self._executions[attempt.key] = execution
            if self._running < self._capacity:
                self._begin(execution)
            else:
                self._waiting.append(execution)

    def stop_handler(self, attempt: Attempt, cause: StopCause, reason: str) -> None:
        """Asks one to stop, once: CancelledError in the loop, `ctx.cancelled` in a thread, a kill for a process."""
        execution = self._executions.get(attempt.key)
        if cause is StopCause.LOST and attempt.reports is not None:
            attempt.reports.lose()
        if execution is None or execution.stop_asked:  # a second cancel would cut its cleaning up short
            return
        execution.stop_asked = True
        attempt.stop_reason, attempt.stop_cause = reason, cause
        if not execution.started:
            # It waits for a slot, or for the loop's next turn: no handler has seen it.
            if execution in self._ready:
                self._ready.remove(execution)
                self._leave(execution)
            else:
                self._waiting.remove(execution)
                self._executions.pop(attempt.key)
            self._tell(Ended(attempt, Stopped()))
            return
        if execution.task is not None:
            execution.task.cancel(reason)
        elif execution.child is not None:
            execution.child.kill()
        self._tell(CancelDelivered(attempt))

    # what contexts need

    def limits(self) -> Limits:
        """The coordinator's present bounds. From any thread."""
        return self._limits

    def set_limits(self, limits: Limits) -> None:
        """The coordinator has named its bounds. From any thread."""
        self._limits = limits

    def clients(self) -> HandlerClients:
        """The connections for handlers. From any thread."""
        return self._clients

    def changed(self, reports: AttemptReports) -> None:
        """There is something to take from `reports`. From any thread."""
        if threading.get_ident() == self._thread:
            self._tell(reports)
        else:
            self._report([reports])

    # the end

    def close(self) -> None:
        """Stops everything, and waits for nothing: threads end with their jobs, processes are killed."""
        self._closed = True  # no slot that gets free is taken again
        self._surroundings.close()
        for execution in list(self._executions.values()):
            self.stop_handler(execution.attempt, StopCause.LOST, "the agent has stopped")
        self._threads.close()
        self._processes.close()

    async def wait_closed(self, *, within_s: float) -> None:
        """After `close`: gives async handlers so long to clean up, and closes their connections."""
        if self._workers:
            await asyncio.wait(self._workers, timeout=within_s)
        await self._clients.aclose()

    def _begin(self, execution: _Execution) -> None:
        self._running += 1
        match execution.handler.isolation:
            case Isolation.LOOP:
                self._ready.append(execution)
                self._spawn_soon()
            case Isolation.THREAD:
                execution.started = True
                # Each in a context of its own: what a handler sets there doesn't reach the next one in that thread.
                self._threads.submit(functools.partial(contextvars.Context().run, self._run_in_thread, execution))
            case Isolation.PROCESS:
                execution.started = True
                execution.child = self._processes.take(execution.handler.function)
                self._threads.submit(functools.partial(self._run_in_process, execution, execution.child))

    # Handlers in the loop. A task costs 4 µs, most of what an attempt that awaits nothing costs here; so one task runs handlers
    # one after another, until one of them waits. Then the next turn of the loop makes twice as many tasks for what is ready.

    def _spawn_soon(self) -> None:
        if not self._spawning:
            self._spawning = 1
            self._loop.call_soon(self._spawn)

    def _spawn(self) -> None:
        wanted = min(self._spawning, len(self._ready))
        for _ in range(wanted):
            task = self._loop.create_task(self._work_in_loop())
            self._workers.add(task)
            task.add_done_callback(self._workers.discard)
        # Looks again once those have begun, in this same order of the loop.
        self._spawning = 2 * wanted
        if wanted:
            self._loop.call_soon(self._spawn)

    async def _work_in_loop(self) -> None:
        task = asyncio.current_task()
        clean = contextvars.copy_context()
        while self._ready:
            execution = self._ready.popleft()
            execution.task = task
            execution.started = True
            await self._run_in_loop(execution)
            # A cancellation, and what a handler left in its context, end with this task. (Comparing unchanged ones takes 0.1 µs.)
            if execution.stop_asked or contextvars.copy_context() != clean:
                break
        if self._ready:
            self._spawn_soon()

    async def _run_in_loop(self, execution: _Execution) -> None:
        outcome: HandlerOutcome
        try:
            outcome = from_value(await execution.handler.function(execution.context))
        except GeneratorExit:  # a loop that is torn down: not the handler's doing
            raise
        except BaseException as error:  # whatever else a handler raises (pytest.fail is none of Exception's) is its outcome
            if self._closed and isinstance(error, KeyboardInterrupt):  # a second Ctrl-C: the first one stops the agent, and raises nothing
                raise
            outcome = from_exception(error)
        self._leave(execution)
        self._tell(Ended(execution.attempt, outcome))

    def _run_in_thread(self, execution: _Execution) -> None:
        """In a handler thread."""
        outcome: HandlerOutcome
        try:
            value = execution.handler.function(execution.context)
            outcome = Stopped() if value is None and execution.attempt.stop_seen else from_value(value)
        except BaseException as error:  # noqa: BLE001 - a handler's sys.exit() ends its attempt, not this thread
            outcome = from_exception(error)
        self._end_in_thread(execution, outcome)

    def _run_in_process(self, execution: _Execution, child: ChildProcess) -> None:
        """In a handler thread, which speaks for the child."""
        self._end_in_thread(execution, self._processes.run(child, execution.attempt, self))

    def _end_in_thread(self, execution: _Execution, outcome: HandlerOutcome) -> None:
        # The slot first: the coordinator's next assignment reaches the loop behind it.
        self._left_threads.put(execution)
        self._report([Ended(execution.attempt, outcome)])

    def _leave_all(self, executions: list[_Execution]) -> None:
        for execution in executions:
            self._leave(execution)

    def _leave(self, execution: _Execution) -> None:
        if self._executions.pop(execution.attempt.key, None) is None:
            return
        self._running -= 1
        if self._waiting and not self._closed:
            self._begin(self._waiting.popleft())

    def _tell(self, report: Report) -> None:
        """Gathers what one turn of the loop brings, so that the stream's thread is woken once for it."""
        if not self._gathered:
            self._loop.call_soon(self._flush)
        self._gathered.append(report)

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, []
        self._report(gathered)
