"""An agent that leaves finishes what it runs, or gives it back at no cost."""

import asyncio
import signal

import pytest
from muster.v1 import agent_pb2

from agent_node import Client
from tests.e2e.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.processes import Child

pytestmark = pytest.mark.e2e


async def leave(deployment: Deployment, client: Client, agent: Child, way: str, *, deadline_s: float) -> None:
    """Has an agent drained: by a signal, or by an operator's call."""
    if way == "SIGTERM":
        agent.send(signal.SIGTERM)
    else:
        await client.drain_agent(agent.name, deadline_s=deadline_s, reason="maintenance")


async def draining(client: Client, name: str) -> None:
    async def is_draining() -> bool:
        return any(agent.agent_name == name and agent.state == agent_pb2.AGENT_STATE_DRAINING for agent in await client.agents())

    await eventually(is_draining, message=f"{name} to drain")


@pytest.mark.parametrize("way", ["SIGTERM", "DrainAgent"])
async def test_it_finishes_what_it_runs_and_takes_nothing_new(deployment: Deployment, client: Client, way: str) -> None:
    agent = deployment.start_agent("leaving")
    running = [await client.submit(task_type, "last") for task_type in ("at-gate", "thread-at-gate")]
    await deployment.until_recorded("started", count=2)
    await leave(deployment, client, agent, way, deadline_s=20)
    await draining(client, "leaving")
    late = await client.submit("digest", b"for the next one")
    deployment.open_gate("last")
    for handle in running:
        assert (await handle.result(timeout_s=15)).agent_name == "leaving"
    assert await agent.wait_for_exit() == 0
    assert (await late.status()).fence == 0, "a draining agent was given work"
    deployment.start_agent("next")
    assert (await late.result(timeout_s=15)).agent_name == "next"


@pytest.mark.parametrize("way", ["SIGTERM", "DrainAgent"])
async def test_what_doesnt_finish_goes_back_with_its_checkpoint_at_no_cost(deployment: Deployment, client: Client, way: str) -> None:
    agent = deployment.start_agent("leaving", env={"WORKER_DRAIN_DEADLINE_S": "0.5"})
    handle = await client.submit("checkpoint-at-gate", "not for the first", max_retries=0)
    await deployment.until_recorded("checkpointed")
    await leave(deployment, client, agent, way, deadline_s=0.5)
    assert await agent.wait_for_exit() == 0
    status = await handle.status()
    assert (status.retry_count, status.crash_count, status.undelivered_count) == (0, 0, 0)
    first_fence = status.fence
    deployment.start_agent("next")
    await deployment.until_recorded("checkpointed", count=2)
    deployment.open_gate("not for the first")
    output = await handle.result(timeout_s=15)
    assert (output.payload, output.agent_name) == (b"half way", "next")
    status = await handle.status()
    assert (status.attempt, status.retry_count, status.crash_count) == (1, 0, 0)
    assert status.fence > first_fence


async def test_a_second_signal_ends_it_at_once(deployment: Deployment, client: Client) -> None:
    agent = deployment.start_agent("leaving")
    handle = await client.submit("block-thread", "60")
    await deployment.until_recorded("started")
    agent.send(signal.SIGTERM)
    await draining(client, "leaving")
    assert agent.exit_code is None
    agent.send(signal.SIGTERM)
    assert await agent.wait_for_exit(within_s=3) == 128 + signal.SIGTERM
    answer = await handle.cancel("the test is over")
    assert answer.verdict


async def test_a_fleet_is_rolled_without_losing_or_repeating_work(deployment: Deployment, client: Client) -> None:
    """A deploy: each agent is replaced under load, and every task runs once."""
    old = [deployment.start_agent(f"old-{number}", capacity=5) for number in range(2)]
    handles = [await client.submit("recorded-digest", f"{number}") for number in range(300)]
    await deployment.until_recorded("executed", count=20)
    deployment.start_agent("new", capacity=5)
    more = asyncio.gather(*(client.submit("recorded-digest", f"more {number}") for number in range(300)))
    for agent in old:
        agent.send(signal.SIGTERM)
    for agent in old:
        assert await agent.wait_for_exit() == 0
    handles += await more
    for handle in handles:
        await handle.result(timeout_s=20)
    assert len(deployment.recorded("executed")) == len(handles)
