"""TaskService's unary calls, field by field, as the protos' comments promise them."""

import pytest
from google.protobuf.duration_pb2 import Duration
from muster.v1 import agent_pb2, common_pb2, task_pb2

from agent_node import clock
from coordinator.core.model import Settings
from tests.support.eventually import eventually
from tests.support.hosted import failure, hosted, spec_of
from tests.support.refusals import refusal

ACCEPTED, DUPLICATE, REFUSED = 1, 2, 3
COMPLETED, FAILED, CANCELLED = common_pb2.TASK_STATE_COMPLETED, common_pb2.TASK_STATE_FAILED, common_pb2.TASK_STATE_CANCELLED
PENDING, RUNNING, RETRYING = common_pb2.TASK_STATE_PENDING, common_pb2.TASK_STATE_RUNNING, common_pb2.TASK_STATE_RETRYING

DETAILED = spec_of(
    "detailed",
    "work",
    b"input",
    content_type="text/plain",
    priority=common_pb2.PRIORITY_HIGH,
    retry_policy=common_pb2.RetryPolicy(max_retries=7, initial_backoff=Duration(seconds=50), max_backoff=Duration(seconds=50)),
    run_timeout=Duration(seconds=100),
    progress_timeout=Duration(seconds=50),
    parent_task_id="the parent",
    traceparent="00-trace",
    tracestate="vendor=1",
)


def _explain(muster, task_id):
    return muster.tasks.ExplainTask(task_pb2.ExplainTaskRequest(task_id=task_id))


async def _list(muster, **request):
    """All pages: the ids, and how many pages."""
    ids, pages, token = [], 0, ""
    while True:
        page = await muster.tasks.ListTasks(task_pb2.ListTasksRequest(page_token=token, **request))
        ids += [task.task_id for task in page.tasks]
        pages += 1
        token = page.next_page_token
        if not token:
            return ids, pages


async def test_submit_answers_in_the_requests_order_and_twice_the_same_is_a_duplicate(muster):
    assert [(one.task_id, one.verdict) for one in await muster.submit("a", "b", "a")] == [("a", 1), ("b", 1), ("a", DUPLICATE)]
    assert [one.verdict for one in await muster.submit("b", "c")] == [DUPLICATE, ACCEPTED]
    assert all(not one.HasField("refusal") for one in await muster.submit("a"))


async def test_an_ended_task_is_known_by_its_record(muster):
    agent = await muster.agent()
    await muster.submit(spec_of("a", payload=b"1"))
    await agent.succeed((await agent.assigned())[0])
    await eventually(lambda: not muster.scheduler.state.ended, message="the task to leave memory")
    again, other = await muster.submit(spec_of("a", payload=b"1"), spec_of("a", payload=b"2"))
    assert (again.verdict, other.verdict, other.refusal.reason) == (DUPLICATE, REFUSED, "TASK_ALREADY_EXISTS")
    assert len(agent.assignments()) == 1


async def test_a_task_as_it_lives(muster):
    before_ms = clock.wall_ms()
    await muster.submit(DETAILED)
    task = await muster.get("detailed")
    assert (task.state, task.priority, task.run, task.attempt, task.fence, task.agent_name) == (PENDING, 3, 1, 0, 0, "")
    assert (task.task_type, task.max_retries, task.parent_task_id) == ("work", 7, "the parent")
    assert before_ms <= task.create_time.ToMilliseconds() <= clock.wall_ms()
    assert not task.HasField("start_time")
    assert not task.HasField("end_time")
    assert task.waits_for.kind == task_pb2.WAIT_KIND_NO_CAPABLE_AGENT
    assert not task.HasField("spec")
    assert (await muster.get("detailed", full=True)).spec == DETAILED

    agent = await muster.agent("worker")
    (assignment,) = await agent.assigned()
    assert assignment.task == DETAILED
    assert (assignment.attempt, assignment.run, assignment.checkpoint) == (1, 1, b"")
    task = await muster.get("detailed")
    assert (task.state, task.attempt, task.fence, task.agent_name) == (RUNNING, 1, assignment.fence, "worker")
    assert task.HasField("start_time")
    assert not task.HasField("waits_for")

    usage = common_pb2.Usage(model="m", input_tokens=5, output_tokens=7, requests=1)
    renewal = agent_pb2.Renewal(
        task_id="detailed",
        fence=assignment.fence,
        progress=common_pb2.Progress(current=1, total=4, message="page 1"),
        cancel_delivered=True,
    )
    await agent.send(agent_pb2.ConnectRequest(renew=agent_pb2.Renew(attempts=[renewal])))
    await agent.until("renew_ack")
    task = await muster.get("detailed")
    assert (task.progress.current, task.progress.total, task.progress.message, task.cancel_delivered) == (1, 4, "page 1", True)

    failed = failure(
        "detailed", assignment.fence, message="no luck", type="Luck", stack_trace="at line 1", retry_after=Duration(seconds=90)
    )
    failed.outcome.usage.append(usage)
    await agent.report(failed)
    task = await muster.get("detailed")
    assert (task.state, task.attempt, task.retry_count, task.crash_count, task.undelivered_count) == (RETRYING, 1, 1, 0, 0)
    assert (task.last_failure.kind, task.last_failure.message, task.last_failure.type) == (1, "no luck", "Luck")
    assert list(task.usage) == [usage]
    assert task.waits_for.kind == task_pb2.WAIT_KIND_BACKOFF
    assert task.waits_for.until_time.ToMilliseconds() >= before_ms + 90_000

    assert await muster.cancel("detailed", reason="enough") == [task_pb2.CANCEL_VERDICT_CANCELLED]
    task = await muster.get("detailed", full=True)
    assert (task.state, task.cancel_requested, task.outcome.cancelled.reason) == (CANCELLED, True, "enough")
    assert list(task.outcome.usage) == list(task.usage) == [usage]
    assert task.HasField("end_time")


async def test_an_ended_tasks_record_says_what_memory_said(muster):
    agent = await muster.agent("worker")
    await muster.submit(DETAILED)
    (assignment,) = await agent.assigned()
    await agent.send(
        agent_pb2.ConnectRequest(
            chunks=[agent_pb2.Chunk(task_id="detailed", fence=assignment.fence, data=b"partial")],
            checkpoints=[agent_pb2.Checkpoint(task_id="detailed", fence=assignment.fence, sequence=1, data=b"saved")],
        )
    )
    await agent.until("checkpoint_acks")
    assert (await muster.get("detailed", full=True)).checkpoint == b"saved"
    await agent.succeed(assignment, b"output")
    with muster.shard.records.open():  # holds what has ended in memory
        pass
    await eventually(lambda: not muster.scheduler.state.ended, message="the task to leave memory")
    task = await muster.get("detailed", full=True)
    assert (task.state, task.priority, task.run, task.attempt, task.fence) == (COMPLETED, 3, 1, 1, assignment.fence)
    assert (task.agent_name, task.max_retries, task.parent_task_id, task.cancel_requested) == ("worker", 7, "the parent", False)
    assert (task.spec, task.outcome.success.payload) == (DETAILED, b"output")
    assert task.create_time.ToMilliseconds() <= task.start_time.ToMilliseconds() <= task.end_time.ToMilliseconds()
    basic = await muster.get("detailed")
    assert not basic.HasField("spec")
    assert not basic.HasField("outcome")


async def test_a_task_that_is_nowhere(muster):
    for call in (
        muster.tasks.GetTask(task_pb2.GetTaskRequest(task_id="nowhere")),
        muster.tasks.ExplainTask(task_pb2.ExplainTaskRequest(task_id="nowhere")),
    ):
        refused = await refusal(call)
        assert (refused.code.name, refused.reason, refused.domain) == ("NOT_FOUND", "TASK_NOT_FOUND", "muster")


async def test_lists_live_tasks_by_age_then_ended_ones_the_latest_first(muster):
    agent = await muster.agent(ready=10)
    await muster.submit("e1", "e2", "e3")
    for number, assignment in enumerate(await agent.assigned(3)):
        await agent.succeed(assignment, batch_id=number)
    await muster.submit(*(spec_of(f"l{n}", "other") for n in range(4)))
    expected = ["l0", "l1", "l2", "l3", "e3", "e2", "e1"]
    for size in (0, 1, 2, 3, 7, 1000, 2**31 - 1):
        assert (await _list(muster, page_size=size))[0] == expected, size
    assert (await _list(muster, page_size=1))[1] <= 8


async def test_pages_are_stable_while_tasks_come_and_end(muster):
    """Each task that was there from beginning to end appears exactly once."""
    agent = await muster.agent()
    await muster.submit(*(spec_of(f"stay{n}", "other") for n in range(6)))
    first = await muster.tasks.ListTasks(task_pb2.ListTasksRequest(page_size=3))
    await muster.submit("comes")
    await agent.succeed((await agent.assigned())[0])
    await muster.cancel("stay0")  # was told of, and ends
    second = await muster.tasks.ListTasks(task_pb2.ListTasksRequest(page_size=3, page_token=first.next_page_token))
    rest, token = [], second.next_page_token
    while token:
        page = await muster.tasks.ListTasks(task_pb2.ListTasksRequest(page_size=3, page_token=token))
        rest += page.tasks
        token = page.next_page_token
    ids = [task.task_id for task in [*first.tasks, *second.tasks, *rest] if task.state == PENDING]
    assert ids == [f"stay{n}" for n in range(6)]


@pytest.mark.parametrize("wanted,expected", [
    ("state = PENDING", ["p-1", "p-2"]),
    ("state != PENDING AND task_type = work", ["done"]),
    ("priority >= HIGH", ["p-2"]),
    ('task_id = "p-*"', ["p-1", "p-2"]),
    ("agent = worker", ["done"]),
    ("parent_task_id = mother", ["p-1"]),
    ("NOT (state = PENDING OR state = COMPLETED)", []),
    ("", ["p-1", "p-2", "done"]),
])  # fmt: skip
async def test_a_filter_holds_for_live_and_ended_tasks(muster, wanted, expected):
    agent = await muster.agent("worker")
    await muster.submit("done", spec_of("p-1", "other", parent_task_id="mother"), spec_of("p-2", "other", priority=3))
    await agent.succeed((await agent.assigned())[0])
    assert (await _list(muster, filter=wanted))[0] == expected


async def test_cancels_what_waits_asks_what_runs_and_says_what_has_ended(muster):
    agent = await muster.agent()
    await muster.submit("done", "runs", spec_of("waits", "other"))
    done, runs = await agent.assigned(2)
    await agent.succeed(done)
    await eventually(lambda: not muster.scheduler.state.ended, message="the task to leave memory")
    verdicts = await muster.cancel("waits", "runs", "done", "nowhere", "waits", reason="enough")
    assert verdicts == [
        task_pb2.CANCEL_VERDICT_CANCELLED,
        task_pb2.CANCEL_VERDICT_REQUESTED,
        task_pb2.CANCEL_VERDICT_ALREADY_ENDED,
        task_pb2.CANCEL_VERDICT_NOT_FOUND,
        task_pb2.CANCEL_VERDICT_ALREADY_ENDED,
    ]
    (cancel,) = await agent.until("cancels")
    assert (cancel.task_id, cancel.fence, cancel.reason, cancel.lost) == ("runs", runs.fence, "enough", False)
    assert (await muster.get("runs")).cancel_requested
    await agent.send(agent_pb2.ConnectRequest(renew=agent_pb2.Renew(attempts=[agent_pb2.Renewal(task_id="runs", fence=runs.fence)])))
    (exception,) = (await agent.until("renew_ack")).exceptions
    assert (exception.task_id, exception.fence, exception.verdict) == ("runs", runs.fence, agent_pb2.RENEW_VERDICT_CANCEL)
    outcome = common_pb2.Outcome(cancelled=common_pb2.Cancelled(reason="stopped"))
    await agent.report(agent_pb2.AttemptResult(task_id="runs", fence=runs.fence, outcome=outcome), batch_id=2)
    assert (await muster.get("runs", full=True)).outcome.cancelled.reason == "enough"


async def test_explains_what_rules_each_agent_out(muster):
    await muster.submit("a")
    alone = await _explain(muster, "a")
    assert (alone.task.waits_for.kind, alone.ahead, list(alone.agents)) == (task_pb2.WAIT_KIND_NO_CAPABLE_AGENT, 0, [])
    assert "no connected agent offers work" in alone.summary

    await muster.agent("incapable", ["other"])
    await muster.agent("unready", ready=0)
    full = await muster.agent("full", ready=10, max_concurrent_tasks=1)
    await full.assigned()
    await muster.agent("leaving", ready=0)
    await muster.agents.DrainAgent(agent_pb2.DrainAgentRequest(agent_name="leaving"))
    gone = await muster.agent("gone", ["sometimes"])
    await muster.submit(spec_of("s", "sometimes"))
    await gone.assigned()
    await gone.leave()
    await eventually(lambda: not muster.scheduler.load.agents["gone"].session, message="its session to end")
    await muster.submit("b", "c", spec_of("urgent", priority=4))

    answer = await _explain(muster, "c")
    ruled = {agent.agent_name: [reason.kind for reason in agent.ruled_out] for agent in answer.agents}
    assert ruled == {
        "incapable": [task_pb2.RULED_OUT_KIND_MISSING_CAPABILITY],
        "unready": [task_pb2.RULED_OUT_KIND_NOT_READY],
        "full": [task_pb2.RULED_OUT_KIND_AT_CAPACITY],
        "leaving": [task_pb2.RULED_OUT_KIND_DRAINING],
        "gone": [task_pb2.RULED_OUT_KIND_DISCONNECTED],
    }
    assert [agent.agent_name for agent in answer.agents][-2:] in (["incapable", "gone"], ["gone", "incapable"])
    assert all(reason.message for agent in answer.agents for reason in agent.ruled_out)
    (row,) = [agent for agent in answer.agents if agent.agent_name == "full"]
    assert (row.running, row.max_concurrent_tasks) == (1, 1)
    assert (answer.ahead, answer.task.waits_for.kind) == (2, task_pb2.WAIT_KIND_AGENTS_FULL)
    assert "2 ready tasks" in answer.summary

    assert "Agent full runs it" in (await _explain(muster, "a")).summary
    await muster.cancel("b")
    assert "CANCELLED" in (await _explain(muster, "b")).summary


async def test_explains_a_drain_and_a_backoff(muster):
    agent = await muster.agent("only")
    await muster.submit(
        spec_of("a", retry_policy=common_pb2.RetryPolicy(initial_backoff=Duration(seconds=99), max_backoff=Duration(seconds=99)))
    )
    (assignment,) = await agent.assigned()
    await agent.report(failure("a", assignment.fence, retry_after=Duration(seconds=99)))
    assert (await _explain(muster, "a")).task.waits_for.kind == task_pb2.WAIT_KIND_BACKOFF
    await agent.send(agent_pb2.ConnectRequest(drain=agent_pb2.AgentDrain(reason="SIGTERM")))
    await muster.submit("b")
    await eventually(lambda: muster.scheduler.load.agents["only"].free_slots() == 0, message="the drain")
    assert (await _explain(muster, "b")).task.waits_for.kind == task_pb2.WAIT_KIND_AGENTS_DRAINING


async def test_failures_are_retried_as_the_policy_says(muster):
    agent = await muster.agent()
    quick = common_pb2.RetryPolicy(max_retries=1, initial_backoff=Duration(nanos=1_000_000))
    await muster.submit(spec_of("twice", retry_policy=quick), spec_of("once", retry_policy=quick))
    for assignment in await agent.assigned(2):
        await agent.report(
            failure(assignment.task.task_id, assignment.fence, non_retryable=assignment.task.task_id == "once", message="no")
        )
    assert (await muster.get("once")).state == FAILED
    third = (await agent.assigned(3))[-1]
    assert (third.task.task_id, third.attempt) == ("twice", 2)
    await agent.report(failure("twice", third.fence, message="no again"), batch_id=3)
    task = await muster.get("twice", full=True)
    assert (task.state, task.retry_count, task.attempt, task.outcome.failure.message) == (FAILED, 1, 2, "no again")


async def test_namespaces_share_nothing(muster):
    from muster.v1 import admin_pb2

    created = (await muster.admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name="other"))).namespace
    assert created.name == "other"
    await muster.submit("a")
    there = await muster.agent("worker", namespace="other")
    elsewhere = (("muster-namespace", "other"),)
    refused = await refusal(muster.tasks.GetTask(task_pb2.GetTaskRequest(task_id="a"), metadata=elsewhere))
    assert refused.reason == "TASK_NOT_FOUND"
    client = await muster.session(namespace="other")
    await client.submit(spec_of("a", payload=b"another"))
    (assignment,) = await there.assigned()
    assert assignment.task.payload == b"another"
    assert (await muster.get("a")).state == PENDING
    assert [one.task_id for one in (await muster.tasks.ListTasks(task_pb2.ListTasksRequest(), metadata=elsewhere)).tasks] == ["a"]


async def test_timeouts_of_an_attempt_cost_a_retry():
    core = Settings(lease_s=30.0)
    async with hosted(core=core) as muster:
        agent = await muster.agent()
        none = common_pb2.RetryPolicy(max_retries=0)
        short = Duration(nanos=300_000_000)
        await muster.submit(
            spec_of("slow", run_timeout=short, retry_policy=none), spec_of("stuck", progress_timeout=short, retry_policy=none)
        )
        await agent.assigned(2)
        await agent.acknowledge_all()
        slow, stuck = await muster.in_state("slow", FAILED), await muster.in_state("stuck", FAILED)
        kinds = (slow.last_failure.kind, stuck.last_failure.kind)
        assert kinds == (common_pb2.FAILURE_KIND_RUN_TIMEOUT, common_pb2.FAILURE_KIND_PROGRESS_TIMEOUT)
        await eventually(
            lambda: (
                sorted((one.task_id, one.lost) for message in agent.received for one in message.cancels)
                == [("slow", True), ("stuck", True)]
            ),
            message="the agent to be told",
        )
