"""Delays and deadlines over gRPC: what bad ones are told, and what a task shows of them."""

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from muster.v1 import admin_pb2, agent_pb2, common_pb2, task_pb2

from tests.support.hosted import MemoryShard, hosted, spec_of

YEAR_S = 366 * 24 * 3600
REFUSED, ACCEPTED, DUPLICATE = task_pb2.SUBMIT_VERDICT_REFUSED, task_pb2.SUBMIT_VERDICT_ACCEPTED, task_pb2.SUBMIT_VERDICT_DUPLICATE


def seconds(number):
    whole = int(number)
    return Duration(seconds=whole, nanos=round((number - whole) * 1e9))


def timed(task_id, **options):
    spec = spec_of(task_id)
    spec.MergeFrom(common_pb2.TaskSpec(**options))
    return spec


@pytest.mark.usefixtures("bystanders")
@pytest.mark.parametrize(
    "options, field, says",
    [
        ({"delay": seconds(-1)}, "delay", "is negative"),
        ({"delay": seconds(YEAR_S + 1)}, "delay", "a year"),
        ({"delay": Duration(seconds=1, nanos=-1)}, "delay", "no valid Duration"),
        ({"delay": Duration(nanos=10**9)}, "delay", "no valid Duration"),
        ({"not_before": Timestamp(seconds=2**60)}, "not_before", "no valid Timestamp"),
        ({"not_before": Timestamp(seconds=-(2**60))}, "not_before", "no valid Timestamp"),
        ({"not_before": Timestamp(nanos=-1)}, "not_before", "no valid Timestamp"),
        ({"not_before": Timestamp(nanos=10**9)}, "not_before", "no valid Timestamp"),
        ({"not_before": Timestamp(seconds=253_402_300_799)}, "not_before", "at most 366"),
        ({"queue_timeout": seconds(0)}, "queue_timeout", "leave it out"),
        ({"queue_timeout": seconds(-0.5)}, "queue_timeout", "is negative"),
        ({"queue_timeout": seconds(10**9)}, "queue_timeout", "a year"),
        ({"deadline": seconds(0)}, "deadline", "leave it out"),
        ({"deadline": seconds(-3)}, "deadline", "is negative"),
        ({"deadline": seconds(2**40)}, "deadline", "a year"),
        ({"deadline": seconds(5), "delay": seconds(5)}, "deadline", "becomes ready 5 s from now"),
    ],
)
async def test_what_makes_no_sense_is_told_field_by_field(muster, options, field, says):
    bad, good = await muster.submit(timed("bad", **options), spec_of("good"))
    assert (bad.verdict, bad.refusal.code, bad.refusal.field) == (REFUSED, 3, field)
    assert bad.refusal.message.startswith(field)
    assert says in bad.refusal.message
    assert not bad.refusal.HasField("retry_after")
    assert good.verdict == ACCEPTED
    session = await muster.session()
    ack = await session.submit(timed("bad", **options), batch_id=1, first_send=True)
    assert [one.refusal.field for one in ack.exceptions] == [field], "the session says the same"


async def test_a_date_before_the_deadline_s_is_told_by_the_store_s_clock(muster):
    now_s = muster.shard.now().date_ms // 1000
    [late] = await muster.submit(timed("late", not_before=Timestamp(seconds=now_s + 100), deadline=seconds(50)))
    assert late.refusal.field == "deadline"
    [past] = await muster.submit(timed("past", not_before=Timestamp(seconds=now_s - 10**6), deadline=seconds(50)))
    assert past.verdict == ACCEPTED


async def test_a_task_shows_its_dates_while_it_waits_and_when_it_has_ended():
    data = MemoryShard()
    async with hosted(data=data) as muster:
        await muster.submit(timed("later", delay=seconds(1000), queue_timeout=seconds(60), deadline=seconds(5000)))
        task = await muster.get("later", full=True)
        assert (task.waits_for.kind, task.waits_for.message) == (task_pb2.WAIT_KIND_DELAYED, "its delay hasn't ended")
        assert task.waits_for.until_time == task.ready_time == task.history[0].ready_time
        assert task.ready_time.ToMilliseconds() == task.create_time.ToMilliseconds() + 1_000_000
        assert task.deadline_time.ToMilliseconds() == task.create_time.ToMilliseconds() + 5_000_000
        assert not task.HasField("queue_deadline_time"), "it isn't ready"
        [again] = await muster.submit(timed("later", delay=seconds(1000), queue_timeout=seconds(60), deadline=seconds(5000)))
        assert again.verdict == DUPLICATE
    async with hosted(data=data) as muster:
        assert (await muster.get("later")).ready_time == task.ready_time
        await muster.cancel("later")
        ended = await muster.get("later", full=True)
        assert (ended.ready_time, ended.deadline_time) == (task.ready_time, task.deadline_time)
        assert not ended.HasField("queue_deadline_time")
        assert ended.history[0].ready_time == task.ready_time


async def test_queue_stats_count_what_is_delayed(muster):
    await muster.submit(timed("later", delay=seconds(1000)), spec_of("now"))
    stats = await muster.admin.GetQueueStats(admin_pb2.GetQueueStatsRequest())
    assert [(row.ready, row.delayed) for row in stats.queues] == [(1, 1)]
    assert stats.pending == 2
    explained = await muster.tasks.ExplainTask(task_pb2.ExplainTaskRequest(task_id="later"))
    assert explained.summary == "It waits because its delay hasn't ended."


async def test_what_passes_its_deadlines_fails_with_its_kind(muster):
    agent = await muster.agent("ann")
    client = await muster.session()
    await client.submit(timed("held", deadline=seconds(0.3)), spec_of("other"))
    assignments = {one.task.task_id: one for one in await agent.assigned(2)}
    assert 0 < assignments["held"].time_left.ToMilliseconds() <= 300
    assert not assignments["other"].HasField("time_left")
    await agent.ready(0)
    await client.submit(timed("stale", queue_timeout=seconds(0.2)), batch_id=2)
    held, stale = await client.result("held"), await client.result("stale")
    assert held.outcome.failure.kind == common_pb2.FAILURE_KIND_DEADLINE
    assert stale.outcome.failure.kind == common_pb2.FAILURE_KIND_QUEUE_TIMEOUT
    [cancel] = await agent.until("cancels")
    assert (cancel.task_id, cancel.lost) == ("held", True)
    task = await muster.get("stale", full=True)
    assert task.queue_deadline_time.ToMilliseconds() == task.create_time.ToMilliseconds() + 200
    assert [entry.kind for entry in task.history][1:] == [common_pb2.TASK_HISTORY_KIND_GIVEN_UP]
    late = agent_pb2.AttemptResult(task_id="held", fence=assignments["held"].fence)
    late.outcome.success.SetInParent()
    ack = await agent.report(late)
    assert [one.verdict for one in ack.exceptions] == [agent_pb2.RESULT_VERDICT_STALE]
