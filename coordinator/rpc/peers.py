"""Channels to the other coordinators: one each, kept for as long as it owns anything."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import grpc
import grpc.aio

OPTIONS: tuple[tuple[str, int], ...] = (
    # What may come in was bounded where it came from, and what goes out is bounded there.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A partition between two coordinators that both reach the store shows by this alone.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Repeated is only what is known to be safe, and the forwarder knows.
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.default_compression_algorithm", 0),  # none: who wants it compresses payloads
)
CLOSE_GRACE_S = 30.0  # for calls to a coordinator that owns nothing any more: it ends them itself


class Peer:
    """Another coordinator.

    Args:
        address: where it is.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        self._unary: dict[str, Any] = {}
        self._streams: dict[str, Any] = {}

    def unary(self, method: str) -> Any:
        """What makes a call of one message each way, in bytes."""
        made = self._unary.get(method)
        if made is None:
            made = self._unary[method] = self._channel.unary_unary(method)
        return made

    def stream(self, method: str) -> Any:
        """What makes a call of any number of messages each way, in bytes. On the wire all kinds of calls are of this one."""
        made = self._streams.get(method)
        if made is None:
            made = self._streams[method] = self._channel.stream_stream(method)
        return made

    def is_connected(self) -> bool:
        """Whether a call would be sent at once. If not, it is being seen to."""
        return self._channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY

    async def connected(self, within_s: float) -> bool:
        """Waits for it to be reached. False: it can't be, now; or not within so many seconds."""
        try:
            async with asyncio.timeout(within_s):
                while (state := self._channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                    if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                        return False
                    await self._channel.wait_for_state_change(state)
        except (TimeoutError, grpc.aio.UsageError):  # or it was let go of meanwhile
            return False
        return True

    async def close(self, grace_s: float | None) -> None:
        """Ends what is still under way after so many seconds."""
        await self._channel.close(grace_s)


class Peers:
    """The other coordinators, by address."""

    def __init__(self) -> None:
        self._peers: dict[str, Peer] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def at(self, address: str) -> Peer:
        """The coordinator at an address."""
        peer = self._peers.get(address)
        if peer is None:
            peer = self._peers[address] = Peer(address)
        return peer

    def keep(self, addresses: Collection[str]) -> None:
        """Lets go of all but these."""
        for address in [address for address in self._peers if address not in addresses]:
            closing = asyncio.create_task(self._peers.pop(address).close(CLOSE_GRACE_S), name=f"peer.close {address}")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def addresses(self) -> frozenset[str]:
        """Those to which there are channels."""
        return frozenset(self._peers)

    async def close(self) -> None:
        """Lets go of all, at once."""
        for closing in self._closing:
            closing.cancel()
        peers, self._peers = list(self._peers.values()), {}
        for peer in peers:
            await peer.close(None)
