"""Shared state while coordinators and stores are killed: what was answered stays, a write counts once, and a watch misses nothing."""

import asyncio
import signal
import sys

import pytest

from agent_node import Client
from agent_node.state import AgentState
from agent_node.state.values import EventKind
from tests.e2e.deployment import Deployment
from tests.support.eventually import eventually

pytestmark = pytest.mark.e2e

HOLDER = """
import asyncio, sys
from agent_node import Client, LockLost

async def main():
    async with Client(sys.argv[1]) as client:
        try:
            async with client.state.lock("l", ttl_s=1.0):
                while True:
                    await client.state.put("k", "held")
                    await asyncio.sleep(0)
        except LockLost as error:
            print(f"lost: {error}", flush=True)
            sys.exit(3)

asyncio.run(main())
"""

STUBBORN_HOLDER = """
import sys
import grpc
from muster.v1 import state_pb2 as pb
from muster.v1.state_pb2_grpc import StateServiceStub

with grpc.insecure_channel(sys.argv[1]) as channel:
    state = StateServiceStub(channel)
    ask = pb.LockRequest(name="l", waiter_id="stubborn")
    ask.ttl.FromSeconds(1)
    token = state.Lock(ask).token
    held = pb.WriteOptions(required_locks=[pb.RequiredLock(name="l", token=token)])
    try:
        while True:
            state.KeepLock(pb.KeepLockRequest(name="l", token=token))
            state.Put(pb.PutRequest(key="k", value=b"held", options=held))
    except grpc.RpcError as error:
        print(f"lost: {error.code().name}: {error.details()}", flush=True)
    late = 0
    for _ in range(20):  # it doesn't know when to stop
        try:
            state.Put(pb.PutRequest(key="k", value=b"late", options=held))
            late += 1
        except grpc.RpcError:
            pass
    print(f"wrote {late} times", flush=True)
    sys.exit(3)
"""


@pytest.mark.parametrize(
    "program, says",
    [(HOLDER, "lost: the lock 'l' "), (STUBBORN_HOLDER, "lost: ABORTED: the lock 'l' is somebody else's")],
    ids=["of the SDK", "of its own"],
)
async def test_a_stopped_holder_writes_nothing_when_it_goes_on(deployment: Deployment, client: Client, children, program, says) -> None:
    state = client.state
    holder = children.start([sys.executable, "-c", program, deployment.address], name="holder")

    async def written():
        return await state.get("k")

    await eventually(written, within_s=20, message="the holder to write")
    holder.send(signal.SIGSTOP)
    async with state.lock("l", wait_s=20) as lock:  # its lease ends, and the next one has it without asking again
        revision = await state.put("k", "mine")
        assert revision > lock.token
        holder.send(signal.SIGCONT)
        assert await holder.wait_for_exit(within_s=20) == 3, holder.output()
        assert says in holder.output()
        if program is STUBBORN_HOLDER:
            assert "wrote 0 times" in holder.output()
        entry = await state.get("k")
    assert (entry.text(), entry.revision) == ("mine", revision)


async def test_a_stopped_agent_writes_nothing_for_an_attempt_that_it_lost(deployment: Deployment, client: Client) -> None:
    async def written_by(attempt: int) -> bool:
        entry = await client.state.get("written")
        return entry is not None and entry.json() == attempt

    first = deployment.start_agent("first")
    await deployment.agent_connected(client, "first")
    task = await client.submit("write-fenced")
    await eventually(lambda: written_by(1), within_s=20, message="the first attempt to write")
    deployment.start_agent("second")
    await deployment.agent_connected(client, "second")
    first.send(signal.SIGSTOP)
    await eventually(lambda: written_by(2), within_s=30, message="the second attempt to write")
    first.send(signal.SIGCONT)
    await deployment.until_recorded("wrote late", task_id=task.task_id, within_s=30)
    [late] = deployment.recorded("wrote late")
    assert (late["agent"], late["attempt"], late["late"]) == ("first", 1, 0)
    assert await written_by(2)
    deployment.open_gate("enough")
    await task.result(timeout_s=20)
    authors = [(event.author.agent, event.author.attempt) async for event in client.state.history("written", page_size=1_000)]
    assert authors == sorted(authors)
    assert set(authors) == {("first", 1), ("second", 2)}


async def test_an_add_counts_once_whatever_is_killed(deployment: Deployment, client: Client) -> None:
    stopping = False
    counted = 0

    async def count():
        nonlocal counted
        while not stopping:
            await client.state.add("n")
            counted += 1

    counting = [asyncio.ensure_future(count()) for _ in range(20)]
    for kill in (deployment.kill_coordinator, deployment.kill_store, deployment.kill_coordinator):
        before = counted
        await eventually(lambda before=before: counted > before + 200, within_s=60, message="adds")
        await kill()
    before = counted
    await eventually(lambda: counted > before + 200, within_s=60, message="adds after the last kill")
    stopping = True
    await asyncio.gather(*counting)
    assert (await client.state.get("n")).json() == counted
    assert (await client.state.get("n")).version == counted


async def test_a_watch_sees_every_revision_once_over_restarts(deployment: Deployment, client: Client) -> None:
    written: dict[int, tuple[str, int]] = {}
    stopping = False

    async def write(number: int):
        value = 0
        while not stopping:
            value += 1
            written[await client.state.put(f"k/{number}", value)] = (f"k/{number}", value)

    async with client.state.watch(prefix="k/") as watch:
        first = watch.next_revision
        writing = [asyncio.ensure_future(write(number)) for number in range(10)]
        seen = []
        for kill in (deployment.kill_coordinator, deployment.kill_store, deployment.kill_coordinator):
            target = len(written) + 100
            while len(seen) < target:
                seen.append(await asyncio.wait_for(anext(watch), 60))
            await kill()
        target = len(written) + 100
        while len(seen) < target:
            seen.append(await asyncio.wait_for(anext(watch), 60))
        stopping = True
        await asyncio.gather(*writing)
        while seen[-1].revision < max(written):
            seen.append(await asyncio.wait_for(anext(watch), 60))
    revisions = [event.revision for event in seen]
    assert revisions == sorted(set(revisions)), "in order, none twice"
    assert {event.revision: (event.key, event.entry.json()) for event in seen} == written
    async with client.state.watch(prefix="k/", start_revision=first) as again:
        assert [(await anext(again)).revision for _ in revisions] == revisions


async def test_locks_and_leases_outlive_restarts(deployment: Deployment, client: Client) -> None:
    async with client.state.lock("l", ttl_s=20) as lock, await client.state.lease(20) as lease:
        await client.state.put("k", 1, lease=lease)
        await deployment.kill_coordinator()
        await client.state.put("guarded", lock.token)
        await deployment.kill_store()
        await client.state.put("guarded", lock.token)
        assert await client.state.get("k") is not None
        assert not lock.lost
    assert await client.state.get("k") is None


async def test_an_agent_that_is_killed_is_seen_to_go(deployment: Deployment, client: Client) -> None:
    worker = AgentState("worker", client.state)
    seen = worker.watch_presence()
    assert await anext(seen) is None
    process = deployment.start_agent("worker")
    came = await asyncio.wait_for(anext(seen), 20)
    assert came is not None
    assert "echo" in came.capabilities or came.capabilities
    process.kill()
    assert await asyncio.wait_for(anext(seen), 20) is None
    await seen.aclose()
    events = [event.kind async for event in client.state.history("agents/worker/presence")]
    assert events == [EventKind.PUT, EventKind.DELETED]
