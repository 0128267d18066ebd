"""Circuit breakers over gRPC: policies that can't be, what is told of breakers, and an operator who closes one."""

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from muster.v1 import admin_pb2, agent_pb2, common_pb2, policy_pb2, task_pb2

from tests.support.hosted import MemoryShard, hosted
from tests.support.refusals import refusal


async def fail_once(muster, agent, task_id):
    await muster.submit(task_id)
    [assignment] = [one for one in await agent.assigned() if one.task.task_id == task_id]
    failure = common_pb2.Outcome(failure=common_pb2.Failure(message="no such file"))
    await agent.report(agent_pb2.AttemptResult(task_id=task_id, fence=assignment.fence, outcome=failure))


async def test_an_open_breaker_is_told_everywhere_and_an_operator_closes_it():
    data = MemoryShard()
    async with hosted(data=data) as muster:
        policy = policy_pb2.Policy(breaker=policy_pb2.BreakerPolicy(consecutive_failures=1, max_open_share=1.0))
        await muster.admin.SetPolicies(admin_pb2.SetPoliciesRequest(policies=[policy]))
    async with hosted(data=data) as muster:  # the policy is durable
        agent = await muster.agent("ann")
        await fail_once(muster, agent, "bad")
        await muster.submit("waits")
        explained = await muster.tasks.ExplainTask(task_pb2.ExplainTaskRequest(task_id="waits"))
        why = explained.task.waits_for
        assert why.kind == task_pb2.WAIT_KIND_BREAKER_OPEN
        assert "its breaker for work is open: 1 tasks in a row failed there, the last with: no such file" in why.message
        [ruled_out] = explained.agents[0].ruled_out
        assert ruled_out.kind == task_pb2.RULED_OUT_KIND_BREAKER_OPEN
        [known] = (await muster.agents.ListAgents(agent_pb2.ListAgentsRequest())).agents
        [breaker] = known.breakers
        assert (breaker.agent_name, breaker.task_type, breaker.state) == ("ann", "work", agent_pb2.BREAKER_STATE_OPEN)
        assert breaker.until_time == why.until_time
        assert 20 <= breaker.until_time.seconds - breaker.since_time.seconds <= 30
        [row] = (await muster.admin.GetLoadMap(admin_pb2.GetLoadMapRequest())).agents
        assert row.breakers == known.breakers
        answer = await muster.admin.ResetBreakers(admin_pb2.ResetBreakersRequest(agent_name="ann", task_type="other"))
        assert not answer.breakers
        answer = await muster.admin.ResetBreakers(admin_pb2.ResetBreakersRequest(agent_name="ann", task_type="work"))
        assert list(answer.breakers) == [breaker]
        assert "waits" in [one.task.task_id for one in await agent.assigned(2)]


async def test_only_an_agent_that_is_known_can_be_reset(muster):
    refused = await refusal(muster.admin.ResetBreakers(admin_pb2.ResetBreakersRequest(agent_name="nobody")))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND")
    refused = await refusal(muster.admin.ResetBreakers(admin_pb2.ResetBreakersRequest()))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["agent_name"])


async def test_a_policy_is_answered_as_it_was_set(muster):
    given = policy_pb2.BreakerPolicy(
        task_type="llm.*",
        consecutive_failures=3,
        failure_rate=0.25,
        min_results=7,
        window=Duration(seconds=30),
        open_for=Duration(nanos=500_000_000),
        max_open_for=Duration(seconds=60),
        max_open_share=0.75,
    )
    answer = await muster.admin.SetPolicies(admin_pb2.SetPoliciesRequest(policies=[policy_pb2.Policy(breaker=given)]))
    assert answer.policies[0].breaker == given
    [listed] = (await muster.admin.ListPolicies(admin_pb2.ListPoliciesRequest())).policies
    assert listed.breaker == given


@pytest.mark.parametrize(
    "fields, field",
    [
        ({}, "breaker"),
        ({"task_type": "a"}, "breaker"),
        ({"task_type": "*", "min_results": 1}, "breaker.task_type"),
        ({"task_type": "a*b", "min_results": 1}, "breaker.task_type"),
        ({"task_type": "x" * 129, "min_results": 1}, "breaker.task_type"),
        ({"consecutive_failures": 1001}, "breaker.consecutive_failures"),
        ({"failure_rate": 1.01}, "breaker.failure_rate"),
        ({"failure_rate": -0.1}, "breaker.failure_rate"),
        ({"failure_rate": float("nan")}, "breaker.failure_rate"),
        ({"min_results": 0}, "breaker.min_results"),
        ({"min_results": 1_000_001}, "breaker.min_results"),
        ({"max_open_share": 0.0}, "breaker.max_open_share"),
        ({"max_open_share": 1.5}, "breaker.max_open_share"),
        ({"window": Duration(nanos=999_000_000)}, "breaker.window"),
        ({"window": Duration(seconds=86_401)}, "breaker.window"),
        ({"open_for": Duration()}, "breaker.open_for"),
        ({"open_for": Duration(seconds=1, nanos=1)}, "breaker.open_for"),
        ({"max_open_for": Duration(seconds=-1)}, "breaker.max_open_for"),
        ({"open_for": Duration(seconds=2), "max_open_for": Duration(seconds=1)}, "breaker.max_open_for"),
    ],
)
async def test_what_cannot_be_is_refused_by_its_field(muster, fields, field):
    policy = policy_pb2.Policy(breaker=policy_pb2.BreakerPolicy(**fields))
    refused = await refusal(muster.admin.SetPolicies(admin_pb2.SetPoliciesRequest(policies=[policy])))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [f"policies[0].{field}"])
