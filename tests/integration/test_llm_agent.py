"""The LLM agent as a whole: assigned over the agent stream, answered over HTTP, with results, usage, failures and cancels going back."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from muster.v1 import agent_pb2 as pb
from muster.v1.common_pb2 import FailureKind, Outcome, TaskSpec

from agent_node.llm.agent import LLMAgent
from agent_node.llm.secret import Secret
from agent_node.llm.settings import LLMSettings
from agent_node.payloads import About, AesGcm, Content, Payloads
from tests.support.eventually import eventually
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.provider import WHOLE_STREAM, ScriptedProvider, chunk, says, serve, streams

KEY = "sk-test-0123456789"
PAYLOAD = json.dumps({"template": "Hello"}).encode()
JSON = Content(PAYLOAD, "application/json")


@pytest.fixture
def coordinator():
    with FakeCoordinator() as fake:
        yield fake


@contextlib.asynccontextmanager
async def answering(
    coordinator: FakeCoordinator, provider: ScriptedProvider, payloads: Payloads | None = None, payload: Content = JSON
) -> AsyncIterator[None]:
    """Runs the LLM agent with one task assigned."""
    agent = LLMAgent(LLMSettings(base_url=provider.base_url, model="tiny", api_key=Secret(KEY)), payloads=payloads)
    agent.override(name="llm", address=coordinator.address)
    serving = asyncio.create_task(agent.serve())
    try:
        await eventually(lambda: coordinator.said, message="the agent is ready")
        coordinator.assign(TaskSpec(task_id="t", task_type="llm.chat", payload=payload.data, content_type=payload.content_type))
        yield
    finally:
        agent.stop()
        await asyncio.wait([serving])


async def outcome(coordinator: FakeCoordinator) -> Outcome:
    await eventually(lambda: coordinator.results, message="the result")
    return coordinator.results[-1].outcome


async def test_an_answer_goes_back_in_chunks_and_whole_with_its_usage(coordinator: FakeCoordinator) -> None:
    async with serve(streams(*WHOLE_STREAM)) as provider, answering(coordinator, provider):
        result = await outcome(coordinator)
    assert json.loads(result.success.payload)["content"] == "Hello"
    assert [(usage.model, usage.input_tokens, usage.output_tokens, usage.requests) for usage in result.usage] == [("tiny-1", 7, 3, 1)]
    assert b"".join(chunk.data for message in coordinator.said for chunk in message.chunks) == b"Hello"


async def test_payloads_and_results_go_through_codecs_as_with_any_agent(coordinator: FakeCoordinator) -> None:
    payloads = Payloads([AesGcm({"k1": bytes(32)}, active="k1")])
    sent = await payloads.encode(JSON, About("payload", "t"))
    assert sent.data != PAYLOAD
    async with serve(streams(*WHOLE_STREAM)) as provider, answering(coordinator, provider, payloads, sent):
        success = (await outcome(coordinator)).success
    answer = await payloads.decode(Content(success.payload, success.content_type), About("result", "t"))
    assert success.payload != answer.data
    assert json.loads(answer.data)["content"] == "Hello"


async def test_a_rate_limit_goes_back_with_the_time_to_wait(coordinator: FakeCoordinator) -> None:
    async with serve(says(429, "slow down", content_type="text/plain", Retry_After="7")) as provider, answering(coordinator, provider):
        failure = (await outcome(coordinator)).failure
    assert (failure.kind, failure.retry_after.seconds, failure.non_retryable) == (FailureKind.FAILURE_KIND_RATE_LIMITED, 7, False)


async def test_a_refusal_goes_back_as_final_and_without_the_key(coordinator: FakeCoordinator, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    echo = json.dumps({"error": {"message": f"no such key: {KEY}"}})
    async with serve(says(401, echo)) as provider, answering(coordinator, provider):
        failure = (await outcome(coordinator)).failure
    assert (failure.kind, failure.non_retryable) == (FailureKind.FAILURE_KIND_PROVIDER_REJECTED, True)
    assert "no such key" in failure.message
    sent = b"".join(message.SerializeToString() for message in coordinator.said)
    assert KEY.encode() not in sent
    assert KEY not in caplog.text


async def test_a_cancel_closes_the_request_in_flight(coordinator: FakeCoordinator) -> None:
    async with serve(streams(chunk("Hel"), then="hang")) as provider, answering(coordinator, provider):
        await eventually(lambda: any(message.chunks for message in coordinator.said), message="the first piece")
        coordinator.send(pb.ConnectResponse(cancels=[pb.Cancel(task_id="t", fence=1, reason="changed my mind")]))
        await eventually(lambda: provider.left == 1, message="the provider sees its client go")
        assert (await outcome(coordinator)).WhichOneof("result") == "cancelled"


async def test_the_command_runs_it_and_shows_the_key_to_nobody(coordinator: FakeCoordinator, tmp_path) -> None:
    config = tmp_path / "llm.toml"
    async with serve(says(401, f"bad key {KEY}", content_type="text/plain")) as provider:
        config.write_text(f'base_url = "{provider.base_url}"\nmodel = "tiny"\n')
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *["-m", "agent_node", "llm", "--config", str(config), "--address", coordinator.address, "--log-level", "debug"],
            env={"MUSTER_LLM_API_KEY": KEY},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            await eventually(lambda: coordinator.said, within_s=15, message="the agent is ready")
            coordinator.assign(TaskSpec(task_id="t", task_type="llm.chat", payload=PAYLOAD))
            await outcome(coordinator)
        finally:
            process.terminate()
            output, _ = await asyncio.wait_for(process.communicate(), 10)
    assert provider.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in output.decode()
    assert "Unclosed" not in output.decode()
    assert process.returncode == 0


@pytest.mark.parametrize(
    "text, says_what",
    [
        ("base_ulr = 'http://x/v1'", "did you mean 'base_url'"),
        ("model = 'tiny'", "base_url is missing"),
    ],
)
def test_a_wrong_configuration_is_one_sentence(tmp_path, text: str, says_what: str) -> None:
    config = tmp_path / "llm.toml"
    config.write_text(text)
    command = [sys.executable, "-m", "agent_node", "llm", "--config", str(config)]
    done = subprocess.run(command, env={}, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert says_what in done.stderr
    assert done.stderr.count("\n") == 1
