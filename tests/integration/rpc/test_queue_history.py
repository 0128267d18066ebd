"""GetQueueHistory and GetQueueStats, field by field, as the protos' comments promise them."""

import pytest
from google.protobuf.duration_pb2 import Duration
from muster.v1 import admin_pb2, common_pb2

from coordinator.core import scheduler
from coordinator.rpc import queue_views
from tests.support.eventually import eventually
from tests.support.hosted import failure, spec_of


async def asked(muster, task_type=""):
    return await muster.admin.GetQueueHistory(admin_pb2.GetQueueHistoryRequest(task_type=task_type))


@pytest.fixture
async def busy(muster):
    agent = await muster.agent("worker", ["work", "other"])
    await muster.submit("a", "b", "c", spec_of("o", "other", priority=common_pb2.PRIORITY_HIGH))
    for assignment in await agent.assigned(4):
        if assignment.task.task_id == "a":
            await agent.report(failure("a", assignment.fence, non_retryable=True))
        elif assignment.task.task_id != "c":
            await agent.succeed(assignment)
    return muster


async def test_windows_have_what_happened(busy):
    answer = await asked(busy)
    assert answer.HasField("since_time")
    for window in (answer.total.minute, answer.total.five_minutes, answer.total.hour):
        assert (window.submitted, window.started, window.completed, window.failed) == (4, 4, 2, 1)
        assert window.HasField("start_time")
        assert window.wait.HasField("p50")
    rows = {(row.task_type, row.priority): row for row in answer.queues}
    assert set(rows) == {("work", common_pb2.PRIORITY_NORMAL), ("other", common_pb2.PRIORITY_HIGH)}
    assert rows["work", common_pb2.PRIORITY_NORMAL].minute.submitted == 3
    assert sum(window.submitted for window in answer.total.series) == 4
    assert not answer.HasField("rest")


async def test_one_type_comes_minute_by_minute(busy):
    answer = await asked(busy, "other")
    assert [(row.task_type, row.minute.completed, sum(one.completed for one in row.series)) for row in answer.queues] == [("other", 1, 1)]
    assert answer.total.hour.submitted == 1
    assert list((await asked(busy, "nothing")).queues) == []


async def test_what_waits_and_runs_is_counted_without_a_look_at_tasks(busy, monkeypatch):
    await busy.submit(spec_of("w", "nobody"))
    monkeypatch.setattr(scheduler.Scheduler, "backoffs", None, raising=False)
    answer = await busy.admin.GetQueueStats(admin_pb2.GetQueueStatsRequest())
    assert (answer.pending, answer.running, answer.retrying) == (1, 1, 0)
    rows = {row.task_type: row for row in answer.queues}
    assert (rows["work"].running, rows["work"].ready, rows["nobody"].ready) == (1, 0, 1)
    assert rows["nobody"].HasField("oldest_wait")
    assert "nobody" in rows["nobody"].waits_for
    assert set(rows) == {"work", "nobody"}, "what has no live task has no row"


async def test_so_many_queues_are_looked_at_and_no_more(muster, monkeypatch):
    monkeypatch.setattr(queue_views, "MAX_LOOKED_AT", 5)
    await muster.submit(*(spec_of(f"t{number}", f"type-{number}") for number in range(9)))
    answer = await muster.admin.GetQueueStats(admin_pb2.GetQueueStatsRequest())
    assert len(answer.queues) == 9
    assert sum(row.HasField("oldest_wait") for row in answer.queues) == 5


async def test_a_backoff_is_delayed_and_then_not(muster):
    agent = await muster.agent("worker")
    await muster.submit(spec_of("t"))
    (assignment,) = await agent.assigned()
    await agent.report(failure("t", assignment.fence, retry_after=Duration(seconds=1)))  # jitter alone may be over at once
    answer = await muster.admin.GetQueueStats(admin_pb2.GetQueueStatsRequest())
    assert answer.retrying == 1
    assert (await asked(muster)).total.minute.retried == 1
    await eventually(lambda: len(agent.assignments()) == 2, within_s=10, message="the next attempt")
