"""The chat handler: payloads in every shape, pieces and usage on their way out, and what is wrong said by field."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent_node.errors import NonRetryableError, PayloadError, RetryableError
from agent_node.llm.agent import build_agent
from agent_node.llm.chat import ChatClient
from agent_node.llm.handler import ChatHandler
from agent_node.llm.payload import read_request, render
from agent_node.llm.settings import LLMSettings
from tests.support.provider import WHOLE_STREAM, chunk, says, serve, streams


@dataclass
class FakeContext:
    payload: bytes
    emitted: list[bytes] = field(default_factory=list)
    usage: list[dict[str, object]] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)

    def emit(self, chunk: bytes) -> None:
        self.emitted.append(chunk)

    def progress(self, current: float, total: float, message: str = "") -> None:
        self.steps.append(current)

    def report_usage(self, **usage: object) -> None:
        self.usage.append(usage)


def context(**payload: object) -> FakeContext:
    return FakeContext(json.dumps(payload).encode())


async def run(base_url: str, ctx: FakeContext) -> dict[str, object]:
    client = ChatClient(settings=LLMSettings(base_url=base_url, model="tiny"))
    try:
        return await ChatHandler(client=client, default_model="tiny").chat(ctx)
    finally:
        await client.close()


async def test_a_task_streams_its_answer_reports_its_usage_and_returns_the_whole() -> None:
    ctx = context(messages=[{"role": "user", "content": "Hello"}])
    async with serve(streams(*WHOLE_STREAM)) as provider:
        result = await run(provider.base_url, ctx)
    assert result == {
        "content": "Hello",
        "model": "tiny-1",
        "finish_reason": "stop",
        "usage": {"input_tokens": 7, "output_tokens": 3},
    }
    assert ctx.emitted == [b"Hel", b"lo"]
    assert ctx.steps == [3, 5]
    assert ctx.usage == [{"model": "tiny-1", "input_tokens": 7, "output_tokens": 3, "requests": 1}]


async def test_an_answer_without_counts_is_a_request_all_the_same() -> None:
    ctx = context(template="Hello")
    async with serve(streams(chunk("Hi"), "[DONE]")) as provider:
        assert (await run(provider.base_url, ctx))["usage"] is None
    assert ctx.usage == [{"model": "tiny-1", "input_tokens": 0, "output_tokens": 0, "requests": 1}]


async def test_an_attempt_that_broke_off_was_not_free() -> None:
    ctx = context(template="Hello")
    async with serve(streams(chunk("Hi"), then="break")) as provider:
        with pytest.raises(RetryableError):
            await run(provider.base_url, ctx)
    assert ctx.usage == [{"model": "tiny", "input_tokens": 0, "output_tokens": 0, "requests": 1}]


async def test_a_refused_request_used_nothing() -> None:
    ctx = context(template="Hello")
    async with serve(says(400, "no")) as provider:
        with pytest.raises(NonRetryableError):
            await run(provider.base_url, ctx)
    assert ctx.usage == []


def test_a_template_becomes_a_message_behind_its_system_prompt() -> None:
    payload = {"template": "Say {word} {n} times", "variables": {"word": "{n}", "n": 3}, "system": "Be brief.", "max_tokens": 5}
    request = read_request(json.dumps(payload).encode(), default_model="tiny")
    assert request.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say {n} 3 times"}]
    assert (request.model, request.options) == ("tiny", {"max_tokens": 5})


def test_what_only_a_provider_knows_goes_along() -> None:
    payload = {"template": "x", "model": "big", "top_p": None, "extra": {"top_k": 4}}
    request = read_request(json.dumps(payload).encode(), default_model="tiny")
    assert request.body(stream_usage=False) == {
        "top_k": 4,
        "model": "big",
        "messages": [{"role": "user", "content": "x"}],
        "stream": True,
    }


def test_braces_can_stand_for_themselves() -> None:
    assert render('{{"a": {x}}}', {"x": [1, "ü"]}) == '{"a": [1, "ü"]}'


@pytest.mark.parametrize(
    "template, says_what",
    [
        ("{missing}", "'missing' is missing"),
        ("{x.__class__}", "plain {name}"),
        ("{x[0]}", "plain {name}"),
        ("{0}", "plain {name}"),
        ("{}", "plain {name}"),
        ("{x!r}", "plain {name}"),
        ("{x:>{x}}", "plain {name}"),
        ("{x:>999999999}", "plain {name}"),
        ("{x", "stand for themselves"),
        ("}", "stand for themselves"),
    ],
)
def test_a_template_reaches_nothing_but_its_variables(template: str, says_what: str) -> None:
    with pytest.raises(PayloadError) as caught:
        render(template, {"x": "y"})
    assert says_what in str(caught.value)


USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    "payload, field_name",
    [
        (b"\xff", ""),
        (b"{", ""),
        (b"[]", ""),
        ({}, "messages"),
        ({"messages": [USER], "template": "x"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "x"}, "messages"),
        ({"messages": [USER, "x"]}, "messages[1]"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [USER], "variables": {}}, "variables"),
        ({"messages": [USER], "model": ""}, "model"),
        ({"messages": [USER], "temprature": 1}, "temprature"),
        ({"messages": [USER], "extra": {"stream": False}}, "extra.stream"),
        ({"messages": [USER], "extra": 1}, "extra"),
        ({"template": ""}, "template"),
        ({"template": "x", "variables": []}, "variables"),
        ({"template": "x", "system": 1}, "system"),
    ],
)
def test_a_wrong_payload_is_final_and_names_the_field(payload: object, field_name: str) -> None:
    with pytest.raises(PayloadError) as caught:
        read_request(payload if isinstance(payload, bytes) else json.dumps(payload).encode(), default_model="tiny")
    assert caught.value.field == field_name
    assert isinstance(caught.value, NonRetryableError)


def test_a_misspelt_field_is_answered_with_the_right_one() -> None:
    with pytest.raises(PayloadError, match="did you mean 'temperature'"):
        read_request(b'{"template": "x", "temprature": 1}', default_model="tiny")


def test_the_agent_takes_every_task_type_of_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "llm.toml"
    file.write_text('model = "tiny"\ntask_types = ["a", "b"]\ncapacity = 7\n')
    monkeypatch.setenv("MUSTER_LLM_BASE_URL", "http://x/v1")
    agent = build_agent(file)
    assert agent.task_types == ["a", "b"]
    assert agent.settings.capacity == 7
    assert agent.settings.labels == {"llm.model": "tiny"}


def test_the_sdk_alone_imports_no_aiohttp() -> None:
    code = "import sys, agent_node; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0
