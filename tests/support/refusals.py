"""How a call failed, with the details of its google.rpc.Status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2


@dataclass(frozen=True, slots=True)
class Refused:
    """What a failed call said of itself: its status with the details."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    domain: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    fields: Sequence[str] = ()
    limits: Sequence[str] = ()
    retry_after_s: float | None = None


def refused(error: grpc.aio.AioRpcError) -> Refused:
    """Reads a status's details."""
    blob = next((value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"), b"")
    status = status_pb2.Status.FromString(cast("bytes", blob))
    info, bad, quota = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.QuotaFailure()
    retry = error_details_pb2.RetryInfo()
    retry_after_s = None
    for detail in status.details:
        for message in (info, bad, quota):
            detail.Unpack(message)
        if detail.Unpack(retry):
            retry_after_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    assert not status.details or (status.code == error.code().value[0] and status.message == error.details())
    return Refused(
        code=error.code(),
        message=error.details() or "",
        reason=info.reason,
        domain=info.domain,
        metadata=dict(info.metadata),
        fields=[violation.field for violation in bad.field_violations],
        limits=[violation.subject for violation in quota.violations],
        retry_after_s=retry_after_s,
    )


async def refusal(call: Any) -> Refused:
    """Awaits a call, or reads a stream, that must fail, and answers how it did."""
    try:
        if hasattr(call, "read") and not hasattr(call, "__await__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return refused(error)
    raise AssertionError("the call should have failed")


def assert_invalid(why: Refused, field: str, reason: str = "INVALID_FIELD") -> None:
    """Fails unless it was refused for this field, in a sentence."""
    assert (why.code, why.reason, why.domain) == (grpc.StatusCode.INVALID_ARGUMENT, reason, "muster"), why
    assert list(why.fields) == [field], why
    assert why.message
