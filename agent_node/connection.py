"""How the SDK reaches a coordinator: the channel's settings, the metadata of every call, and gRPC's errors in the SDK's words.

It knows nothing of tasks or agents.
"""

import asyncio
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from muster.v1.common_pb2 import Refusal

from agent_node import clock
from agent_node.addresses import split_addresses
from agent_node.errors import (
    AlreadyExistsError,
    AttemptLostError,
    InvalidArgumentError,
    LimitError,
    LockLost,
    MusterError,
    NotFoundError,
    RefusedError,
    ResultExpiredError,
    UnavailableError,
)
from agent_node.routes import NAMESPACE_KEY, Routes
from agent_node.routing import BlockingRoutedChannel, RoutedChannel
from agent_node.statuses import status_in

DEFAULT_ADDRESS = "127.0.0.1:7450"
ADDRESS_VARIABLE = "MUSTER_ADDRESS"

# Not reached, not answered, or cut off: the same call may work in a moment.
_UNAVAILABLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})
_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # A dead peer is noticed within 30 s even when nothing is being said. The coordinator permits such pings.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    # Sent again is only what is known to be safe, and the SDK knows, not the channel.
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    # A restarted coordinator is found again within about 2 s; gRPC's default grows to 2 minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Two channels of one process are two connections: neither waits for the other's backoff.
    ("grpc.use_local_subchannel_pool", 1),
    # Coordinators are inside the network; a proxy meant for the web would cut long streams.
    ("grpc.enable_http_proxy", 0),
)


_SETTLE_S = 0.01
LONGEST_S = 315_576_000_000.0  # of protobuf's Duration: 10,000 years


@dataclass(frozen=True)
class Target:
    """Where a coordinator is, and the namespace to work in.

    Args:
        address: `host:port`, or any gRPC target; several of the former, comma separated, for coordinators that share a store.
        namespace: an existing namespace.
    """

    address: str
    namespace: str = "default"

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where to connect, in this order. gRPC's own sentence says what is wrong with one that can't be."""
        return split_addresses(self.address) or (self.address,)


def default_address() -> str:
    """Where to connect when nothing is said: MUSTER_ADDRESS, or else 127.0.0.1:7450."""
    return os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS


async def settle() -> None:
    """After channels were closed, before their event loop may be.

    grpc.aio hears of the end of what was cancelled a moment later (some 0.1 ms), and tells it to the loop that asked. If that is closed by
    then, as at the end of `asyncio.run`, some other loop of the process gets a RuntimeError for it, and reads nothing until its next event.
    """
    await asyncio.sleep(_SETTLE_S)


def open_channel(target: Target, *, connect_timeout_s: float = 10.0) -> RoutedChannel:
    """A channel to the target's coordinators. It connects at its first call, and belongs to the running event loop.

    Args:
        target: where they are.
        connect_timeout_s: how long a call tries them in turn before one of them has ever answered.
    """
    return RoutedChannel(Routes(target.addresses, connect_timeout_s=connect_timeout_s, now_s=clock.now_s), options=CHANNEL_OPTIONS)


def open_single_channel(address: str) -> grpc.aio.Channel:
    """A channel to one coordinator, for who decides for itself where to go."""
    return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)


def open_blocking_channel(target: Target, *, connect_timeout_s: float = 10.0) -> BlockingRoutedChannel:
    """The same for callers without an event loop."""
    return BlockingRoutedChannel(Routes(target.addresses, connect_timeout_s=connect_timeout_s, now_s=clock.now_s), options=CHANNEL_OPTIONS)


def call_metadata(target: Target) -> tuple[tuple[str, str], ...]:
    """The metadata that every call must carry."""
    return ((NAMESPACE_KEY, target.namespace),)


def from_rpc_error(error: grpc.RpcError) -> MusterError:
    """What an RPC's error means, read from its code and from the google.rpc.Status in its trailers.

    Takes the errors of grpc and of grpc.aio alike.
    """
    code = error.code() if isinstance(error, (grpc.aio.AioRpcError, grpc.Call)) else grpc.StatusCode.UNKNOWN
    message = (error.details() if isinstance(error, (grpc.aio.AioRpcError, grpc.Call)) else None) or ""
    info, field, retry_after_s = ErrorInfo(), "", None
    violation = ""
    for detail in status_in(error).details:
        bad_request, retry = BadRequest(), RetryInfo()
        if detail.Unpack(bad_request):
            if bad_request.field_violations:
                field = bad_request.field_violations[0].field
                # What the message says already isn't said twice.
                violation = "; ".join(
                    f"{each.field}: {each.description}" for each in bad_request.field_violations if each.description not in message
                )
        elif detail.Unpack(retry):
            retry_after_s = seconds(retry.retry_delay)
        else:
            detail.Unpack(info)
    if violation and violation not in message:
        message = f"{message} ({violation})" if message else violation
    return _error(code, message, reason=info.reason, field=field, retry_after_s=retry_after_s, metadata=info.metadata)


def from_refusal(refusal: Refusal) -> MusterError:
    """What the refusal of one item means: a RefusedError of the fitting class, or UnavailableError."""
    return _error(
        _CODES.get(refusal.code, grpc.StatusCode.UNKNOWN),
        refusal.message,
        reason=refusal.reason,
        field=refusal.field,
        retry_after_s=seconds(refusal.retry_after) if refusal.HasField("retry_after") else None,
        metadata=refusal.metadata,
    )


def seconds(duration: Duration) -> float:
    """A protobuf duration in seconds."""
    return duration.seconds + duration.nanos / 1e9


def duration(seconds: float, *, name: str = "a duration") -> Duration:
    """Seconds as a protobuf duration. One beyond what that can hold becomes the longest there is, for the coordinator to refuse.

    Args:
        seconds: how many.
        name: the argument's, for messages.

    Raises:
        InvalidArgumentError: it is NaN.
        TypeError: it isn't a number.
    """
    try:
        is_nan = math.isnan(seconds)
    except TypeError:
        raise TypeError(f"{name} is {seconds!r}: give a number of seconds") from None
    if is_nan:
        raise InvalidArgumentError(name, "is nan: give a number of seconds")
    message = Duration()
    message.FromTimedelta(timedelta(seconds=min(max(seconds, -LONGEST_S), LONGEST_S)))
    return message


def _error(
    code: grpc.StatusCode, message: str, *, reason: str, field: str, retry_after_s: float | None, metadata: Mapping[str, str]
) -> MusterError:
    if code in _UNAVAILABLE:
        return UnavailableError(message or "the coordinator can't be reached", retry_after_s=retry_after_s)
    if reason == "LOCK_LOST":
        return LockLost(message, metadata=metadata)
    if reason == "STALE_ATTEMPT":
        return AttemptLostError(message)
    refused: type[RefusedError]
    if reason == "RESULT_EXPIRED":
        refused = ResultExpiredError
    elif code is grpc.StatusCode.NOT_FOUND:
        refused = NotFoundError
    elif code is grpc.StatusCode.ALREADY_EXISTS:
        refused = AlreadyExistsError
    elif code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        refused = LimitError
    else:
        refused = RefusedError
    return refused(message or code.name, reason=reason or code.name, field=field, retry_after_s=retry_after_s, metadata=metadata)
