"""What a handler does to its own process doesn't cost it its task, as long as the process lives; what stands still is given up in time."""

import asyncio
import signal

import pytest

from agent_node import Client, RetryPolicy
from tests.e2e.deployment import Deployment
from tests.e2e.journal_audit import audit
from tests.support.eventually import eventually

pytestmark = pytest.mark.e2e

_LEASE_S = 2  # the deployment's


@pytest.mark.parametrize("task_type", ["block-loop", "block-thread"])
async def test_blocking_for_longer_than_the_lease_loses_nothing(deployment: Deployment, client: Client, task_type: str) -> None:
    deployment.start_agent("agent")
    handle = await client.submit(task_type, str(_LEASE_S * 2.5))
    output = await handle.result(timeout_s=20)
    assert output.payload == b"awake"
    status = await handle.status()
    assert (status.attempt, status.crash_count, status.retry_count) == (1, 0, 0)
    assert len(deployment.recorded("started")) == 1


async def test_several_that_block_the_loop_hold_their_leases_while_they_wait_for_it(deployment: Deployment, client: Client) -> None:
    deployment.start_agent("agent")
    handles = await asyncio.gather(*(client.submit("block-loop", "1.2") for _ in range(3)))
    for handle in handles:
        await handle.result(timeout_s=20)
        assert (await handle.status()).crash_count == 0
    assert len(deployment.recorded("started")) == len(handles)


async def test_one_that_shows_no_progress_is_retried_and_its_late_result_refused(deployment: Deployment, client: Client) -> None:
    agent = deployment.start_agent("agent")
    retry = RetryPolicy(initial_backoff_s=0.05)
    handle = await client.submit("hang-once", "too late", progress_timeout_s=1, retry=retry)
    assert (await handle.result(timeout_s=20)).payload == b"attempt 2"
    status = await handle.status()
    assert (status.attempt, status.retry_count, status.crash_count) == (2, 1, 0)
    assert "no progress" in status.last_failure.message
    deployment.open_gate("too late")
    await deployment.until_recorded("late")
    first, second = deployment.recorded("started")
    assert int(str(second["fence"])) > int(str(first["fence"]))
    after = await client.get(handle.task_id, full=True)
    assert after.outcome.success.payload == b"attempt 2"
    assert agent.exit_code is None


async def test_a_late_result_of_a_stopped_process_is_stale(deployment: Deployment, client: Client) -> None:
    """kill -STOP for longer than grace and lease: the task goes to another agent, and what the first still has to say changes nothing."""
    sleeper = deployment.start_agent("sleeper", capacity=1)
    await deployment.agent_connected(client, "sleeper")
    handle = await client.submit("at-gate", "both")
    await deployment.until_recorded("started")
    sleeper.send(signal.SIGSTOP)
    deployment.start_agent("other", capacity=1)
    await deployment.until_recorded("started", count=2)
    deployment.open_gate("both")
    output = await handle.result(timeout_s=20)
    assert output.agent_name == "other"
    sleeper.send(signal.SIGCONT)
    await deployment.agent_connected(client, "sleeper", "other")
    last = await client.submit("digest", b"still at work")
    await last.result(timeout_s=20)
    status = await handle.status()
    assert (status.agent_name, status.crash_count) == ("other", 1)
    found = await audit(deployment.store_socket)
    found.check(ended={handle.task_id, last.task_id})


async def test_an_agent_that_went_silent_is_given_nothing_more_and_comes_back_by_itself(deployment: Deployment, client: Client) -> None:
    """G9: a stream that stands and says nothing is as dead as one that broke."""
    silent = deployment.start_agent("silent")
    await deployment.agent_connected(client, "silent")
    silent.send(signal.SIGSTOP)

    async def gone() -> bool:
        return not await client.agents()

    await eventually(gone, within_s=5 * _LEASE_S, message="the silent agent to be off the load map")
    handle = await client.submit("digest", b"for whoever hears")
    assert (await handle.status()).fence == 0
    silent.send(signal.SIGCONT)
    await handle.result(timeout_s=20)
