"""Limits of the queue, of messages, and of what isn't a message at all."""

import asyncio

import grpc
import pytest
from muster.v1 import admin_pb2, agent_pb2, task_pb2

from coordinator.convert import Bounds
from coordinator.core.model import Settings
from tests.support.eventually import eventually
from tests.support.hosted import PATIENT_S, hosted, spec_of
from tests.support.refusals import refusal

pytestmark = pytest.mark.usefixtures("bystanders")

INVALID = grpc.StatusCode.INVALID_ARGUMENT
ACCEPTED, DUPLICATE, REFUSED = 1, 2, 3


async def test_a_full_queue_says_which_limit_how_full_and_when_to_retry():
    async with hosted(core=Settings(max_live_tasks=2)) as muster:
        verdicts = await muster.submit("a", "b", "c")
        assert [one.verdict for one in verdicts] == [ACCEPTED, ACCEPTED, REFUSED]
        refused = verdicts[2].refusal
        assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "LIMIT_REACHED")
        assert dict(refused.metadata) == {"limit": "max_live_tasks", "used": "2", "allowed": "2"}
        assert refused.retry_after.seconds >= 1
        client = await muster.session()
        ack = await client.submit(spec_of("d"), spec_of("a"), batch_id=1)
        assert [(one.index, one.verdict) for one in ack.exceptions] == [(0, REFUSED), (1, DUPLICATE)]
        await muster.cancel("b")
        assert [one.verdict for one in await muster.submit("c")] == [ACCEPTED]
        muster.check()


async def test_full_memory_says_which_limit_how_full_and_when_to_retry():
    async with hosted(core=Settings(max_live_bytes=1000)) as muster:
        (taken,) = await muster.submit("a")
        (refused,) = (await muster.tasks.SubmitTasks(task_pb2.SubmitTasksRequest(tasks=[spec_of("b", payload=b"x" * 1000)]))).tasks
        assert (taken.verdict, refused.verdict) == (ACCEPTED, REFUSED)
        assert refused.refusal.reason == "LIMIT_REACHED"
        assert (refused.refusal.metadata["limit"], refused.refusal.metadata["allowed"]) == ("max_live_bytes", "1000")
        assert refused.refusal.retry_after.seconds >= 1


async def test_a_message_over_4_mib_is_refused_and_ends_only_its_own_call(muster):
    tasks = [spec_of(f"t{n}", payload=b"x" * 2**20) for n in range(5)]
    refused = await refusal(muster.tasks.SubmitTasks(task_pb2.SubmitTasksRequest(tasks=tasks)))
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    client = await muster.session()
    await client.send(task_pb2.SessionRequest(submit=task_pb2.SubmitBatch(batch_id=1, tasks=tasks)))
    assert (await client.end()).code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not muster.scheduler.state.tasks


async def test_bytes_that_are_no_message_are_refused(muster):
    for method in ("muster.v1.TaskService/GetTask", "muster.v1.TaskService/SubmitTasks", "muster.v1.AdminService/GetQueueStats"):
        refused = await refusal(muster.channel.unary_unary(f"/{method}")(b"\xff\xff\xff"))
        assert (refused.code, refused.reason) == (INVALID, "MALFORMED_MESSAGE")
    watch = muster.channel.unary_stream("/muster.v1.TaskService/WatchTasks")(b"\xff\xff\xff")
    assert (await refusal(watch)).reason == "MALFORMED_MESSAGE"
    async with asyncio.timeout(20):
        # Many times: a session greets its client, and a call can't be ended with a status while a message is on its way.
        for method in ("muster.v1.TaskService/Session", "muster.v1.AgentService/Connect") * 50:
            call = muster.channel.stream_stream(f"/{method}")()
            await call.write(b"\xff\xff\xff")
            assert (await refusal(call)).reason == "MALFORMED_MESSAGE"


async def test_an_unknown_method_is_unimplemented(muster):
    for method in ("/muster.v1.TaskService/Nothing", "/nothing/Nothing", "/muster.v2.TaskService/GetTask"):
        assert (await refusal(muster.channel.unary_unary(method)(b""))).code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("said", [
    b"\x00" * 1000,
    b"\xff" * 100_000,
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    b"PRI * HTTP",
    b"",
], ids=range(7))  # fmt: skip
async def test_garbage_on_the_port_and_half_open_connections_disturb_nobody(muster, said):
    connections = [await asyncio.open_connection("127.0.0.1", muster.port) for _ in range(20)]
    for _, writer in connections:
        writer.write(said)
    await muster.is_alive()  # while they are open
    for number, (_, writer) in enumerate(connections):
        if number % 2:
            writer.transport.abort()
        else:
            writer.close()
    await muster.is_alive()


async def test_bounds_are_those_that_were_set():
    async with hosted(bounds=Bounds(max_payload_bytes=10, max_checkpoint_bytes=5)) as muster:
        client = await muster.session()
        agent = await muster.agent("a")
        welcome = client.received[0].welcome
        assert (welcome.max_payload_bytes, welcome.max_batch_tasks, len(welcome.session_id)) == (10, 1000, 32)
        assert (agent.received[0].welcome.max_payload_bytes, agent.received[0].welcome.max_checkpoint_bytes) == (10, 5)
        assert [one.verdict for one in await muster.submit(spec_of("a", payload=b"x" * 11), spec_of("b", payload=b"x" * 10))] == [3, 1]


async def test_responses_fit_into_a_message_however_large_what_they_tell_of(muster):
    """Pages and messages are bounded by bytes as well as by count."""
    agent = await muster.agent("large", ready=100)
    await muster.submit(*(spec_of(f"t{n}", payload=b"x" * 900_000) for n in range(3)))
    await muster.submit(*(spec_of(f"u{n}", payload=b"x" * 900_000) for n in range(3)))
    for number, assignment in enumerate(await agent.assigned(6)):
        await agent.succeed(assignment, b"y" * 900_000, batch_id=number)
    await muster.submit(*(spec_of(f"v{n}", "nobody", payload=b"x" * 1_040_000) for n in range(3)))
    await muster.submit(*(spec_of(f"w{n}", "nobody", payload=b"x" * 1_040_000) for n in range(3)))
    seen, token = [], ""
    while True:
        page = await muster.tasks.ListTasks(task_pb2.ListTasksRequest(view=task_pb2.TASK_VIEW_FULL, page_token=token))
        seen += [task.task_id for task in page.tasks]
        token = page.next_page_token
        if not token:
            break
    assert seen == ["v0", "v1", "v2", "w0", "w1", "w2", "u2", "u1", "u0", "t2", "t1", "t0"]
    client = await muster.session()
    await client.attach(*(task_id for task_id in seen if task_id[0] in "tu"))
    await eventually(lambda: len(client.results()) == 6, within_s=PATIENT_S, message="six large results")
    events = []
    async for message in muster.tasks.WatchTasks(task_pb2.WatchTasksRequest(task_ids=seen[6:], view=task_pb2.TASK_VIEW_FULL)):
        events += message.events
    assert len(events) == 6


async def test_refusals_of_many_batches_fit_into_messages(muster):
    client = await muster.session()
    bad = [spec_of("x" * 129, "ü" * 128)] * 999
    muster.faults.reading.clear()  # so that all batches are answered at once
    for number in range(1, 61):
        batch = task_pb2.SubmitBatch(batch_id=number, tasks=[*bad, spec_of(f"good-{number}", "nobody")])
        await client.send(task_pb2.SessionRequest(submit=batch))
    await eventually(lambda: any(len(sink._lookups) > 50 for sink in muster.shard.client_sinks), within_s=PATIENT_S, message="the batches")
    muster.faults.reading.set()
    for number in range(1, 61):
        assert len((await client.acknowledged(number)).exceptions) >= 999  # all, if its look-up took too long


async def test_a_load_map_of_many_agents_fits_into_a_message(muster):
    peers = [await muster.agent(f"{n:03}-" + "ä" * 100, [f"{n:03}-{m}" + "ö" * 100 for m in range(110)], ready=None) for n in range(200)]
    rows = (await muster.admin.GetLoadMap(admin_pb2.GetLoadMapRequest())).agents
    assert len(rows) == 201
    names, token = [], ""
    while True:
        page = await muster.agents.ListAgents(agent_pb2.ListAgentsRequest(page_size=1000, page_token=token))
        names += [agent.agent_name for agent in page.agents]
        token = page.next_page_token
        if not token:
            break
    assert names == [row.agent_name for row in rows]
    for peer in peers:
        peer.call.cancel()
