"""Any coordinator takes any call: what belongs to another's shard goes there. See `routes` for what says whose a call is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio

from coordinator.cluster.directory import Directory
from coordinator.engine.shard import DEFAULT_NAMESPACE
from coordinator.errors import MusterError
from coordinator.rpc import peer_auth
from coordinator.rpc.everywhere import Others
from coordinator.rpc.forwarded_calls import ForwardedCalls
from coordinator.rpc.forwarder import Forwarder, Requests
from coordinator.rpc.owners import UNTOUCHED_KEY, Owners, moved
from coordinator.rpc.peer_auth import NAMESPACE_KEY, SIGNATURE_KEY, PeerAuth
from coordinator.rpc.peers import Peers
from coordinator.rpc.routes import ROUTES, Route
from coordinator.rpc.status import abort, careful

Details: TypeAlias = "grpc.HandlerCallDetails"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context = Any  # grpc.aio.ServicerContext[Any, Any]


class ForwardingInterceptor(grpc.aio.ServerInterceptor):
    """Hands each call to whoever owns its shard. What belongs here passes at the price of a look at its metadata.

    Args:
        owners: who owns what.
        shard_of: the number of a namespace's shard.
        auth: checks who forwards a call to us.
        forwarder: takes the others' calls to them.
    """

    def __init__(self, *, owners: Owners, shard_of: Callable[[str], int], auth: PeerAuth, forwarder: Forwarder) -> None:
        self._owners = owners
        self._directory = owners.directory
        self._shard_of = shard_of
        self._auth = auth
        self._forwarder = forwarder

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Handler | None]], handler_call_details: Details
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        route = ROUTES.get(method)
        if handler is None or route is None:
            return None if method.startswith("/muster.") else handler
        names: list[str] = []
        is_signed = False
        for key, value in handler_call_details.invocation_metadata or ():
            if key == NAMESPACE_KEY and isinstance(value, str):
                names.append(value)
            elif key == SIGNATURE_KEY:
                is_signed = True
        if is_signed:
            try:
                said = self._auth.check(method, handler_call_details.invocation_metadata or ())
            except MusterError as error:
                return _refusing(handler, error)
            peer_auth.forwarded.set(said)
        match route:
            case Route.NAMESPACE:
                if len(names) > 1:  # refused where all bad calls are
                    return handler
                shard = self._shard_of(names[0] if names else DEFAULT_NAMESPACE)
                if self._owners.is_here(shard):
                    return handler
                if is_signed and not self._directory.is_mine(shard):  # one hop, or coordinators that disagree would send it round and round
                    return _refusing(handler, moved(shard, self._directory.owner_of(shard)))
                return self._elsewhere(method, shard, handler)
            case Route.NAMED:
                return self._by_request(method, handler, lambda request: self._shard_of(request.name), is_forwarded=is_signed)
            case Route.NUMBERED:
                return self._by_request(method, handler, self._numbered, is_forwarded=is_signed)
            case Route.EVERYWHERE | Route.HERE:
                return handler

    def _elsewhere(self, method: str, shard: int, handler: Handler) -> Handler:
        """Handles a call of another coordinator's shard."""
        if not handler.request_streaming and not handler.response_streaming:

            async def unary(request: bytes, context: Context) -> Any:
                return await self._forwarder.unary(method, shard, request, context, _here(handler))

            return grpc.unary_unary_rpc_method_handler(unary)
        answer: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream
        if not handler.request_streaming:

            async def watch(request: bytes, context: Context) -> None:
                async def here(context: Context) -> None:
                    await answer(_parse(handler, request), context)

                await self._forwarder.stream(method, shard, Requests(read=None, first=request), context, here)

            return grpc.unary_stream_rpc_method_handler(watch)

        async def stream(_: Any, context: Context) -> None:
            async def here(context: Context) -> None:
                await answer(_parsed(handler, context), context)

            await self._forwarder.stream(method, shard, Requests(read=context.read), context, here)

        return grpc.stream_stream_rpc_method_handler(stream)

    def _numbered(self, request: Any) -> int | None:
        """The shard that a request numbers. None: nobody is known to own it, and what is to be said of that is said here."""
        shard: int = request.shard
        return shard if self._directory.owner_of(shard) is not None else None

    def _by_request(self, method: str, handler: Handler, shard_of: Callable[[Any], int | None], *, is_forwarded: bool) -> Handler:
        """Handles a call whose request says whose it is."""
        here = _here(handler)

        async def unary(request: bytes, context: Context) -> Any:
            parsed = _parse(handler, request)
            shard = shard_of(parsed)
            if shard is None or self._owners.is_here(shard):
                return await here(request, context)
            if is_forwarded and not self._directory.is_mine(shard):
                await _refuse(context, moved(shard, self._directory.owner_of(shard)))
            return await self._forwarder.unary(method, shard, request, context, here)

        return grpc.unary_unary_rpc_method_handler(unary)


def _here(handler: Handler) -> Callable[[bytes, Context], Awaitable[Any]]:
    answer: Any = handler.unary_unary

    async def handle(request: bytes, context: Context) -> Any:
        return await answer(_parse(handler, request), context)

    return handle


def _parse(handler: Handler, message: bytes) -> Any:
    parsed = careful(handler.request_deserializer)(message)
    if isinstance(parsed, MusterError):
        raise parsed
    return parsed


async def _parsed(handler: Handler, context: Context) -> AsyncIterator[Any]:
    while (message := await context.read()) is not grpc.aio.EOF:
        yield _parse(handler, message)


def _refusing(handler: Handler, error: MusterError) -> Handler:
    """Refuses a call before anything is done with it."""

    async def refuse(_: Any, context: Context) -> None:
        await _refuse(context, error)

    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(refuse)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(refuse)
    return grpc.unary_unary_rpc_method_handler(refuse)


async def _refuse(context: Context, error: MusterError) -> None:
    context.set_trailing_metadata(((UNTOUCHED_KEY, "1"),))
    await abort(context, error)


class Forwarding:
    """Everything about calls that aren't for this coordinator, connected.

    Args:
        directory: who owns what.
        shard_of: the number of a namespace's shard.
        auth: knows the other coordinators.
        is_served: whether a shard of this coordinator has been recovered.
    """

    def __init__(self, *, directory: Directory, shard_of: Callable[[str], int], auth: PeerAuth, is_served: Callable[[int], bool]) -> None:
        self.directory = directory
        self.auth = auth
        self.peers = Peers()
        owners = Owners(directory=directory, peers=self.peers, is_served=is_served)
        self.others = Others(owners=owners, auth=auth)
        self._calls = ForwardedCalls(directory=directory)
        forwarder = Forwarder(owners=owners, auth=auth, calls=self._calls)
        self.interceptor = ForwardingInterceptor(owners=owners, shard_of=shard_of, auth=auth, forwarder=forwarder)

    async def run(self) -> None:
        """Follows what changes: channels to coordinators that own nothing are closed, and calls whose shards moved are ended."""
        while True:
            changed = asyncio.ensure_future(self.directory.changed())
            self.peers.keep(self.directory.addresses())
            self._calls.look()
            try:
                await changed
            finally:
                changed.cancel()

    async def close(self) -> None:
        """Ends all that is under way."""
        await self.peers.close()
