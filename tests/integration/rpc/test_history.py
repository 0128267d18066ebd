"""A task's history over gRPC: while it lives, once its record is all there is, and for many tasks at once."""

import pytest
from google.protobuf.duration_pb2 import Duration
from muster.v1 import agent_pb2, common_pb2, task_pb2

from agent_node import clock
from tests.support.eventually import eventually
from tests.support.hosted import failure, spec_of

AT_ONCE = common_pb2.RetryPolicy(max_retries=1, initial_backoff=Duration(nanos=1_000_000), max_backoff=Duration(nanos=1_000_000))


def kinds(task):
    return [common_pb2.TaskHistoryKind.Name(entry.kind).removeprefix("TASK_HISTORY_KIND_") for entry in task.history]


async def forgotten(muster):
    await eventually(lambda: not muster.scheduler.state.ended, message="the task to leave memory")


def in_order(task):
    times = [entry.event_time.ToMilliseconds() for entry in task.history]
    assert times == sorted(times)
    assert times[0] == task.create_time.ToMilliseconds()
    assert times[-1] <= task.read_time.ToMilliseconds() <= clock.wall_ms()


async def test_a_task_that_runs_once_is_told_from_its_fields_alone(muster):
    await muster.submit("once")
    assert kinds(await muster.get("once", full=True)) == ["SUBMITTED"]
    agent = await muster.agent("worker")
    (assignment,) = await agent.assigned()
    running = await muster.get("once", full=True)
    assert kinds(running) == ["SUBMITTED", "ATTEMPT_STARTED"]
    await agent.succeed(assignment)
    ended = await muster.get("once", full=True)
    await forgotten(muster)
    recorded = await muster.get("once", full=True)
    assert list(recorded.history) == list(ended.history)
    assert kinds(recorded) == ["SUBMITTED", "ATTEMPT_STARTED", "ATTEMPT_SUCCEEDED"]
    assert list(recorded.history)[:2] == list(running.history)
    last = recorded.history[-1]
    assert (last.state, last.run, last.attempt, last.fence, last.agent_name) == (4, 1, 1, assignment.fence, "worker")
    assert last.event_time == recorded.end_time
    assert recorded.history[1].event_time == recorded.start_time
    in_order(recorded)


@pytest.mark.parametrize("recorded", [False, True], ids=["in memory", "recorded"])
async def test_a_dead_letter_has_its_whole_history(muster, recorded):
    agent = await muster.agent("worker")
    await muster.submit(spec_of("dead", retry_policy=AT_ONCE))
    (first,) = await agent.assigned()
    await agent.send(agent_pb2.ConnectRequest(checkpoints=[agent_pb2.Checkpoint(task_id="dead", fence=first.fence, sequence=1, data=b"x")]))
    await agent.report(failure("dead", first.fence, message="no paper", type="IOError", stack_trace="long"))
    await eventually(lambda: len(agent.assignments()) == 2, message="the second attempt")
    second = agent.assignments()[1]
    await agent.report(failure("dead", second.fence, message="m" * 1000), batch_id=2)
    if recorded:
        await forgotten(muster)
    task = await muster.get("dead", full=True)
    assert kinds(task) == ["SUBMITTED", "ATTEMPT_STARTED", "CHECKPOINTS_STORED", "ATTEMPT_FAILED", "ATTEMPT_STARTED", "ATTEMPT_FAILED"]
    failed, _, last = task.history[3:]
    assert (failed.failure.message, failed.failure.type, failed.failure.stack_trace) == ("no paper", "IOError", "")
    assert (failed.cost, failed.state, failed.fence) == (common_pb2.ATTEMPT_COST_RETRY, common_pb2.TASK_STATE_RETRYING, first.fence)
    assert (last.cost, last.state, len(last.failure.message)) == (common_pb2.ATTEMPT_COST_NONE, common_pb2.TASK_STATE_FAILED, 256)
    assert len(task.last_failure.message) == 1000
    in_order(task)
    (listed,) = (await muster.tasks.ListTasks(task_pb2.ListTasksRequest(filter="state = FAILED", view=task_pb2.TASK_VIEW_FULL))).tasks
    assert list(listed.history) == list(task.history)
    assert not (await muster.get("dead")).history


async def test_a_waiting_task_tells_how_it_came_to_wait(muster):
    agent = await muster.agent("worker")
    slow = common_pb2.RetryPolicy(initial_backoff=Duration(seconds=1000), max_backoff=Duration(seconds=1000))
    await muster.submit(spec_of("waits", retry_policy=slow))
    (first,) = await agent.assigned()
    await agent.report(failure("waits", first.fence, retry_after=Duration(seconds=1000)))
    task = await muster.get("waits", full=True)
    assert kinds(task) == ["SUBMITTED", "ATTEMPT_STARTED", "ATTEMPT_FAILED"]
    assert task.history[-1].ready_time == task.waits_for.until_time
    await muster.cancel("waits", reason="too slow")
    await forgotten(muster)
    last = (await muster.get("waits", full=True)).history[-1]
    assert (last.kind, last.state, last.reason) == (
        common_pb2.TASK_HISTORY_KIND_CANCEL_REQUESTED,
        common_pb2.TASK_STATE_CANCELLED,
        "too slow",
    )
    assert (last.attempt, last.fence, last.agent_name) == (0, 0, "")


async def test_a_long_story_says_what_is_left_out(muster):
    agent = await muster.agent("worker")
    at_once = common_pb2.RetryPolicy(max_retries=60, initial_backoff=Duration(nanos=1), max_backoff=Duration(nanos=1))
    await muster.submit(spec_of("long", retry_policy=at_once))
    for attempt in range(40):
        await eventually(lambda wanted=attempt + 1: len(agent.assignments()) == wanted, message="the next attempt")
        await agent.report(failure("long", agent.assignments()[attempt].fence), batch_id=attempt + 1)
    await eventually(lambda: len(agent.assignments()) == 41, message="the last attempt")
    task = await muster.get("long", full=True)
    starts = [entry for entry in task.history if entry.kind == common_pb2.TASK_HISTORY_KIND_ATTEMPT_STARTED]
    assert [entry.attempt for entry in starts] == [*range(1, 9), *range(17, 42)]
    assert {entry.attempt: entry.omitted for entry in task.history if entry.omitted} == {17: 8}
    assert next(entry for entry in task.history if entry.omitted).kind == common_pb2.TASK_HISTORY_KIND_ATTEMPT_STARTED
    in_order(task)
