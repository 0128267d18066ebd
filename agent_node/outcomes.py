"""From what a handler returned or raised to what the coordinator hears."""

import asyncio
import concurrent.futures
import math
import traceback

from muster.v1.common_pb2 import FailureKind

from agent_node.attempt import Failed, HandlerOutcome, Stopped, Succeeded
from agent_node.errors import AttemptLostError, NonRetryableError, ProcessFailedError, RetryableError
from agent_node.typed import to_json
from agent_node.wire_text import wire_text

MAX_MESSAGE_CHARACTERS = 4096
MAX_TRACE_CHARACTERS = 16 * 1024
MAX_RETRY_AFTER_S = 365 * 86_400.0  # the longest that the coordinator takes

# What a plain handler may raise to say "I stopped, as asked": asyncio's is another class than concurrent.futures'.
CANCELLATIONS = (asyncio.CancelledError, concurrent.futures.CancelledError)


def from_value(value: object) -> HandlerOutcome:
    """A handler's return value: bytes as they are, text as UTF-8, None as nothing, anything else as JSON. An outcome stays what it is."""
    if value is None:
        return Succeeded(b"", "")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Succeeded(bytes(value), "application/octet-stream")
    try:
        if isinstance(value, str):
            return Succeeded(value.encode(), "text/plain; charset=utf-8")
        if isinstance(value, (Succeeded, Failed)):
            return value
        return Succeeded(to_json(value), "application/json")
    except (TypeError, ValueError, RecursionError) as error:
        return Failed(
            f"the handler returned a {type(value).__name__} that can't be sent: {error}; return bytes, str, None, what JSON can hold, "
            "a dataclass or a pydantic model",
            error_type=type(error).__name__,
            non_retryable=True,
        )


def from_exception(error: BaseException) -> HandlerOutcome:
    """What a handler raised. Anything but a cancellation and a NonRetryableError may be tried again."""
    if isinstance(error, CANCELLATIONS):
        return Stopped()
    if isinstance(error, AttemptLostError):
        return Stopped()
    if isinstance(error, ProcessFailedError):
        return Failed(error.message, error.kind, error.error_type, error.stack_trace, error.non_retryable, error.retry_after_s)
    failed = Failed(_clip(_message_of(error), MAX_MESSAGE_CHARACTERS), error_type=type(error).__qualname__, stack_trace=_trace_of(error))
    if isinstance(error, (RetryableError, NonRetryableError)):
        failed.kind = _kind(error.kind)
        failed.non_retryable = isinstance(error, NonRetryableError)
    if isinstance(error, RetryableError) and error.retry_after_s is not None:
        failed.retry_after_s = _seconds(error.retry_after_s)
    return failed


def _seconds(given: object) -> float | None:
    """A handler's wish as a number of seconds: a header's text may be one, and what is none is as if nothing had been said."""
    try:
        seconds = float(given)  # type: ignore[arg-type]  # that is the question
    except (TypeError, ValueError, OverflowError):
        return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _kind(name: str) -> str:
    known = name != "UNSPECIFIED" and f"FAILURE_KIND_{name}" in FailureKind.DESCRIPTOR.values_by_name
    return name if known else "APPLICATION"


def _message_of(error: BaseException) -> str:
    try:
        return wire_text(str(error)) or type(error).__qualname__
    except Exception as unprintable:  # noqa: BLE001 - a user's __str__ may do anything, and the attempt must end all the same
        return f"{type(error).__qualname__}, which can't be printed: {type(unprintable).__qualname__}"


def _trace_of(error: BaseException) -> str:
    """The end of the trace, which says where it happened, when it is too long."""
    text = wire_text("".join(traceback.format_exception(error, limit=50)))
    return text if len(text) <= MAX_TRACE_CHARACTERS else "…" + text[-(MAX_TRACE_CHARACTERS - 1) :]


def _clip(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
