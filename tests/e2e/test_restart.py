"""kill -9 of the coordinator while tasks run: they run on, once, and whoever waits or watches goes on where it was."""

import asyncio
import signal

import pytest

from agent_node import Client
from agent_node.client import Chunk
from tests.e2e.deployment import Deployment
from tests.e2e.journal_audit import audit
from tests.support.eventually import eventually

pytestmark = pytest.mark.e2e


async def test_what_runs_is_not_started_again(deployment: Deployment, client: Client) -> None:
    deployment.start_agent("agent")
    handles = [await client.submit(task_type, "restarted") for task_type in ("at-gate", "thread-at-gate", "process-at-gate")]
    await deployment.until_recorded("started", count=3)
    before = [(await handle.status()).fence for handle in handles]
    store_pid = deployment.store_pid
    for _ in range(2):
        await deployment.kill_coordinator()
    assert deployment.store_pid == store_pid, "the orphaned store was adopted"
    deployment.open_gate("restarted")
    for handle, fence in zip(handles, before, strict=True):
        assert (await handle.result(timeout_s=20)).agent_name == "agent"
        status = await handle.status()
        assert (status.fence, status.attempt, status.crash_count) == (fence, 1, 0)
    assert len(deployment.recorded("started")) == len(handles)


async def test_a_result_that_nobody_heard_is_delivered_to_the_next_coordinator(deployment: Deployment, client: Client) -> None:
    """The handler ends while there is no coordinator at all: its result is kept, and sent when there is one."""
    deployment.start_agent("agent")
    handle = await client.submit("at-gate", "alone")
    waiting = asyncio.create_task(handle.result(timeout_s=40))
    await deployment.until_recorded("started")
    deployment.coordinator.kill()
    deployment.open_gate("alone")
    await deployment.until_recorded("finished")
    await deployment.start_coordinator()
    assert (await waiting).payload == b"attempt 1"
    assert len(deployment.recorded("started")) == 1


async def test_a_coordinator_that_slept_for_longer_than_a_lease_gives_nothing_up(deployment: Deployment, client: Client) -> None:
    """SIGSTOP, as a suspended virtual machine sees it: what arrived meanwhile comes before any deadline."""
    deployment.start_agent("agent")
    handles = [await client.submit(task_type, "awake") for task_type in ("at-gate", "thread-at-gate")]
    await deployment.until_recorded("started", count=2)
    loop = asyncio.get_running_loop()
    deployment.coordinator.send(signal.SIGSTOP)
    stopped_s = loop.time()
    await eventually(lambda: loop.time() - stopped_s > 5, within_s=10, message="two leases to pass")
    deployment.coordinator.send(signal.SIGCONT)
    await deployment.agent_connected(client, "agent")
    deployment.open_gate("awake")
    for handle in handles:
        await handle.result(timeout_s=20)
        status = await handle.status()
        assert (status.attempt, status.crash_count, status.undelivered_count) == (1, 0, 0)
    assert len(deployment.recorded("started")) == len(handles)


async def test_an_agent_that_died_with_the_coordinator_loses_its_tasks_to_another(deployment: Deployment, client: Client) -> None:
    dead = deployment.start_agent("dead")
    handle = await client.submit("at-gate", "second try")
    await deployment.until_recorded("started")
    deployment.coordinator.kill()
    dead.kill()
    await deployment.start_coordinator()
    deployment.start_agent("heir")
    await deployment.until_recorded("started", count=2, within_s=20)
    deployment.open_gate("second try")
    assert (await handle.result(timeout_s=20)).agent_name == "heir"
    found = await audit(deployment.store_socket)
    found.check(ended={handle.task_id})


async def test_a_machine_that_goes_down_loses_nothing(deployment: Deployment, client: Client) -> None:
    """Coordinator, store and agent at once; then all start again, the agent under its old name."""
    agent = deployment.start_agent("agent", capacity=3)
    handles = [await client.submit("at-gate", "up again") for _ in range(10)]
    waiting = [asyncio.create_task(handle.result(timeout_s=40)) for handle in handles]
    await deployment.until_recorded("started", count=3)
    deployment.coordinator.kill()
    assert deployment.signal_store(signal.SIGKILL)
    agent.kill()
    deployment.open_gate("up again")
    await deployment.start_coordinator()
    deployment.start_agent("agent", capacity=3)
    assert [output.agent_name for output in await asyncio.gather(*waiting)] == ["agent"] * len(handles)
    found = await audit(deployment.store_socket)
    found.check(ended={handle.task_id for handle in handles})


async def test_a_clean_restart_loses_nothing_and_ends_the_store(deployment: Deployment, client: Client) -> None:
    deployment.start_agent("agent")
    handle = await client.submit("at-gate", "after the deploy")
    await deployment.until_recorded("started")
    deployment.coordinator.send(signal.SIGTERM)
    assert await deployment.coordinator.wait_for_exit() == 0
    assert not deployment.signal_store(signal.SIGTERM), "the store ended with its coordinator"
    await deployment.start_coordinator()
    deployment.open_gate("after the deploy")
    assert (await handle.result(timeout_s=20)).payload == b"attempt 1"
    assert len(deployment.recorded("started")) == 1


@pytest.mark.parametrize("killed", ["coordinator", "store"])
async def test_output_is_followed_without_gap_or_repeat(deployment: Deployment, client: Client, killed: str) -> None:
    deployment.start_agent("agent")
    lines = 400
    handle = await client.submit("emit", [lines, "other half"])
    chunks: list[Chunk] = []

    async def follow() -> None:
        async for chunk in handle.chunks():
            chunks.append(chunk)  # noqa: PERF401 - looked at while it grows

    following = asyncio.create_task(follow())
    await deployment.until_recorded("half")
    half = b"".join(b"line %d\n" % number for number in range(lines // 2))
    await eventually(lambda: b"".join(chunk.data for chunk in chunks) == half, message="the first half to be seen")
    if killed == "coordinator":
        await deployment.kill_coordinator()
    else:
        await deployment.kill_store()
    deployment.open_gate("other half")
    await handle.result(timeout_s=20)
    async with asyncio.timeout(20):
        await following
    assert b"".join(chunk.data for chunk in chunks) == b"".join(b"line %d\n" % number for number in range(lines))
    position = 0
    for chunk in chunks:
        assert (chunk.attempt, chunk.offset) == (1, position)
        position += len(chunk.data)


async def test_a_watch_by_filter_sees_every_end_across_a_restart(deployment: Deployment, client: Client) -> None:
    ended: set[str] = set()

    async def follow() -> None:
        from muster.v1 import common_pb2

        async for event in client.watch(filter='task_type = "digest"'):
            if event.event.task.state == common_pb2.TASK_STATE_COMPLETED:
                ended.add(event.event.task_id)

    following = asyncio.create_task(follow())
    try:
        deployment.start_agent("agent")
        first = [await client.submit("digest", f"first {number}") for number in range(100)]
        for handle in first:
            await handle.result(timeout_s=20)
        await eventually(lambda: len(ended) == len(first), message="the first hundred to be seen")
        await deployment.kill_coordinator()
        second = [await client.submit("digest", f"second {number}") for number in range(100)]
        for handle in second:
            await handle.result(timeout_s=20)
        await eventually(lambda: ended == {handle.task_id for handle in first + second}, within_s=20, message="all two hundred to be seen")
    finally:
        following.cancel()
