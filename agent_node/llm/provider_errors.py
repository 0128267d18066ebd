"""One table from what a provider did to what a task's attempt says of it: which failures another attempt may mend, and when.

    429                                        RetryableError     RATE_LIMITED          after Retry-After, if the provider gave one
    5xx, no connection, a stall, a cut stream  RetryableError     PROVIDER_UNAVAILABLE  after Retry-After, if the provider gave one
    any other 3xx or 4xx                       NonRetryableError  PROVIDER_REJECTED

What the provider said is repeated, shortened, and without the key: some echo it.
"""

import math
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

from agent_node.errors import NonRetryableError, RetryableError
from agent_node.llm.completion import error_message
from agent_node.llm.secret import Secret

_SAID_LENGTH: Final = 500  # characters of the provider's own words
_LONGEST_WAIT_S: Final = 24 * 3600.0  # a provider that asks for more is taken to mean a day


def unavailable(message: str, *, retry_after_s: float | None = None) -> RetryableError:
    """The provider can't be used now, for a reason that passes."""
    return RetryableError(message, retry_after_s=retry_after_s, kind="PROVIDER_UNAVAILABLE")


def failure_from_response(
    *, status: int, headers: Mapping[str, str], body: str, provider: str, secret: Secret
) -> RetryableError | NonRetryableError:
    """The failure that an HTTP answer other than 2xx stands for.

    Args:
        status: its status.
        headers: its headers; names are looked up as given here, so the mapping must not mind their case.
        body: its body, or as much of it as was read.
        provider: what to call the provider, such as its base URL.
        secret: taken out of whatever the provider said.
    """
    location = headers.get("Location", "")
    said = error_message(body) or (f"moved to {location}: set base_url to where it is now" if location else "")
    message = f"{provider} answered {_status_line(status)}{_quoted(said, secret)}"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return RetryableError(message, retry_after_s=retry_after_s(headers), kind="RATE_LIMITED")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return unavailable(message, retry_after_s=retry_after_s(headers))
    return NonRetryableError(message, kind="PROVIDER_REJECTED")


def failure_from_report(said: str, *, code: int | str, provider: str, secret: Secret) -> RetryableError | NonRetryableError:
    """The failure that an error inside a 200 answer stands for: providers report one so when it happens after the first token.

    `code` is an HTTP status, as a number or in digits, or a name such as "rate_limit_exceeded". One that says nothing counts as passing.
    """
    message = f"{provider} broke its answer off with an error{_quoted(said, secret)}"
    text = str(code).lower()
    status = int(text) if text.isascii() and text.isdigit() else 0
    if status == HTTPStatus.TOO_MANY_REQUESTS or "rate_limit" in text or "too_many_requests" in text:
        return RetryableError(message, kind="RATE_LIMITED")
    if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR or "invalid" in text or "context_length" in text:
        return NonRetryableError(message, kind="PROVIDER_REJECTED")
    return unavailable(message)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait before the next request, as the provider asks; None when it doesn't, or can't be understood.

    RFC 9110, section 10.2.3: a number of seconds, or a date. A date counts from the answer's own Date header, since no other clock is
    known to agree with the provider's; without that header it says nothing. "retry-after-ms" is the finer one that some send along.
    """
    milliseconds = _seconds(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return min(milliseconds / 1000, _LONGEST_WAIT_S)
    text = headers.get("Retry-After", "").strip()
    seconds = _seconds(text)
    if seconds is None:
        until, sent = _date(text), _date(headers.get("Date", ""))
        if until is None or sent is None:
            return None
        seconds = max((until - sent).total_seconds(), 0.0)
    return min(seconds, _LONGEST_WAIT_S)


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value >= 0 and not math.isinf(value) else None


def _date(text: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(text)
    except ValueError:
        return None
    return parsed if parsed.tzinfo is not None else None


def _status_line(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _quoted(said: str, secret: Secret) -> str:
    """`: what was said`, on one line. The secret goes before the text is shortened: a cut could leave half of it."""
    clean = " ".join(secret.remove_from(said).split())
    if not clean:
        return ""
    return f": {clean}" if len(clean) <= _SAID_LENGTH else f": {clean[:_SAID_LENGTH]} …"
