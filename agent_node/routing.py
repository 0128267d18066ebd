"""A channel to several coordinators, as stubs use one: each call goes where `routes` says, and a single call is made again over a failover.

Streams are opened once; whoever opened one opens the next, which goes where it had better go by then.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from agent_node.backoff import Backoff
from agent_node.routes import Routes, namespace_in

Options = Sequence[tuple[str, int]]
KNOCK_S = 2.0
REPEAT_S = 30.0  # how long a call without a deadline is made again


class RoutedChannel(grpc.aio.Channel):
    """For one event loop.

    Args:
        routes: where calls go.
        options: of the channels.
    """

    def __init__(self, routes: Routes, *, options: Options) -> None:
        self._routes = routes
        self._options = options
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._following: set[asyncio.Task[None]] = set()
        self._closed = False

    def unary_unary(self, method: str, *arguments: Any, **named: Any) -> Any:
        """A call of one message each way."""
        made: dict[str, Any] = {}

        async def call(request: Any, *, timeout: float | None = None, metadata: Any = None, **options: Any) -> Any:  # noqa: ASYNC109 - gRPC's
            routes, namespace = self._routes, namespace_in(metadata)
            ends_s = routes.now_s() + (REPEAT_S if timeout is None else timeout)
            backoff: Backoff | None = None
            routes.began()
            while True:
                address = routes.choose(namespace, self._is_ready)
                if address not in made:
                    made[address] = self._at(address).unary_unary(method, *arguments, **named)
                under_way = made[address](request, timeout=timeout, metadata=metadata, **options)
                try:
                    response = await under_way
                except grpc.aio.AioRpcError as error:
                    if not routes.failed(address, namespace, method, error):
                        raise
                    backoff = backoff or Backoff()
                    pause_s = backoff.next_s()
                    left_s = ends_s - routes.now_s() - pause_s
                    if left_s <= 0:
                        raise
                    timeout = None if timeout is None else left_s
                    await asyncio.sleep(pause_s)
                else:
                    self._heard(routes.answered(namespace, method, await under_way.trailing_metadata()))
                    return response

        return call

    def unary_stream(self, method: str, *arguments: Any, **named: Any) -> Any:
        """A call of one message there, and any number back."""
        return self._stream(method, lambda channel: channel.unary_stream(method, *arguments, **named))

    def stream_stream(self, method: str, *arguments: Any, **named: Any) -> Any:
        """A call of any number of messages each way."""
        return self._stream(method, lambda channel: channel.stream_stream(method, *arguments, **named))

    def stream_unary(self, method: str, *arguments: Any, **named: Any) -> Any:
        """A call of any number of messages there, and one back."""
        return self._stream(method, lambda channel: channel.stream_unary(method, *arguments, **named))

    def _stream(self, method: str, make: Callable[[grpc.aio.Channel], Any]) -> Callable[..., Any]:
        made: dict[str, Any] = {}

        def call(*request: Any, metadata: Any = None, **options: Any) -> Any:
            namespace = namespace_in(metadata)
            address = self._routes.choose(namespace, self._is_ready)
            if address not in made:
                made[address] = make(self._at(address))
            opened = made[address](*request, metadata=metadata, **options)
            following = asyncio.get_running_loop().create_task(self._follow(opened, address, namespace, method), name="route.follow")
            self._following.add(following)
            following.add_done_callback(self._following.discard)
            return opened

        return call

    async def _follow(self, call: Any, address: str, namespace: str, method: str) -> None:
        """Learns from a stream where the owner is, and how it ended."""
        try:
            initial = await call.initial_metadata()
            if initial:
                self._heard(self._routes.answered(namespace, method, initial))
            code, trailing, details = await call.code(), await call.trailing_metadata(), await call.details()
        except asyncio.CancelledError:  # the stream was, by whoever opened it, or this is the end
            return
        if code is not grpc.StatusCode.OK:
            error = grpc.aio.AioRpcError(code, initial, trailing, details)
            self._routes.failed(address, namespace, method, error)

    def _heard(self, owner: str | None) -> None:
        """An owner was heard of: a connection to it is begun, so that the next call finds it."""
        if owner is not None:
            self._is_ready(owner)

    def _is_ready(self, address: str) -> bool:
        return self._at(address).get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY

    def _at(self, address: str) -> grpc.aio.Channel:
        channel = self._channels.get(address)
        if channel is None:
            if self._closed:
                raise grpc.aio.UsageError("the channel is closed")
            channel = self._channels[address] = grpc.aio.insecure_channel(address, options=self._options)
        return channel

    @property
    def _first(self) -> grpc.aio.Channel:
        return self._at(self._routes.given[0])

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - gRPC's signature
        """Of the channel to the first address."""
        return self._first.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Likewise."""
        await self._first.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Likewise."""
        await self._first.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Ends all calls."""
        self._closed = True
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close(grace)
        for following in self._following:
            following.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


class BlockingRoutedChannel(grpc.Channel):
    """For single calls from threads.

    Args:
        routes: where calls go.
        options: of the channels.
    """

    def __init__(self, routes: Routes, *, options: Options) -> None:
        self._routes = routes
        self._options = options
        self._channels: dict[str, grpc.Channel] = {}
        self._ready: set[str] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def unary_unary(self, method: str, *arguments: Any, **named: Any) -> Any:
        """A call of one message each way."""
        made: dict[str, Any] = {}

        def call(request: Any, timeout: float | None = None, metadata: Any = None, **options: Any) -> Any:
            routes, namespace = self._routes, namespace_in(metadata)
            ends_s = routes.now_s() + (REPEAT_S if timeout is None else timeout)
            backoff: Backoff | None = None
            routes.began()
            while True:
                with self._lock:
                    address = routes.choose(namespace, self._ready.__contains__)
                    if address not in made:
                        made[address] = self._at(address).unary_unary(method, *arguments, **named)
                try:
                    response, under_way = made[address].with_call(request, timeout=timeout, metadata=metadata, **options)
                except grpc.RpcError as error:
                    with self._lock:
                        again = routes.failed(address, namespace, method, error)
                    if not again:
                        raise
                    backoff = backoff or Backoff()
                    pause_s = backoff.next_s()
                    left_s = ends_s - routes.now_s() - pause_s
                    if left_s <= 0:
                        raise
                    timeout = None if timeout is None else left_s
                    if self._closed.wait(pause_s):
                        raise
                else:
                    with self._lock:
                        owner = routes.answered(namespace, method, under_way.trailing_metadata())
                        if owner is not None:
                            self._seek(owner)
                    return response

        return call

    def _seek(self, address: str) -> None:
        """Looks whether an owner can be reached from here. Until that is known, calls go the way they went."""
        if address not in self._ready:
            threading.Thread(target=self._knock, args=(address,), name="muster-route", daemon=True).start()

    def _knock(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        try:  # gRPC's own way to watch a channel is a thread that outlives it, and then fails
            socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
        except (OSError, ValueError):
            return
        self._ready.add(address)

    def _at(self, address: str) -> grpc.Channel:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = grpc.insecure_channel(address, options=self._options)
        return channel

    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        """Streams need an event loop."""
        return self._at(self._routes.given[0]).unary_stream(*arguments, **named)

    def stream_unary(self, *arguments: Any, **named: Any) -> Any:
        """Likewise."""
        return self._at(self._routes.given[0]).stream_unary(*arguments, **named)

    def stream_stream(self, *arguments: Any, **named: Any) -> Any:
        """Likewise."""
        return self._at(self._routes.given[0]).stream_stream(*arguments, **named)

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], Any], try_to_connect: bool | None = False) -> None:  # noqa: FBT001, FBT002 - gRPC's signature
        """Of the channel to the first address."""
        self._at(self._routes.given[0]).subscribe(callback, bool(try_to_connect))

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], Any]) -> None:
        """Likewise."""
        self._at(self._routes.given[0]).unsubscribe(callback)

    def close(self) -> None:
        """Ends all calls."""
        self._closed.set()
        with self._lock:
            for channel in self._channels.values():
                channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
