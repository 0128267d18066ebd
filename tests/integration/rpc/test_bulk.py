"""Operations on many tasks over gRPC: what each does, by ids and by filter, in steps, dry and for real; and what bad requests get."""

import asyncio

import grpc
import pytest
from muster.v1 import admin_pb2, bulk_pb2, common_pb2, policy_pb2, task_pb2

from coordinator.core.model import Settings
from coordinator.journal.codec import slim_record
from coordinator.rpc import bulk_ended, bulk_live
from tests.support.eventually import eventually
from tests.support.hosted import MemoryShard, failure, hosted, spec_of
from tests.support.refusals import refusal

MINUTE_MS = 60_000
PENDING, CANCELLED, FAILED = common_pb2.TASK_STATE_PENDING, common_pb2.TASK_STATE_CANCELLED, common_pb2.TASK_STATE_FAILED
NO_RETRIES = common_pb2.RetryPolicy(max_retries=0)


def chosen(*task_ids, **options):
    return bulk_pb2.TaskSelection(task_ids=task_ids, **options)


async def cancel(muster, selection, reason="not needed"):
    return await whole(muster.admin.CancelMatchingTasks, bulk_pb2.CancelMatchingTasksRequest(selection=selection, reason=reason))


async def reprioritise(muster, selection, priority=4, reason="it is urgent"):
    request = bulk_pb2.ReprioritiseTasksRequest(selection=selection, priority=priority, reason=reason)
    return await whole(muster.admin.ReprioritiseTasks, request)


async def redrive(muster, selection, reason="mended", **options):
    return await whole(muster.admin.RedriveTasks, bulk_pb2.RedriveTasksRequest(selection=selection, reason=reason, **options))


async def purge(muster, selection):
    return await whole(muster.admin.PurgeTasks, bulk_pb2.PurgeTasksRequest(selection=selection))


async def whole(method, request):
    """Calls until there is no more to do. Answers what it came to: (matched, changed, skipped by reason, sample, calls)."""
    matched = changed = calls = 0
    skipped, sample = {}, []
    while True:
        progress = (await method(request)).progress
        calls += 1
        matched, changed = matched + progress.matched, changed + progress.changed
        for one in progress.skipped:
            name = bulk_pb2.SkipReason.Name(one.reason).removeprefix("SKIP_REASON_")
            assert one.message
            skipped[name] = skipped.get(name, 0) + one.count
        sample += [task.task_id for task in progress.sample]
        if not progress.next_page_token:
            return matched, changed, skipped, sample, calls
        request.selection.page_token = progress.next_page_token


async def failed(muster, *task_ids, agent=None, task_type="work", **options):
    """Tasks that have failed, and left memory."""
    agent = agent or await muster.agent(capabilities=[task_type])
    before = len(agent.assignments())
    await muster.submit(*(spec_of(task_id, task_type, b"payload", retry_policy=NO_RETRIES, **options) for task_id in task_ids))
    for number, assignment in enumerate((await agent.assigned(before + len(task_ids)))[before:], before):
        await agent.report(failure(assignment.task.task_id, assignment.fence, message="broken"), batch_id=number + 1)
    await settled(muster)
    return agent


async def settled(muster):
    await eventually(lambda: not muster.scheduler.state.ended, message="what has ended to leave memory")


async def ids_of(muster, text=""):
    answer = await muster.tasks.ListTasks(task_pb2.ListTasksRequest(filter=text, page_size=1000))
    return [task.task_id for task in answer.tasks]


async def retained(muster):
    return (await muster.admin.GetQueueStats(admin_pb2.GetQueueStatsRequest())).retained


class TestCancel:
    async def test_by_filter_in_steps_and_only_what_was_there(self, muster, monkeypatch):
        monkeypatch.setattr(bulk_live, "CHANGED_PER_STEP", 2)
        monkeypatch.setattr(bulk_live, "MAX_SLICES", 2)
        await muster.submit(*(spec_of(f"t{number}", "ab"[number % 2]) for number in range(20)))
        assert await cancel(muster, chosen(filter="task_type = a", dry_run=True)) == (
            10,
            10,
            {},
            [f"t{number}" for number in range(0, 20, 2)],
            3,
        )
        assert len(muster.scheduler.state.tasks) == 20, "a dry run changes nothing"
        request = bulk_pb2.CancelMatchingTasksRequest(selection=chosen(filter="task_type = a"), reason="enough")
        first = (await muster.admin.CancelMatchingTasks(request)).progress
        assert (first.matched, first.changed, len(first.sample)) == (4, 4, 0)
        await muster.submit(spec_of("late", "a"))
        request.selection.page_token = first.next_page_token
        assert await whole(muster.admin.CancelMatchingTasks, request) == (6, 6, {}, [], 2)
        assert (await muster.get("late")).state == PENDING, "it came after the operation began"
        ended = await muster.get("t2", full=True)
        assert (ended.state, ended.outcome.cancelled.reason) == (CANCELLED, "enough")

    async def test_what_runs_is_asked_once(self, muster):
        agent = await muster.agent()
        await muster.submit("runs", "waits")
        await agent.assigned(2)
        assert (await cancel(muster, chosen("runs", "gone", "runs")))[:3] == (2, 1, {"NOT_FOUND": 1})
        assert (await cancel(muster, chosen("runs")))[:3] == (1, 0, {"CANCEL_REQUESTED": 1})
        await agent.until("cancels")

    async def test_what_has_ended_is_left(self, muster):
        await muster.submit("t")
        await cancel(muster, chosen("t"))
        await settled(muster)
        assert (await cancel(muster, chosen("t")))[:3] == (1, 0, {"ENDED": 1})
        assert (await cancel(muster, chosen(all=True)))[:3] == (0, 0, {})


class TestPriority:
    async def test_the_order_changes_and_is_told(self, muster):
        await muster.submit("a", "b", "c")
        assert (await reprioritise(muster, chosen("c", "a"), 3))[:3] == (2, 2, {})
        assert (await reprioritise(muster, chosen("c", "gone"), 4))[:3] == (2, 1, {"NOT_FOUND": 1})
        assert (await reprioritise(muster, chosen("c"), 4))[:3] == (1, 0, {"SAME_PRIORITY": 1})
        seen = await muster.get("c", full=True)
        assert seen.priority == 4
        assert [(one.kind, one.priority, one.reason) for one in seen.history[1:]] == [(9, 3, "it is urgent"), (9, 4, "it is urgent")]
        assert seen.history[1].state == PENDING
        agent = await muster.agent()
        assert [one.task.task_id for one in await agent.assigned(3)] == ["c", "a", "b"]
        assert await ids_of(muster, "priority = HIGH") == ["a"]
        muster.check()

    async def test_it_is_there_after_a_restart_and_in_the_record(self):
        data = MemoryShard()
        async with hosted(data=data) as muster:
            await muster.submit("a", "b")
            await reprioritise(muster, chosen(filter="task_id = b"), 1)
        async with hosted(data=data) as muster:
            assert (await muster.get("b")).priority == 1
            agent = await muster.agent()
            for number, assignment in enumerate(await agent.assigned(2)):
                await agent.succeed(assignment, batch_id=number + 1)
            await settled(muster)
            assert (await muster.get("b")).priority == 1
            assert await ids_of(muster, "priority = LOW") == ["b"]

    async def test_what_runs_is_retried_with_it(self, muster):
        agent = await muster.agent(ready=1)
        await muster.submit("runs")
        (assignment,) = await agent.assigned()
        await muster.submit(spec_of("high", priority=3))
        await reprioritise(muster, chosen("runs"), 4)
        assert (await muster.get("runs")).priority == 4
        await agent.report(failure("runs", assignment.fence, message="again"))
        later = (await agent.assigned(2))[1]
        assert later.task.task_id == "high", "the other one is in its backoff"
        await agent.succeed(later, batch_id=2)
        assert (await agent.assigned(3))[2].task.task_id == "runs"


class TestRedrive:
    async def test_a_dead_letter_runs_again_with_everything_it_was(self, muster):
        agent = await failed(muster, "t")
        old = agent.assignments()[0]
        before = await muster.get("t", full=True)
        client = await muster.session()
        assert await redrive(muster, chosen("t", dry_run=True)) == (1, 1, {}, ["t"], 1)
        assert await redrive(muster, chosen("t")) == (1, 1, {}, [], 1)
        new = (await agent.assigned(2))[1]
        assert (new.task.payload, new.run, new.attempt) == (b"payload", 2, 1)
        assert new.fence > old.fence
        await client.attach("t")
        ack = await agent.report(failure("t", old.fence, message="late"), batch_id=2)
        assert [one.verdict for one in ack.exceptions] == [2], "DUPLICATE: it ended the run before"
        live = await muster.get("t", full=True)
        assert (live.state, live.run, live.retry_count) == (common_pb2.TASK_STATE_RUNNING, 2, 0)
        assert list(live.history[: len(before.history)]) == list(before.history)
        redriven = live.history[len(before.history)]
        assert (redriven.kind, redriven.run, redriven.reason, redriven.state) == (10, 2, "mended", PENDING)
        await agent.succeed(new, b"well", batch_id=3)
        assert (await client.result("t")).outcome.success.payload == b"well"
        await settled(muster)
        after = await muster.get("t", full=True)
        assert (after.run, after.create_time, after.state) == (2, before.create_time, common_pb2.TASK_STATE_COMPLETED)
        assert [one.run for one in after.history] == [1, 1, 1, 2, 2, 2]
        muster.check()

    async def test_by_filter_in_steps_latest_first(self, muster, monkeypatch):
        monkeypatch.setattr(bulk_ended, "RECORDS_PER_STEP", 3)
        monkeypatch.setattr(bulk_ended, "MAX_STEPS", 2)
        agent = await failed(muster, *(f"t{number}" for number in range(10)))
        await muster.submit("fine")
        await agent.succeed((await agent.assigned(11))[10], batch_id=11)
        await agent.ready(0)
        await settled(muster)
        assert await retained(muster) == 11
        matched, changed, skipped, sample, calls = await redrive(muster, chosen(all=True, dry_run=True))
        assert (matched, changed, skipped, calls) == (11, 10, {"COMPLETED": 1}, 2)
        assert sample == [f"t{number}" for number in reversed(range(10))]
        assert (await redrive(muster, chosen(filter="task_id != t3")))[:3] == (10, 9, {"COMPLETED": 1})
        assert await retained(muster) == 2
        assert await ids_of(muster) == [*(f"t{number}" for number in (9, 8, 7, 6, 5, 4, 2, 1, 0)), "fine", "t3"]
        assert (await redrive(muster, chosen(filter="task_id != t3")))[:3] == (1, 0, {"COMPLETED": 1})
        assert (await redrive(muster, chosen("t1", "gone", "t3")))[:3] == (3, 1, {"LIVE": 1, "NOT_FOUND": 1})
        muster.check()

    async def test_a_call_that_is_repeated_redrives_nothing_twice(self, muster):
        """Whose answer was lost: meanwhile the run that it began may have failed, too."""
        agent = await failed(muster, "t")
        assert (await redrive(muster, chosen("t"), request_id="first"))[:2] == (1, 1)
        assert (await redrive(muster, chosen("t"), request_id="first"))[:3] == (1, 0, {"LIVE": 1})
        again = (await agent.assigned(2))[1]
        await agent.report(failure("t", again.fence, message="broken"), batch_id=2)
        await settled(muster)
        assert (await redrive(muster, chosen("t"), request_id="first"))[:3] == (1, 0, {"ALREADY_REDRIVEN": 1})
        assert (await redrive(muster, chosen(all=True), request_id="first"))[:3] == (1, 0, {"ALREADY_REDRIVEN": 1})
        assert (await redrive(muster, chosen("t"), request_id="second"))[:2] == (1, 1)
        assert (await muster.get("t")).run == 3

    async def test_two_calls_at_once_redrive_it_once(self, muster, monkeypatch):
        """Both have read its record when the first of them decides."""
        await failed(muster, "t")
        read, readers, both = bulk_ended._read, [], asyncio.Event()

        async def read_together(*arguments):
            records = await read(*arguments)
            readers.append(records)
            if len(readers) == 2:
                both.set()
            await both.wait()
            return records

        monkeypatch.setattr(bulk_ended, "_read", read_together)
        outcomes = await asyncio.gather(redrive(muster, chosen("t")), redrive(muster, chosen("t")))
        assert sorted(outcome[:3] for outcome in outcomes) == [(1, 0, {"CHANGED": 1}), (1, 1, {})]
        assert (await muster.get("t")).run == 2

    async def test_a_request_id_is_a_name(self, muster):
        assert (await refusal(redrive(muster, chosen("t"), request_id="x" * 129))).fields == ["request_id"]

    async def test_a_key_that_is_full_refuses_it(self, muster):
        agent = await failed(muster, "a", "b", scheduling=common_pb2.Scheduling(concurrency_key="k"))
        limit = policy_pb2.ConcurrencyLimitPolicy(concurrency_key="k", max_running=1, when_full=policy_pb2.WHEN_FULL_REJECT)
        await muster.admin.SetPolicies(admin_pb2.SetPoliciesRequest(policies=[policy_pb2.Policy(concurrency_limit=limit)]))
        assert (await redrive(muster, chosen("a", "b")))[:3] == (2, 1, {"CONCURRENCY_LIMIT": 1})
        assert len(await agent.assigned(3)) == 3

    async def test_one_that_was_cancelled_with_another_priority(self, muster):
        await muster.submit("t")
        await muster.cancel("t", reason="a mistake")
        assert (await redrive(muster, chosen("t"), priority=4))[:2] == (1, 1)
        seen = await muster.get("t", full=True)
        assert (seen.priority, seen.cancel_requested, seen.run) == (4, False, 2)
        assert seen.history[-1].priority == 4
        assert await muster.submit("t")
        assert (await muster.submit("t"))[0].verdict == task_pb2.SUBMIT_VERDICT_DUPLICATE

    async def test_it_lives_on_over_restarts_and_ends_once_more(self):
        data = MemoryShard()
        async with hosted(data=data) as muster:
            agent = await failed(muster, "t", "u")
            await agent.leave()
            await redrive(muster, chosen("t"))
        async with hosted(data=data) as muster:
            assert await ids_of(muster) == ["t", "u"]
            assert (await muster.get("t")).run == 2
            agent = await muster.agent()
            (assignment,) = await agent.assigned()
            await agent.report(failure("t", assignment.fence, message="broken again", non_retryable=True))
            await settled(muster)
        async with hosted(data=data) as muster:
            seen = await muster.get("t", full=True)
            assert (seen.state, seen.run) == (FAILED, 2)
            assert await ids_of(muster, "state = FAILED") == ["t", "u"]
            assert await retained(muster) == 2

    async def test_one_whose_payload_was_dropped_says_so(self, muster):
        await failed(muster, "t", "u")
        await muster.submit(spec_of("empty", "nobody"))
        await muster.cancel("empty")
        await settled(muster)
        assert await muster.shard.store.slim_ended("default", slim_record, limit=10) == 3
        assert (await redrive(muster, chosen(all=True)))[:3] == (3, 1, {"PAYLOAD_DROPPED": 2})
        assert (await muster.get("empty")).state == PENDING, "it had none"

    async def test_a_watch_sees_it_live_again(self, muster):
        await muster.submit("t")
        await muster.cancel("t")
        await redrive(muster, chosen("t"))
        watch = muster.tasks.WatchTasks(task_pb2.WatchTasksRequest(task_ids=["t"]))
        first = await watch.read()
        assert [event.task.state for event in first.events] == [PENDING]
        await muster.cancel("t")
        states = []
        while (message := await watch.read()) is not grpc.aio.EOF:
            states += [event.task.state for event in message.events]
        assert states == [CANCELLED]

    async def test_there_is_no_room_for_all(self):
        async with hosted(core=Settings(max_live_tasks=3)) as muster:
            for name in "abcd":
                await muster.submit(name)
                await muster.cancel(name)
            await settled(muster)
            await muster.submit("x")
            assert (await redrive(muster, chosen(*"abcd")))[:3] == (4, 2, {"NO_ROOM": 2})
            full = await refusal(redrive(muster, chosen("c")))
            assert (full.code, full.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED")
            request = bulk_pb2.RedriveTasksRequest(selection=chosen(all=True))
            await muster.cancel("x")
            await settled(muster)
            part = (await muster.admin.RedriveTasks(request)).progress
            assert (part.changed, bool(part.next_page_token)) == (1, True)
            request.selection.page_token = part.next_page_token
            assert (await refusal(muster.admin.RedriveTasks(request))).reason == "LIMIT_REACHED"
            await muster.cancel(*"ab")
            await settled(muster)
            assert (await whole(muster.admin.RedriveTasks, request))[1] >= 1


class TestPurge:
    async def test_what_is_old_enough_goes_and_its_id_is_free(self, muster):
        agent = await failed(muster, "old", "older")
        assert (await purge(muster, chosen(all=True)))[:3] == (2, 0, {"TOO_YOUNG": 2})
        muster.faults.date_ahead_ms = 11 * MINUTE_MS
        await failed(muster, "young", agent=agent)
        await muster.submit(spec_of("live", "nobody"))
        assert await purge(muster, chosen(all=True, dry_run=True)) == (3, 2, {"TOO_YOUNG": 1}, ["older", "old"], 1)
        assert (await purge(muster, chosen("old", "live", "gone")))[:3] == (3, 1, {"LIVE": 1, "NOT_FOUND": 1})
        assert (await purge(muster, chosen(filter="state = FAILED")))[:3] == (2, 1, {"TOO_YOUNG": 1})
        assert await ids_of(muster) == ["live", "young"]
        assert await retained(muster) == 1
        assert (await refusal(muster.get("old"))).reason == "TASK_NOT_FOUND"
        (again,) = await muster.submit(spec_of("old", "another type"))
        assert again.verdict == task_pb2.SUBMIT_VERDICT_ACCEPTED

    async def test_a_store_that_is_out(self, muster):
        muster.faults.outage()
        assert (await refusal(purge(muster, chosen(all=True)))).code is grpc.StatusCode.UNAVAILABLE


FILTERS = [
    ({}, "selection"),
    ({"filter": "  "}, "selection"),
    ({"filter": "state = FAILED", "all": True}, "selection"),
    ({"task_ids": ["a"], "filter": "state = FAILED"}, "selection"),
    ({"task_ids": ["a"] * 1001}, "selection.task_ids"),
    ({"filter": "state ="}, "filter"),
    ({"all": True, "page_token": "nonsense"}, "page_token"),
]


@pytest.mark.parametrize("operation", [cancel, reprioritise, redrive, purge])
@pytest.mark.parametrize("selection, field", FILTERS)
async def test_a_bad_selection_is_refused(muster, operation, selection, field):
    refused = await refusal(operation(muster, bulk_pb2.TaskSelection(**selection)))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == [field]


async def test_a_token_is_of_its_operation_alone(muster, monkeypatch):
    monkeypatch.setattr(bulk_live, "MAX_SLICES", 1)
    monkeypatch.setattr(bulk_live, "CHANGED_PER_STEP", 1)
    await muster.submit("a", "b")
    request = bulk_pb2.CancelMatchingTasksRequest(selection=chosen(all=True, dry_run=True))
    request.selection.page_token = (await muster.admin.CancelMatchingTasks(request)).progress.next_page_token
    assert request.selection.page_token
    request.selection.dry_run = False
    assert (await refusal(muster.admin.CancelMatchingTasks(request))).fields == ["page_token"]


@pytest.mark.parametrize("priority", [0, 5])
async def test_a_priority_must_be_one(muster, priority):
    assert (await refusal(reprioritise(muster, chosen(all=True), priority))).fields == ["priority"]


async def test_a_redrive_may_keep_the_priority_but_not_invent_one(muster):
    assert (await refusal(redrive(muster, chosen(all=True), priority=5))).fields == ["priority"]
