"""Sends one webhook request over aiohttp: bounded in time and in what is read, to an address that may be reached, and to no other.

The address is judged where the socket is made, so neither a name that resolves to something else the second time nor a spelling of an
address gets around it. Redirects aren't followed, and proxies of the environment aren't asked.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, cast

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from coordinator.ports import WebhookAnswer, WebhookVerdict
from coordinator.webhook_signing import sign
from coordinator.webhook_urls import WebhookRules

MAX_LOOKUPS = 64  # of names at a time: each holds a thread, for as long as the system's resolver takes, longer than the request may
MAX_ANSWER_BYTES = 32 * 1024  # read of an answer: its head is smaller, and nothing else is wanted
MAX_RETRY_AFTER_S = 86_400.0
MAX_REASON_CHARS = 256

AddressInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]
Lookup = Callable[[str, int], Sequence[AddressInfo]]


class AddressRefused(OSError):
    """What the host's name resolved to must not be connected to."""


class HttpWebhookSender:
    """Sends webhook requests. Made in the event loop that sends; `close` ends it.

    Args:
        rules: which addresses may be reached.
        connect_s: how long it may take to look the name up, connect, and agree on TLS, in seconds.
        total_s: how long until the head of the answer is there, in seconds.
        user_agent: the header of that name.
        lookup: resolves a host's name, in a thread; answers as `socket.getaddrinfo` does.
    """

    def __init__(self, *, rules: WebhookRules, connect_s: float, total_s: float, user_agent: str, lookup: Lookup | None = None) -> None:
        self._rules = rules
        self._resolver = _Resolver(lookup or _look_up)
        connector = _Connector(
            resolver=self._resolver,
            use_dns_cache=False,  # each attempt looks anew: a receiver that moved is found
            socket_factory=self._socket,
            limit=0,  # the dispatcher bounds it, so that nothing waits here with its time running
            force_close=True,  # a connection kept from before may be half dead, and a POST isn't repeated
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=total_s, connect=connect_s),
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"User-Agent": user_agent, "Content-Type": "application/json", "Accept": "*/*"},
            skip_auto_headers=("Accept-Encoding",),
        )

    async def close(self) -> None:
        """Ends what is under way."""
        await self._session.close()
        await self._resolver.close()

    async def send(self, *, url: str, secrets: Sequence[str], event_id: str, date_s: int, body: bytes) -> WebhookAnswer:
        """POSTs `body`, and answers what became of it. Nothing of the answer but its head is read."""
        headers = {"webhook-id": event_id, "webhook-timestamp": str(date_s)}
        if secrets:
            headers["webhook-signature"] = sign(secrets, event_id, date_s, body)
        try:
            response = await self._session.post(URL(url, encoded=True), data=body, headers=headers, allow_redirects=False)
        except TimeoutError as error:
            return _unreachable(f"no answer in time: {str(error) or 'it took too long'}")
        except aiohttp.ClientConnectorCertificateError as error:
            return _unreachable(f"its certificate can't be trusted: {error.certificate_error}")
        except aiohttp.ClientConnectorError as error:
            return _unreachable(str(error.os_error))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Not their text, which may repeat the URL, and with it a secret.
            what = f"{type(error).__name__}: {error.message}" if isinstance(error, aiohttp.ClientResponseError) else type(error).__name__
            return WebhookAnswer(WebhookVerdict.FAILED, _short(f"it broke off, or speaks no HTTP ({what})"))
        try:
            return _judge(response)
        finally:
            response.close()  # with its connection, whatever else would come

    def _socket(self, info: AddressInfo) -> socket.socket:
        """A socket for an address that is about to be connected to. Raises AddressRefused."""
        family, kind, protocol, _, address = info
        reason = self._rules.refuses(str(address[0]))
        if reason:
            raise AddressRefused(f"refused: {reason}")
        return socket.socket(family, kind, protocol)


def _unreachable(reason: str) -> WebhookAnswer:
    return WebhookAnswer(WebhookVerdict.UNREACHABLE, _short(reason))


def _judge(response: aiohttp.ClientResponse) -> WebhookAnswer:
    status = response.status
    if 200 <= status < 300:
        return WebhookAnswer(WebhookVerdict.DELIVERED, f"it answered {status}")
    if status == 410:
        return WebhookAnswer(WebhookVerdict.GONE, "it answered 410: the receiver wants no more of this")
    reason = f"it answered {status}"
    if 300 <= status < 400:
        reason += ", a redirect: they aren't followed; give the webhook the URL that it leads to"
    return WebhookAnswer(WebhookVerdict.FAILED, reason, _retry_after_s(response.headers))


def _retry_after_s(headers: Any) -> float | None:
    """Retry-After: seconds, or a date, which is read by the clock of whoever wrote it. None where there is none that makes sense."""
    text = headers.get("Retry-After", "").strip()
    if not text:
        return None
    try:
        if text.isdecimal() and text.isascii():
            seconds = float(text[:9])
        else:
            seconds = (parsedate_to_datetime(text) - parsedate_to_datetime(headers.get("Date", ""))).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _short(text: str) -> str:
    """A reason that fits into a line of a log."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= MAX_REASON_CHARS else line[: MAX_REASON_CHARS - 1] + "…"


def _look_up(host: str, port: int) -> Sequence[AddressInfo]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class _Connector(aiohttp.TCPConnector):
    """Connections that read no more than the head of an answer may take: aiohttp bounds headers, but not how often a server says 100."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = cast(
            "partial[ResponseHandler]", partial(_Answer, loop=self._loop)
        )  # private, and there is no other way: a test floods it


class _Answer(ResponseHandler):
    """What arrives on one connection, up to `MAX_ANSWER_BYTES`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._room = MAX_ANSWER_BYTES

    def data_received(self, data: bytes) -> None:
        taken = data[: self._room]
        self._room -= len(taken)
        if taken:
            super().data_received(taken)
        if len(taken) < len(data):
            self.set_exception(aiohttp.ClientPayloadError("the answer is too long"))
            if self.transport is not None:
                self.transport.close()


class _Resolver(AbstractResolver):
    """Names to addresses in threads of its own: a name server that hangs holds up nothing else of the coordinator."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(max_workers=MAX_LOOKUPS, thread_name_prefix="webhook-lookup")

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:  # noqa: ARG002
        found = await asyncio.get_running_loop().run_in_executor(self._threads, self._lookup, host, port)
        return [
            ResolveResult(hostname=host, host=str(address[0]), port=port, family=int(kin), proto=protocol, flags=socket.AI_NUMERICHOST)
            for kin, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
