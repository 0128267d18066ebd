"""Watches that go on over broken streams: events by cursor, and one task's output without gaps or repeats."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import grpc
from muster.v1.task_pb2 import TaskChunk, TaskEvent, WatchTasksRequest, WatchTasksResponse

from agent_node.backoff import Backoff
from agent_node.client.tasks import Chunk
from agent_node.connection import from_refusal, from_rpc_error
from agent_node.errors import UnavailableError

WatchCall = grpc.aio.UnaryStreamCall[WatchTasksRequest, WatchTasksResponse]

# Beside being unavailable: a stream that ended so may do better the next time.
_BROKEN = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DATA_LOSS,
    }
)
# A stream that stood this long was a working one, though it may have had nothing to say.
_STEADY_S = 5.0


@dataclass(frozen=True, slots=True)
class WatchedEvent:
    """One event of a watch.

    Args:
        event: what happened to which task.
        cursor: where `Client.watch` can resume without missing what follows; some events may come again.
        compacted: changes before this event may be missing: the coordinator no longer held the cursor, and started over from the
            present state.
    """

    event: TaskEvent
    cursor: str
    compacted: bool = False


class Watch:
    """One request's responses, over as many streams as it takes.

    Args:
        open_call: begins a WatchTasks RPC.
        backoff: the waits between streams.
        give_up_s: failing for this long ends the watch with UnavailableError.
        connect_timeout_s: the same before the first response.
        now_s: a monotonic clock.
        on_break: told why a stream that had worked broke, once before it is opened again.
    """

    def __init__(
        self,
        *,
        open_call: Callable[[WatchTasksRequest], WatchCall],
        backoff: Backoff,
        give_up_s: float,
        connect_timeout_s: float,
        now_s: Callable[[], float],
        on_break: Callable[[UnavailableError], None] | None = None,
    ) -> None:
        self._open_call = open_call
        self._backoff = backoff
        self._give_up_s = give_up_s
        self._limit_s = connect_timeout_s
        self._now_s = now_s
        self._on_break = on_break
        self._has_worked = False
        self._failing_since_s: float | None = None

    async def responses(self, request: WatchTasksRequest) -> AsyncIterator[WatchTasksResponse]:
        """The responses. Ends when every task of `request.task_ids` has ended; with a filter it doesn't end."""
        while True:
            opened_s = self._now_s()
            call = self._open_call(request)
            try:
                while (response := await _read(call)) is not None:
                    self._worked()
                    if response.cursor:
                        request.cursor = response.cursor
                    yield response
                if request.task_ids:
                    return
                error = UnavailableError("the coordinator ended the watch")
            except grpc.aio.AioRpcError as rpc_error:
                mapped = from_rpc_error(rpc_error)
                if not isinstance(mapped, UnavailableError) and rpc_error.code() not in _BROKEN:
                    raise mapped from rpc_error
                error = UnavailableError(f"the watch broke: {mapped}")
            except asyncio.CancelledError:
                current = asyncio.current_task()
                if current is not None and current.cancelling():
                    raise
                raise UnavailableError("the client is closed") from None
            finally:
                call.cancel()
            await self._pause(error, opened_s)

    def _worked(self) -> None:
        self._has_worked = True
        self._failing_since_s = None
        self._limit_s = self._give_up_s
        self._backoff.reset()

    async def _pause(self, error: UnavailableError, opened_s: float) -> None:
        now_s = self._now_s()
        if now_s - opened_s >= _STEADY_S:
            self._worked()
        if self._failing_since_s is None:
            self._failing_since_s = opened_s
            if self._has_worked and self._on_break is not None:
                self._on_break(error)
        if now_s - self._failing_since_s >= self._limit_s:
            raise error
        await asyncio.sleep(self._backoff.next_s())


async def _read(call: WatchCall) -> WatchTasksResponse | None:
    """The next response; None at the end.

    Whoever is cancelled while gRPC reads loses what is being read, and its memory with it (grpc/grpc#43360): some ten kilobytes for each
    watch that somebody leaves. So the call is cancelled instead, and the read comes to its end behind us.
    """
    reading = asyncio.ensure_future(call.read())
    try:
        response = await asyncio.shield(reading)
    except asyncio.CancelledError:
        call.cancel()
        reading.add_done_callback(_forget)
        raise
    return response if isinstance(response, WatchTasksResponse) else None


def _forget(reading: "asyncio.Future[object]") -> None:
    if not reading.cancelled():
        reading.exception()  # that the call was cancelled is no news


async def events(watch: Watch, request: WatchTasksRequest) -> AsyncIterator[WatchedEvent]:
    """A watch's events one by one, each with the cursor that loses nothing."""
    compacted = False
    cursor = request.cursor
    async for response in watch.responses(request):
        compacted = compacted or response.compacted
        last = len(response.events) - 1
        for place, event in enumerate(response.events):
            # A response's cursor stands behind all its events: only the last one may carry it.
            if place == last:
                cursor = response.cursor or cursor
            yield WatchedEvent(event, cursor, compacted)
            compacted = False
        cursor = response.cursor or cursor


async def chunks(watch: Watch, task_id: str) -> AsyncIterator[Chunk]:
    """One task's output, each byte of an attempt once. Raises NotFoundError or ResultExpiredError for a task that is not known."""
    position = Position()
    async for response in watch.responses(WatchTasksRequest(task_ids=[task_id], include_chunks=True)):
        for event in response.events:
            match event.WhichOneof("event"):
                case "chunk":
                    chunk = position.advance(event.chunk)
                    if chunk is not None:
                        yield chunk
                case "missing":
                    raise from_refusal(event.missing)
                case _:
                    pass


class Position:
    """How much of a task's output has been seen."""

    def __init__(self) -> None:
        self._attempt = 0
        self._seen = 0

    def advance(self, chunk: TaskChunk) -> Chunk | None:
        """What of the chunk is new; None when nothing is. A later attempt starts over; an earlier one is past."""
        end = chunk.offset + len(chunk.data)
        if chunk.attempt < self._attempt:
            return None
        if chunk.attempt > self._attempt:
            self._attempt, self._seen = chunk.attempt, 0
        if end <= self._seen:
            return None
        repeated = max(0, self._seen - chunk.offset)
        self._seen = end
        return Chunk(chunk.attempt, chunk.offset + repeated, chunk.data[repeated:])
