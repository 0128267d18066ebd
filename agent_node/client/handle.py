"""What a submit returns: a hold on one task, wherever it is in its life."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Protocol

from muster.v1.task_pb2 import CancelledTask, Task

from agent_node.client.session import TrackedTask
from agent_node.client.tasks import Chunk, TaskOutput
from agent_node.errors import MusterError


class ResultOpener(Protocol):
    """What is around a client's results."""

    async def open(self, task: TrackedTask) -> TaskOutput | None:
        """A task's output, decoded; None when it has none."""


class TaskCalls(Protocol):
    """What a handle asks of its client."""

    @property
    def around(self) -> ResultOpener | None:
        """What results go through; None is nothing."""

    def when_ended(self, task: TrackedTask) -> asyncio.Future[None]:
        """A future that is done when the task's end is known."""

    def chunks(self, task_id: str) -> AsyncIterator[Chunk]:
        """The task's output."""

    async def get(self, task_id: str, *, full: bool = False) -> Task:
        """The task as it is."""

    async def cancel_one(self, task_id: str, reason: str) -> CancelledTask:
        """Asks for the task to be stopped."""


class TaskHandle:
    """One task of a client. Handles come from `Client.submit`, `submit_many` and `attach`."""

    __slots__ = ("_calls", "_task")

    def __init__(self, calls: TaskCalls, task: TrackedTask) -> None:
        self._calls = calls
        self._task = task

    def __repr__(self) -> str:
        return f"<TaskHandle {self._task.task_id}>"

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self._task.task_id

    def done(self) -> bool:
        """Whether the task's end has arrived here, so that `result` answers at once. An attached task's can only after `result`."""
        return self._task.ended

    async def result(self, timeout_s: float | None = None) -> TaskOutput:
        """Waits for the task's end, over broken connections too, and may be called again.

        Args:
            timeout_s: how many seconds to wait at most; None waits as long as it takes.

        Raises:
            TaskFailedError: it ended FAILED.
            TaskCancelledError: it ended CANCELLED.
            ResultExpiredError: it ended, and its result is no longer held.
            NotFoundError: no such task (only after `attach`).
            PayloadError: it can't be decoded; BlobGoneError: its blob isn't there any more.
            TimeoutError: not within `timeout_s`. The task goes on, and so can the waiting.
            UnavailableError: the client was closed.
        """
        task = self._task
        around = self._calls.around
        if around is not None:
            async with asyncio.timeout(timeout_s):
                if not task.ended:
                    await self._calls.when_ended(task)
                await around.open(task)
        elif not task.ended:
            if timeout_s is None:
                await self._calls.when_ended(task)
            else:
                async with asyncio.timeout(timeout_s):
                    await self._calls.when_ended(task)
        if task.output is not None:
            return task.output
        error = task.error or MusterError(f"the end of task {task.task_id} is not known")
        raise error.with_traceback(None)

    async def cancel(self, reason: str = "") -> CancelledTask:
        """Asks for the task to be stopped; the answer's `verdict` says what that came to. `result` tells when it has stopped.

        Args:
            reason: shown to the handler and on the task.
        """
        return await self._calls.cancel_one(self._task.task_id, reason)

    async def status(self) -> Task:
        """The task as the coordinator sees it now, without payloads."""
        return await self._calls.get(self._task.task_id)

    def chunks(self) -> AsyncIterator[Chunk]:
        """The task's partial output from its beginning, until the task has ended.

        It goes on over broken connections without gaps or repeats. A chunk with a higher `attempt` than the one before means that the
        task was tried again, and its output starts over.

        Raises:
            NotFoundError: no such task, or its record has expired.
            UnavailableError: as for `Client.watch`.
        """
        return self._calls.chunks(self._task.task_id)

    def when_ended(self) -> asyncio.Future[None]:
        """A future that is done when the task has ended, whichever way; it has an exception when that can't be learnt any more."""
        return self._calls.when_ended(self._task)


async def as_completed(handles: Iterable[TaskHandle]) -> AsyncIterator[TaskHandle]:
    """The handles in the order in which their tasks end, whichever way: `await handle.result()` then answers, or raises, at once.

    Raises:
        UnavailableError: a client was closed before all had ended.
    """
    waiting = {handle.when_ended(): handle for handle in handles}
    ended: deque[asyncio.Future[None]] = deque()
    arrived = asyncio.Event()

    def note(future: asyncio.Future[None]) -> None:
        ended.append(future)
        arrived.set()

    for future in waiting:
        future.add_done_callback(note)
    try:
        for _ in range(len(waiting)):
            while not ended:
                arrived.clear()
                await arrived.wait()
            future = ended.popleft()
            future.result()
            yield waiting.pop(future)
    finally:
        for future in waiting:
            future.remove_done_callback(note)
            if not future.cancel():
                future.exception()  # looked at, so that nobody reports it as never retrieved
