"""Watches that go on over broken streams: every event from a revision on, in order, each once. One stream carries all of a client's.

A watch that is read slowly holds up no other: what it has room for is kept, the rest is not asked for until there is room again.
"""

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

import grpc
from muster.v1.state_pb2 import WatchRequest, WatchResponse

from agent_node.backoff import Backoff
from agent_node.connection import from_rpc_error
from agent_node.errors import MusterError, UnavailableError
from agent_node.state import wire
from agent_node.state.session import TRANSIENT
from agent_node.state.values import EventKind, StateEvent

WatchCall = grpc.aio.StreamStreamCall[WatchRequest, WatchResponse]

_log = logging.getLogger(__name__)

_AT_A_TIME = 500  # watches begun or ended with one message: keys are at most 1 KiB
MAX_WAITING_EVENTS = 10_000  # of one watch, until it is paused


class StateWatch:
    """One watch: an asynchronous iterator of StateEvents, and a context manager that ends it. See `State.watch`."""

    def __init__(
        self,
        watches: "Watches",
        watch_id: int,
        key: str,
        *,
        is_prefix: bool,
        start_revision: int,
        previous: bool,
        kinds: frozenset[EventKind],
    ) -> None:
        self._watches = watches
        self.watch_id = watch_id
        self.key = key
        self.is_prefix = is_prefix
        self.previous = previous
        self.kinds = kinds  # none is all
        self.next_revision = start_revision  # where it goes on after a break; 0 until it is known
        self.paused = False  # the coordinator has been told to stop sending, until there is room
        self._events: deque[StateEvent] = deque()
        self._incomplete: list[StateEvent] = []  # of a revision of which more comes
        self._something = asyncio.Event()
        self._began = asyncio.Event()
        self._error: MusterError | None = None
        self._closed = False

    async def started(self) -> int:
        """Waits until nothing can be missed any more, and returns the first revision that it sees."""
        await self._began.wait()
        if self._error is not None and not self.next_revision:
            raise self._error
        return self.next_revision

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StateEvent:
        while not self._events:
            if self._error is not None:
                raise self._error
            if self._closed:
                raise StopAsyncIteration
            self._something.clear()
            await self._something.wait()
        event = self._events.popleft()
        if self.paused and not self._events:
            self._watches.resume(self)
        return event

    async def __aenter__(self) -> Self:
        await self.started()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends it."""
        if not self._closed:
            self._closed = True
            self._events.clear()
            self._something.set()
            self._watches.close(self)

    # what the stream tells it

    def begun(self, revision: int) -> None:
        """It is open: all that comes after this revision will be seen."""
        if not self.next_revision:
            self.next_revision = revision + 1
        self._began.set()

    def take(self, events: list[StateEvent], through_revision: int) -> None:
        """Events that came, all there are up to a revision. What was seen before a break isn't seen again."""
        first_new = self.next_revision
        if self._incomplete:
            events = self._incomplete + events
        self._events.extend(event for event in events if first_new <= event.revision <= through_revision)
        self._incomplete = [event for event in events if event.revision > through_revision]
        self.next_revision = max(first_new, through_revision + 1)
        self._something.set()

    def begin_again(self) -> None:
        """It is asked for from `next_revision` on: what came of a later one comes again."""
        self._incomplete = []

    @property
    def full(self) -> bool:
        """Whether it has more than it should hold."""
        return len(self._events) >= MAX_WAITING_EVENTS

    def fail(self, error: MusterError) -> None:
        """It can't go on: what has come is read first, then this is raised."""
        self._error = self._error or error
        self._began.set()
        self._something.set()


class Watches:
    """A client's watches, on one stream at a time.

    Args:
        open_call: begins a Watch RPC.
        backoff: the waits between streams.
        give_up_s: failing for this long ends all watches with UnavailableError.
        connect_timeout_s: the same before the first response.
    """

    def __init__(self, *, open_call: Callable[[], WatchCall], backoff: Backoff, give_up_s: float, connect_timeout_s: float) -> None:
        self._open_call = open_call
        self._backoff = backoff
        self._give_up_s = give_up_s
        self._limit_s = connect_timeout_s
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._watches: dict[int, StateWatch] = {}  # by the id of its present incarnation on the stream
        self._outgoing: deque[WatchRequest] = deque()
        self._wake = asyncio.Event()
        self._root: asyncio.Task[None] | None = None
        self._failing_since_s: float | None = None
        self._closed = False

    def open(self, key: str, *, is_prefix: bool, start_revision: int, previous: bool, kinds: frozenset[EventKind]) -> StateWatch:
        """Begins a watch."""
        if self._closed:
            raise UnavailableError("the client is closed")
        watch = StateWatch(self, next(self._ids), key, is_prefix=is_prefix, start_revision=start_revision, previous=previous, kinds=kinds)
        self._create(watch)
        if self._root is None:
            self._root = self._loop.create_task(self._run(), name="muster-state-watches")
        return watch

    def close(self, watch: StateWatch) -> None:
        """Ends a watch."""
        if self._watches.pop(watch.watch_id, None) is not None:
            self._say(wire.cancel_watch(watch.watch_id))

    def resume(self, watch: StateWatch) -> None:
        """A paused watch has room again: it goes on where it was, under another id, so that what was still under way is not taken twice."""
        if self._closed or self._root is None:
            watch.fail(UnavailableError("the client is closed"))
            return
        watch.paused = False
        watch.watch_id = next(self._ids)
        self._create(watch)

    async def aclose(self) -> None:
        """Ends all of them with UnavailableError."""
        self._closed = True
        root, self._root = self._root, None
        if root is not None:
            root.cancel()
            await asyncio.wait([root])
        self._fail_all(UnavailableError("the client is closed"))

    def _create(self, watch: StateWatch) -> None:
        watch.begin_again()
        request = wire.create_watch(
            watch.watch_id, watch.key, watch.next_revision, is_prefix=watch.is_prefix, previous=watch.previous, kinds=watch.kinds
        )
        self._watches[watch.watch_id] = watch  # what no message can be made of would end every stream that it is asked for on
        self._say(request)

    def _say(self, request: WatchRequest) -> None:
        self._outgoing.append(request)
        self._wake.set()

    async def _run(self) -> None:
        """One stream after another, as long as there is something to watch."""
        try:
            while True:
                while not self._watches:
                    self._outgoing.clear()
                    self._wake.clear()
                    await self._wake.wait()
                opened_s = self._loop.time()
                error = await self._one_stream()
                if error.code() in TRANSIENT:
                    await self._pause(UnavailableError(f"the watch broke: {error.details() or error.code().name}"), opened_s)
                else:
                    self._fail_all(from_rpc_error(error))
        except Exception as error:
            self._root = None
            self._fail_all(MusterError(f"the watches stopped on an error of their own: {error!r}"))
            raise

    async def _pause(self, error: UnavailableError, opened_s: float) -> None:
        _log.info("state_watches.broken error=%s", error)
        if self._failing_since_s is None:
            self._failing_since_s = opened_s
        if self._loop.time() - self._failing_since_s >= self._limit_s:
            self._fail_all(error)
            self._failing_since_s = None
            return
        await asyncio.sleep(self._backoff.next_s())

    async def _one_stream(self) -> grpc.aio.AioRpcError:
        call = self._open_call()
        # Every watch anew, from where it is; what was to be said on the last stream is part of that.
        self._outgoing.clear()
        for watch in list(self._watches.values()):
            self._create(watch)
        try:
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(self._write(call), name="muster-state-watches-writer")
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

    async def _write(self, call: WatchCall) -> None:
        try:
            while True:
                if not self._outgoing:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                said, self._outgoing = self._outgoing, deque()
                for start in range(0, len(said), _AT_A_TIME):
                    await call.write(wire.joined(itertools.islice(said, start, start + _AT_A_TIME)))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            call.cancel()  # the reader learns why

    async def _read(self, call: WatchCall) -> None:
        current = asyncio.current_task()
        while True:
            try:
                response = await call.read()
            except asyncio.CancelledError:
                if current is not None and current.cancelling():
                    raise
                return  # not this task was cancelled but the call
            if not isinstance(response, WatchResponse):
                return  # the end of the stream
            self._failing_since_s = None
            self._limit_s = self._give_up_s
            self._backoff.reset()
            for told in wire.watch_news(response):
                watch = self._watches.get(told.watch_id)
                if watch is not None:
                    self._take(watch, told)

    def _take(self, watch: StateWatch, told: wire.WatchNews) -> None:
        if told.error is not None:
            del self._watches[watch.watch_id]
            watch.fail(told.error)
            return
        if told.created:
            watch.begun(told.through_revision)
        else:
            watch.take(told.events, told.through_revision)
        if watch.full:
            watch.paused = True
            self.close(watch)

    def _fail_all(self, error: MusterError) -> None:
        watches, self._watches = self._watches, {}
        for watch in watches.values():
            watch.fail(error)
