"""A coordinator that knows nothing but bytes: it answers every method as a test says, and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from coordinator.cluster.directory import Owner

Answer = Callable[["RawCall"], Awaitable[None]]


@dataclass
class RawCall:
    """One call to it.

    Args:
        method: its full name.
        context: its context, which reads and writes bytes.
        metadata: what it came with.
    """

    method: str
    context: Any
    metadata: Sequence[tuple[str, str | bytes]]
    received: list[bytes] = field(default_factory=list)
    cancelled: bool = False

    async def read(self) -> bytes | None:
        """The next message; None at their end."""
        message = await self.context.read()
        if message is grpc.aio.EOF:
            return None
        self.received.append(message)
        return bytes(message)

    async def write(self, message: bytes) -> None:
        """Answers with one message."""
        await self.context.write(message)


class RawOwner(grpc.GenericRpcHandler):
    """Answers as `answer` does, which may be replaced at any time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = ""
        self.calls: list[RawCall] = []
        self.answer: Answer = echo
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", 8 * 1024 * 1024), ("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self,))

    async def start(self, address: str = "127.0.0.1:0") -> None:
        """Serves at an address."""
        self.address = f"127.0.0.1:{self._server.add_insecure_port(address)}"
        await self._server.start()

    async def stop(self) -> None:
        """Goes, and breaks off what is under way."""
        await self._server.stop(0)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """As gRPC asks: one handler for everything."""
        method = handler_call_details.method

        async def handle(_: Any, context: Any) -> None:
            call = RawCall(method, context, tuple(handler_call_details.invocation_metadata or ()))
            self.calls.append(call)
            try:
                await self.answer(call)
            except grpc.aio.AbortError:
                raise
            except grpc.aio.BaseError:  # its caller has gone, or it is ending
                call.cancelled = True
            except asyncio.CancelledError:
                call.cancelled = True
                raise

        return grpc.stream_stream_rpc_method_handler(handle)

    def owner(self, epoch: int = 1) -> Owner:
        """It, as an owner."""
        return Owner(coordinator_id=self.name, address=self.address, epoch=epoch)


async def echo(call: RawCall) -> None:
    """Answers each message with itself."""
    while (message := await call.read()) is not None:
        await call.write(message)


@asynccontextmanager
async def raw_owner(name: str = "raw", *, address: str = "127.0.0.1:0") -> AsyncIterator[RawOwner]:
    """One, until the block ends."""
    owner = RawOwner(name)
    await owner.start(address)
    try:
        yield owner
    finally:
        await owner.stop()
