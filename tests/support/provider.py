"""A provider of chat completions on loopback that does exactly what a test tells it to."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class ScriptedProvider:
    """Answers each request with the next of `answers`, and the last one for ever.

    `requests` are the bodies it got, `headers` their headers, `left` counts the clients that went away before their answer was whole.
    """

    answers: list[Answer]
    base_url: str = ""
    requests: list[dict[str, object]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    left: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        self.requests.append(await request.json())
        self.headers.append(dict(request.headers))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        try:
            return await answer(request)
        except (asyncio.CancelledError, ConnectionError):
            self.left += 1
            raise


@asynccontextmanager
async def serve(*answers: Answer) -> AsyncIterator[ScriptedProvider]:
    """A provider that is up while the context is."""
    provider = ScriptedProvider(list(answers))
    app = web.Application()
    app.router.add_post("/v1/chat/completions", provider.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        provider.base_url = f"http://{host}:{port}/v1"
        yield provider
    finally:
        await runner.cleanup()


def chunk(text: str | None = None, *, finish_reason: str | None = None, **more: object) -> str:
    """One chunk of a streamed answer, as JSON."""
    delta = {} if text is None else {"content": text}
    return json.dumps({"model": "tiny-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], **more})


USAGE_CHUNK = json.dumps({"model": "tiny-1", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}})
WHOLE_STREAM = (chunk("Hel"), chunk("lo"), chunk(finish_reason="stop"), USAGE_CHUNK, "[DONE]")


def streams(*events: str, then: str = "end") -> Answer:
    """Streams `events` as server-sent data; `then` is "end", "hang" (silence), "comments" (keep-alives for ever) or "break" (reset)."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            await response.write(f"data: {event}\n\n".encode())
        if then == "break":
            await asyncio.sleep(0)
            assert request.transport is not None
            request.transport.abort()
        while then in ("hang", "comments"):
            if then == "comments":
                await response.write(b": still here\n\n")
            await asyncio.sleep(0.02)
        return response

    return answer


def says(status: int, body: str = "", *, content_type: str = "application/json", **headers: str) -> Answer:
    """Answers `status` and `body`, with `headers` whose underscores stand for dashes."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, text=body, content_type=content_type, headers=named)

    return answer


async def hangs(_request: web.Request) -> web.StreamResponse:
    """Never answers."""
    await asyncio.Event().wait()
    raise AssertionError
