"""What a watch is told first comes in pages, while the world goes on: nothing is missed, and no page grows with what there is."""

import asyncio
import base64
import json

import pytest
from muster.v1 import agent_pb2, common_pb2, task_pb2

from coordinator.core.effects import ChunkEmitted
from coordinator.journal.memory_store import Fault
from coordinator.rpc import first_state, live_walk
from tests.integration.rpc.test_watch import Watcher
from tests.support.eventually import eventually
from tests.support.hosted import PATIENT_S, hosted, spec_of
from tests.support.refusals import refusal

COMPLETED = common_pb2.TASK_STATE_COMPLETED


def _call(muster, **request):
    return muster.tasks.WatchTasks(task_pb2.WatchTasksRequest(**request))


async def _submit(muster, ids, *, payload=b""):
    for start in range(0, len(ids), 100):
        await muster.submit(*(spec_of(task_id, payload=payload) for task_id in ids[start : start + 100]))


async def _end(muster, ids):
    for start in range(0, len(ids), 100):
        await muster.cancel(*ids[start : start + 100])


def _newest(events):
    return {event.task_id: event.task.state for event in events if event.HasField("task")}


@pytest.fixture
def small_pages(monkeypatch):
    monkeypatch.setattr(first_state, "MAX_EVENTS", 10)


async def test_what_changes_while_the_first_state_is_told_is_told_too(muster, small_pages):
    ids = [f"t{number:03}" for number in range(300)]
    await _submit(muster, ids)
    agent = await muster.agent("worker", max_concurrent_tasks=300, ready=300)
    assignments = await agent.assigned(300)
    call = _call(muster, filter="task_type = work")
    events = list((await call.read()).events)
    for assignment in [*assignments[:20], *assignments[-20:]]:  # of tasks that were told, and of those that weren't
        await agent.succeed(assignment)
    await muster.submit("later")
    ended = {assignment.task.task_id for assignment in [*assignments[:20], *assignments[-20:]]}
    wanted = {task_id: COMPLETED if task_id in ended else common_pb2.TASK_STATE_RUNNING for task_id in ids}
    wanted["later"] = common_pb2.TASK_STATE_RUNNING
    async with asyncio.timeout(PATIENT_S):
        while _newest(events) != wanted:
            events += (await call.read()).events
    dates = {}
    for event in events:  # of each task in order
        assert event.event_time.ToMilliseconds() >= dates.get(event.task_id, 0)
        dates[event.task_id] = event.event_time.ToMilliseconds()
    call.cancel()


async def test_a_page_may_take_several_messages_and_break_between_them(muster, small_pages):
    ids = [f"t{number}" for number in range(10)]
    for task_id in ids:
        await muster.submit(spec_of(task_id, payload=bytes(2**20)))
    told, cursor = [], ""
    while len(told) < 10:
        call = _call(muster, filter="task_type = work", view=task_pb2.TASK_VIEW_FULL, cursor=cursor)
        message = await call.read()
        call.cancel()
        told += [event.task_id for event in message.events]
        cursor = message.cursor
    assert told == ids


async def test_output_in_the_first_state_is_bounded_too(muster, monkeypatch):
    agent = await muster.agent()
    ids = [f"t{number}" for number in range(6)]
    await muster.submit(*ids)
    for assignment in await agent.assigned(6):
        chunk = agent_pb2.Chunk(task_id=assignment.task.task_id, fence=assignment.fence, data=bytes(50_000))
        await agent.send(agent_pb2.ConnectRequest(chunks=[chunk], renew=agent_pb2.Renew()))
    await eventually(lambda: all(task.chunk_end for task in muster.scheduler.state.tasks.values()), message="the output")
    monkeypatch.setattr(first_state, "MAX_MESSAGE_BYTES", 100_000)
    tell_page, pages = muster.shard.tell_page, []
    monkeypatch.setattr(muster.shard, "tell_page", lambda *arguments: pages.append(arguments[2]) or tell_page(*arguments))
    for request in ({"task_ids": ids}, {"filter": "task_type = work"}):
        pages.clear()
        watch = Watcher(_call(muster, include_chunks=True, **request))
        await watch.until(lambda watch=watch: set(_newest(watch.events())) == set(ids))
        assert [event.task_id for event in watch.events() if event.HasField("chunk")] == ids
        assert all(sum(isinstance(event, ChunkEmitted) for event in page.events) <= 3 for page in pages)
        watch.call.cancel()


async def test_a_watch_that_breaks_after_every_message_comes_to_the_end(muster, small_pages):
    ids = [f"t{number:03}" for number in range(200)]
    await _submit(muster, ids)
    events, cursor = [], ""
    for number in range(30):
        call = _call(muster, filter="task_type = work", cursor=cursor)
        message = await call.read()
        call.cancel()
        events += message.events
        cursor = message.cursor
        await muster.submit(f"new-{number}")  # is behind all that isn't told yet
        if {event.task_id for event in events} >= set(ids):
            break
    assert number < 25
    assert [event.task_id for event in events if event.task_id in ids] == ids, "each once, in order of age"
    rest = Watcher(_call(muster, filter="task_type = work", cursor=cursor))
    every = {*ids, *(f"new-{each}" for each in range(number + 1))}
    await rest.until(lambda: {event.task_id for event in [*events, *rest.events()]} == every)
    assert not {event.task_id for event in rest.events()} & set(ids[:100]), "what was told and didn't change isn't told again"
    rest.call.cancel()


async def test_what_changed_behind_a_broken_first_state_is_told_again(muster, small_pages):
    ids = [f"t{number:03}" for number in range(100)]
    await _submit(muster, ids)
    call = _call(muster, filter="task_type = work")
    first = [*(await call.read()).events, *(message := await call.read()).events]
    call.cancel()
    await _end(muster, [ids[0], ids[50], ids[99]])
    await (await muster.agent("worker", ready=1)).assigned()
    rest = Watcher(_call(muster, filter="task_type = work", cursor=message.cursor))
    cancelled = dict.fromkeys((ids[0], ids[50], ids[99]), common_pb2.TASK_STATE_CANCELLED)
    wanted = dict.fromkeys(ids, common_pb2.TASK_STATE_PENDING) | cancelled | {ids[1]: common_pb2.TASK_STATE_RUNNING}
    await rest.until(lambda: _newest([*first, *rest.events()]) == wanted)
    rest.call.cancel()


async def test_a_slow_walk_lets_others_in_and_is_told_what_changes(muster, monkeypatch):
    monkeypatch.setattr(live_walk, "SLICE", 50)
    ids = [f"t{number:03}" for number in range(400)]
    await _submit(muster, ids)
    watch = Watcher(_call(muster, filter="state = CANCELLED"))
    await eventually(lambda: muster.scheduler.watch_all, message="the watch")
    await muster.cancel("t399")
    await watch.told("t399")
    page = await muster.tasks.ListTasks(task_pb2.ListTasksRequest(filter="task_id = t398", page_size=5))
    found = list(page.tasks)
    while page.next_page_token:
        page = await muster.tasks.ListTasks(
            task_pb2.ListTasksRequest(filter="task_id = t398", page_size=5, page_token=page.next_page_token)
        )
        found += page.tasks
    assert [task.task_id for task in found] == ["t398"]
    watch.call.cancel()


async def test_records_of_ended_ids_are_read_as_they_are_told(muster, monkeypatch):
    monkeypatch.setattr(first_state, "MAX_EVENTS", 64)
    monkeypatch.setattr(first_state, "MAX_MESSAGE_BYTES", 40_000)
    ids = [f"t{number:03}" for number in range(200)]
    await _submit(muster, ids, payload=bytes(5000))
    await _end(muster, ids[:-1])
    store, read = muster.shard.store, []
    get_records = store.get_records

    async def counted(namespace, task_ids, *, max_bytes):
        records = await get_records(namespace, task_ids, max_bytes=max_bytes)
        read.append(sum(len(record or b"") for record in records))
        return records

    monkeypatch.setattr(store, "get_records", counted)
    watch = Watcher(_call(muster, task_ids=[*ids, "nowhere"], view=task_pb2.TASK_VIEW_FULL))
    await watch.until(lambda: len(watch.events()) == 201)
    assert len(read) >= 25
    assert max(read) <= 40_000
    assert [event.task_id for event in watch.events()] == ["nowhere", *ids]
    await muster.cancel(ids[-1])
    await watch.end()
    assert watch.states(ids[-1])[-1] == common_pb2.TASK_STATE_CANCELLED


async def test_what_ended_since_the_cursor_comes_in_pages_oldest_first(muster, monkeypatch):
    ids = [f"t{number:03}" for number in range(120)]
    await _submit(muster, ids)
    call = _call(muster, filter="task_type = work")
    cursor = ""
    seen = 0
    while seen < 120:
        message = await call.read()
        seen, cursor = seen + len(message.events), message.cursor
    call.cancel()
    await _end(muster, ids)
    monkeypatch.setattr(first_state, "MAX_EVENTS", 10)
    monkeypatch.setattr(first_state, "MISSED_PAGE", 25)
    watch = Watcher(_call(muster, filter="task_type = work", cursor=cursor))
    await watch.until(lambda: len(watch.events()) >= 120)
    assert [event.task_id for event in watch.events()] == ids
    assert not any(message.compacted for message in watch.messages)
    watch.call.cancel()
    monkeypatch.setattr(first_state, "MAX_MISSED", 50)
    short = Watcher(_call(muster, filter="task_type = work", cursor=cursor))
    await short.told(ids[-1])
    assert short.messages[0].compacted, "it isn't told all that it missed"
    assert not any(message.compacted for message in short.messages[1:])
    short.call.cancel()


async def test_what_ends_as_a_watch_resumes_is_told(monkeypatch):
    async with hosted() as muster:
        await muster.submit("a", "b")
        first = _call(muster, filter="task_type = work")
        message = await first.read()
        first.cancel()
        await eventually(lambda: not muster.scheduler.watch_all, message="it to be gone")
        muster.faults.appends = Fault.BEFORE
        cancelling = asyncio.ensure_future(muster.cancel("a"))
        await eventually(lambda: "a" not in muster.scheduler.state.tasks, message="the cancel")
        watch = Watcher(_call(muster, filter="task_type = work", cursor=message.cursor))
        await eventually(lambda: muster.scheduler.watch_all, message="the watch")
        muster.faults.over()
        await cancelling
        await watch.until(lambda: watch.states("a") == [common_pb2.TASK_STATE_CANCELLED])
        watch.call.cancel()


async def test_what_ends_while_a_resumed_watch_looks_for_what_it_missed_is_told(muster, monkeypatch):
    await muster.submit("a", "b")
    first = _call(muster, filter="task_type = work")
    cursor = (await first.read()).cursor
    first.cancel()
    await muster.cancel("a")
    list_ended = muster.shard.records.list_ended

    async def slow(*arguments, **options):
        entries = await list_ended(*arguments, **options)
        await muster.cancel("b")  # not among them, and over before they are handed on
        return entries

    monkeypatch.setattr(muster.shard.records, "list_ended", slow)
    watch = Watcher(_call(muster, filter="task_type = work", cursor=cursor))
    await watch.until(lambda: watch.states("a") and watch.states("b"))
    assert (watch.states("a")[-1], watch.states("b")[-1]) == (common_pb2.TASK_STATE_CANCELLED,) * 2
    watch.call.cancel()


@pytest.mark.parametrize("after", ["x", "1 2", "1 2 3 4", "1 2 x", "-1", "1 2 3 "])
async def test_a_cursor_that_was_made_up_is_refused(muster, after):
    call = _call(muster, filter="state = PENDING")
    await muster.submit("a")
    cursor = (await call.read()).cursor
    call.cancel()
    digest, _ = json.loads(base64.urlsafe_b64decode(cursor))
    forged = base64.urlsafe_b64encode(json.dumps([digest, after]).encode()).decode()
    why = await refusal(_call(muster, filter="state = PENDING", cursor=forged))
    assert (why.reason, list(why.fields)) == ("INVALID_CURSOR", ["cursor"])
