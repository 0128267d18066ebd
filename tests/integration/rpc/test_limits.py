"""Limits over gRPC: what is refused, what waits and says why, what is listed, what bad requests get."""

import pytest
from google.protobuf.duration_pb2 import Duration
from muster.v1 import admin_pb2, common_pb2, policy_pb2, task_pb2

from coordinator import convert_limits, convert_policies
from coordinator.core.policies import ConcurrencyLimitPolicy, PolicyKind, PolicyName, RateLimitPolicy, StandingPolicy, WhenFull
from coordinator.errors import InvalidRequest
from tests.support.hosted import MemoryShard, hosted

ACCEPTED, REFUSED = task_pb2.SUBMIT_VERDICT_ACCEPTED, task_pb2.SUBMIT_VERDICT_REFUSED


def running(key, number, when_full=policy_pb2.WHEN_FULL_UNSPECIFIED):
    return policy_pb2.Policy(
        concurrency_limit=policy_pb2.ConcurrencyLimitPolicy(concurrency_key=key, max_running=number, when_full=when_full)
    )


def starts(key, count, seconds=60):
    return policy_pb2.Policy(rate_limit=policy_pb2.RateLimitPolicy(rate_key=key, count=count, period=Duration(seconds=seconds)))


def task(task_id, **scheduling):
    return common_pb2.TaskSpec(task_id=task_id, task_type="work", scheduling=common_pb2.Scheduling(**scheduling))


async def put(muster, *policies):
    await muster.admin.SetPolicies(admin_pb2.SetPoliciesRequest(policies=policies))


async def explained(muster, task_id):
    return (await muster.tasks.ExplainTask(task_pb2.ExplainTaskRequest(task_id=task_id))).task.waits_for


async def limits(muster, **options):
    return await muster.admin.ListLimits(admin_pb2.ListLimitsRequest(**options))


async def test_a_full_key_refuses_and_says_how_full_it_is():
    data = MemoryShard()
    async with hosted(data=data) as muster:
        await put(muster, running("k", 2, policy_pb2.WHEN_FULL_REJECT))
        answers = await muster.submit(*(task(f"t{number}", concurrency_key="k") for number in range(4)))
        assert [one.verdict for one in answers] == [ACCEPTED, ACCEPTED, REFUSED, REFUSED]
        refusal = answers[2].refusal
        assert (refusal.code, refusal.reason, refusal.HasField("retry_after")) == (8, "CONCURRENCY_LIMIT", False)
        assert dict(refusal.metadata) == {"limit": "concurrency_key", "used": "2", "allowed": "2"}
        [again] = await muster.submit(task("t1", concurrency_key="k"))
        assert again.verdict == task_pb2.SUBMIT_VERDICT_DUPLICATE
    async with hosted(data=data) as muster:
        [refused] = await muster.submit(task("t9", concurrency_key="k"))
        assert refused.refusal.reason == "CONCURRENCY_LIMIT"


async def test_what_waits_says_for_which_limit_and_who_uses_it():
    async with hosted() as muster:
        await put(muster, running("k", 1), running("none", 0), starts("r*", 1), starts("never", 0))
        await muster.agent("agent")
        options = [{"concurrency_key": "k"}] * 2 + [{"concurrency_key": "none"}] + [{"rate_key": "r1"}] * 2 + [{"rate_key": "never"}]
        await muster.submit(*(task(f"t{number}", **one) for number, one in enumerate(options)))
        why = await explained(muster, "t1")
        assert why.kind == task_pb2.WAIT_KIND_CONCURRENCY_LIMIT
        assert why.message == "1 of concurrency key k run, of the 1 that its limit allows: t0"
        assert (await explained(muster, "t2")).message == "the limit of concurrency key none lets nothing run: its max_running is 0"
        why = await explained(muster, "t4")
        assert why.kind == task_pb2.WAIT_KIND_RATE_LIMIT
        assert why.message == "rate key r1 has begun all 1 that its limit allows in 60 s"
        assert why.HasField("until_time")
        assert (await explained(muster, "t5")).message == "the limit of rate key never lets nothing begin: its count is 0"
        listed = (await limits(muster)).limits
        shown = [(one.key, one.running, one.waiting, one.started, one.HasField("next_time")) for one in listed]
        assert shown == [("k", 1, 1, 0, False), ("none", 0, 1, 0, False), ("never", 0, 1, 0, False), ("r1", 0, 1, 1, True)]
        stats = await muster.admin.GetQueueStats(admin_pb2.GetQueueStatsRequest())
        assert stats.queues[0].waits_for.startswith("1 of concurrency key k")


async def test_limits_come_in_pages():
    async with hosted() as muster:
        await put(muster, running("k*", 1), running("unused", 3), starts("r*", 1))
        await muster.submit(*(task(f"t{number}", concurrency_key=f"k{number}", rate_key=f"r{number}") for number in range(5)))
        keys, token = [], ""
        while True:
            page = await limits(muster, page_size=3, page_token=token)
            keys += [one.key for one in page.limits]
            token = page.next_page_token
            if not token:
                break
        assert keys == [*(f"k{number}" for number in range(5)), "unused", *(f"r{number}" for number in range(5))]


@pytest.mark.parametrize(
    "message, field, says",
    [
        (running("", 1), "concurrency_limit", "neither concurrency_key and task_type"),
        (
            policy_pb2.Policy(concurrency_limit=policy_pb2.ConcurrencyLimitPolicy(concurrency_key="a", task_type="b", max_running=1)),
            "concurrency_limit",
            "both",
        ),
        (running("a*b", 1), "concurrency_limit.concurrency_key", "only stand at the end"),
        (running("a" * 129, 1), "concurrency_limit.concurrency_key", "at most 128"),
        (running("task_type=x", 1), "concurrency_limit.concurrency_key", "give task_type"),
        (running("a", 2_000_000_000), "concurrency_limit.max_running", "at most"),
        (running("a", 1, 9), "concurrency_limit.when_full", "use 1"),
        (
            policy_pb2.Policy(concurrency_limit=policy_pb2.ConcurrencyLimitPolicy(concurrency_key="a")),
            "concurrency_limit.max_running",
            "isn't given",
        ),
        (
            policy_pb2.Policy(
                concurrency_limit=policy_pb2.ConcurrencyLimitPolicy(task_type="a", max_running=1, when_full=policy_pb2.WHEN_FULL_REJECT)
            ),
            "concurrency_limit.when_full",
            "can only WAIT",
        ),
        (starts("a", 1, seconds=0), "rate_limit.period", "from 0.001"),
        (starts("a", 1, seconds=-1), "rate_limit.period", "negative"),
        (starts("a", 1, seconds=10**9), "rate_limit.period", "a year"),
        (
            policy_pb2.Policy(rate_limit=policy_pb2.RateLimitPolicy(rate_key="a", count=1, period=Duration(nanos=1_500_000))),
            "rate_limit.period",
            "whole milliseconds",
        ),
        (
            policy_pb2.Policy(rate_limit=policy_pb2.RateLimitPolicy(rate_key="a", period=Duration(seconds=1))),
            "rate_limit.count",
            "isn't given",
        ),
        (starts("a", 4_000_000_000), "rate_limit.count", "at most"),
    ],
)
def test_what_cannot_be_is_refused(message, field, says):
    with pytest.raises(InvalidRequest, match=says) as refused:
        convert_policies.policy_in(message, "p")
    assert refused.value.field == f"p.{field}"


@pytest.mark.parametrize(
    "policy",
    [
        ConcurrencyLimitPolicy("user:*", "", 0, WhenFull.CANCEL_OLDEST),
        ConcurrencyLimitPolicy("", "work", 7),
        RateLimitPolicy("key", "", 1_000_000, 1),
        RateLimitPolicy("", "w*", 0, 31_622_400_000),
    ],
)
def test_what_is_read_is_what_was_written(policy):
    message = convert_policies.policy_out(policy)
    assert convert_policies.policy_in(message, "p") == policy
    assert convert_policies.standing_stored(convert_policies.standing_out(StandingPolicy(policy, 5))).policy == policy
    name = PolicyName(PolicyKind.RATE_LIMIT, "task_type=work")
    log = (name, "work", ((1_700_000_000_000, 3), (1_700_000_000_007, 1)))
    assert convert_limits.rate_log_stored(convert_limits.rate_log_out(*log)) == log
