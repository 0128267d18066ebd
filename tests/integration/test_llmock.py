"""The LLM agent, under a real coordinator, against somebody else's misbehaving provider, which also judges how its client behaved."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from llmock.pytest_plugin import LLMock
from muster.v1.common_pb2 import FailureKind, TaskState
from muster.v1.task_pb2 import Task

from agent_node import Client, RetryPolicy, TaskCancelledError, TaskFailedError, TaskHandle
from agent_node.llm.agent import LLMAgent
from agent_node.llm.secret import Secret
from agent_node.llm.settings import LLMSettings
from agent_node.testing import muster_in_process
from tests.support.eventually import eventually

PAYLOAD = {"template": "Tell me of {topic}.", "variables": {"topic": "sheep"}}
MAX_RETRIES = 3
WITHIN_S = 20


@pytest.fixture
async def client(llmock: LLMock) -> AsyncIterator[Client]:
    settings = LLMSettings(
        base_url=llmock.base_url(),
        model="gpt-4o-mini",
        api_key=Secret("a-key"),
        first_token_timeout_s=0.5,
        between_tokens_timeout_s=0.5,
        total_timeout_s=5,
    )
    async with muster_in_process(LLMAgent(settings)) as client:
        yield client


async def submit(client: Client) -> TaskHandle:
    return await client.submit("llm.chat", PAYLOAD, retry=RetryPolicy(max_retries=MAX_RETRIES, initial_backoff_s=0.2))


async def answered(client: Client) -> tuple[str, Task]:
    """The answer to one task and the task as it ended; what was streamed by the last attempt is that answer."""
    handle = await submit(client)
    content = (await handle.result(timeout_s=WITHIN_S)).json()["content"]
    task = await handle.status()
    chunks = [chunk async for chunk in handle.chunks()]
    assert b"".join(chunk.data for chunk in chunks if chunk.attempt == task.attempt).decode() == content
    return content, task


async def refused(client: Client) -> TaskFailedError:
    with pytest.raises(TaskFailedError) as caught:
        await (await submit(client)).result(timeout_s=WITHIN_S)
    return caught.value


async def approve(llmock: LLMock, *, attempts: int) -> None:
    """The mock's own verdict, warnings included; it waits for its own requests to end, so not on the loop that serves their clients."""
    verdict = await asyncio.to_thread(llmock.verdict)
    verdict.assert_ok(strict=True)
    assert (len(verdict.calls), verdict.attempts) == (1, attempts)


async def test_a_healthy_answer(llmock: LLMock, client: Client) -> None:
    llmock.reply("Sheep are woolly.")
    content, task = await answered(client)
    assert content == "Sheep are woolly."
    assert [(usage.model, usage.requests) for usage in task.usage] == [("gpt-4o-mini", 1)]
    assert task.usage[0].input_tokens > 0
    assert task.usage[0].output_tokens > 0
    await approve(llmock, attempts=1)


async def test_a_rate_limit_is_waited_out(llmock: LLMock, client: Client) -> None:
    llmock.rate_limit(times=2, retry_after=0.5)
    _, task = await answered(client)
    assert task.retry_count == 2
    assert task.last_failure.kind == FailureKind.FAILURE_KIND_RATE_LIMITED
    await approve(llmock, attempts=3)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 529])
async def test_a_server_error_is_tried_again(llmock: LLMock, client: Client, status: int) -> None:
    llmock.fail(status, times=2, retry_after=0.2)
    _, task = await answered(client)
    assert task.retry_count == 2
    assert task.last_failure.kind == FailureKind.FAILURE_KIND_PROVIDER_UNAVAILABLE
    assert str(status) in task.last_failure.message
    await approve(llmock, attempts=3)


async def test_a_provider_that_hangs_is_left(llmock: LLMock, client: Client) -> None:
    llmock.delay(2)
    _, task = await answered(client)
    assert "no first token" in task.last_failure.message
    # The mock waits its delay out before it notices that nobody is there, so it can't tell the second attempt for a retry.
    (await asyncio.to_thread(llmock.verdict)).assert_ok()


async def test_a_slow_first_token_is_left(llmock: LLMock, client: Client) -> None:
    llmock.slow_first_token(2)
    _, task = await answered(client)
    assert "no first token" in task.last_failure.message
    (await asyncio.to_thread(llmock.verdict)).assert_ok()


async def test_a_stream_that_stalls_is_left(llmock: LLMock, client: Client) -> None:
    llmock.stall(after_chunks=3, seconds=10)
    _, task = await answered(client)
    assert "stalled" in task.last_failure.message
    await approve(llmock, attempts=2)


@pytest.mark.parametrize("fault", ["disconnect", "truncate", "corrupt"])
@pytest.mark.parametrize("after_chunks", [1, 3])
async def test_half_an_answer_is_none(llmock: LLMock, client: Client, fault: str, after_chunks: int) -> None:
    getattr(llmock, fault)(after_chunks=after_chunks)
    _, task = await answered(client)
    assert task.retry_count == 1
    assert task.last_failure.kind == FailureKind.FAILURE_KIND_PROVIDER_UNAVAILABLE
    await approve(llmock, attempts=2)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_a_refusal_is_not_repeated(llmock: LLMock, client: Client, status: int) -> None:
    llmock.fail(status, message="we would rather not")
    failure = await refused(client)
    assert failure.kind == "PROVIDER_REJECTED"
    assert "we would rather not" in failure.message
    await approve(llmock, attempts=1)


async def test_a_prompt_that_is_too_long_is_said_so(llmock: LLMock, client: Client) -> None:
    llmock.context_overflow()
    assert "maximum context length" in (await refused(client)).message
    await approve(llmock, attempts=1)


async def test_an_outage_ends_in_a_failure_and_no_storm(llmock: LLMock, client: Client) -> None:
    llmock.fail(503, times=None, retry_after=0.1)
    assert (await refused(client)).kind == "PROVIDER_UNAVAILABLE"
    await approve(llmock, attempts=1 + MAX_RETRIES)


async def test_a_cancel_ends_the_stream_at_the_provider(llmock: LLMock) -> None:
    llmock.stall(after_chunks=2, seconds=60)
    async with muster_in_process(LLMAgent(LLMSettings(base_url=llmock.base_url(), model="gpt-4o-mini"))) as client:
        handle = await submit(client)
        async for _ in handle.chunks():
            break
        await handle.cancel("changed my mind")
        with pytest.raises(TaskCancelledError, match="changed my mind"):
            await handle.result(timeout_s=WITHIN_S)
        assert (await handle.status()).state == TaskState.TASK_STATE_CANCELLED
    records = await eventually(lambda: llmock.requests, message="the mock notices")
    assert [record.completed for record in records] == [False]
