"""WatchTasks: the present state, then every change, with a cursor to resume from."""

import asyncio

import grpc
from muster.v1 import agent_pb2, common_pb2, task_pb2

from coordinator.engine import watches
from coordinator.journal.memory_store import Fault
from tests.support.eventually import eventually
from tests.support.hosted import PATIENT_S, hosted, spec_of
from tests.support.refusals import Refused, refusal, refused

COMPLETED, CANCELLED = common_pb2.TASK_STATE_COMPLETED, common_pb2.TASK_STATE_CANCELLED
PENDING, RUNNING = common_pb2.TASK_STATE_PENDING, common_pb2.TASK_STATE_RUNNING


class Watcher:
    """Keeps what a watch tells."""

    def __init__(self, call):
        self.call = call
        self.messages = []
        self.ended = None
        self.task = asyncio.create_task(self._read())

    async def _read(self):
        try:
            async for message in self.call:
                self.messages.append(message)
            self.ended = Refused(await self.call.code(), "")
        except grpc.aio.AioRpcError as error:
            self.ended = refused(error)
        except asyncio.CancelledError:
            self.ended = Refused(grpc.StatusCode.CANCELLED, "left")

    def events(self):
        return [event for message in self.messages for event in message.events]

    def states(self, task_id):
        return [event.task.state for event in self.events() if event.task_id == task_id and event.HasField("task")]

    async def until(self, predicate):
        return await eventually(predicate, within_s=PATIENT_S, message="the watch to tell it")

    async def told(self, task_id=""):
        await self.until(lambda: any(event.task_id.startswith(task_id) for event in self.events()))

    async def end(self):
        return await self.until(lambda: self.ended)


def _watch(muster, **request):
    return Watcher(muster.tasks.WatchTasks(task_pb2.WatchTasksRequest(**request)))


async def _started(muster, watcher):
    await watcher.until(lambda: watcher.messages or muster.namespace.watches._by_content)


async def test_follows_ids_until_all_have_ended(muster):
    agent = await muster.agent()
    await muster.submit("done")
    await agent.succeed((await agent.assigned())[0], b"1")
    await muster.submit(spec_of("waits", "other"))
    watch = _watch(muster, task_ids=["done", "waits", "nowhere", "done"], view=task_pb2.TASK_VIEW_FULL)
    await watch.until(lambda: len(watch.events()) == 3)
    assert watch.states("done") == [COMPLETED]
    (missing,) = [event for event in watch.events() if event.task_id == "nowhere"]
    assert missing.missing.reason == "TASK_NOT_FOUND"
    other = await muster.agent("other", ["other"])
    await other.succeed((await other.assigned())[0], b"2")
    assert (await watch.end()).code is grpc.StatusCode.OK
    assert watch.states("waits") == [PENDING, RUNNING, COMPLETED]
    assert watch.events()[-1].task.outcome.success.payload == b"2"
    dates = [event.event_time.ToMilliseconds() for event in watch.events() if event.task_id == "waits"]
    assert dates == sorted(dates)
    assert all(message.cursor for message in watch.messages)


async def test_a_watch_of_what_has_ended_ends_at_once(muster):
    await muster.submit("a")
    await muster.cancel("a")
    watch = _watch(muster, task_ids=["a", "nowhere"])
    assert (await watch.end()).code is grpc.StatusCode.OK
    assert watch.states("a") == [CANCELLED]


async def test_follows_what_matches_and_nothing_else(muster):
    await muster.submit(spec_of("old", "a"), spec_of("foreign", "b"))
    watch = _watch(muster, filter="task_type = a", include_chunks=True, include_progress=True)
    await _started(muster, watch)
    agent = await muster.agent("worker", ["a", "b"])
    await muster.submit(spec_of("new", "a"))
    fences = {one.task.task_id: one.fence for one in await agent.assigned(3)}
    for task_id, fence in fences.items():
        renewal = agent_pb2.Renewal(task_id=task_id, fence=fence, progress=common_pb2.Progress(current=1, total=2))
        chunk = agent_pb2.Chunk(task_id=task_id, fence=fence, data=task_id.encode())
        await agent.send(agent_pb2.ConnectRequest(renew=agent_pb2.Renew(attempts=[renewal]), chunks=[chunk]))
    for number, assignment in enumerate(agent.assignments()):
        await agent.succeed(assignment, batch_id=number)
    await watch.until(lambda: watch.states("new")[-1:] == [COMPLETED] and watch.states("old")[-1:] == [COMPLETED])
    assert {event.task_id for event in watch.events()} == {"old", "new"}
    assert {event.chunk.data for event in watch.events() if event.HasField("chunk")} == {b"old", b"new"}
    assert len([event for event in watch.events() if event.HasField("progress")]) == 2
    assert watch.ended is None
    watch.call.cancel()
    await watch.end()
    await eventually(lambda: not muster.scheduler.watch_all, message="the watch to be forgotten")


async def test_chunks_and_progress_come_only_when_asked_for(muster):
    agent = await muster.agent()
    await muster.submit("a")
    (assignment,) = await agent.assigned()
    both, neither = _watch(muster, task_ids=["a"], include_chunks=True, include_progress=True), _watch(muster, task_ids=["a"])
    await _started(muster, both)
    await _started(muster, neither)
    pieces = [(0, b"hello "), (6, b"wor"), (3, b"lo wor"), (9, b"ld")]
    for number, (offset, data) in enumerate(pieces, 1):
        renewal = agent_pb2.Renewal(task_id="a", fence=assignment.fence, progress=common_pb2.Progress(current=number, total=4))
        chunk = agent_pb2.Chunk(task_id="a", fence=assignment.fence, offset=offset, data=data)
        await agent.send(agent_pb2.ConnectRequest(renew=agent_pb2.Renew(attempts=[renewal]), chunks=[chunk]))
    late = None
    await both.until(lambda: b"".join(event.chunk.data for event in both.events()) == b"hello world")
    late = _watch(muster, task_ids=["a"], include_chunks=True)
    await late.until(lambda: b"".join(event.chunk.data for event in late.events()) == b"hello world")
    await agent.succeed(assignment)
    for watch in (both, neither, late):
        assert (await watch.end()).code is grpc.StatusCode.OK
    assert [event.progress.current for event in both.events() if event.HasField("progress")] == [1, 2, 3, 4]
    end = 0
    for event in both.events():
        if event.HasField("chunk"):
            assert (event.chunk.offset, event.chunk.attempt) == (end, 1)
            end += len(event.chunk.data)
    assert not any(event.HasField("chunk") or event.HasField("progress") for event in neither.events())
    record = _watch(muster, task_ids=["a"], include_chunks=True)
    await record.end()
    assert b"".join(event.chunk.data for event in record.events()) == b"hello world"


async def test_output_with_a_gap_is_told_at_its_true_offsets(muster):
    agent = await muster.agent()
    await muster.submit("a")
    (assignment,) = await agent.assigned()
    for offset, data in ((0, b"lost"), (100, b"kept "), (105, b"on")):
        await agent.send(agent_pb2.ConnectRequest(chunks=[agent_pb2.Chunk(task_id="a", fence=assignment.fence, offset=offset, data=data)]))
    await agent.send(agent_pb2.ConnectRequest(renew=agent_pb2.Renew()))
    await agent.until("renew_ack")
    live = _watch(muster, task_ids=["a"], include_chunks=True)
    await live.told()
    await agent.succeed(assignment)
    ended = _watch(muster, task_ids=["a"], include_chunks=True)
    for watch in (live, ended):
        await watch.end()
        assert [(event.chunk.offset, event.chunk.data) for event in watch.events() if event.HasField("chunk")] == [(100, b"kept on")]


async def test_chunks_beyond_the_bound_are_dropped(muster):
    agent = await muster.agent()
    await muster.submit("a")
    (assignment,) = await agent.assigned()
    watch = _watch(muster, task_ids=["a"], include_chunks=True)
    await _started(muster, watch)
    for number in range(5):
        chunk = agent_pb2.Chunk(task_id="a", fence=assignment.fence, offset=number * 100_000, data=b"x" * 100_000)
        await agent.send(agent_pb2.ConnectRequest(chunks=[chunk]))
    await agent.succeed(assignment)
    await watch.end()
    assert sum(len(event.chunk.data) for event in watch.events()) == 256 * 1024
    assert agent.received[0].welcome.max_chunk_bytes == 256 * 1024


async def test_resumes_behind_its_cursor_without_missing_a_change(muster):
    agent = await muster.agent()
    ids = [f"t{n}" for n in range(30)]
    await muster.submit(*ids[:20])
    assignments = await agent.assigned(10)
    whole, cursor = [], ""
    for number in range(10):
        watch = _watch(muster, filter="task_type = work", cursor=cursor)
        await watch.told()
        await agent.succeed(assignments[number], batch_id=number)
        await muster.submit(ids[20 + number])
        await watch.told(ids[20 + number])
        watch.call.cancel()
        await watch.end()
        whole += watch.events()
        cursor = watch.messages[-1].cursor
        assert not any(message.compacted for message in watch.messages)
    final = _watch(muster, filter="task_type = work", cursor=cursor)
    await final.told()
    whole += final.events()
    known = {}
    for event in whole:
        known[event.task_id] = event.task.state
    for task_id in ids:
        assert known[task_id] == (await muster.get(task_id)).state, task_id


async def test_a_cursor_taken_within_the_first_state_misses_nothing(muster):
    """The state may take several messages, and the stream may break after any of them."""
    ids = [f"t{n:04}" for n in range(600)]
    for start in range(0, 600, 100):
        await muster.submit(*ids[start : start + 100])
    agent = await muster.agent("worker", max_concurrent_tasks=5, ready=5)
    await agent.assigned(5)  # the oldest tasks are the ones that changed last
    first = muster.tasks.WatchTasks(task_pb2.WatchTasksRequest(filter="task_type = work"))
    message = await first.read()
    first.cancel()
    assert len(message.events) < 600
    rest = _watch(muster, filter="task_type = work", cursor=message.cursor)
    await rest.until(lambda: {event.task_id for event in [*message.events, *rest.events()]} == set(ids))


async def test_the_first_state_may_be_larger_than_any_queue(muster, monkeypatch):
    monkeypatch.setattr(watches, "MAX_QUEUED_EVENTS", 100)
    await muster.submit(*(f"t{n}" for n in range(500)))
    watch = _watch(muster, filter="state = PENDING")
    await watch.until(lambda: len(watch.events()) == 500)
    assert watch.ended is None


async def test_a_watch_that_is_left_before_it_began_leaves_nothing():
    async with hosted() as muster:
        muster.faults.appends = Fault.BEFORE
        submitting = asyncio.ensure_future(muster.submit("a"))
        await eventually(lambda: muster.shard.outage_since_s is not None, message="the outage")
        for request in ({"filter": "state = PENDING"}, {"task_ids": ["a"]}):
            watch = _watch(muster, **request)
            await eventually(lambda: muster.scheduler.watch_all or muster.scheduler.watched_ids, message="the watch")
            watch.call.cancel()
            await watch.end()
            await eventually(lambda: not (muster.scheduler.watch_all or muster.scheduler.watched_ids), message="the watch to go")
        muster.faults.over()
        await submitting
        registry = muster.namespace.watches
        assert (registry._by_content, registry._by_id, registry._announced) == (set(), {}, {})


async def test_a_watcher_that_doesnt_read_is_broken_off_and_told_where_to_resume(muster, monkeypatch):
    monkeypatch.setattr(watches, "MAX_QUEUED_BYTES", 8 * 2**20)
    agent = await muster.agent("worker", max_concurrent_tasks=100, ready=100)
    deaf = muster.tasks.WatchTasks(task_pb2.WatchTasksRequest(filter="task_type = work", view=task_pb2.TASK_VIEW_FULL))
    await eventually(lambda: muster.namespace.watches._by_content, message="the watch")
    (watch,) = muster.namespace.watches._by_content
    reader = _watch(muster, filter="task_type = work")
    await muster.submit(*(f"t{n}" for n in range(60)))
    for number, assignment in enumerate(await agent.assigned(60)):
        await agent.succeed(assignment, b"y" * 2**20, batch_id=number)
    await eventually(lambda: watch.overflowed, within_s=PATIENT_S, message="the watch to be broken off")
    assert not watch._queue
    await muster.is_alive()
    await reader.until(lambda: sum(event.task.state == COMPLETED for event in reader.events()) == 60)
    seen = {}
    try:
        async for message in deaf:
            seen |= {event.task_id: event.task.state for event in message.events}
        raise AssertionError("the watch should have been broken off")
    except grpc.aio.AioRpcError as error:
        why = refused(error)
    assert (why.code, why.reason, list(why.limits)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED", ["queued_watch_events"])
    assert why.retry_after_s == 0
    resumed = _watch(muster, filter="task_type = work", cursor=why.metadata["cursor"])
    await resumed.until(
        lambda: sum(state == COMPLETED for state in (seen | {event.task_id: event.task.state for event in resumed.events()}).values()) == 60
    )


async def test_an_unknown_cursor_is_refused_and_leaves_nothing(muster):
    why = await refusal(muster.tasks.WatchTasks(task_pb2.WatchTasksRequest(filter="state = PENDING", cursor="unknown")))
    assert (why.reason, list(why.fields)) == ("INVALID_CURSOR", ["cursor"])
    assert not muster.scheduler.watch_all
