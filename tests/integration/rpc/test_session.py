"""A client's session, as muster/v1/task.proto describes it."""

import asyncio

import grpc
from muster.v1 import common_pb2, task_pb2

from coordinator.rpc import client_session
from tests.support.eventually import eventually
from tests.support.hosted import PATIENT_S, MemoryShard, failure, hosted, spec_of
from tests.support.refusals import refusal

DUPLICATE, REFUSED = 2, 3
COMPLETED, FAILED, CANCELLED = common_pb2.TASK_STATE_COMPLETED, common_pb2.TASK_STATE_FAILED, common_pb2.TASK_STATE_CANCELLED


async def test_welcomes_first_then_acknowledges_then_tells_each_result_once(muster):
    client = await muster.session()
    assert client.received[0].HasField("welcome")
    agent = await muster.agent("worker")
    ack = await client.submit(spec_of("a"), spec_of("b"), spec_of("c", "other"), batch_id=7, first_send=True)
    assert (ack.batch_id, list(ack.exceptions)) == (7, [])
    first, second = await agent.assigned(2)
    await agent.succeed(first, b"well")
    await agent.report(failure("b", second.fence, message="no", non_retryable=True), batch_id=2)
    await muster.cancel("c", reason="enough")
    results = [await client.result(task_id) for task_id in "abc"]
    assert [(one.state, one.attempts, one.agent_name) for one in results] == [
        (COMPLETED, 1, "worker"),
        (FAILED, 1, "worker"),
        (CANCELLED, 0, ""),
    ]
    assert results[0].outcome.success.payload == b"well"
    assert results[1].outcome.failure.message == "no"
    assert results[2].outcome.cancelled.reason == "enough"
    await client.finish()
    assert len(client.results()) == 3


async def test_duplicates_wait_for_the_same_end(muster):
    client, other = await muster.session(), await muster.session()
    await client.submit(spec_of("a"), batch_id=1, first_send=True)
    for number, first_send in ((2, False), (3, True)):
        ack = await other.submit(spec_of("a"), spec_of("a"), batch_id=number, first_send=first_send)
        assert [(one.index, one.verdict) for one in ack.exceptions] == [(0, DUPLICATE), (1, DUPLICATE)]
    agent = await muster.agent()
    await agent.succeed((await agent.assigned())[0])
    for session in (client, other):
        assert (await session.result("a")).state == COMPLETED
    await other.submit(spec_of("a"), batch_id=4)  # ended meanwhile: answered at once
    await eventually(lambda: len(other.results()) == 2, message="the result again")
    await other.submit(spec_of("a"), batch_id=5, no_results=True)
    await other.finish()
    assert len(other.results()) == 2
    assert len(client.results()) == 1


async def test_sessions_that_leave_are_not_waited_for(muster):
    first, second = await muster.session(), await muster.session()
    await first.submit(spec_of("a"))
    await second.attach("a")
    await eventually(lambda: isinstance(muster.namespace._waiting["a"], list), message="both to wait")
    await first.leave()
    await second.leave()
    await eventually(lambda: not muster.namespace._waiting, message="nobody to wait")


async def test_no_results_means_none(muster):
    client = await muster.session()
    await client.submit(spec_of("quiet"), batch_id=1, no_results=True)
    await client.submit(spec_of("loud"), batch_id=2)
    agent = await muster.agent()
    await agent.assigned(2)
    for number, assignment in enumerate(agent.assignments()):
        await agent.succeed(assignment, batch_id=number)
    await client.finish()
    assert [one.task_id for one in client.results()] == ["loud"]


async def test_attaches_to_what_lives_what_has_ended_and_what_is_unknown(muster):
    agent = await muster.agent()
    await muster.submit("done", "runs")
    done, runs = await agent.assigned(2)
    await agent.succeed(done, b"1")
    client = await muster.session()
    await client.attach("done", "runs", "nowhere", "")
    assert (await client.result("done")).outcome.success.payload == b"1"
    for task_id in ("nowhere", ""):
        missing = await client.result(task_id)
        assert (missing.state, missing.refusal.reason) == (0, "TASK_NOT_FOUND")
        assert missing.refusal.code == grpc.StatusCode.NOT_FOUND.value[0]
    await agent.succeed(runs, b"2", batch_id=2)
    assert (await client.result("runs")).outcome.success.payload == b"2"


async def test_a_client_that_has_said_all_still_gets_its_answers(muster):
    agent = await muster.agent()
    client = await muster.session()
    batch = task_pb2.SubmitBatch(batch_id=1, tasks=[spec_of("a")])
    await client.send(task_pb2.SessionRequest(submit=batch, attach_task_ids=["nowhere"]))
    await client.call.done_writing()
    await client.acknowledged(1)
    await client.result("nowhere")
    assert client.ended is None
    await agent.succeed((await agent.assigned())[0])
    assert (await client.end()).code is grpc.StatusCode.OK
    assert [one.task_id for one in client.results()] == ["nowhere", "a"]


async def test_a_broken_session_is_taken_up_by_the_next_coordinator():
    data = MemoryShard()
    async with hosted(data=data) as muster:
        agent = await muster.agent("worker")
        client = await muster.session()
        await client.submit(spec_of("done"), spec_of("runs"), spec_of("waits", "other"), batch_id=1, first_send=True)
        done, runs = await agent.assigned(2)
        await agent.succeed(done, b"kept")
    async with hosted(data=data) as muster:
        client = await muster.session()
        ack = await client.submit(spec_of("done"), spec_of("runs"), spec_of("waits", "other"), batch_id=1)
        assert [one.verdict for one in ack.exceptions] == [DUPLICATE] * 3
        assert (await client.result("done")).outcome.success.payload == b"kept"
        agent = await muster.agent("worker", in_flight=[{"task_id": "runs", "fence": runs.fence}])
        await agent.succeed(runs, b"later")
        assert (await client.result("runs")).outcome.success.payload == b"later"
        assert (await muster.get("waits")).state == common_pb2.TASK_STATE_PENDING
        muster.check()


async def test_a_client_that_doesnt_read_its_results_is_told_to_attach(muster, monkeypatch):
    monkeypatch.setattr(client_session, "MAX_QUEUED_RESULT_BYTES", 8 * 2**20)
    deaf = muster.tasks.Session()
    await deaf.wait_for_connection()
    agent = await muster.agent("worker", max_concurrent_tasks=100, ready=100)
    tasks = [spec_of(f"t{n}", payload=b"x" * 10) for n in range(60)]
    await deaf.write(task_pb2.SessionRequest(submit=task_pb2.SubmitBatch(batch_id=1, tasks=tasks)))
    for number, assignment in enumerate(await agent.assigned(60)):
        await agent.succeed(assignment, b"y" * 2**20, batch_id=number)
    await eventually(lambda: not muster.shard.client_streams, within_s=PATIENT_S, message="the session to be given up")
    assert not muster.namespace._waiting
    await muster.is_alive()
    refused = await refusal(deaf)
    assert (refused.code, refused.reason, list(refused.limits)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED", ["queued_results"])
    assert "attach" in refused.message
    client = await muster.session()
    await client.attach(*(task.task_id for task in tasks[:5]))
    await eventually(lambda: len(client.results()) == 5, within_s=PATIENT_S, message="the results")


async def test_a_client_that_doesnt_read_its_acknowledgements_is_not_read_any_further(muster):
    deaf = muster.tasks.Session()
    await deaf.wait_for_connection()
    bad = [spec_of(f"{n}" + "x" * 200) for n in range(1000)]
    message = task_pb2.SessionRequest(submit=task_pb2.SubmitBatch(batch_id=1, tasks=bad))
    sent = 0

    async def flood():
        nonlocal sent
        while True:
            await deaf.write(message)
            sent += 1

    flooding = asyncio.create_task(flood())
    (session,) = await eventually(lambda: list(muster.shard.client_streams), message="the session")
    await eventually(lambda: session._unanswered >= client_session.MAX_UNANSWERED, within_s=30, message="the limit")
    await muster.is_alive()
    assert session._unanswered == client_session.MAX_UNANSWERED
    before = sent
    await muster.is_alive()
    assert sent - before <= 2
    flooding.cancel()
    deaf.cancel()
    await eventually(lambda: not muster.shard.client_streams, message="the session to end")


async def test_attaching_to_more_results_than_a_session_holds_brings_them_all(muster, monkeypatch):
    agent = await muster.agent("worker")
    first = await muster.session()
    task_ids = [f"task-{number}" for number in range(40)]
    for number, task_id in enumerate(task_ids, 1):
        await first.submit(spec_of(task_id), batch_id=number, first_send=True)
        await agent.succeed((await agent.assigned(number))[-1], b"x" * 10_000)
        await first.result(task_id)
    monkeypatch.setattr(client_session, "MAX_QUEUED_RESULT_BYTES", 200_000)
    monkeypatch.setattr(client_session, "MAX_ATTACHED_BYTES", 50_000)
    second = await muster.session()
    await second.attach(*task_ids)
    await eventually(lambda: len(second.results()) == len(task_ids) or second.ended, within_s=PATIENT_S, message="all results")
    assert second.ended is None
