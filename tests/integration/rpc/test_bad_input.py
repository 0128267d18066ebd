"""Whatever a caller sends: a clear status with field-level detail, nothing lost, and nobody else disturbed."""

import asyncio
import base64
import json
import math
import zlib

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from muster.v1 import admin_pb2, agent_pb2, common_pb2, task_pb2

from coordinator.convert import Bounds
from coordinator.core.model import Settings
from tests.support.eventually import eventually
from tests.support.hosted import PATIENT_S, hello_of, hosted, refusal, spec_of, success

INVALID = grpc.StatusCode.INVALID_ARGUMENT
ACCEPTED, DUPLICATE, REFUSED = 1, 2, 3
LONG = "x" * 129


def _is_invalid(refused, field, reason="INVALID_FIELD"):
    assert (refused.code, refused.reason, refused.domain, list(refused.fields)) == (INVALID, reason, "muster", [field]), refused
    assert refused.message


def _seconds(value):
    return Duration(seconds=int(value), nanos=int(value % 1 * 1e9) if value > 0 else 0)


@pytest.fixture(autouse=True)
async def nobody_else_is_disturbed(muster):
    """An agent and a session that were there before work on afterwards, on their own streams."""
    agent = await muster.agent("bystander", ["bystanding"])
    client = await muster.session()
    yield
    if muster.shard.outage_since_s is None:
        await client.submit(spec_of("bystanding", "bystanding"), batch_id=99)
        (assignment,) = await agent.assigned()
        await agent.succeed(assignment)
        await client.result("bystanding")
        muster.check()


# --- namespaces ---


@pytest.mark.parametrize("namespace", ["nowhere", "", "default ", "x" * 5000, "%00", "../default"])
async def test_unknown_namespaces_are_named(muster, namespace):
    metadata = (("muster-namespace", namespace),)
    calls = [
        muster.tasks.GetTask(task_pb2.GetTaskRequest(task_id="a"), metadata=metadata),
        muster.tasks.SubmitTasks(task_pb2.SubmitTasksRequest(tasks=[spec_of("a")]), metadata=metadata),
        muster.tasks.WatchTasks(task_pb2.WatchTasksRequest(), metadata=metadata),
        muster.tasks.Session(metadata=metadata),
        muster.agents.Connect(metadata=metadata),
        muster.agents.ListAgents(agent_pb2.ListAgentsRequest(), metadata=metadata),
        muster.admin.GetLoadMap(admin_pb2.GetLoadMapRequest(), metadata=metadata),
    ]
    for call in calls:
        refused = await refusal(call)
        assert (refused.code, refused.reason, refused.domain) == (grpc.StatusCode.NOT_FOUND, "NAMESPACE_NOT_FOUND", "muster")
        assert namespace.strip()[:20] in refused.message


@pytest.mark.parametrize("name", ["", "Default", "1st", "a b", "x" * 64, "x" * 100_000, "ä", "a\n", "a" + "\0"])
async def test_a_namespaces_name_is_checked(muster, name):
    _is_invalid(await refusal(muster.admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name=name))), "name")
    listed = await muster.admin.ListNamespaces(admin_pb2.ListNamespacesRequest())
    assert [one.name for one in listed.namespaces] == ["default"]


# --- tasks ---

BAD_TASKS = [
    ("task_id", {"task_id": ""}),
    ("task_id", {"task_id": LONG}),
    ("task_id", {"task_id": "a\nb"}),
    ("task_id", {"task_id": "a\0"}),
    ("task_id", {"task_id": "\u202e"}),
    ("task_type", {"task_type": ""}),
    ("task_type", {"task_type": LONG}),
    ("task_type", {"task_type": "\x1b[31m"}),
    ("parent_task_id", {"parent_task_id": LONG}),
    ("parent_task_id", {"parent_task_id": "\t"}),
    ("priority", {"priority": 5}),
    ("priority", {"priority": -1}),
    ("run_timeout", {"run_timeout": Duration(seconds=-1)}),
    ("run_timeout", {"run_timeout": Duration(nanos=-1)}),
    ("run_timeout", {"run_timeout": Duration()}),
    ("run_timeout", {"run_timeout": Duration(seconds=2**63 - 1)}),
    ("progress_timeout", {"progress_timeout": Duration(seconds=-(2**63))}),
    ("progress_timeout", {"progress_timeout": Duration()}),
    ("retry_policy.initial_backoff", {"retry_policy": common_pb2.RetryPolicy(initial_backoff=Duration(seconds=-1))}),
    ("retry_policy.max_backoff", {"retry_policy": common_pb2.RetryPolicy(max_backoff=Duration(seconds=10**10))}),
    ("retry_policy.backoff_multiplier", {"retry_policy": common_pb2.RetryPolicy(backoff_multiplier=math.nan)}),
    ("retry_policy.backoff_multiplier", {"retry_policy": common_pb2.RetryPolicy(backoff_multiplier=math.inf)}),
    ("retry_policy.backoff_multiplier", {"retry_policy": common_pb2.RetryPolicy(backoff_multiplier=-2)}),
    ("retry_policy.backoff_multiplier", {"retry_policy": common_pb2.RetryPolicy(backoff_multiplier=0.5)}),
    ("tracestate", {"tracestate": "x" * 10_000}),
    ("traceparent", {"traceparent": "x" * 10_000}),
    ("content_type", {"content_type": "x" * 10_000}),
]


@pytest.mark.parametrize("field,wrong", BAD_TASKS, ids=[f"{field}-{n}" for n, (field, _) in enumerate(BAD_TASKS)])
async def test_one_bad_task_gets_its_own_verdict_and_the_good_ones_are_taken(muster, field, wrong):
    bad = common_pb2.TaskSpec(**{"task_id": "bad", "task_type": "work"} | wrong)
    first, middle, last = await muster.submit(spec_of("good-1"), bad, spec_of("good-2"))
    assert [first.verdict, middle.verdict, last.verdict] == [ACCEPTED, REFUSED, ACCEPTED]
    _is_refused(middle.refusal, field)
    client = await muster.session()
    for first_send in (True, False):
        number = 2 + first_send
        ack = await client.submit(bad, spec_of(f"good-{number}b"), batch_id=number, first_send=first_send)
        assert [(one.index, one.verdict) for one in ack.exceptions] == [(0, REFUSED)]
        _is_refused(ack.exceptions[0].refusal, field)
    listed = await muster.tasks.ListTasks(task_pb2.ListTasksRequest())
    assert [task.task_id for task in listed.tasks] == ["good-1", "good-2", "good-3b", "good-2b"]


def _is_refused(refusal_, field):
    assert (refusal_.code, refusal_.field) == (INVALID.value[0], field)
    assert refusal_.reason in {"INVALID_FIELD", "TASK_TOO_LARGE"}
    assert field.rpartition(".")[2] in refusal_.message


async def test_a_payload_over_the_limit_is_refused_with_the_limit(muster):
    taken, refused = await muster.submit(spec_of("just", payload=b"x" * 2**20), spec_of("over", payload=b"x" * (2**20 + 1)))
    assert (taken.verdict, refused.verdict) == (ACCEPTED, REFUSED)
    assert (refused.refusal.reason, refused.refusal.field) == ("PAYLOAD_TOO_LARGE", "payload")
    assert dict(refused.refusal.metadata) == {"limit": str(2**20), "size": str(2**20 + 1)}


async def test_a_task_of_the_largest_size_arrives_with_a_checkpoint_of_the_largest_size(muster):
    await muster.submit(spec_of("large", payload=b"x" * 2**20, tracestate="y" * 8000))
    first = await muster.agent("first")
    (assignment,) = await first.assigned()
    fence = assignment.fence
    await first.send(
        agent_pb2.ConnectRequest(checkpoints=[agent_pb2.Checkpoint(task_id="large", fence=fence, sequence=1, data=b"z" * 2**18)])
    )
    (ack,) = await first.until("checkpoint_acks")
    assert ack.verdict == agent_pb2.RESULT_VERDICT_ACCEPTED
    outcome = common_pb2.Outcome(returned=common_pb2.Returned(reason="drain"))
    await first.ready(0)
    await first.report(agent_pb2.AttemptResult(task_id="large", fence=fence, outcome=outcome))
    second = await muster.agent("second")
    (again,) = await second.assigned()
    assert (len(again.task.payload), len(again.checkpoint), again.attempt) == (2**20, 2**18, 1)
    await second.succeed(again, b"r" * 2**20)
    task = await muster.get("large", full=True)
    assert len(task.outcome.success.payload) == 2**20


@pytest.mark.parametrize("count", [0, 1001])
async def test_a_batch_must_have_1_to_1000_tasks(muster, count):
    tasks = [spec_of(f"t{n}") for n in range(count)]
    _is_invalid(await refusal(muster.tasks.SubmitTasks(task_pb2.SubmitTasksRequest(tasks=tasks))), "tasks")
    cancel = muster.tasks.CancelTasks(task_pb2.CancelTasksRequest(task_ids=[task.task_id for task in tasks]))
    _is_invalid(await refusal(cancel), "task_ids")
    if count:
        client = await muster.session()
        await client.send(task_pb2.SessionRequest(submit=task_pb2.SubmitBatch(batch_id=1, tasks=tasks)))
        _is_invalid(await client.end(), "submit.tasks")
    assert not muster.scheduler.state.tasks


@pytest.mark.parametrize("task_id", ["", LONG, "a\nb"])
async def test_an_id_that_cant_be_is_named(muster, task_id):
    for call in (
        muster.tasks.GetTask(task_pb2.GetTaskRequest(task_id=task_id)),
        muster.tasks.ExplainTask(task_pb2.ExplainTaskRequest(task_id=task_id)),
    ):
        _is_invalid(await refusal(call), "task_id")
    (verdict,) = await muster.cancel(task_id)
    assert verdict == task_pb2.CANCEL_VERDICT_NOT_FOUND


async def test_the_same_id_with_another_content_is_refused(muster):
    await muster.submit(spec_of("a", payload=b"1"))
    same, other = await muster.submit(spec_of("a", payload=b"1", traceparent="00-1"), spec_of("a", payload=b"2"))
    assert (same.verdict, other.verdict) == (DUPLICATE, REFUSED)
    assert (other.refusal.code, other.refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS.value[0], "TASK_ALREADY_EXISTS")
    assert dict(other.refusal.metadata) == {"task_id": "a"}


# --- lists and watches ---

_TOKENS = [
    "x",
    "é",
    "====",
    base64.urlsafe_b64encode(b"[" * 50_000).decode(),
    base64.urlsafe_b64encode(b"[" * 700).decode(),
    base64.urlsafe_b64encode(b"{}").decode(),
    base64.urlsafe_b64encode(b"[1, 2, 3]").decode(),
    base64.urlsafe_b64encode(b"[1e999, null]").decode(),
]


def _forged(query, after):
    return base64.urlsafe_b64encode(json.dumps([zlib.crc32(query.encode()), after]).encode()).decode()


@pytest.mark.parametrize("token", _TOKENS, ids=range(len(_TOKENS)))
async def test_a_token_that_nobody_handed_out_is_refused(muster, token):
    for call in (
        muster.tasks.ListTasks(task_pb2.ListTasksRequest(page_token=token)),
        muster.agents.ListAgents(agent_pb2.ListAgentsRequest(page_token=token)),
        muster.admin.ListNamespaces(admin_pb2.ListNamespacesRequest(page_token=token)),
    ):
        _is_invalid(await refusal(call), "page_token", "INVALID_PAGE_TOKEN")
    watch = muster.tasks.WatchTasks(task_pb2.WatchTasksRequest(task_ids=["a"], cursor=token))
    _is_invalid(await refusal(watch), "cursor", "INVALID_CURSOR")


@pytest.mark.parametrize("after", ["live x", "live", "dead 5", "live -1", "live " + "9" * 500, "ended " + "9" * 30, "live ²"])
async def test_a_forged_position_is_refused(muster, after):
    call = muster.tasks.ListTasks(task_pb2.ListTasksRequest(page_token=_forged("tasks ", after)))
    _is_invalid(await refusal(call), "page_token", "INVALID_PAGE_TOKEN")


@pytest.mark.parametrize("after", ["x", "-1", "9" * 500])
async def test_a_forged_cursor_is_refused(muster, after):
    call = muster.tasks.WatchTasks(task_pb2.WatchTasksRequest(task_ids=["a"], cursor=_forged("watch  ['a']", after)))
    _is_invalid(await refusal(call), "cursor", "INVALID_CURSOR")


async def test_a_page_token_from_another_query_is_refused(muster):
    await muster.submit("a", "b", "c")
    page = await muster.tasks.ListTasks(task_pb2.ListTasksRequest(page_size=2))
    assert page.next_page_token
    for call in (
        muster.tasks.ListTasks(task_pb2.ListTasksRequest(page_token=page.next_page_token, filter="state = PENDING")),
        muster.agents.ListAgents(agent_pb2.ListAgentsRequest(page_token=page.next_page_token)),
    ):
        refused = await refusal(call)
        _is_invalid(refused, "page_token", "INVALID_PAGE_TOKEN")
        assert "another request" in refused.message


async def test_a_cursor_from_another_watch_is_refused(muster):
    await muster.submit("a", "b")
    watch = muster.tasks.WatchTasks(task_pb2.WatchTasksRequest(task_ids=["a"]))
    cursor = (await watch.read()).cursor
    watch.cancel()
    _is_invalid(
        await refusal(muster.tasks.WatchTasks(task_pb2.WatchTasksRequest(task_ids=["b"], cursor=cursor))), "cursor", "INVALID_CURSOR"
    )


@pytest.mark.parametrize("request_,field", [
    (task_pb2.ListTasksRequest(page_size=-1), "page_size"),
    (task_pb2.ListTasksRequest(filter="("), "filter"),
    (task_pb2.ListTasksRequest(filter="color = red"), "filter"),
    (task_pb2.ListTasksRequest(filter="x" * 100_000), "filter"),
    (task_pb2.ListTasksRequest(filter="(" * 2000), "filter"),
    (task_pb2.ListTasksRequest(filter="NOT " * 900 + "state"), "filter"),
])  # fmt: skip
async def test_a_wrong_list_request_names_its_field(muster, request_, field):
    _is_invalid(await refusal(muster.tasks.ListTasks(request_)), field)


@pytest.mark.parametrize("request_,field", [
    (task_pb2.WatchTasksRequest(filter="state ="), "filter"),
    (task_pb2.WatchTasksRequest(task_ids=["a"], filter="state = RUNNING"), "filter"),
    (task_pb2.WatchTasksRequest(task_ids=[f"{n}" for n in range(10_001)]), "task_ids"),
])  # fmt: skip
async def test_a_wrong_watch_names_its_field(muster, request_, field):
    _is_invalid(await refusal(muster.tasks.WatchTasks(request_)), field)
    assert not muster.scheduler.watched_ids
    assert not muster.scheduler.watch_all


# --- agents ---

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
    _is_invalid(await peer.end(), field)
    assert list(muster.scheduler.load.agents) == ["bystander"]


async def test_an_empty_label_is_a_label(muster):
    await muster.agent("labelled", labels={"gpu": ""})
    listed = await muster.agents.ListAgents(agent_pb2.ListAgentsRequest())
    assert [dict(agent.labels) for agent in listed.agents] == [{}, {"gpu": ""}]


async def test_hello_comes_first_alone_and_once(muster):
    late = await muster.connect()
    await late.send(agent_pb2.ConnectRequest(ready=agent_pb2.Ready(limit=5)))
    _is_invalid(await late.end(), "hello")
    laden = await muster.connect()
    results = agent_pb2.ResultBatch(batch_id=1, results=[success("a", 1)])
    await laden.send(agent_pb2.ConnectRequest(hello=hello_of("laden"), results=results))
    _is_invalid(await laden.end(), "hello")
    twice = await muster.agent("twice")
    await twice.send(agent_pb2.ConnectRequest(hello=hello_of("twice")))
    _is_invalid(await twice.end(), "hello")
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
    _is_invalid(await refusal(call), "deadline")


async def test_a_drain_of_nobody_says_so(muster):
    refused = await refusal(muster.agents.DrainAgent(agent_pb2.DrainAgentRequest(agent_name="nobody")))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND")
    _is_invalid(await refusal(muster.agents.DrainAgent(agent_pb2.DrainAgentRequest())), "agent_name")


async def test_a_drains_reason_fits_into_a_message(muster):
    agent = await muster.agent("drained")
    await muster.agents.DrainAgent(agent_pb2.DrainAgentRequest(agent_name="drained", reason="x" * 3_900_000))
    assert len((await agent.until("drain")).reason) == 4096


# --- limits ---


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
    for method in ("muster.v1.TaskService/Session", "muster.v1.AgentService/Connect"):
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
