"""Errors as gRPC statuses: one table, applied by one interceptor. What isn't in the table is a bug: logged, and INTERNAL on the wire."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from muster.v1 import common_pb2

from coordinator.convert import duration
from coordinator.errors import (
    AlreadyExists,
    Conflict,
    CursorInvalid,
    InvalidRequest,
    LimitReached,
    MusterError,
    NotFound,
    PreconditionFailed,
    RevisionOutOfRange,
    SessionSuperseded,
    Unavailable,
)

log = logging.getLogger(__name__)

DOMAIN = "muster"
STATUS_DETAILS_KEY = "grpc-status-details-bin"
OWNER_KEY = "muster-owner"  # whom a caller may go to directly

CODES: dict[type[MusterError], int] = {
    InvalidRequest: code_pb2.INVALID_ARGUMENT,
    CursorInvalid: code_pb2.INVALID_ARGUMENT,
    NotFound: code_pb2.NOT_FOUND,
    AlreadyExists: code_pb2.ALREADY_EXISTS,
    PreconditionFailed: code_pb2.FAILED_PRECONDITION,
    Conflict: code_pb2.ABORTED,
    RevisionOutOfRange: code_pb2.OUT_OF_RANGE,
    SessionSuperseded: code_pb2.ABORTED,
    LimitReached: code_pb2.RESOURCE_EXHAUSTED,
    Unavailable: code_pb2.UNAVAILABLE,
}

_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}


def refusal_of(error: MusterError) -> common_pb2.Refusal:
    """An error as an item of a batch or a stream carries it."""
    message = common_pb2.Refusal(
        code=CODES[type(error)],
        reason=error.reason,
        message=error.message,
        field=getattr(error, "field", ""),
        metadata=error.metadata,
    )
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        message.retry_after.CopyFrom(duration(retry_after_s))
    return message


def status_of(error: MusterError) -> status_pb2.Status:
    """An error as a call fails with it: google.rpc.Status with details."""
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)]
    match error:
        case InvalidRequest() | CursorInvalid():
            violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        case LimitReached():
            quota = error_details_pb2.QuotaFailure.Violation(subject=error.limit, description=error.message)
            details.append(error_details_pb2.QuotaFailure(violations=[quota]))
        case _:
            pass
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=duration(retry_after_s)))
    status = status_pb2.Status(code=CODES[type(error)], message=error.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: MusterError) -> None:
    """Ends a call with an error. Raises what grpc ends a handler with."""
    status = status_of(error)
    trailing = (*context.trailing_metadata(), (STATUS_DETAILS_KEY, status.SerializeToString()))
    owner = error.metadata.get("owner")
    context.set_trailing_metadata(trailing if owner is None else (*trailing, (OWNER_KEY, owner)))
    try:
        await context.abort(_GRPC_CODES[status.code], status.message)
    except grpc.aio.AbortError:
        raise
    except grpc.aio.BaseError as gone:  # the caller left before it was told
        log.debug("rpc.left reason=%s", gone)


Handler = Callable[[Any, Any], Awaitable[Any]]


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Ends a call whose handler raised with the error's status. Streaming handlers must be coroutines that write to the context."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith("/muster."):
            return handler
        method = handler_call_details.method
        make, inner = _parts(handler)

        async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                if isinstance(request, MusterError):
                    raise request
                return await inner(request, context)
            except MusterError as error:
                await abort(context, error)
            except (grpc.RpcError, grpc.aio.AbortError, grpc.aio.UsageError):
                raise
            except grpc.aio.BaseError:  # a write failed: its stream has broken
                await abort(context, Unavailable("the stream broke as it was written to: open another"))
            except Exception:
                log.exception("rpc.failed method=%s", method)
                await context.abort(grpc.StatusCode.INTERNAL, "the coordinator failed on this call: its log says why")

        parse = careful(handler.request_deserializer, streamed=bool(handler.stream_stream))
        return make(answer, request_deserializer=parse, response_serializer=_serialized)


def _serialized(response: Message | bytes) -> bytes:
    """Hot streams serialize what they send themselves."""
    return response if isinstance(response, bytes) else response.SerializeToString()


def careful(parse: Callable[[bytes], Any] | None, *, streamed: bool = False) -> Callable[[bytes], Any]:
    """As `parse`, with a status of our own for bytes that aren't the message.

    It is raised where a stream is read, and handed to a unary call's handler, since grpc logs a traceback of what a deserializer raises.
    """

    def parsed(blob: bytes) -> Any:
        try:
            return parse(blob) if parse is not None else blob
        except DecodeError:
            message = "the request's bytes aren't a message of this method: generate your stubs from this release's protos"
            error = InvalidRequest(message, field="", reason="MALFORMED_MESSAGE")
            if streamed:
                raise error from None
            return error

    return parsed


def _parts(handler: Any) -> tuple[Callable[..., grpc.RpcMethodHandler[Any, Any]], Handler]:
    if handler.unary_unary:
        return grpc.unary_unary_rpc_method_handler, handler.unary_unary
    if handler.unary_stream:
        return grpc.unary_stream_rpc_method_handler, handler.unary_stream
    return grpc.stream_stream_rpc_method_handler, handler.stream_stream
