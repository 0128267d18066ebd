"""A client's operations on shared state, batched on one stream: what gathered while the last message was written goes into the next one.

It owns reading, writing, reconnecting and giving up. A write keeps its sequence number over every repetition, so that it counts once;
reads are just asked again. What operations mean it doesn't know.
"""

import asyncio
import heapq
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable

import grpc
from muster.v1.state_pb2 import StateAnswer, StateOp, StateSessionRequest, StateSessionResponse

from agent_node.backoff import Backoff
from agent_node.connection import from_refusal, from_rpc_error
from agent_node.errors import MusterError, RefusedError, UnavailableError
from agent_node.state import wire

SessionCall = grpc.aio.StreamStreamCall[StateSessionRequest, StateSessionResponse]

_log = logging.getLogger(__name__)

MAX_BATCH_OPS = 256
MAX_BATCH_BYTES = 3 * 1024 * 1024  # one message over gRPC's 4 MiB kills the stream
MAX_OP_BYTES = 4 * 1024 * 1024 - 4096  # so does one operation, again and again, and all others with it; leaves room for ids
TICK_S = 1.0  # how exactly operations are given up
MAX_WRITES_AHEAD = 1_000  # of the oldest unanswered write: the coordinator knows a client's last 1,024, for when they are repeated
# The coordinator, or what is in between, may do better next time. Any other code is a refusal of the session itself.
TRANSIENT = frozenset(
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


class _Pending:
    """One operation until it is answered."""

    __slots__ = ("done", "give_up_s", "op", "size")

    def __init__(self, op: StateOp, done: "asyncio.Future[StateAnswer]", give_up_s: float) -> None:
        self.op = op
        self.done = done
        self.size = op.ByteSize()
        self.give_up_s = give_up_s


class StateSession:
    """Carries operations to the coordinator, and their answers back.

    Args:
        open_call: begins a Session RPC.
        client_id: what the coordinator knows this session's writes by: unique in the world.
        backoff: the waits between streams.
        give_up_s: how many seconds an operation is sent again over broken connections.
        connect_timeout_s: the same before the first answer.
        max_in_flight: unanswered operations before another one waits.
    """

    def __init__(
        self,
        *,
        open_call: Callable[[], SessionCall],
        client_id: str,
        backoff: Backoff,
        give_up_s: float,
        connect_timeout_s: float,
        max_in_flight: int = 10_000,
    ) -> None:
        self._open_call = open_call
        self._client_id = client_id
        self._backoff = backoff
        self._give_up_s = give_up_s
        self._limit_s = connect_timeout_s
        self._room = asyncio.Semaphore(max_in_flight)
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._last_sequence = 0
        self._writing: dict[int, None] = {}  # sequence numbers of unanswered writes, in order
        self._numbering = asyncio.Lock()
        self._written = asyncio.Event()
        self._queue: deque[_Pending] = deque()
        self._delayed: list[tuple[float, int, _Pending]] = []
        self._unanswered: dict[int, _Pending] = {}  # on the present stream, or queued
        self._wake = asyncio.Event()
        self._root: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last_error = UnavailableError("the coordinator has not answered yet")
        self._closed = False

    async def call(self, op: StateOp, *, writes: bool = False) -> StateAnswer:
        """Sends an operation and awaits its answer, over as many streams as it takes.

        Args:
            op: without id and sequence, which are set here.
            writes: it changes something, and must count once.

        Raises:
            RefusedError: it was refused, or is larger than any message may be ("VALUE_TOO_LARGE").
            UnavailableError: it could not be answered within `give_up_s`. A write may have been made all the same.
        """
        if self._closed:
            raise UnavailableError("the client is closed")
        if (size := op.ByteSize()) > MAX_OP_BYTES:
            raise RefusedError(
                f"the operation has {size} bytes, and no coordinator takes more than {MAX_OP_BYTES}: store the value elsewhere and keep a"
                " reference here, or write fewer keys at once",
                reason="VALUE_TOO_LARGE",
                metadata={"limit": str(MAX_OP_BYTES), "size": str(size)},
            )
        if self._root is None:
            self._root = self._loop.create_task(self._run(), name="muster-state-session")
        async with self._room:
            sequence = 0
            if writes:
                sequence = await self._next_sequence()
                wire.number_write(op, sequence)
            done: asyncio.Future[StateAnswer] = self._loop.create_future()
            op.op_id = next(self._ids)
            pending = _Pending(op, done, self._loop.time() + self._limit_s)
            self._unanswered[op.op_id] = pending
            self._queue.append(pending)
            self._wake.set()
            if self._timer is None:
                self._timer = self._loop.call_later(TICK_S, self._tick)
            try:
                return await done
            finally:
                # A caller that was cancelled: what wasn't sent yet is not sent at all.
                self._unanswered.pop(op.op_id, None)
                if sequence:
                    del self._writing[sequence]
                    self._written.set()

    async def _next_sequence(self) -> int:
        """Numbers a write, in the order of the calls, once the oldest that is unanswered is near enough."""
        if self._numbering.locked() or self._is_too_far():
            async with self._numbering:
                while self._is_too_far():
                    self._written.clear()
                    await self._written.wait()
                return self._number()
        return self._number()

    def _is_too_far(self) -> bool:
        return len(self._writing) > 0 and self._last_sequence + 1 - next(iter(self._writing)) >= MAX_WRITES_AHEAD

    def _number(self) -> int:
        self._last_sequence += 1
        self._writing[self._last_sequence] = None
        return self._last_sequence

    async def aclose(self) -> None:
        """Ends the stream. Whoever still waits gets UnavailableError."""
        self._closed = True
        root, self._root = self._root, None
        if root is not None:
            root.cancel()
            await asyncio.wait([root])
        if self._timer is not None:
            self._timer.cancel()
        self._fail(list(self._unanswered.values()), UnavailableError("the client is closed"))

    async def _run(self) -> None:
        try:
            while True:
                await self._wake.wait()
                error = await self._one_stream()
                self._repeat()
                if error.code() in TRANSIENT:
                    self._last_error = UnavailableError(f"the state session broke: {error.details() or error.code().name}")
                    _log.info("state_session.broken code=%s details=%s", error.code().name, error.details())
                    await asyncio.sleep(self._backoff.next_s())
                else:
                    self._fail(list(self._unanswered.values()), from_rpc_error(error))
                if self._queue:
                    self._wake.set()
                else:
                    self._wake.clear()
        except Exception as error:
            self._root = None
            self._fail(list(self._unanswered.values()), MusterError(f"the state session stopped on an error of its own: {error!r}"))
            raise

    def _repeat(self) -> None:
        """What was sent and isn't answered goes first, in the order in which it was asked."""
        held = {id(pending) for _, _, pending in self._delayed}
        self._queue = deque(pending for _, pending in sorted(self._unanswered.items()) if id(pending) not in held)

    async def _one_stream(self) -> grpc.aio.AioRpcError:
        call = self._open_call()
        try:
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(self._write(call), name="muster-state-session-writer")
                try:
                    await self._read(call)
                finally:
                    writer.cancel()
        except* grpc.aio.AioRpcError:
            pass  # asked for below
        finally:
            call.cancel()
        return grpc.aio.AioRpcError(
            await call.code(), grpc.aio.Metadata(), await call.trailing_metadata() or grpc.aio.Metadata(), await call.details()
        )

    async def _write(self, call: SessionCall) -> None:
        first = True
        try:
            while True:
                request = self._next_message()
                if request is None:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                if first:
                    request.client_id = self._client_id
                    first = False
                await call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            call.cancel()  # the reader learns why

    def _next_message(self) -> StateSessionRequest | None:
        queue, unanswered = self._queue, self._unanswered
        ops: list[StateOp] = []
        size = 0
        while queue and len(ops) < MAX_BATCH_OPS:
            pending = queue[0]
            if ops and size + pending.size > MAX_BATCH_BYTES:
                break
            queue.popleft()
            if pending.op.op_id in unanswered:
                ops.append(pending.op)
                size += pending.size
        return StateSessionRequest(ops=ops) if ops else None

    async def _read(self, call: SessionCall) -> None:
        current = asyncio.current_task()
        while True:
            try:
                response = await call.read()
            except asyncio.CancelledError:
                if current is not None and current.cancelling():
                    raise
                return  # not this task was cancelled but the call, as when the channel is closed
            if not isinstance(response, StateSessionResponse):
                return  # the end of the stream
            self._limit_s = self._give_up_s
            self._backoff.reset()
            for answer in response.answers:
                self._answered(answer)

    def _answered(self, answer: StateAnswer) -> None:
        pending = self._unanswered.get(answer.op_id)
        if pending is None or pending.done.done():
            return
        if not answer.HasField("refusal"):
            pending.done.set_result(answer)
            return
        error = from_refusal(answer.refusal)
        if isinstance(error, UnavailableError) and error.retry_after_s is not None:
            self._last_error = error
            at_s = self._loop.time() + error.retry_after_s
            heapq.heappush(self._delayed, (at_s, answer.op_id, pending))
            self._loop.call_at(at_s, self._queue_delayed)
        else:
            pending.done.set_exception(error)

    def _queue_delayed(self) -> None:
        now_s = self._loop.time()
        while self._delayed and self._delayed[0][0] <= now_s:
            pending = heapq.heappop(self._delayed)[2]
            if pending.op.op_id in self._unanswered:
                self._queue.append(pending)
        self._wake.set()

    def _tick(self) -> None:
        """Gives up what is too old, and sets the next tick while there is reason for one."""
        self._timer = None
        now_s = self._loop.time()
        self._fail([each for each in self._unanswered.values() if each.give_up_s <= now_s], self._last_error)
        if self._unanswered:
            self._timer = self._loop.call_later(TICK_S, self._tick)

    def _fail(self, pending: Iterable[_Pending], error: MusterError) -> None:
        for each in pending:
            if not each.done.done():
                each.done.set_exception(error)
