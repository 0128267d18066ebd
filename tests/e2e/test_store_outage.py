"""The store hangs, or is killed, under load: nothing acknowledged is lost, no lease ends, and who asks is told."""

import asyncio

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from muster.v1.common_pb2 import TaskSpec
from muster.v1.task_pb2 import GetTaskRequest, ListTasksRequest, SubmitTasksRequest
from muster.v1.task_pb2_grpc import TaskServiceStub

from agent_node import Client
from agent_node.connection import Target, open_channel
from tests.e2e.deployment import Deployment
from tests.e2e.journal_audit import audit
from tests.e2e.workers import answer_to
from tests.support.eventually import eventually

pytestmark = pytest.mark.e2e

_LEASE_S = 2  # the deployment's


def retry_delay_s(error: grpc.aio.AioRpcError) -> float:
    """The RetryInfo of a failed call; 0 when it has none."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in Status.FromString(value).details:
                info = RetryInfo()
                if detail.Unpack(info):
                    return info.retry_delay.ToTimedelta().total_seconds()
    return 0.0


async def unavailable_within(seconds: float, call: grpc.aio.UnaryUnaryCall) -> float:
    """Returns the advice of a call that must fail as UNAVAILABLE, and soon."""
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    took_s = loop.time() - begun_s
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE, failed.value
    assert took_s < seconds, f"it took {took_s:.1f} s"
    return retry_delay_s(failed.value)


async def refuses(stub: TaskServiceStub, task_id: str) -> bool:
    """Whether a read is refused, and soon."""
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    code = grpc.StatusCode.OK
    try:
        await stub.GetTask(GetTaskRequest(task_id=task_id), timeout=10)
    except grpc.aio.AioRpcError as error:
        code = error.code()
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
    assert loop.time() - begun_s < 3
    return code is grpc.StatusCode.UNAVAILABLE


async def test_a_store_that_hangs_under_load(deployment: Deployment, client: Client) -> None:
    deployment.start_agent("agent")
    running = [await client.submit(task_type, "after the outage") for task_type in ("at-gate", "thread-at-gate")]
    await deployment.until_recorded("started", count=2)
    before = [(await handle.status()).fence for handle in running]
    ended = await client.submit("digest", b"ended before")
    await ended.result(timeout_s=10)
    loop = asyncio.get_running_loop()

    async def load() -> int:
        """Submits and awaits, one after the other, until the gate is open; the SDK waits the outage out."""
        done = 0
        while not (deployment.gates / "after the outage").exists():
            payload = f"{done}".encode()
            output = await (await client.submit("digest", payload)).result(timeout_s=30)
            assert output.payload == answer_to(payload)
            done += 1
        return done

    loads = [asyncio.create_task(load()) for _ in range(20)]
    async with open_channel(Target(deployment.address)) as channel:
        stub = TaskServiceStub(channel)
        await stub.GetTask(GetTaskRequest(task_id=running[0].task_id), timeout=5)
        async with deployment.stopped_store():
            stopped_s = loop.time()
            # Both kinds of reads: what is in memory, once a write shows that the store is out, and what only the store knows.
            await eventually(lambda: refuses(stub, running[0].task_id), message="reads of what is in memory to be refused")
            await unavailable_within(3, stub.GetTask(GetTaskRequest(task_id=ended.task_id), timeout=10))
            spec = TaskSpec(task_id="during-the-outage", task_type="digest", payload=b"later")
            assert await unavailable_within(3, stub.SubmitTasks(SubmitTasksRequest(tasks=[spec]), timeout=10)) > 0
            # Longer than a lease: nothing may end that is not heard of meanwhile.
            await eventually(lambda: loop.time() - stopped_s > 2.5 * _LEASE_S, within_s=4 * _LEASE_S, message="the outage to last")
            assert not deployment.recorded("cancelled")
    deployment.open_gate("after the outage")
    for handle, fence in zip(running, before, strict=True):
        await handle.result(timeout_s=20)
        status = await handle.status()
        assert (status.fence, status.attempt, status.crash_count, status.retry_count) == (fence, 1, 0, 0)
    assert all([await each > 0 for each in loads])
    assert len(deployment.recorded("started")) == 2
    found = await audit(deployment.store_socket)
    found.check(ended=set(found.lives) - {"during-the-outage"})
    assert found.events["AttemptFailed"] + found.events["Returned"] == 0, "an attempt was given up"


async def test_a_store_that_hangs_while_nothing_is_written(deployment: Deployment, client: Client) -> None:
    """Nobody has noticed yet: the first to ask must not wait for long all the same."""
    deployment.start_agent("agent")
    ended = await client.submit("digest", b"ended before")
    await ended.result(timeout_s=20)
    async with open_channel(Target(deployment.address)) as channel:
        stub = TaskServiceStub(channel)
        async with deployment.stopped_store():
            await unavailable_within(3, stub.GetTask(GetTaskRequest(task_id="never heard of"), timeout=10))
            await unavailable_within(3, stub.ListTasks(ListTasksRequest(), timeout=10))
        assert (await ended.status()).task_id == ended.task_id


async def test_a_store_that_is_killed_while_tasks_run(deployment: Deployment, client: Client) -> None:
    deployment.start_agent("agent")
    running = [await client.submit("at-gate", "store is back") for _ in range(5)]
    await deployment.until_recorded("started", count=5)
    old_pid = deployment.store_pid
    waiting = [asyncio.create_task(client.submit("recorded-digest", f"{number}")) for number in range(200)]
    await deployment.until_recorded("executed", count=5)
    await deployment.kill_store()
    deployment.open_gate("store is back")
    handles = await asyncio.gather(*waiting)
    for handle in [*running, *handles]:
        await handle.result(timeout_s=20)
    assert deployment.store_pid != old_pid
    assert deployment.coordinator.exit_code is None
    assert len(deployment.recorded("executed")) == len(handles), "what was answered during the outage was not done again"
    found = await audit(deployment.store_socket)
    found.check(ended={handle.task_id for handle in [*running, *handles]})
    assert len(found.epochs) == 1
