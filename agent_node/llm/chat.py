"""Chat completions over HTTP: one request, its answer as it streams in, and every way it can fail put into the SDK's errors.

Knows aiohttp and nothing of tasks. The handler's process holds one client, whose connections are reused.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from http import HTTPStatus
from typing import Final, Self, TypeVar

import aiohttp

from agent_node.errors import NonRetryableError, RetryableError
from agent_node.llm.completion import (
    AnswerError,
    AnswerReader,
    ChatRequest,
    Completion,
    Delta,
    ProviderReportedError,
    read_whole_answer,
)
from agent_node.llm.provider_errors import failure_from_report, failure_from_response, unavailable
from agent_node.llm.settings import LLMSettings
from agent_node.llm.sse import EventStreamParser, EventTooLongError

_T = TypeVar("_T")
_ERROR_BODY_BYTES: Final = 64 * 1024
_ERROR_TEXT_LENGTH: Final = 300  # characters of aiohttp's own words
_END_OF_STREAM_GRACE_S: Final = 1.0  # after [DONE] the connection is worth a short wait: read to its end, it can be used again
_JSON_BYTES_PER_BYTE: Final = 6  # the longest way in which JSON spells a byte of text: \u0000


class ChatClient:
    """A client of one OpenAI-compatible provider; as a context manager it closes itself.

    Args:
        settings: the provider, and how long to wait for what.
    """

    def __init__(self, *, settings: LLMSettings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta | Completion, None]:
        """The answer: its text in pieces, then its end, once.

        Closing the iterator, or cancelling whoever awaits it, closes the HTTP request at once: the provider stops computing.

        Raises:
            RetryableError: 429, 5xx, no connection, nothing heard for too long, or an answer that was cut off.
            NonRetryableError: the provider refused the request, or its answer is longer than `max_answer_bytes`.
        """
        patience = _Patience(self._settings)
        response = await self._patiently(patience, self._send(request))
        try:
            if not HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
                raise await self._refusal(response, patience)
            if response.content_type == "text/html":
                raise AnswerError("it is a web page: does base_url end with the API's version, such as /v1?")
            if response.content_type.endswith("json"):
                text, completion = await self._whole_answer(response, patience, request)
                yield Delta(text)
                yield completion
                return
            async with aclosing(self._streamed_answer(response, patience, request)) as pieces:
                async for piece in pieces:
                    yield piece
        except (AnswerError, EventTooLongError) as error:
            raise unavailable(f"{self._settings.base_url} sent no usable answer: {error}") from None
        except ProviderReportedError as error:
            raise failure_from_report(
                str(error), code=error.code, provider=self._settings.base_url, secret=self._settings.api_key
            ) from None
        finally:
            # An answer that was read to its end has given its connection back by now; any other connection ends here.
            response.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes all connections. The next request opens new ones."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def _send(self, request: ChatRequest) -> aiohttp.ClientResponse:
        if self._session is None:
            # The agent's capacity bounds the requests, so the pool doesn't; every timeout is kept by _Patience but the connection's.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None, connect=self._settings.connect_timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        headers = {"Accept": "text/event-stream, application/json", "Accept-Encoding": "identity", "Content-Type": "application/json"}
        if self._settings.api_key:
            headers["Authorization"] = f"Bearer {self._settings.api_key.reveal()}"
        return await self._session.post(
            self._settings.endpoint,
            data=json.dumps(request.body(stream_usage=self._settings.request_stream_usage)).encode(),
            headers=headers,
            allow_redirects=False,  # a redirect would take the key elsewhere
        )

    async def _refusal(self, response: aiohttp.ClientResponse, patience: "_Patience") -> Exception:
        try:
            body, _ = await self._read(response, patience, limit_bytes=_ERROR_BODY_BYTES)
        except RetryableError:
            body = b""  # the status says enough, and a refusal stays one even if its explanation doesn't arrive
        return failure_from_response(
            status=response.status,
            headers=response.headers,
            body=body.decode("utf-8", errors="replace"),
            provider=self._settings.base_url,
            secret=self._settings.api_key,
        )

    async def _whole_answer(self, response: aiohttp.ClientResponse, patience: "_Patience", request: ChatRequest) -> tuple[str, Completion]:
        limit_bytes = _ERROR_BODY_BYTES + _JSON_BYTES_PER_BYTE * self._settings.max_answer_bytes
        body, whole = await self._read(response, patience, limit_bytes=limit_bytes)
        if not whole:
            raise self._too_long()
        text, completion = read_whole_answer(body.decode("utf-8", errors="replace"), model=request.model)
        if len(text.encode()) > self._settings.max_answer_bytes:
            raise self._too_long()
        return text, completion

    async def _streamed_answer(
        self, response: aiohttp.ClientResponse, patience: "_Patience", request: ChatRequest
    ) -> AsyncGenerator[Delta | Completion, None]:
        parser = EventStreamParser()
        reader = AnswerReader(model=request.model)
        answer_bytes = 0
        ended = False
        while not ended:
            try:
                received = await self._patiently(patience, response.content.readany())
            except RetryableError:
                if reader.complete:
                    break  # the text is whole: what is lost is a token count, or a clean goodbye
                raise
            ended = not received
            for event in parser.finish() if ended else parser.feed(received):
                if reader.done:
                    break
                piece = reader.read(event)
                if piece.alive:
                    patience.hears_of_the_model()
                if reader.done:
                    patience.expects_the_end()
                answer_bytes += len(piece.text.encode())
                if answer_bytes > self._settings.max_answer_bytes:
                    raise self._too_long()
                if piece.text:
                    yield Delta(piece.text)
        yield reader.completion()

    async def _read(self, response: aiohttp.ClientResponse, patience: "_Patience", *, limit_bytes: int) -> tuple[bytes, bool]:
        """At most `limit_bytes` of the body, and whether that is all of it."""
        body = bytearray()
        while received := await self._patiently(patience, response.content.readany()):
            patience.hears_of_the_model()
            body += received
            if len(body) > limit_bytes:
                return bytes(body[:limit_bytes]), False
        return bytes(body), True

    async def _patiently(self, patience: "_Patience", waited_for: Awaitable[_T]) -> _T:
        provider = self._settings.base_url
        try:
            async with asyncio.timeout_at(patience.ends_at):
                return await waited_for
        except aiohttp.ServerTimeoutError:
            raise unavailable(f"{provider} can't be reached within {self._settings.connect_timeout_s:g} s") from None
        except TimeoutError:
            raise unavailable(f"{provider} {patience.complaint}") from None
        except aiohttp.ClientConnectorError as error:
            raise unavailable(f"{provider} can't be reached: {self._clean(error)}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise unavailable(f"{provider} broke the connection: {self._clean(error)}") from None

    def _clean(self, error: Exception) -> str:
        return self._settings.api_key.remove_from(str(error) or type(error).__name__)[:_ERROR_TEXT_LENGTH]

    def _too_long(self) -> NonRetryableError:
        return NonRetryableError(
            f"the answer is longer than {self._settings.max_answer_bytes} bytes: ask for less, or raise max_answer_bytes",
            kind="PROVIDER_REJECTED",
        )


class _Patience:
    """Until when one request may still be waited for, on the event loop's clock."""

    def __init__(self, settings: LLMSettings) -> None:
        self._settings = settings
        self._now_s = asyncio.get_running_loop().time
        self._total_ends_at = self._now_s() + settings.total_timeout_s
        self._next_ends_at = self._now_s() + settings.first_token_timeout_s
        self._next_complaint = f"sent no first token within {settings.first_token_timeout_s:g} s"

    @property
    def ends_at(self) -> float:
        return min(self._total_ends_at, self._next_ends_at)

    @property
    def complaint(self) -> str:
        if self._total_ends_at <= self._next_ends_at:
            return f"didn't finish its answer within {self._settings.total_timeout_s:g} s"
        return self._next_complaint

    def hears_of_the_model(self) -> None:
        """The model is at work: the wait for its next piece starts now."""
        self._next_ends_at = self._now_s() + self._settings.between_tokens_timeout_s
        self._next_complaint = f"stalled: nothing came for {self._settings.between_tokens_timeout_s:g} s"

    def expects_the_end(self) -> None:
        """The answer is whole: only the stream's end is still waited for."""
        self._next_ends_at = self._now_s() + _END_OF_STREAM_GRACE_S
