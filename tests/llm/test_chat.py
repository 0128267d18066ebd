"""The chat client against a provider on loopback that misbehaves in every way providers do."""

import asyncio
import json
from contextlib import aclosing

import pytest

from agent_node.errors import NonRetryableError, RetryableError
from agent_node.llm.chat import ChatClient
from agent_node.llm.completion import ChatRequest, Completion, Delta, TokenUsage
from agent_node.llm.secret import Secret
from agent_node.llm.settings import LLMSettings
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.provider import WHOLE_STREAM, Answer, ScriptedProvider, chunk, hangs, says, serve, streams

KEY = "sk-test/0123456789abcdef"
REQUEST = ChatRequest(model="tiny", messages=[{"role": "user", "content": "Hello"}], options={"temperature": 0})


def settings(base_url: str, **changes: object) -> LLMSettings:
    return LLMSettings(**{"base_url": base_url, "model": "tiny", "api_key": Secret(KEY), **changes})


async def collect(client: ChatClient, request: ChatRequest = REQUEST) -> tuple[str, Completion]:
    parts = [part async for part in client.stream(request)]
    assert isinstance(parts[-1], Completion)
    return "".join(part.text for part in parts[:-1] if isinstance(part, Delta)), parts[-1]


async def ask(provider: ScriptedProvider, **changes: object) -> tuple[str, Completion]:
    client = ChatClient(settings=settings(provider.base_url, **changes))
    try:
        return await collect(client)
    finally:
        await client.close()


async def test_an_answer_streams_in_with_its_end_and_usage() -> None:
    async with serve(streams(*WHOLE_STREAM)) as provider:
        assert await ask(provider) == ("Hello", Completion("tiny-1", "stop", TokenUsage(7, 3)))


async def test_the_request_is_the_one_that_the_api_describes() -> None:
    async with serve(streams(*WHOLE_STREAM)) as provider:
        await ask(provider)
    assert provider.requests == [
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": "Hello"}],
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    assert provider.headers[0]["Authorization"] == f"Bearer {KEY}"


async def test_stream_options_are_left_out_for_a_provider_that_refuses_them() -> None:
    async with serve(streams(*WHOLE_STREAM)) as provider:
        await ask(provider, request_stream_usage=False)
    assert "stream_options" not in provider.requests[0]


async def test_without_a_key_no_authorization_is_sent() -> None:
    async with serve(streams(*WHOLE_STREAM)) as provider:
        await ask(provider, api_key=Secret(""))
    assert "Authorization" not in provider.headers[0]


async def test_a_connection_is_used_again_after_a_whole_answer() -> None:
    peers = set()

    async def answer(request):
        peers.add(request.transport.get_extra_info("peername"))
        return await streams(*WHOLE_STREAM)(request)

    async with serve(answer) as provider:
        client = ChatClient(settings=settings(provider.base_url))
        await collect(client)
        await collect(client)
        await client.close()
    assert len(peers) == 1


async def test_a_provider_that_answers_in_one_piece() -> None:
    whole = {"model": "tiny-2", "choices": [{"message": {"role": "assistant", "content": "Hi 🐑"}, "finish_reason": "length"}]}
    whole["usage"] = {"prompt_tokens": 5, "completion_tokens": 2}
    async with serve(says(200, json.dumps(whole))) as provider:
        assert await ask(provider) == ("Hi 🐑", Completion("tiny-2", "length", TokenUsage(5, 2)))


@pytest.mark.parametrize(
    "events",
    [
        [chunk("Hel"), chunk("lo", finish_reason="stop")],
        [chunk("Hel"), chunk("lo"), "[DONE]"],
    ],
    ids=["a finish reason", "[DONE]"],
)
async def test_an_answer_is_whole_with_a_finish_reason_or_the_end_marker(events: list[str]) -> None:
    async with serve(streams(*events)) as provider:
        text, completion = await ask(provider)
    assert (text, completion.usage) == ("Hello", None)


@pytest.mark.parametrize("then", ["break", "hang"])
async def test_a_whole_answer_is_kept_when_only_its_goodbye_is_lost(then: str) -> None:
    async with serve(streams(chunk("Hello"), chunk(finish_reason="stop"), then=then)) as provider:
        assert (await ask(provider, between_tokens_timeout_s=0.5))[0] == "Hello"


async def test_a_provider_that_never_closes_its_stream_is_not_waited_for_after_the_end_marker() -> None:
    async with serve(streams(*WHOLE_STREAM, then="hang")) as provider:
        async with asyncio.timeout(5):
            assert (await ask(provider))[0] == "Hello"


async def test_a_character_cut_in_two_by_the_provider_is_put_together() -> None:
    halves = [chunk("a").replace('"a"', r'"a\ud83d"'), chunk("b").replace('"b"', r'"\udc11b"')]
    async with serve(streams(*halves, "[DONE]")) as provider:
        assert (await ask(provider))[0] == "a🐑b"


CUT = [chunk("Hel"), chunk("lo")]


@pytest.mark.parametrize(
    "answer, says_what",
    [
        (streams(*CUT), "cut off"),
        (streams(*CUT, then="break"), "broke the connection"),
        (streams(*CUT, then="hang"), "stalled"),
        (streams(*CUT, then="comments"), "stalled"),
        (streams(chunk(""), then="hang"), "no first token"),
        (hangs, "no first token"),
        (streams(chunk("Hel"), "{not json", chunk("lo", finish_reason="stop")), "isn't JSON"),
        (streams(chunk("Hel"), '{"object": "nothing we know"}', "[DONE]"), "no list of choices"),
        (streams(), "cut off"),
        (says(200, "<html>Welcome</html>", content_type="text/html"), "base_url"),
        (says(200, '{"choices": []}'), "no choices"),
        (says(500, "oops"), "500 Internal Server Error: oops"),
        (says(503, '{"error": {"message": "overloaded"}}'), "overloaded"),
        (says(529, ""), "529"),
        (streams(chunk("Hel"), '{"error": {"message": "gpu fell over", "type": "server_error"}}'), "gpu fell over"),
    ],
)
async def test_what_another_attempt_may_mend_is_retryable(answer: Answer, says_what: str) -> None:
    # Short is only the wait that is to end: a busy machine may take as long for any of the other answers.
    first_s, between_s = (0.3 if says_what == waited_for else 30.0 for waited_for in ("no first token", "stalled"))
    async with serve(answer) as provider:
        with pytest.raises(RetryableError) as caught:
            await ask(provider, first_token_timeout_s=first_s, between_tokens_timeout_s=between_s)
    assert caught.value.kind == "PROVIDER_UNAVAILABLE"
    assert says_what in str(caught.value)


async def test_a_provider_that_is_not_there_is_retryable() -> None:
    client = ChatClient(settings=settings(f"http://127.0.0.1:{free_port()}/v1"))
    with pytest.raises(RetryableError, match="can't be reached") as caught:
        await collect(client)
    await client.close()
    assert caught.value.kind == "PROVIDER_UNAVAILABLE"


async def test_the_whole_request_has_an_end_even_while_tokens_keep_coming() -> None:
    async def drip(request):
        response = await _start_stream(request)
        while True:
            await response.write(f"data: {chunk('x')}\n\n".encode())
            await asyncio.sleep(0.01)

    async with serve(drip) as provider:
        with pytest.raises(RetryableError, match=r"didn't finish its answer within 0.3 s"):
            await ask(provider, total_timeout_s=0.3)


async def test_thinking_aloud_is_a_sign_of_life() -> None:
    async def think(request):
        response = await _start_stream(request)
        thought = json.dumps({"choices": [{"delta": {"reasoning_content": "hm"}}]})
        for _ in range(8):
            await response.write(f"data: {thought}\n\n".encode())
            await asyncio.sleep(0.1)
        await response.write(f"data: {chunk('42', finish_reason='stop')}\n\ndata: [DONE]\n\n".encode())
        return response

    async with serve(think) as provider:
        assert (await ask(provider, first_token_timeout_s=0.5, between_tokens_timeout_s=0.5))[0] == "42"


async def test_a_rate_limit_says_when_to_come_back() -> None:
    async with serve(says(429, '{"error": {"message": "slow down"}}', Retry_After="7")) as provider:
        with pytest.raises(RetryableError, match="slow down") as caught:
            await ask(provider)
    assert (caught.value.kind, caught.value.retry_after_s) == ("RATE_LIMITED", 7)


async def test_a_rate_limit_that_strikes_in_mid_stream_is_one() -> None:
    async with serve(streams(chunk("Hel"), '{"error": {"message": "too fast", "code": 429}}')) as provider:
        with pytest.raises(RetryableError, match="too fast") as caught:
            await ask(provider)
    assert caught.value.kind == "RATE_LIMITED"


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 413, 422])
async def test_a_refusal_is_final_and_says_what_the_provider_said(status: int) -> None:
    body = '{"error": {"message": "no such model", "code": "model_not_found"}}'
    async with serve(says(status, body, Location="http://elsewhere.invalid/")) as provider:
        with pytest.raises(NonRetryableError, match="no such model") as caught:
            await ask(provider)
    assert caught.value.kind == "PROVIDER_REJECTED"
    assert len(provider.requests) == 1


async def test_a_refusal_in_mid_stream_is_final() -> None:
    error = {"error": {"message": "prompt too long", "code": "context_length_exceeded"}}
    async with serve(streams(json.dumps(error))) as provider:
        with pytest.raises(NonRetryableError, match="prompt too long"):
            await ask(provider)


async def test_a_long_refusal_is_shortened() -> None:
    async with serve(says(400, "x" * 200_000, content_type="text/plain")) as provider:
        with pytest.raises(NonRetryableError) as caught:
            await ask(provider)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("answer", [streams(chunk("x" * 60), chunk("y" * 60), "[DONE]"), None], ids=["streamed", "whole"])
async def test_an_answer_without_bound_is_given_up_for_good(answer: Answer | None) -> None:
    whole = json.dumps({"choices": [{"message": {"content": "x" * 120}}]})
    async with serve(answer or says(200, whole)) as provider:
        with pytest.raises(NonRetryableError, match="longer than 100 bytes"):
            await ask(provider, max_answer_bytes=100)


async def test_a_plain_answer_without_end_is_given_up_for_good() -> None:
    async with serve(says(200, '{"choices": [' + " " * 200_000)) as provider:
        with pytest.raises(NonRetryableError, match="longer than 100 bytes"):
            await ask(provider, max_answer_bytes=100)


async def test_an_event_without_end_is_given_up() -> None:
    async with serve(streams("x" * 2_000_000)) as provider:
        with pytest.raises(RetryableError, match="longer than 1048576 bytes"):
            await ask(provider)


async def test_a_refusal_whose_words_do_not_arrive_is_one_all_the_same() -> None:
    async def refuse(request):
        from aiohttp import web

        response = web.StreamResponse(status=400, headers={"Content-Length": "100"})
        await response.prepare(request)
        request.transport.abort()
        return response

    async with serve(refuse) as provider:
        with pytest.raises(NonRetryableError, match="400 Bad Request"):
            await ask(provider)


@pytest.mark.parametrize("answer", [hangs, streams(chunk("Hel"), then="hang")], ids=["before the first token", "in mid-stream"])
async def test_a_cancel_closes_the_request_at_once(answer: Answer) -> None:
    async with serve(answer) as provider:
        client = ChatClient(settings=settings(provider.base_url))
        asking = asyncio.create_task(collect(client))
        await eventually(lambda: provider.requests, message="the request arrives")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await eventually(lambda: provider.left == 1, message="the provider sees its client go")
        await client.close()


async def test_leaving_the_answer_closes_the_request_at_once() -> None:
    async with serve(streams(chunk("Hel"), then="hang")) as provider:
        client = ChatClient(settings=settings(provider.base_url))
        async with aclosing(client.stream(REQUEST)) as answer:
            assert await anext(answer) == Delta("Hel")
        await eventually(lambda: provider.left == 1, message="the provider sees its client go")
        await client.close()


@pytest.mark.parametrize(
    "answer",
    [
        says(401, json.dumps({"error": {"message": f"bad key {KEY}"}})),
        says(400, f"Authorization: Bearer {KEY}", content_type="text/plain"),
        says(401, json.dumps({"error": {"message": f"bad key {KEY}"}}).replace("/", "\\/")),
        says(429, "x" * 480 + KEY, content_type="text/plain"),
        says(500, "x" * (64 * 1024 - 10) + KEY, content_type="text/plain"),
        says(302, "", Location=f"http://elsewhere.invalid/?key={KEY}"),
        streams(chunk("Hel"), json.dumps({"error": {"message": f"bad key {KEY}"}})),
    ],
)
async def test_a_key_that_the_provider_echoes_is_shown_nowhere(answer: Answer, caplog: pytest.LogCaptureFixture) -> None:
    import traceback

    caplog.set_level("DEBUG")
    async with serve(answer) as provider:
        with pytest.raises((RetryableError, NonRetryableError)) as caught:
            await ask(provider)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + caplog.text
    assert KEY not in shown
    assert KEY.replace("/", "\\/") not in shown
    assert KEY[:8] not in shown


async def test_a_key_in_what_is_no_http_is_shown_nowhere() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"Bearer {KEY}, you said\r\n\r\n".encode())
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = ChatClient(settings=settings(f"http://127.0.0.1:{port}/v1"))
        with pytest.raises(RetryableError, match="broke the connection") as caught:
            await collect(client)
        await client.close()
    assert KEY[:8] not in str(caught.value)


async def _start_stream(request):
    from aiohttp import web

    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    return response
