"""A stream that the server cancels while its last messages leave, as it does at its end, is no error in the log."""

import asyncio
import gc
from typing import Any

import pytest

from coordinator.errors import Unavailable
from coordinator.rpc.outgoing import Sender, serve_stream
from tests.support.eventually import eventually


class OneMessage:
    def __init__(self) -> None:
        self._left = [b"last words"]

    def next_message(self) -> bytes | None:
        return self._left.pop() if self._left else None


class SlowContext:
    def __init__(self) -> None:
        self.writing, self.written = asyncio.Event(), asyncio.Event()

    async def write(self, message: bytes) -> None:
        self.writing.set()
        try:
            await self.written.wait()
        except asyncio.CancelledError:
            raise Unavailable("it failed while it was cancelled", reason="SHARD_UNAVAILABLE") from None


async def test_what_a_cancelled_stream_failed_with_is_not_logged() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    sender, context = Sender(outgoing=OneMessage()), SlowContext()
    serving = asyncio.create_task(serve_stream(context, sender, asyncio.Event().wait()))  # type: ignore[arg-type]
    sender.wake()
    await context.writing.wait()
    sender.end(Unavailable("the coordinator ends", reason="SHARD_UNAVAILABLE"))
    await eventually(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "stream.read"])
    serving.cancel()
    with pytest.raises((asyncio.CancelledError, Unavailable)):
        await serving
    context.written.set()
    await eventually(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "stream.write"])
    del serving
    gc.collect()
    assert not told
