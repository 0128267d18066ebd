"""The session's shell: one gRPC stream at a time around the pure machine of session.py, and the futures of whoever waits.

It owns reading, writing, reconnecting and giving up. What a message means it leaves to the machine.

One task's submit, acknowledgement and result cost this process 11 to 14 us of CPU, gRPC and its share of the event loop included
(1,000 callers at once, 100 bytes a payload, uvloop or not, 2 shared cores).
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

import grpc
from muster.v1.task_pb2 import SessionRequest, SessionResponse

from agent_node.backoff import Backoff
from agent_node.client.session import Received, Session, TrackedTask
from agent_node.connection import from_rpc_error
from agent_node.errors import MusterError, UnavailableError

SessionCall = grpc.aio.StreamStreamCall[SessionRequest, SessionResponse]

_log = logging.getLogger(__name__)

TICK_S = 1.0  # how exactly submits are given up; what has a time of its own comes at that time
_CLOSING_S = 1.0  # for a stream that was cancelled to end
# The coordinator, or what is in between, may do better next time. Any other code is a refusal of the session itself.
_TRANSIENT = frozenset(
    {
        grpc.StatusCode.OK,  # it ended the stream, as when it shuts down
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)


class AckGroup:
    """Waits for the verdicts on many submits with one future."""

    def __init__(self, expected: int, done: asyncio.Future[None]) -> None:
        self._missing = expected
        self._done = done
        self.refused: dict[int, MusterError] = {}  # by the id() of the task, which its caller holds

    def settle(self, task: TrackedTask, error: MusterError | None) -> None:
        """Counts one verdict."""
        if error is not None:
            self.refused[id(task)] = error
        self._missing -= 1
        if self._missing == 0 and not self._done.done():
            self._done.set_result(None)


class SessionStream:
    """Submits tasks and waits for their ends, over as many streams as it takes.

    Args:
        open_call: begins a Session RPC.
        session: the machine.
        backoff: the waits between streams.
        max_in_flight: unacknowledged submits before another one waits.
    """

    def __init__(self, *, open_call: Callable[[], SessionCall], session: Session, backoff: Backoff, max_in_flight: int) -> None:
        self._open_call = open_call
        self._session = session
        self._backoff = backoff
        self._max_in_flight = max_in_flight
        self._loop = asyncio.get_running_loop()
        self._something_to_do = asyncio.Event()
        self._waiting_for_room: deque[asyncio.Future[None]] = deque()
        self._root: asyncio.Task[None] | None = None
        self._call: SessionCall | None = None  # while it is read from
        self._timer: asyncio.TimerHandle | None = None
        self._last_error = UnavailableError("the coordinator has not answered yet")
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether a submit must wait for `room` first."""
        return self._session.unacknowledged >= self._max_in_flight

    def submit(self, task: TrackedTask) -> asyncio.Future[None]:
        """Queues a task. The future is done when the coordinator has taken it; else it has what it was refused for as its exception.

        It is no coroutine, because one more on the way costs 0.4 us a task.
        """
        ack = self._loop.create_future()
        task.ack = ack
        self._send(task)
        return ack

    async def room(self) -> None:
        """Waits until fewer than `max_in_flight` submits are unacknowledged, first come first served."""
        while self.full:
            turn = self._loop.create_future()
            self._waiting_for_room.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._make_room()  # the turn was ours, and somebody else's now
                raise

    async def submit_many(self, tasks: list[TrackedTask]) -> dict[int, MusterError]:
        """Returns when there is a verdict on every task: the errors of those that were not taken, by place."""
        if not tasks:
            return {}
        done = self._loop.create_future()
        group = AckGroup(len(tasks), done)
        for task in tasks:
            if self.full:
                await self.room()
            task.ack = group
            try:
                self._send(task)
            except MusterError as error:
                group.settle(task, error)
        await done
        return {place: group.refused[id(task)] for place, task in enumerate(tasks) if id(task) in group.refused}

    def when_ended(self, task: TrackedTask) -> asyncio.Future[None]:
        """A future that is done when the task's end is known, or can't be learnt: then it has an exception."""
        future = self._loop.create_future()
        if task.ended:
            future.set_result(None)
            return future
        if not task.awaited:
            self._ensure_running()
            self._session.attach(task)
            self._something_to_do.set()
        if task.waiters is None:
            task.waiters = [future]
        else:
            task.waiters.append(future)
        return future

    async def aclose(self) -> None:
        """Ends the stream. Whoever still waits gets UnavailableError."""
        self._closed = True
        root, self._root = self._root, None
        if root is not None:
            if self._call is not None:  # gRPC loses the memory of what is being read when the reader is cancelled: see watch
                self._call.cancel()
                await asyncio.wait([root], timeout=_CLOSING_S)
            root.cancel()
            await asyncio.wait([root])
        if self._timer is not None:
            self._timer.cancel()
        self._abandon(UnavailableError("the client is closed"))

    def _send(self, task: TrackedTask) -> None:
        if self._root is None or self._timer is None:
            self._ensure_running()
        self._session.submit(task, self._loop.time())
        self._something_to_do.set()

    def _ensure_running(self) -> None:
        if self._closed:
            raise UnavailableError("the client is closed")
        if self._root is None:
            self._root = self._loop.create_task(self._run(), name="muster-client-session")
        if self._timer is None:
            self._timer = self._loop.call_later(TICK_S, self._tick)

    def _make_room(self) -> None:
        free = self._max_in_flight - self._session.unacknowledged
        waiting = self._waiting_for_room
        while waiting and free > 0:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1

    async def _run(self) -> None:
        """The root of all the stream's work: one stream after another, as long as there is something to send or to hear."""
        try:
            while True:
                await self._something_to_do.wait()
                error = await self._one_stream()
                if self._closed:
                    return
                self._session.broken()
                if error.code() in _TRANSIENT:
                    self._last_error = UnavailableError(f"the session with the coordinator broke: {error.details() or error.code().name}")
                    _log.info("session.broken code=%s details=%s", error.code().name, error.details())
                    if self._session.wants_stream:
                        self._something_to_do.set()
                    else:
                        self._something_to_do.clear()
                    await asyncio.sleep(self._backoff.next_s())
                else:
                    self._something_to_do.clear()
                    self._abandon(from_rpc_error(error))
        except Exception as error:
            self._root = None
            self._abandon(MusterError(f"the session stopped on an error of its own: {error!r}"))
            raise

    async def _one_stream(self) -> grpc.aio.AioRpcError:
        """Reads and writes until the stream ends; returns how it ended."""
        call = self._call = self._open_call()
        self._session.opened()
        try:
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(self._write(call), name="muster-client-session-writer")
                try:
                    await self._read(call)
                finally:
                    writer.cancel()
        except* grpc.aio.AioRpcError:
            pass  # asked for below
        finally:
            self._call = None
            call.cancel()
        return grpc.aio.AioRpcError(
            await call.code(), grpc.aio.Metadata(), await call.trailing_metadata() or grpc.aio.Metadata(), await call.details()
        )

    async def _write(self, call: SessionCall) -> None:
        try:
            while True:
                request = self._session.next_message()
                if request is None:
                    self._something_to_do.clear()
                    await self._something_to_do.wait()
                else:
                    await call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            call.cancel()  # the reader learns why

    async def _read(self, call: SessionCall) -> None:
        session, now_s = self._session, self._loop.time
        current = asyncio.current_task()
        while True:
            try:
                response = await call.read()
            except asyncio.CancelledError:
                if current is not None and current.cancelling():
                    raise
                return  # not this task was cancelled but the call, as when the channel is closed
            if not isinstance(response, SessionResponse):
                return  # the end of the stream
            if response.HasField("welcome"):
                self._backoff.reset()
            self._tell(session.received(response, now_s()))

    def _tell(self, received: Received) -> None:
        for task in received.acknowledged:
            ack, task.ack = task.ack, None
            if isinstance(ack, asyncio.Future):
                if not ack.done():
                    ack.set_result(None)
            elif ack is not None:
                ack.settle(task, None)
        for task, error in received.refused:
            self._refuse(task, error)
        for task in received.ended:
            if task.waiters is not None:
                for waiter in task.waiters:
                    if not waiter.done():
                        waiter.set_result(None)
                task.waiters = None
        if self._waiting_for_room:
            self._make_room()
        if self._session.next_retry_s is not None:
            self._tick()
        if self._session.owes_attach:
            self._something_to_do.set()

    def _tick(self) -> None:
        """Queues what was delayed, gives up what is too old, and sets the next tick while there is reason for one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now_s = self._loop.time()
        for task in self._session.tick(now_s):
            self._refuse(task, self._last_error)
        self._make_room()
        if self._session.unacknowledged:
            if self._session.wants_stream:
                self._something_to_do.set()
            retry_s = self._session.next_retry_s
            wait_s = TICK_S if retry_s is None else min(TICK_S, retry_s - now_s)
            self._timer = self._loop.call_later(wait_s, self._tick)

    def _refuse(self, task: TrackedTask, error: MusterError) -> None:
        ack, task.ack = task.ack, None
        if isinstance(ack, asyncio.Future):
            if not ack.done():
                ack.set_exception(error)
        elif ack is not None:
            ack.settle(task, error)

    def _abandon(self, error: MusterError) -> None:
        unacknowledged, awaited = self._session.abandon()
        for task in unacknowledged:
            self._refuse(task, error)
        for task in (*unacknowledged, *awaited):
            for waiter in task.waiters or ():
                if not waiter.done():
                    waiter.set_exception(error)
                    waiter.exception()  # it may wait no longer: then nobody else would look
            task.waiters = None
        self._make_room()
