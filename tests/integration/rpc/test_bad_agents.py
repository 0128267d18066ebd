"""Agents that break the protocol, or report what can't be: told which field, and nothing lost."""

import math

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from muster.v1 import agent_pb2, common_pb2, task_pb2

from tests.support.eventually import eventually
from tests.support.hosted import hello_of, spec_of, success
from tests.support.refusals import assert_invalid, refusal

pytestmark = pytest.mark.usefixtures("bystanders")

LONG = "x" * 129


BAD_HELLOS = [
    ("hello.agent_name", {"agent_name": ""}),
    ("hello.agent_name", {"agent_name": LONG}),
    ("hello.agent_name", {"agent_name": "a\0b"}),
    ("hello.session_nonce", {"session_nonce": ""}),
    ("hello.session_nonce", {"session_nonce": "short"}),
    ("hello.session_nonce", {"session_nonce": "x" * 65}),
    ("hello.protocol_version", {"protocol_version": 0}),
    ("hello.protocol_version", {"protocol_version": 2}),
    ("hello.capabilities", {"capabilities": []}),
    ("hello.capabilities", {"capabilities": [agent_pb2.Capability(task_type=f"{n}") for n in range(257)]}),
    ("hello.capabilities.task_type", {"capabilities": [agent_pb2.Capability(task_type="")]}),
    ("hello.capabilities.task_type", {"capabilities": [agent_pb2.Capability(task_type=LONG)]}),
    ("hello.max_concurrent_tasks", {"max_concurrent_tasks": 10_001}),
    ("hello.labels", {"labels": {f"{n}": "" for n in range(33)}}),
    ("hello.labels", {"labels": {LONG: "x"}}),
    ("hello.labels", {"labels": {"": "x"}}),
    ("hello.labels[a]", {"labels": {"a": LONG}}),
]


@pytest.mark.parametrize("field,wrong", BAD_HELLOS, ids=[f"{field}-{n}" for n, (field, _) in enumerate(BAD_HELLOS)])
async def test_a_wrong_hello_names_its_field(muster, field, wrong):
    peer = await muster.connect()
    await peer.send(agent_pb2.ConnectRequest(hello=hello_of("newcomer", **wrong)))
    assert_invalid(await peer.end(), field)
    assert list(muster.scheduler.load.agents) == ["bystander"]


async def test_an_empty_label_is_a_label(muster):
    await muster.agent("labelled", labels={"gpu": ""})
    listed = await muster.agents.ListAgents(agent_pb2.ListAgentsRequest())
    assert [dict(agent.labels) for agent in listed.agents] == [{}, {"gpu": ""}]


async def test_hello_comes_first_alone_and_once(muster):
    late = await muster.connect()
    await late.send(agent_pb2.ConnectRequest(ready=agent_pb2.Ready(limit=5)))
    assert_invalid(await late.end(), "hello")
    laden = await muster.connect()
    results = agent_pb2.ResultBatch(batch_id=1, results=[success("a", 1)])
    await laden.send(agent_pb2.ConnectRequest(hello=hello_of("laden"), results=results))
    assert_invalid(await laden.end(), "hello")
    twice = await muster.agent("twice")
    await twice.send(agent_pb2.ConnectRequest(hello=hello_of("twice")))
    assert_invalid(await twice.end(), "hello")
    await eventually(lambda: list(muster.scheduler.load.agents) == ["bystander"], message="the sessions to end")


async def test_a_report_before_the_welcome_is_handled_in_its_order(muster):
    await muster.submit("a")
    peer = await muster.connect()
    await peer.send(agent_pb2.ConnectRequest(hello=hello_of("hasty")))
    await peer.send(agent_pb2.ConnectRequest(ready=agent_pb2.Ready(limit=1), results=agent_pb2.ResultBatch(batch_id=7)))
    (assignment,) = await peer.assigned()
    assert assignment.task.task_id == "a"
    assert peer.received[0].HasField("welcome")
    assert (await peer.until("result_acks"))[0].batch_id == 7


async def test_unknown_and_empty_frames_are_counted_and_ignored(muster):
    agent = await muster.agent("curious")
    unknown_field = b"\xfa\x3e\x03abc"  # field 1007, three bytes
    await agent.send(agent_pb2.ConnectRequest.FromString(unknown_field))
    await agent.send(agent_pb2.ConnectRequest())
    client = await muster.session()
    await client.send(task_pb2.SessionRequest.FromString(unknown_field))
    await client.send(task_pb2.SessionRequest())
    await client.submit(spec_of("a"))
    (assignment,) = await agent.assigned()
    await agent.succeed(assignment)
    await client.result("a")
    (stream,) = [sink for session, sink in muster.shard.agent_sinks.items() if muster.scheduler.load.by_session[session].name == "curious"]
    assert stream.ignored_messages == 2


async def test_an_acknowledgement_of_an_unknown_batch_changes_nothing(muster):
    agent = await muster.agent("eager")
    await agent.send(agent_pb2.ConnectRequest(acknowledged_batch_ids=[0, 7, 2**64 - 1]))
    await muster.submit("a")
    (assignment,) = await agent.assigned()
    assert not (await agent.succeed(assignment)).exceptions


async def test_the_newest_session_of_a_name_wins_and_the_old_one_is_told_why(muster):
    await muster.submit("a")
    old = await muster.agent("twin", session_nonce="the first process")
    (assignment,) = await old.assigned()
    await old.acknowledge_all()
    new = await muster.agent("twin", session_nonce="the second process")
    ended = await old.end()
    assert (ended.code, ended.reason, ended.domain) == (grpc.StatusCode.ABORTED, "SESSION_SUPERSEDED", "muster")
    assert "another process with the same name" in ended.message
    (again,) = await new.assigned()
    assert again.task.task_id == "a"
    assert again.fence > assignment.fence
    assert not (await new.succeed(again)).exceptions
    assert (await muster.get("a")).crash_count == 1


async def test_absurd_reports_neither_count_nor_poison(muster):
    """Numbers that no field of the journal could hold must be stopped at the door."""
    await muster.submit(spec_of("a", retry_policy=common_pb2.RetryPolicy(initial_backoff=Duration(), max_retries=9)))
    agent = await muster.agent("absurd")
    most = common_pb2.Usage(model="m" * 1000, input_tokens=2**64 - 1, output_tokens=2**64 - 1, requests=2**32 - 1)
    for attempt in (1, 2, 3):
        assignment = (await agent.assigned(attempt))[-1]
        task_id, fence = assignment.task.task_id, assignment.fence
        renewal = agent_pb2.Renewal(
            task_id=task_id,
            fence=fence,
            usage=[most] * 1000,
            progress=common_pb2.Progress(current=math.nan, total=-math.inf, message="x" * 9999),
        )
        pieces = [(0, b"1"), (2**64 - 1, b"12345"), (2**64 - 1, b"1234567890")]
        chunks = [agent_pb2.Chunk(task_id=task_id, fence=fence, offset=offset, data=data) for offset, data in pieces]
        await agent.send(
            agent_pb2.ConnectRequest(
                renew=agent_pb2.Renew(attempts=[renewal], loop_lag=Duration(seconds=2**63 - 1, nanos=-(2**31))), chunks=chunks
            )
        )
        await agent.until("renew_ack")
        progress = (await muster.get("a")).progress
        assert (progress.current, progress.total, len(progress.message)) == (0, 0, 1024)
        await muster.agents.ListAgents(agent_pb2.ListAgentsRequest())
        failed = common_pb2.Failure(
            kind=77, message="x" * 100_000, type="y" * 1000, stack_trace="z" * 100_000, retry_after=Duration(seconds=-5)
        )
        outcome = common_pb2.Outcome(failure=failed, usage=[most, most])
        ack = await agent.report(agent_pb2.AttemptResult(task_id=task_id, fence=fence, outcome=outcome), batch_id=attempt)
        assert not ack.exceptions
    assert (await muster.get("a")).usage[0].input_tokens == 2**64 - 1
    assert await muster.cancel("a") in ([task_pb2.CANCEL_VERDICT_REQUESTED], [task_pb2.CANCEL_VERDICT_CANCELLED])
    task = await muster.get("a")
    assert (len(task.last_failure.message), len(task.last_failure.stack_trace)) == (4096, 16384)


async def test_a_result_over_the_limit_fails_the_attempt_with_that_reason(muster):
    await muster.submit("large", "none", "laden")
    agent = await muster.agent("verbose")
    await agent.assigned(3)
    fences = {one.task.task_id: one.fence for one in agent.assignments()}
    laden = common_pb2.Outcome(success=common_pb2.Success(payload=b"fine", content_type="x" * 100_000))
    ack = await agent.report(
        success("large", fences["large"], b"x" * (2**20 + 1)),
        agent_pb2.AttemptResult(task_id="none", fence=fences["none"]),
        agent_pb2.AttemptResult(task_id="laden", fence=fences["laden"], outcome=laden),
    )
    assert [(one.index, one.verdict) for one in ack.exceptions] == [(n, agent_pb2.RESULT_VERDICT_INVALID) for n in range(3)]
    for task_id, reason in (("large", "PAYLOAD_TOO_LARGE"), ("none", "INVALID_FIELD"), ("laden", "OUTCOME_TOO_LARGE")):
        task = await muster.get(task_id)
        assert (task.state, task.last_failure.type) == (common_pb2.TASK_STATE_FAILED, reason)


async def test_a_checkpoint_over_the_limit_is_refused_and_the_last_one_stays(muster):
    await muster.submit("a")
    agent = await muster.agent("saver")
    (assignment,) = await agent.assigned()
    checkpoints = [
        agent_pb2.Checkpoint(task_id="a", fence=assignment.fence, sequence=n, data=data)
        for n, data in enumerate([b"ok", b"x" * (2**18 + 1)], 1)
    ]
    await agent.send(agent_pb2.ConnectRequest(checkpoints=checkpoints))
    acks = await agent.until("checkpoint_acks")
    assert [(ack.sequence, ack.verdict) for ack in acks] == [(1, agent_pb2.RESULT_VERDICT_ACCEPTED), (2, agent_pb2.RESULT_VERDICT_INVALID)]
    assert (await muster.get("a", full=True)).checkpoint == b"ok"


@pytest.mark.parametrize("deadline", [Duration(seconds=-1), Duration(seconds=2**60)])
async def test_a_drains_deadline_is_checked(muster, deadline):
    call = muster.agents.DrainAgent(agent_pb2.DrainAgentRequest(agent_name="bystander", deadline=deadline))
    assert_invalid(await refusal(call), "deadline")


async def test_a_drain_of_nobody_says_so(muster):
    refused = await refusal(muster.agents.DrainAgent(agent_pb2.DrainAgentRequest(agent_name="nobody")))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND")
    assert_invalid(await refusal(muster.agents.DrainAgent(agent_pb2.DrainAgentRequest())), "agent_name")


async def test_a_drains_reason_fits_into_a_message(muster):
    agent = await muster.agent("drained")
    await muster.agents.DrainAgent(agent_pb2.DrainAgentRequest(agent_name="drained", reason="x" * 3_900_000))
    assert len((await agent.until("drain")).reason) == 4096
