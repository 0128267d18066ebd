"""Reads of a namespace's shared state: what is asked for while one call to the store is under way goes into the next one."""

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from coordinator.errors import LimitReached, MusterError, Unavailable
from coordinator.state.model import Entry
from coordinator.state.outages import read_within
from coordinator.state.ports import StateStore
from coordinator.state.writer import Header, Writer

T = TypeVar("T")

MAX_KEYS = 512  # of one call
MAX_GET_BYTES = 3 * 1024 * 1024  # what one answer carries
MAX_QUEUED = 50_000

GetAnswered = Callable[[Sequence[Entry | None] | MusterError, Header], None]
_Get = tuple[Sequence[str], GetAnswered]


class Reads:
    """Of one namespace.

    Args:
        namespace: whose state.
        store: where it is.
        writer: which writes are done.
    """

    def __init__(self, *, namespace: str, store: StateStore, writer: Writer) -> None:
        self._namespace = namespace
        self._store = store
        self._writer = writer
        self._queue: deque[_Get] = deque()
        self._behind: list[tuple[int, int, Callable[[], None]]] = []  # a heap, by the write that each waits for
        self._places = itertools.count()
        self._wake = asyncio.Event()
        self._under_way: list[_Get] = []
        self._closed: Unavailable | None = None
        self._opened = asyncio.Event()

    def opened(self) -> None:
        """It is known where the state is: until then nothing is answered."""
        self._opened.set()

    async def ask(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Reads once the state is open. Raises Unavailable when it takes longer than a second."""
        return await read_within(ask if self._opened.is_set() else partial(self._once_open, ask))

    async def _once_open(self, ask: Callable[[], Awaitable[T]]) -> T:
        await self._opened.wait()
        return await ask()

    def get(self, keys: Sequence[str], answered: GetAnswered, *, behind: int) -> None:
        """See StateEngine.get."""
        if self._closed is not None:
            answered(self._closed, self._writer.header)
        elif len(self._queue) + len(self._behind) >= MAX_QUEUED:
            answered(_too_many(len(self._queue) + len(self._behind)), self._writer.header)
        elif (behind := min(behind, self._writer.taken)) > self._writer.done:  # numbers of an earlier life say nothing
            heapq.heappush(self._behind, (behind, next(self._places), lambda: self._take(keys, answered)))
        else:
            self._take(keys, answered)

    def _take(self, keys: Sequence[str], answered: GetAnswered) -> None:
        if self._closed is not None:
            answered(self._closed, self._writer.header)
            return
        self._queue.append((keys, answered))
        self._wake.set()

    async def when_done(self, behind: int) -> None:
        """Waits for a write. Raises Unavailable when the engine stops."""
        behind = min(behind, self._writer.taken)
        if behind > self._writer.done and self._closed is None:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            reached: Callable[[], None] = partial(_reached, turn)
            heapq.heappush(self._behind, (behind, next(self._places), reached))
            await turn
        if self._closed is not None:
            raise self._closed

    def written(self) -> None:
        """Writes were answered: who waited for them reads now."""
        done = self._writer.done
        while self._behind and self._behind[0][0] <= done:
            heapq.heappop(self._behind)[2]()

    def close(self, error: Unavailable) -> None:
        """Refuses what waits, and what comes."""
        self._closed = error
        for _, _, turn in self._behind:
            turn()
        self._behind = []
        waiting = [*self._under_way, *self._queue]
        self._under_way = []
        self._queue.clear()
        for _, answered in waiting:
            answered(error, self._writer.header)

    async def run(self) -> None:
        """Reads until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await self._read()

    async def _read(self) -> None:
        places: dict[str, int] = {}
        while self._queue and (not places or len(places) + len(self._queue[0][0]) <= MAX_KEYS):
            get = self._queue.popleft()
            self._under_way.append(get)
            for key in get[0]:
                places.setdefault(key, len(places))
        keys, known = list(places), self._writer.seen_revision
        try:
            revision, entries = await self.ask(lambda: self._store.get(self._namespace, keys, max_bytes=MAX_GET_BYTES))
        except Unavailable as failure:
            under_way, self._under_way = self._under_way, []
            for _, answered in under_way:
                answered(failure, self._writer.header)
            return
        self._writer.seen(revision)
        header = Header(revision, self._writer.header.incarnation)
        under_way, self._under_way = self._under_way, []
        if revision < known:
            self._writer.store_is_behind()
            for _, answered in under_way:
                answered(lost_writes(), self._writer.header)
            return
        for number, (asked, answered) in enumerate(under_way):
            if len(entries) == len(keys) or all(places[key] < len(entries) for key in asked):
                answered([entries[places[key]] for key in asked], header)
            elif number:  # the rest of the call was too much for one answer
                self._queue.extendleft(reversed(under_way[number:]))
                return
            else:
                answered(_too_large(), header)


def _reached(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


def lost_writes() -> Unavailable:
    """A read has shown less than what was acknowledged: it is answered once the store goes on above that."""
    return Unavailable("the store has lost writes that were acknowledged, and goes on above them in a moment: try again")


def _too_large() -> LimitReached:
    return LimitReached(
        f"the keys have more than {MAX_GET_BYTES} bytes together: read fewer of them at a time",
        limit="state_read_bytes",
        used=MAX_GET_BYTES,
        allowed=MAX_GET_BYTES,
        retry_after_s=None,
    )


def _too_many(waiting: int) -> LimitReached:
    return LimitReached(
        f"{waiting} reads wait in this namespace, and {MAX_QUEUED} may: try again shortly",
        limit="state_reads_queued",
        used=waiting,
        allowed=MAX_QUEUED,
        retry_after_s=1.0,
    )
