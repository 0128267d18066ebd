"""The kit for users' own unit tests."""

import asyncio
from datetime import UTC, datetime

import pytest

from agent_node import Agent, Client, Context, NonRetryableError, RetryPolicy, TaskFailedError
from agent_node.testing import local_coordinator, muster_in_process
from tests.support.eventually import eventually


def greeter() -> Agent:
    agent = Agent("greeter")

    @agent.handler("greet")
    async def greet(ctx: Context) -> str:
        return f"hello {ctx.payload.decode()}"

    @agent.handler("fail")
    def fail(ctx: Context) -> None:
        raise NonRetryableError("no use")

    @agent.handler("flaky")
    async def flaky(ctx: Context) -> int:
        if ctx.attempt < 3:
            raise ValueError("not yet")
        return ctx.attempt

    return agent


async def test_an_agent_answers_in_process():
    async with muster_in_process(greeter()) as client:
        handle = await client.submit("greet", "Ada")
        assert (await handle.result(timeout_s=10)).text() == "hello Ada"


async def test_failures_and_retries_are_the_real_ones():
    async with muster_in_process(greeter()) as client:
        with pytest.raises(TaskFailedError, match="no use"):
            await (await client.submit("fail")).result(timeout_s=10)
        handle = await client.submit("flaky", retry=RetryPolicy(initial_backoff_s=0.01))
        assert (await handle.result(timeout_s=10)).json() == 3


async def test_delays_and_deadlines_are_the_real_ones():
    agent = greeter()
    left = []

    @agent.handler("slow")
    async def slow(ctx: Context) -> None:
        left.append(ctx.time_left_s)
        await asyncio.Event().wait()

    async with muster_in_process(agent) as client:
        later = await client.submit("greet", "Ada", delay_s=0.2)
        assert (await client.get(later.task_id)).waits_for.message == "its delay hasn't ended"
        past = await client.submit("greet", "Bob", not_before=datetime(2020, 1, 2, tzinfo=UTC))
        assert (await past.result(timeout_s=10)).text() == "hello Bob"
        assert (await later.result(timeout_s=10)).text() == "hello Ada"
        for options, kind in (({"deadline_s": 0.3}, "DEADLINE"), ({"queue_timeout_s": 0.1}, "QUEUE_TIMEOUT")):
            handle = await client.submit("slow" if kind == "DEADLINE" else "nobody", **options)
            with pytest.raises(TaskFailedError) as failed:
                await handle.result(timeout_s=10)
            assert failed.value.kind == kind
    assert 0 < left[0] <= 0.3


async def test_nothing_is_left_behind():
    before = len(asyncio.all_tasks())
    async with local_coordinator() as address, Client(address) as client:
        handle = await client.submit("nobody", want_result=False)
        assert (await client.explain(handle.task_id)).summary == "It waits because no connected agent offers nobody."
    await eventually(lambda: len(asyncio.all_tasks()) == before, message="the server's last call to end")
