"""Whatever a caller sends: a clear status with field-level detail, nothing lost, and nobody else disturbed."""

import base64
import json
import math
import zlib

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from muster.v1 import admin_pb2, agent_pb2, common_pb2, task_pb2

from tests.support.hosted import spec_of
from tests.support.refusals import assert_invalid, refusal

pytestmark = pytest.mark.usefixtures("bystanders")

INVALID = grpc.StatusCode.INVALID_ARGUMENT
ACCEPTED, DUPLICATE, REFUSED = 1, 2, 3
LONG = "x" * 129


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


async def test_two_namespaces_are_one_too_many(muster):
    metadata = (("muster-namespace", "default"), ("muster-namespace", "other"))
    for call in (
        muster.tasks.GetTask(task_pb2.GetTaskRequest(task_id="a"), metadata=metadata),
        muster.tasks.Session(metadata=metadata),
        muster.agents.Connect(metadata=metadata),
    ):
        assert_invalid(await refusal(call), "muster-namespace")


@pytest.mark.parametrize("name", ["", "Default", "1st", "a b", "x" * 64, "x" * 100_000, "ä", "a\n", "a" + "\0"])
async def test_a_namespaces_name_is_checked(muster, name):
    assert_invalid(await refusal(muster.admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name=name))), "name")
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
    ("run_timeout", {"run_timeout": Duration(nanos=2_000_000_000)}),
    ("run_timeout", {"run_timeout": Duration(seconds=1, nanos=-1)}),
    ("progress_timeout", {"progress_timeout": Duration(seconds=-1, nanos=999_999_999)}),
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
    assert_invalid(await refusal(muster.tasks.SubmitTasks(task_pb2.SubmitTasksRequest(tasks=tasks))), "tasks")
    cancel = muster.tasks.CancelTasks(task_pb2.CancelTasksRequest(task_ids=[task.task_id for task in tasks]))
    assert_invalid(await refusal(cancel), "task_ids")
    if count:
        client = await muster.session()
        await client.send(task_pb2.SessionRequest(submit=task_pb2.SubmitBatch(batch_id=1, tasks=tasks)))
        assert_invalid(await client.end(), "submit.tasks")
    assert not muster.scheduler.state.tasks


@pytest.mark.parametrize("task_id", ["", LONG, "a\nb"])
async def test_an_id_that_cant_be_is_named(muster, task_id):
    for call in (
        muster.tasks.GetTask(task_pb2.GetTaskRequest(task_id=task_id)),
        muster.tasks.ExplainTask(task_pb2.ExplainTaskRequest(task_id=task_id)),
    ):
        assert_invalid(await refusal(call), "task_id")
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
        assert_invalid(await refusal(call), "page_token", "INVALID_PAGE_TOKEN")
    watch = muster.tasks.WatchTasks(task_pb2.WatchTasksRequest(task_ids=["a"], cursor=token))
    assert_invalid(await refusal(watch), "cursor", "INVALID_CURSOR")


@pytest.mark.parametrize("after", ["live x", "live", "dead 5", "live -1", "live " + "9" * 500, "ended " + "9" * 30, "live ²"])
async def test_a_forged_position_is_refused(muster, after):
    call = muster.tasks.ListTasks(task_pb2.ListTasksRequest(page_token=_forged("tasks ", after)))
    assert_invalid(await refusal(call), "page_token", "INVALID_PAGE_TOKEN")


@pytest.mark.parametrize("after", ["x", "-1", "9" * 500])
async def test_a_forged_cursor_is_refused(muster, after):
    call = muster.tasks.WatchTasks(task_pb2.WatchTasksRequest(task_ids=["a"], cursor=_forged("watch  ['a']", after)))
    assert_invalid(await refusal(call), "cursor", "INVALID_CURSOR")


async def test_a_page_token_from_another_query_is_refused(muster):
    await muster.submit("a", "b", "c")
    page = await muster.tasks.ListTasks(task_pb2.ListTasksRequest(page_size=2))
    assert page.next_page_token
    for call in (
        muster.tasks.ListTasks(task_pb2.ListTasksRequest(page_token=page.next_page_token, filter="state = PENDING")),
        muster.agents.ListAgents(agent_pb2.ListAgentsRequest(page_token=page.next_page_token)),
    ):
        refused = await refusal(call)
        assert_invalid(refused, "page_token", "INVALID_PAGE_TOKEN")
        assert "another request" in refused.message


async def test_a_cursor_from_another_watch_is_refused(muster):
    await muster.submit("a", "b")
    watch = muster.tasks.WatchTasks(task_pb2.WatchTasksRequest(task_ids=["a"]))
    cursor = (await watch.read()).cursor
    watch.cancel()
    assert_invalid(
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
    assert_invalid(await refusal(muster.tasks.ListTasks(request_)), field)


@pytest.mark.parametrize("request_,field", [
    (task_pb2.WatchTasksRequest(filter="state ="), "filter"),
    (task_pb2.WatchTasksRequest(task_ids=["a"], filter="state = RUNNING"), "filter"),
    (task_pb2.WatchTasksRequest(task_ids=[f"{n}" for n in range(10_001)]), "task_ids"),
])  # fmt: skip
async def test_a_wrong_watch_names_its_field(muster, request_, field):
    assert_invalid(await refusal(muster.tasks.WatchTasks(request_)), field)
    assert not muster.scheduler.watched_ids
    assert not muster.scheduler.watch_all
