"""The LLM agent's handler against somebody else's misbehaving provider, which also judges how the client behaved.

Attempts are repeated here as the coordinator repeats them: after the provider's Retry-After where there is one, else with a backoff that
grows; and not at all when the failure says that it can't help.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from llmock.pytest_plugin import LLMock

from agent_node.errors import NonRetryableError, RetryableError
from agent_node.llm.chat import ChatClient
from agent_node.llm.handler import ChatHandler
from agent_node.llm.secret import Secret
from agent_node.llm.settings import LLMSettings
from tests.support.eventually import eventually

_FIRST_BACKOFF_S = 0.1
_MAX_ATTEMPTS = 4


@dataclass
class Attempts:
    """One task's life at an agent: every attempt's failure, and what the last one came to."""

    handler: ChatHandler
    failures: list[RetryableError | NonRetryableError] = field(default_factory=list)
    emitted: bytes = b""
    usage: list[dict[str, object]] = field(default_factory=list)
    payload: bytes = json.dumps({"template": "Tell me of {topic}.", "variables": {"topic": "sheep"}}).encode()

    async def run(self) -> dict[str, object] | None:
        backoff_s = _FIRST_BACKOFF_S
        for _ in range(_MAX_ATTEMPTS):
            self.emitted = b""
            try:
                return await self.handler.chat(self)
            except NonRetryableError as failure:
                self.failures.append(failure)
                return None
            except RetryableError as failure:
                self.failures.append(failure)
                await asyncio.sleep(failure.retry_after_s if failure.retry_after_s is not None else backoff_s)
                backoff_s *= 2
        return None

    def emit(self, chunk: bytes) -> None:
        self.emitted += chunk

    def progress(self, current: float, total: float, message: str = "") -> None:
        pass

    def report_usage(self, **usage: object) -> None:
        self.usage.append(usage)


@pytest.fixture
async def task(llmock: LLMock) -> AsyncIterator[Attempts]:
    settings = LLMSettings(
        base_url=llmock.base_url(),
        model="gpt-4o-mini",
        api_key=Secret("a-key"),
        first_token_timeout_s=0.5,
        between_tokens_timeout_s=0.5,
        total_timeout_s=5,
    )
    async with ChatClient(settings=settings) as client:
        yield Attempts(ChatHandler(client=client, default_model=settings.model))


def kinds(task: Attempts) -> list[str]:
    return [failure.kind for failure in task.failures]


async def approve(llmock: LLMock, *, attempts: int) -> None:
    """The mock's own verdict, warnings included; it waits for its own requests to end, so not on the loop that serves their clients."""
    verdict = await asyncio.to_thread(llmock.verdict)
    verdict.assert_ok(strict=True)
    assert (len(verdict.calls), verdict.attempts) == (1, attempts)


async def test_a_healthy_answer(llmock: LLMock, task: Attempts) -> None:
    llmock.reply("Sheep are woolly.")
    result = await task.run()
    assert result is not None
    assert result["content"] == "Sheep are woolly."
    assert task.emitted == b"Sheep are woolly."
    assert task.usage[0]["output_tokens"] > 0
    await approve(llmock, attempts=1)


async def test_a_rate_limit_is_waited_out(llmock: LLMock, task: Attempts) -> None:
    llmock.rate_limit(times=2, retry_after=0.5)
    assert await task.run() is not None
    assert kinds(task) == ["RATE_LIMITED"] * 2
    assert [failure.retry_after_s for failure in task.failures] == [0.5, 0.5]
    await approve(llmock, attempts=3)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 529])
async def test_a_server_error_is_tried_again(llmock: LLMock, task: Attempts, status: int) -> None:
    llmock.fail(status, times=2, retry_after=0.2)
    assert await task.run() is not None
    assert kinds(task) == ["PROVIDER_UNAVAILABLE"] * 2
    await approve(llmock, attempts=3)


async def test_a_provider_that_hangs_is_left(llmock: LLMock, task: Attempts) -> None:
    llmock.delay(2)
    assert await task.run() is not None
    assert "no first token" in str(task.failures[0])
    # The mock waits its delay out before it notices that nobody is there, so it can't tell the second attempt for a retry.
    (await asyncio.to_thread(llmock.verdict)).assert_ok()


async def test_a_slow_first_token_is_left(llmock: LLMock, task: Attempts) -> None:
    llmock.slow_first_token(2)
    assert await task.run() is not None
    assert "no first token" in str(task.failures[0])
    (await asyncio.to_thread(llmock.verdict)).assert_ok()


async def test_a_stream_that_stalls_is_left(llmock: LLMock, task: Attempts) -> None:
    llmock.stall(after_chunks=3, seconds=10)
    result = await task.run()
    assert result is not None
    assert "stalled" in str(task.failures[0])
    assert task.emitted.decode() == result["content"]
    await approve(llmock, attempts=2)


@pytest.mark.parametrize("fault", ["disconnect", "truncate", "corrupt"])
@pytest.mark.parametrize("after_chunks", [1, 3])
async def test_half_an_answer_is_none(llmock: LLMock, task: Attempts, fault: str, after_chunks: int) -> None:
    getattr(llmock, fault)(after_chunks=after_chunks)
    result = await task.run()
    assert result is not None
    assert kinds(task) == ["PROVIDER_UNAVAILABLE"]
    assert task.emitted.decode() == result["content"]
    await approve(llmock, attempts=2)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_a_refusal_is_not_repeated(llmock: LLMock, task: Attempts, status: int) -> None:
    llmock.fail(status, message="we would rather not")
    assert await task.run() is None
    assert kinds(task) == ["PROVIDER_REJECTED"]
    assert "we would rather not" in str(task.failures[0])
    await approve(llmock, attempts=1)


async def test_a_prompt_that_is_too_long_is_said_so(llmock: LLMock, task: Attempts) -> None:
    llmock.context_overflow()
    assert await task.run() is None
    assert "maximum context length" in str(task.failures[0])
    await approve(llmock, attempts=1)


async def test_an_outage_ends_in_a_failure_and_no_storm(llmock: LLMock, task: Attempts) -> None:
    llmock.fail(503, times=None, retry_after=0.1)
    assert await task.run() is None
    assert kinds(task) == ["PROVIDER_UNAVAILABLE"] * _MAX_ATTEMPTS
    await approve(llmock, attempts=_MAX_ATTEMPTS)


async def test_a_cancel_ends_the_stream_at_the_provider(llmock: LLMock, task: Attempts) -> None:
    llmock.stall(after_chunks=2, seconds=60)
    async with ChatClient(settings=LLMSettings(base_url=llmock.base_url(), model="gpt-4o-mini")) as patient_client:
        task.handler = ChatHandler(client=patient_client, default_model="gpt-4o-mini")
        running = asyncio.create_task(task.run())
        await eventually(lambda: task.emitted, message="the first piece arrives")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    records = await asyncio.to_thread(lambda: llmock.requests)
    assert [record.completed for record in records] == [False]
