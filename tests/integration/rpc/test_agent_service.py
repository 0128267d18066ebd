"""The agent stream and its service, field by field, as muster/v1/agent.proto describes them."""

import asyncio

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from muster.v1 import admin_pb2, agent_pb2, common_pb2, task_pb2

from coordinator.core.model import Settings
from tests.support.eventually import eventually
from tests.support.hosted import PATIENT_S, MemoryShard, hosted, spec_of, success
from tests.support.refusals import refusal

DUPLICATE, STALE, UNKNOWN = agent_pb2.RESULT_VERDICT_DUPLICATE, agent_pb2.RESULT_VERDICT_STALE, agent_pb2.RESULT_VERDICT_UNKNOWN
KEEP, DROP, CANCEL = agent_pb2.RECONCILE_VERDICT_KEEP, agent_pb2.RECONCILE_VERDICT_DROP, agent_pb2.RECONCILE_VERDICT_CANCEL
PENDING, RUNNING = common_pb2.TASK_STATE_PENDING, common_pb2.TASK_STATE_RUNNING
CONNECTED, DISCONNECTED, DRAINING = 1, 2, 3


async def _agents(muster):
    return {agent.agent_name: agent for agent in (await muster.agents.ListAgents(agent_pb2.ListAgentsRequest())).agents}


def _verdicts(ack):
    return [(one.index, one.verdict) for one in ack.exceptions]


async def test_welcome_says_the_terms(muster):
    core = Settings()
    agent = await muster.agent("newcomer")
    welcome = agent.received[0].welcome
    assert welcome.lease.seconds == core.lease_s
    assert welcome.renew_period.seconds == core.renew_period_s
    assert welcome.ack_timeout.seconds == core.ack_timeout_s
    assert welcome.session_grace.seconds == core.session_grace_s
    assert (welcome.max_payload_bytes, welcome.max_checkpoint_bytes) == (2**20, 2**18)
    assert welcome.session_id
    assert agent.received[0].HasField("reconcile")
    assert not agent.received[0].reconcile.attempts


async def test_nothing_is_assigned_beyond_ready_or_capacity_and_ready_is_a_level(muster):
    await muster.submit(*(f"t{n}" for n in range(9)))
    agent = await muster.agent("worker", ready=2, max_concurrent_tasks=4)
    await agent.assigned(2)
    await agent.ready(2)
    await agent.ready(100)
    await agent.assigned(4)
    info = (await _agents(muster))["worker"]
    assert (info.running, info.max_concurrent_tasks, info.ready_limit) == (4, 4, 100)
    assert len(agent.assignments()) == 4
    await agent.ready(0)
    for number, assignment in enumerate(agent.assignments()):
        await agent.succeed(assignment, batch_id=number)
    assert len(agent.assignments()) == 4
    batches = [message.assign.batch_id for message in agent.received if message.HasField("assign")]
    assert batches == list(range(1, len(batches) + 1))


async def test_an_agent_that_comes_back_is_told_what_to_keep(muster):
    await muster.submit("keep", "cancelled", "done", "omitted", "unsent")
    first = await muster.agent("worker", session_nonce="one process")
    await first.assigned(5)
    await first.acknowledge_all()
    fences = {one.task.task_id: one.fence for one in first.assignments()}
    await first.succeed(next(one for one in first.assignments() if one.task.task_id == "done"))
    await muster.cancel("cancelled")
    await first.leave()
    held = [("keep", fences["keep"]), ("cancelled", fences["cancelled"]), ("done", fences["done"]), ("keep", 1), ("nowhere", 5)]
    in_flight = [{"task_id": task_id, "fence": fence} for task_id, fence in held]
    second = await muster.agent("worker", session_nonce="one process", in_flight=in_flight, ready=0)
    reconciled = second.received[0].reconcile.attempts
    assert [(one.task_id, one.fence) for one in reconciled] == held
    assert [one.verdict for one in reconciled] == [KEEP, CANCEL, DROP, DROP, DROP]
    for task_id in ("omitted", "unsent"):
        task = await muster.get(task_id)
        assert (task.crash_count, task.agent_name) == (1, "worker")
    assert (await muster.get("keep")).state == RUNNING
    assert not (await second.report(success("keep", fences["keep"]))).exceptions


async def test_results_are_accepted_once_and_judged_by_their_fence(muster):
    await muster.submit("a", "b")
    agent = await muster.agent()
    a, b = await agent.assigned(2)
    other = await muster.agent("other", ["other"])
    ack = await agent.report(
        success("a", a.fence + 1), success("a", a.fence), success("a", a.fence), success("a", 0), success("nowhere", 7), batch_id=4
    )
    assert _verdicts(ack) == [(0, STALE), (2, DUPLICATE), (3, STALE), (4, UNKNOWN)]
    assert all(one.message for one in ack.exceptions)
    assert _verdicts(await other.report(success("b", b.fence))) == [(0, STALE)]
    assert (await muster.get("b")).state == RUNNING
    await eventually(lambda: not muster.scheduler.state.ended, message="the task to leave memory")
    ack = await agent.report(success("a", a.fence), success("a", a.fence + 1), success("b", b.fence), batch_id=5)
    assert sorted(_verdicts(ack)) == [(0, DUPLICATE), (1, STALE)]
    stats = await muster.admin.GetQueueStats(admin_pb2.GetQueueStatsRequest())
    assert stats.stale_results_total >= 3


async def test_results_are_judged_the_same_after_a_restart():
    data = MemoryShard()
    async with hosted(data=data) as muster:
        await muster.submit("done", "runs", "retried")
        agent = await muster.agent("worker")
        done, runs, retried = await agent.assigned(3)
        await agent.acknowledge_all()
        await agent.succeed(done)
        failed = common_pb2.Outcome(failure=common_pb2.Failure(message="no", retry_after=Duration(seconds=99)))
        await agent.report(agent_pb2.AttemptResult(task_id="retried", fence=retried.fence, outcome=failed), batch_id=2)
        held = [{"task_id": one.task.task_id, "fence": one.fence} for one in (done, runs, retried)]
    async with hosted(data=data) as muster:
        assert (await muster.get("runs")).agent_name == "worker"
        agent = await muster.agent("worker", in_flight=held)
        assert [one.verdict for one in agent.received[0].reconcile.attempts] == [DROP, KEEP, DROP]
        ack = await agent.report(
            success("done", done.fence),
            success("done", done.fence - 1),
            success("runs", runs.fence),
            success("gone", 1),
            success("retried", retried.fence),
        )
        assert sorted(_verdicts(ack)) == [(0, DUPLICATE), (1, STALE), (3, UNKNOWN), (4, DUPLICATE)]
        assert (await muster.get("runs")).state == common_pb2.TASK_STATE_COMPLETED
        await muster.submit("next")
        following = (await agent.assigned())[0]
        assert following.fence > max(done.fence, runs.fence, retried.fence)
        muster.check()


async def test_what_no_agent_claims_after_a_restart_is_given_up_after_a_lease():
    data = MemoryShard()
    async with hosted(data=data) as muster:
        await muster.submit("a")
        agent = await muster.agent("worker")
        await agent.assigned()
    async with hosted(data=data, core=Settings(lease_s=0.6, renew_period_s=0.2)) as muster:
        assert (await muster.get("a")).state == RUNNING
        other = await muster.agent("other")

        async def assigned():  # a silent stream would be ended
            await other.send(agent_pb2.ConnectRequest(renew=agent_pb2.Renew()))
            return other.assignments()

        (assignment,) = await eventually(assigned, within_s=PATIENT_S, message="the assignment")
        assert (assignment.task.task_id, assignment.attempt) == ("a", 1)


async def test_renewals_are_extended_but_for_exceptions():
    async with hosted(core=Settings(lease_s=0.8, renew_period_s=0.2)) as muster:
        await muster.submit("held", "lost", "cancelled")
        agent = await muster.agent("worker", ready=3)
        await agent.assigned(3)
        await agent.acknowledge_all()
        fences = {one.task.task_id: one.fence for one in agent.assignments()}
        await muster.cancel("cancelled")

        async def renewed():
            attempts = [agent_pb2.Renewal(task_id=task_id, fence=fences[task_id]) for task_id in ("held", "cancelled")]
            await agent.send(agent_pb2.ConnectRequest(renew=agent_pb2.Renew(attempts=attempts, loop_lag=Duration(nanos=5_000_000))))
            return (await muster.get("lost")).crash_count == 1

        await eventually(renewed, within_s=PATIENT_S, message="the lease to end that isn't renewed")
        assert (await muster.get("held")).state == RUNNING
        wrong = [agent_pb2.Renewal(task_id="lost", fence=fences["lost"]), agent_pb2.Renewal(task_id="nowhere", fence=1)]
        await agent.send(agent_pb2.ConnectRequest(renew=agent_pb2.Renew(attempts=wrong)))
        await eventually(lambda: len(agent.received[-1].renew_ack.exceptions) == 2, message="the exceptions")
        exceptions = [one for message in agent.received for one in message.renew_ack.exceptions]
        verdicts = {(one.task_id, one.verdict) for one in exceptions}
        assert verdicts == {
            ("cancelled", agent_pb2.RENEW_VERDICT_CANCEL),
            ("lost", agent_pb2.RENEW_VERDICT_LOST),
            ("nowhere", agent_pb2.RENEW_VERDICT_LOST),
        }
        (cancel,) = [one for message in agent.received for one in message.cancels if one.task_id == "lost"]
        assert cancel.lost
        assert _verdicts(await agent.report(success("lost", fences["lost"]))) == [(0, STALE)]
        assert (await _agents(muster))["worker"].loop_lag.nanos == 0
        muster.check()


async def test_an_assignment_that_nobody_acknowledges_goes_on_at_no_cost_and_five_times_at_most():
    async with hosted(core=Settings(ack_timeout_s=0.05)) as muster:
        await muster.submit("a")
        deaf = await muster.agent("deaf", ready=1)
        task = await muster.in_state("a", common_pb2.TASK_STATE_FAILED)
        assert (task.undelivered_count, task.retry_count, task.crash_count) == (5, 0, 0)
        assert task.last_failure.kind == common_pb2.FAILURE_KIND_UNDELIVERED
        assert [one.attempt for one in deaf.assignments()] == [1] * 5
        fences = [one.fence for one in deaf.assignments()]
        assert fences == sorted(set(fences))


async def test_checkpoints_reach_the_next_attempt_once_acknowledged(muster):
    await muster.submit("a")
    agent = await muster.agent("first")
    (assignment,) = await agent.assigned()
    checkpoints = [
        agent_pb2.Checkpoint(task_id="a", fence=assignment.fence, sequence=1, data=b"one"),
        agent_pb2.Checkpoint(task_id="a", fence=assignment.fence, sequence=2, data=b"two"),
        agent_pb2.Checkpoint(task_id="a", fence=assignment.fence + 1, sequence=3, data=b"stale"),
        agent_pb2.Checkpoint(task_id="nowhere", fence=1, sequence=4, data=b"unknown"),
    ]
    await agent.send(agent_pb2.ConnectRequest(checkpoints=checkpoints))
    acks = await agent.until("checkpoint_acks")
    assert [(one.task_id, one.fence, one.sequence, one.verdict) for one in acks] == [
        ("a", assignment.fence, 1, agent_pb2.RESULT_VERDICT_ACCEPTED),
        ("a", assignment.fence, 2, agent_pb2.RESULT_VERDICT_ACCEPTED),
        ("a", assignment.fence + 1, 3, STALE),
        ("nowhere", 1, 4, UNKNOWN),
    ]
    returned = common_pb2.Outcome(returned=common_pb2.Returned(reason="drain"))
    await agent.send(agent_pb2.ConnectRequest(drain=agent_pb2.AgentDrain(reason="SIGTERM")))
    await agent.report(agent_pb2.AttemptResult(task_id="a", fence=assignment.fence, outcome=returned))
    task = await muster.get("a")
    assert (task.state, task.retry_count, task.crash_count, task.attempt) == (PENDING, 0, 0, 0)
    second = await muster.agent("second")
    (again,) = await second.assigned()
    assert (again.checkpoint, again.attempt) == (b"two", 1)
    assert again.fence > assignment.fence
    assert _verdicts(await agent.report(success("a", assignment.fence), batch_id=2)) == [(0, DUPLICATE)]


async def test_a_drained_agent_gets_nothing_new_and_is_told_why(muster):
    agent = await muster.agent("worker")
    await muster.submit("a")
    (assignment,) = await agent.assigned()
    request = agent_pb2.DrainAgentRequest(agent_name="worker", deadline=Duration(seconds=7), reason="upgrade")
    drained = (await muster.agents.DrainAgent(request)).agent
    assert (drained.state, drained.running) == (DRAINING, 1)
    drain = await agent.until("drain")
    assert (drain.deadline.seconds, drain.reason) == (7, "upgrade")
    await muster.submit("b")
    await agent.succeed(assignment)
    assert (await muster.get("b")).state == PENDING
    await agent.leave()
    await eventually(lambda: "worker" not in muster.scheduler.load.agents, message="the agent to be forgotten")
    refused = await refusal(muster.agents.DrainAgent(request))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND")


async def test_a_drain_has_its_defaults(muster):
    agent = await muster.agent("worker")
    await muster.agents.DrainAgent(agent_pb2.DrainAgentRequest(agent_name="worker"))
    drain = await agent.until("drain")
    assert drain.deadline.seconds == 30
    assert drain.reason


async def test_lists_agents_by_name_in_pages(muster):
    await muster.agent("b", ["x", "y"], labels={"zone": "1"}, sdk="test/1", max_concurrent_tasks=3)
    await muster.agent("a", ready=None)
    gone = await muster.agent("c", ["z"])
    await muster.submit(spec_of("held", "z"))
    await gone.assigned()
    await gone.leave()
    await eventually(lambda: not muster.scheduler.load.agents["c"].session, message="its session to end")
    rows = await _agents(muster)
    assert list(rows) == ["a", "b", "c"]
    b = rows["b"]
    assert [one.task_type for one in b.capabilities] == ["x", "y"]
    assert (dict(b.labels), b.sdk, b.max_concurrent_tasks, b.ready_limit, b.running) == ({"zone": "1"}, "test/1", 3, 10, 0)
    assert (rows["a"].max_concurrent_tasks, rows["a"].ready_limit, rows["a"].state) == (10, 0, CONNECTED)
    assert (rows["c"].state, list(rows["c"].task_ids)) == (DISCONNECTED, ["held"])
    assert b.HasField("since_time")
    names, token = [], ""
    for _ in range(3):
        page = await muster.agents.ListAgents(agent_pb2.ListAgentsRequest(page_size=1, page_token=token))
        names += [agent.agent_name for agent in page.agents]
        token = page.next_page_token
    assert (names, token) == (["a", "b", "c"], "")


async def test_a_session_outlives_its_stream_for_its_grace():
    async with hosted(core=Settings(session_grace_s=0.3, lease_s=30)) as muster:
        await muster.submit("a")
        agent = await muster.agent("worker")
        await agent.assigned()
        await agent.acknowledge_all()
        await muster.agents.ListAgents(agent_pb2.ListAgentsRequest())
        await eventually(lambda: muster.scheduler.load.agents["worker"].running, message="it to run")
        await agent.leave()
        other = await muster.agent("other")
        (assignment,) = await other.assigned()
        assert assignment.attempt == 2
        assert (await muster.get("a")).crash_count == 1


async def test_an_agent_that_never_reads_loses_its_leases_and_nobody_else_anything(muster):
    deaf = muster.agents.Connect()
    from tests.support.hosted import hello_of

    await deaf.write(agent_pb2.ConnectRequest(hello=hello_of("deaf")))
    await eventually(lambda: "deaf" in muster.scheduler.load.agents, message="it to connect")
    (stream,) = muster.shard.agent_sinks.values()
    results = agent_pb2.ResultBatch(results=[success(f"{n}" + "x" * 100, 1) for n in range(2000)])

    async def flood():
        while True:
            await deaf.write(agent_pb2.ConnectRequest(results=results))

    flooding = asyncio.create_task(flood())
    from coordinator.rpc import agent_stream

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent_stream, "MAX_UNANSWERED", 32)
        await eventually(lambda: stream._unanswered >= 32, within_s=30, message="the limit")
        await muster.is_alive()
        assert stream._unanswered <= 40
    flooding.cancel()
    replacement = await muster.agent("deaf", session_nonce="a new process")
    assert replacement.received[0].HasField("welcome")
    await eventually(lambda: stream not in muster.shard.agent_sinks.values(), message="the deaf stream to end")
    deaf.cancel()


async def test_priorities_and_classes_are_served_in_order(muster):
    await muster.submit(
        *(spec_of(f"p{priority}", priority=priority) for priority in (1, 2, 3, 4)), spec_of("unserviceable", "nobody", priority=4)
    )
    agent = await muster.agent("worker", ready=1)
    seen = []
    for number in range(1, 5):
        assignment = (await agent.assigned(number))[-1]
        seen.append(assignment.task.task_id)
        await agent.succeed(assignment, batch_id=number)
    assert seen == ["p4", "p3", "p2", "p1"]
    assert (await muster.tasks.ExplainTask(task_pb2.ExplainTaskRequest(task_id="unserviceable"))).agents[0].agent_name == "worker"
