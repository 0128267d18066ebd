"""The local model's HTTP side: /v1/chat/completions, streamed and plain, and /v1/models, as OpenAI-compatible APIs have them.

A word counts as a token, in usage and in max_tokens.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from examples.local_model.answers import answer
from examples.local_model.text import words

MODEL: Final = "local-lexrank"
_MAX_REQUEST_BYTES: Final = 4 * 1024 * 1024


class LocalModel:
    """Answers chat requests.

    Args:
        words_per_s: how fast an answer is streamed; 0 is as fast as it goes. Hosted models write 30 to 100 words a second.
        concurrent_answers: how many are computed at a time; others wait their turn.
    """

    def __init__(self, *, words_per_s: float = 0, concurrent_answers: int = 1) -> None:
        self._words_per_s = words_per_s
        self._turn = asyncio.Semaphore(concurrent_answers)
        self._numbers = itertools.count(1)

    def app(self) -> web.Application:
        """The web application."""
        app = web.Application(client_max_size=_MAX_REQUEST_BYTES)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        return app

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "local"}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.json()
        except ValueError:
            return _refusal(400, "the body isn't JSON", code="invalid_json")
        wrong = _what_is_wrong(body)
        if wrong:
            return _refusal(400, wrong, code="invalid_request")
        if body["model"] != MODEL:
            return _refusal(404, f"there is no model {body['model']!r}: the one here is {MODEL!r}", code="model_not_found")
        async with self._turn:
            text = await asyncio.to_thread(answer, body["messages"])
        pieces = _pieces(text)
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or len(pieces)
        ending = {"finish_reason": "stop" if limit >= len(pieces) else "length", "usage": _usage(body["messages"], pieces[:limit])}
        frame = {"id": f"chatcmpl-{next(self._numbers)}", "created": 0, "model": MODEL}
        if body.get("stream"):
            with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
            return await self._stream(request, pieces[:limit], frame, ending, with_usage=with_usage)
        message = {"role": "assistant", "content": "".join(pieces[:limit])}
        choice = {"index": 0, "message": message, "finish_reason": ending["finish_reason"]}
        return web.json_response({**frame, "object": "chat.completion", "choices": [choice], "usage": ending["usage"]})

    async def _stream(
        self, request: web.Request, pieces: list[str], frame: Mapping[str, object], ending: Mapping[str, object], *, with_usage: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)

        async def send(delta: Mapping[str, str], finish_reason: object = None) -> None:
            choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
            await response.write(_event({**frame, "object": "chat.completion.chunk", "choices": [choice]}))

        try:
            await send({"role": "assistant"})
            for piece in pieces:
                await send({"content": piece})
                if self._words_per_s:
                    await asyncio.sleep(1 / self._words_per_s)
            await send({}, ending["finish_reason"])
            if with_usage:
                await response.write(_event({**frame, "object": "chat.completion.chunk", "choices": [], "usage": ending["usage"]}))
            await response.write(b"data: [DONE]\n\n")
            await response.write_eof()
        except ConnectionResetError:
            pass  # the client has heard enough
        return response


@asynccontextmanager
async def serving(model: LocalModel, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serves `model` while the context is open; gives its base URL. Port 0 is any free one."""
    runner = web.AppRunner(model.app(), handler_cancellation=True, shutdown_timeout=1.0, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        bound = runner.addresses[0]
        yield f"http://{bound[0]}:{bound[1]}/v1"
    finally:
        await runner.cleanup()


def _what_is_wrong(body: object) -> str:
    if not isinstance(body, dict):
        return "the body isn't an object"
    if not isinstance(body.get("model"), str):
        return "model is missing"
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        return "messages is a list of at least one message"
    for name in ("max_tokens", "max_completion_tokens"):
        if not isinstance(body.get(name, 1), (int, type(None))) or (body.get(name) or 1) < 1:
            return f"{name} is a whole number above 0"
    return ""


def _refusal(status: int, message: str, *, code: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "invalid_request_error", "code": code}}, status=status)


def _event(data: object) -> bytes:
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def _pieces(text: str) -> list[str]:
    """The text cut behind each space: joined they are the text again."""
    return text.replace(" ", " \0").split("\0") if text else []


def _usage(messages: list[Mapping[str, object]], pieces: list[str]) -> dict[str, int]:
    read = sum(len(words(str(message.get("content") or ""))) for message in messages)
    return {"prompt_tokens": read, "completion_tokens": len(pieces), "total_tokens": read + len(pieces)}
