"""The thread, and its event loop, in which a process's agent streams live.

No handler runs there, so none can silence a stream.
"""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, ClassVar, TypeVar

from agent_node.connection import settle

T = TypeVar("T")

_JOIN_S = 2.0


class StreamThread:
    """One per process, there while an agent serves.

    It is shared because grpc.aio has one completion queue per process: each event wakes every loop that has used it, and all but
    one for nothing. Thirteen agents with a thread each would wake thirteen loops per message. What is shared is the thread alone:
    no agent's state is reachable from another's.
    """

    _present: ClassVar["StreamThread | None"] = None
    _present_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self.loop = _new_event_loop()
        self.users = 0
        self._thread = threading.Thread(target=self._run, name="muster-streams", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(cls) -> "StreamThread":
        """The process's thread, started when this is its first user. Each call needs a `release`."""
        with cls._present_lock:
            present = cls._present
            if present is None or not present.alive:  # not alive: this process was forked from the one that had it
                present = cls._present = cls()
            present.users += 1
            return present

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    async def release(self) -> None:
        """One user less; the last one ends the thread."""
        with self._present_lock:
            self.users -= 1
            if self.users > 0:
                return
            if StreamThread._present is self:
                StreamThread._present = None
        self.loop.call_soon_threadsafe(self.loop.stop)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join, _JOIN_S)

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        """Runs `coroutine` there. Cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            left = asyncio.all_tasks(self.loop)
            for task in left:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self.loop.run_until_complete(settle())
            self.loop.close()


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """Uvloop's where it is installed (a stream message costs a third less), else asyncio's. The user's own loop is theirs to choose."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
