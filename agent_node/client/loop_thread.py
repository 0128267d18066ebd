"""An event loop in a thread of its own, for callers who have none, or whose own one is busy running them."""

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

from agent_node.errors import MusterError, UnavailableError

_Result = TypeVar("_Result")
_Item = TypeVar("_Item")


class LoopThread:
    """Runs coroutines for other threads. The loop starts with the first of them.

    Args:
        name: the thread's name.
        begin: runs first on the loop.
        end: runs on the loop before it is closed, if `begin` ran.
    """

    def __init__(
        self, *, name: str, begin: Callable[[], Coroutine[Any, Any, object]], end: Callable[[], Coroutine[Any, Any, object]]
    ) -> None:
        self._name = name
        self._begin = begin
        self._end = end
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.closed = False

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Runs a coroutine and returns what it returns. An interrupt of the waiting thread cancels it."""
        try:
            loop = self._running()
        except (MusterError, RuntimeError):
            work.close()
            raise
        future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise UnavailableError("the client is closed") from None
        finally:
            future.cancel()

    def iterate(self, begin: Callable[[], AsyncIterator[_Item]]) -> Iterator[_Item]:
        """An asynchronous iterator's items, each fetched when it is asked for."""
        items = self.run(_call(begin))
        try:
            while (item := self.run(_next(items))) is not None:
                yield item
        finally:
            if not self.closed and isinstance(items, AsyncGenerator):
                self.run(items.aclose())

    def close(self) -> None:
        """Ends what runs on the loop, and the thread."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            loop, thread = self._loop, self._thread
        if loop is not None and thread is not None and thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._wind_up(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self.closed:
                raise UnavailableError("the client is closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                # A daemon, so that a script that forgot to close its client still ends.
                self._thread = threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True)
                self._thread.start()
                asyncio.run_coroutine_threadsafe(self._begin(), self._loop).result()
            if self._thread is not None and not self._thread.is_alive():
                raise RuntimeError(
                    "this client belongs to the process that this one was forked from: fork before the first client, or spawn"
                )
            return self._loop

    async def _wind_up(self) -> None:
        await self._end()
        current = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not current]
        # What was waiting has been told that it is over, and gets to say so before it is cancelled.
        if others:
            await asyncio.wait(others, timeout=1.0)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_asyncgens()


async def _call(begin: Callable[[], AsyncIterator[_Item]]) -> AsyncIterator[_Item]:
    return begin()


async def _next(items: AsyncIterator[_Item]) -> _Item | None:
    return await anext(items, None)
