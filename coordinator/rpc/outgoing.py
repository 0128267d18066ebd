"""One side of a bidirectional stream: what gathers while a write is under way goes out in the next message. Nothing waits on a timer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import grpc.aio

from coordinator.errors import MusterError

LINGER_S = 1.0  # for a peer to read what has gathered before its stream is ended
MAX_MESSAGE_BYTES = 3 * 1024 * 1024  # below gRPC's 4 MiB with room for what is counted roughly


class Outgoing(Protocol):
    """What has something to send."""

    def next_message(self) -> bytes | None:
        """The next message from what has gathered, serialized; None when nothing has."""


class Sender:
    """Writes what an `Outgoing` has, as fast as the stream takes it, until it is closed.

    Args:
        outgoing: what has something to send.
    """

    def __init__(self, *, outgoing: Outgoing) -> None:
        self._outgoing = outgoing
        self._ready = asyncio.Event()
        self._stopped = False
        self.ending: asyncio.Future[MusterError] = asyncio.get_running_loop().create_future()

    def wake(self) -> None:
        """Something has gathered."""
        self._ready.set()

    def end(self, error: MusterError) -> None:
        """Ends the stream with `error`, after what has gathered."""
        if not self.ending.done():
            self.ending.set_result(error)
        self._ready.set()

    def stop(self) -> None:
        """Has `run` return once the message that is being written has left: a call can't be ended with a status before."""
        self._stopped = True
        self._ready.set()

    async def run(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Writes until ended or stopped. Raises the error that it was ended with."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            while not self._stopped and (message := self._outgoing.next_message()) is not None:
                await write(message)
            if self.ending.done():
                raise self.ending.result()
            if self._stopped:
                return


async def serve_stream(context: grpc.aio.ServicerContext[Any, Any], sender: Sender, reading: Coroutine[Any, Any, None]) -> None:
    """Runs both directions of a stream until the caller has closed it or either has failed."""
    reader = asyncio.create_task(reading, name="stream.read")
    writer = asyncio.create_task(sender.run(context.write), name="stream.write")
    writer.add_done_callback(_heard)  # the server may cancel this call while it waits for that one
    try:
        await asyncio.wait((reader, writer, sender.ending), return_when=asyncio.FIRST_COMPLETED)
    finally:
        reader.cancel()
        if not sender.ending.done():
            sender.stop()
        await asyncio.wait((writer,), timeout=LINGER_S)  # a peer that doesn't read would hold it up for ever
        writer.cancel()
        outcomes = await asyncio.gather(reader, writer, return_exceptions=True)
    if sender.ending.done():
        raise sender.ending.result()
    for outcome in outcomes:
        if isinstance(outcome, MusterError):
            raise outcome
    for outcome in outcomes:
        if isinstance(outcome, Exception) and not isinstance(outcome, grpc.aio.UsageError | grpc.aio.BaseError):
            raise outcome


def _heard(task: asyncio.Task[None]) -> None:
    """What it failed with is told by `ending`, or by nobody when the whole call was cancelled: it is no news to the event loop."""
    if not task.cancelled():
        task.exception()
