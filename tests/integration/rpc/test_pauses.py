"""Pauses and cordons over gRPC: what is accepted and waits, what is told of it, and that nothing is assigned once a pause is answered."""

import asyncio

from google.protobuf.duration_pb2 import Duration
from muster.v1 import admin_pb2, agent_pb2, common_pb2, policy_pb2, task_pb2

from tests.support.eventually import eventually
from tests.support.hosted import MemoryShard, hosted

PENDING, RUNNING = common_pb2.TASK_STATE_PENDING, common_pb2.TASK_STATE_RUNNING
ACCEPTED = task_pb2.SUBMIT_VERDICT_ACCEPTED


async def pause(muster, task_type="", reason="", **options):
    policy = policy_pb2.Policy(pause=policy_pb2.PausePolicy(task_type=task_type, reason=reason, **options))
    return (await muster.admin.SetPolicies(admin_pb2.SetPoliciesRequest(policies=[policy]))).policies[0]


async def cordon(muster, agent_name, reason=""):
    policy = policy_pb2.Policy(cordon=policy_pb2.CordonPolicy(agent_name=agent_name, reason=reason))
    await muster.admin.SetPolicies(admin_pb2.SetPoliciesRequest(policies=[policy]))


async def delete(muster, kind, key):
    names = [policy_pb2.PolicyName(kind=kind, key=key)]
    return list((await muster.admin.DeletePolicies(admin_pb2.DeletePoliciesRequest(names=names))).names) == names


async def test_what_is_paused_says_so_everywhere_and_goes_on_after_a_restart():
    data = MemoryShard()
    async with hosted(data=data) as muster:
        policy = await pause(muster, "wo*", "the provider is down", pause_for=Duration(seconds=3600))
        assert policy.pause.end_time.seconds == policy.set_time.seconds + 3600
        await muster.agent("agent")
        [submitted] = await muster.submit("task")
        assert submitted.verdict == ACCEPTED
        assert (await muster.get("task")).waits_for.kind == task_pb2.WAIT_KIND_PAUSED
    async with hosted(data=data) as muster:
        agent = await muster.agent("agent")
        explained = await muster.tasks.ExplainTask(task_pb2.ExplainTaskRequest(task_id="task"))
        why = explained.task.waits_for
        assert (why.kind, why.message) == (task_pb2.WAIT_KIND_PAUSED, "task type wo* is paused: the provider is down")
        assert why.until_time == policy.pause.end_time
        assert explained.summary == "It waits because task type wo* is paused: the provider is down."
        [listed] = (await muster.tasks.ListTasks(task_pb2.ListTasksRequest())).tasks
        assert listed.waits_for == why
        stats = await muster.admin.GetQueueStats(admin_pb2.GetQueueStatsRequest())
        assert (stats.queues[0].ready, stats.queues[0].waits_for) == (1, why.message)
        assert not agent.assignments()
        assert await delete(muster, policy_pb2.POLICY_KIND_PAUSE, "wo*")
        await agent.assigned()


async def test_a_pause_ends_by_itself(muster):
    agent = await muster.agent("agent")
    await pause(muster, pause_for=Duration(nanos=50_000_000))
    await muster.submit("task")
    await agent.assigned()
    assert not (await muster.admin.ListPolicies(admin_pb2.ListPoliciesRequest())).policies


async def test_what_was_decided_before_a_pause_stays_and_after_its_answer_nothing_is_assigned(muster):
    """Nothing of it is durable yet as the pause comes: all of it becomes so at once."""
    agent = await muster.agent("agent")
    muster.faults.appending.clear()
    find = muster.scheduler.state.find
    before = asyncio.create_task(muster.submit("before"))
    await eventually(lambda: find("before"), message="the task to be assigned")
    pausing = asyncio.create_task(pause(muster, "work"))
    await eventually(lambda: muster.scheduler.state.policies, message="the pause to be decided")
    after = asyncio.create_task(muster.submit("after"))
    await eventually(lambda: find("after"), message="the next task to wait")
    assert not pausing.done()
    muster.faults.appending.set()
    await pausing
    assert (await muster.get("before")).state == RUNNING
    await before, await after
    await muster.submit("later")
    assert [one.task.task_id for one in await agent.assigned()] == ["before"]
    assert {(await muster.get(one)).state for one in ("after", "later")} == {PENDING}


async def test_a_cordoned_agent_finishes_and_is_shown_as_such(muster):
    agent = await muster.agent("worker")
    await muster.submit("runs")
    (assignment,) = await agent.assigned()
    await cordon(muster, "worker", "a new disk")
    await cordon(muster, "absent")
    [shown] = (await muster.agents.ListAgents(agent_pb2.ListAgentsRequest())).agents
    assert (shown.state, shown.cordon_reason, shown.running) == (agent_pb2.AGENT_STATE_CORDONED, "a new disk", 1)
    load = await muster.admin.GetLoadMap(admin_pb2.GetLoadMapRequest())
    assert (load.agents[0].state, load.agents[0].cordon_reason, load.capacity) == (agent_pb2.AGENT_STATE_CORDONED, "a new disk", 0)
    await agent.succeed(assignment)
    await muster.submit("waits")
    explained = await muster.tasks.ExplainTask(task_pb2.ExplainTaskRequest(task_id="waits"))
    [ruled_out] = explained.agents[0].ruled_out
    assert (ruled_out.kind, ruled_out.message) == (task_pb2.RULED_OUT_KIND_CORDONED, "it is cordoned: a new disk")
    assert explained.task.waits_for.message == "every agent that offers work is cordoned"
    assert agent.ended is None
    absent = await muster.agent("absent", ["other"])
    await muster.submit(common_pb2.TaskSpec(task_id="other", task_type="other"))
    assert await delete(muster, policy_pb2.POLICY_KIND_CORDON, "worker")
    await agent.assigned(2)
    assert not absent.assignments()
    [_, shown] = (await muster.agents.ListAgents(agent_pb2.ListAgentsRequest())).agents
    assert (shown.state, shown.cordon_reason) == (agent_pb2.AGENT_STATE_CONNECTED, "")
