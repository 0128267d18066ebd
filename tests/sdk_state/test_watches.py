"""Watches: no gap, no duplicate, in order, over streams that break."""

import asyncio

import grpc
import pytest

from agent_node import CompactedError, UnavailableError
from agent_node.state import watches
from agent_node.state.values import EventKind, StateEvent
from tests.support.eventually import eventually


async def _take(watch, count):
    return [await anext(watch) for _ in range(count)]


async def test_a_watch_sees_what_is_written_inside_its_block(state):
    async with state.watch(prefix="a/", previous=True) as watch:
        await state.put("a/1", 1)
        await state.put("b/1", 1)
        await state.put("a/1", 2)
        await state.delete("a/1")
        first, second, third = await _take(watch, 3)
    assert (first.entry.json(), first.previous) == (1, None)
    assert (second.entry.json(), second.previous.json()) == (2, 1)
    assert (third.kind, third.entry, third.previous.json()) == (EventKind.DELETED, None, 2)
    with pytest.raises(ValueError, match="not both"):
        state.watch("a", prefix="b")


async def test_it_goes_on_over_broken_streams_without_gap_or_repeat(state, service):
    async with state.watch(prefix="k/") as watch:
        seen = []
        for number in range(60):
            service.write(f"k/{number}")
            if number % 7 == 0:
                await service.break_streams([grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.OK, grpc.StatusCode.INTERNAL][number % 3])
            if number % 2:
                seen += await _take(watch, 2)
    assert [event.revision for event in seen] == list(range(1, 61))
    assert service.watch_streams > 3


async def test_from_a_revision(state, service):
    for number in range(5):
        service.write("k", str(number).encode())
    async with state.watch("k", start_revision=3) as watch:
        service.write("k", b"5")
        assert [event.entry.value for event in await _take(watch, 4)] == [b"2", b"3", b"4", b"5"]


async def test_events_of_some_kinds_alone(state, service):
    service.write("k")
    await state.delete("k")
    async with (
        state.watch("k", start_revision=1, kinds=[EventKind.DELETED, EventKind.EXPIRED]) as watch,
        state.watch("k", kinds={EventKind.PUT}) as puts,
    ):
        assert (await anext(watch)).revision == 2
        service.write("k")
        await service.break_streams()  # it is asked for again in the same way
        service.write("k")
        await state.delete("k")
        assert [event.revision for event in await _take(puts, 2)] == [3, 4]
        assert (await anext(watch)).revision == 5
    for wrong in ("PUT", ["PUT"], None):
        with pytest.raises(TypeError, match=r"^kinds .*give "):
            state.watch("k", kinds=wrong)


async def test_one_that_comes_too_late_is_told_what_to_do(state, service):
    for _ in range(9):
        service.write("k")
    service.compact(5)
    with pytest.raises(CompactedError, match="list the keys, and watch from revision 10") as late:
        await anext(state.watch("k", start_revision=2))
    assert (late.value.compact_revision, late.value.revision) == (5, 9)


async def test_compaction_during_a_break_is_told_behind_what_has_come(state, service):
    async with state.watch("k") as watch:
        service.write("k", b"1")
        await eventually(lambda: watch.next_revision == 2, message="the event to come")
        for _ in range(3):
            service.write("other")
        service.compact(4)
        await service.break_streams()
        assert (await anext(watch)).entry.value == b"1"
        with pytest.raises(CompactedError):
            await anext(watch)


async def test_many_share_a_stream_and_one_that_ends_leaves_the_others(state, service):
    opened = [state.watch(f"k{number}") for number in range(1_200)]
    await asyncio.gather(*(watch.started() for watch in opened))
    assert service.watch_streams == 1
    await opened[0].aclose()
    await eventually(lambda: service.watches == 1_199, message="the watch to end")
    service.write("k7")
    assert (await anext(opened[7])).key == "k7"
    with pytest.raises(StopAsyncIteration):
        await anext(opened[0])


async def test_a_slow_reader_costs_only_itself_and_misses_nothing(state, service, monkeypatch):
    monkeypatch.setattr(watches, "MAX_WAITING_EVENTS", 10)
    async with state.watch("k") as slow, state.watch("k") as quick:
        first_id = slow.watch_id
        for number in range(1, 101):
            service.write("k")
            assert (await anext(quick)).revision == number
        assert len(slow._events) < 100
        assert [event.revision for event in await _take(slow, 100)] == list(range(1, 101))
        assert slow.watch_id != first_id  # what was under way for the first is not taken for the second


async def test_a_subscription_calls_back(state, service):
    seen = []

    async def note(event):
        seen.append(event.revision)

    plain = await state.subscribe("k", lambda event: seen.append(event.revision))
    other = await state.subscribe("k", note, prefix=True)
    service.write("k")
    await eventually(lambda: seen == [1, 1], message="both calls")
    plain.cancel()
    await asyncio.wait([plain])
    service.write("k2")
    await eventually(lambda: seen == [1, 1, 2], message="the prefix's call")
    other.cancel()
    await asyncio.wait([other])
    await eventually(lambda: service.watches == 0, message="the watches to end")


async def test_a_closed_client_ends_its_watches(connect):
    client = connect()
    watch = client.state.watch("k")
    await watch.started()
    await client.aclose()
    with pytest.raises(UnavailableError, match="closed"):
        await anext(watch)


async def test_what_comes_again_is_not_seen_again(state):
    async with state.watch("k", start_revision=1) as watch:
        events = [StateEvent(EventKind.PUT, "k", revision) for revision in range(1, 6)]
        watch.take(events[:3], 3)
        watch.take(events[1:], 5)
        assert [event.revision for event in await _take(watch, 5)] == [1, 2, 3, 4, 5]


async def test_a_revision_that_comes_in_pieces_is_seen_whole(state):
    async with state.watch(prefix="k", start_revision=1) as watch:
        events = [StateEvent(EventKind.PUT, f"k{number}", 1 + number // 3) for number in range(6)]
        watch.take(events[:2], 0)
        watch.begin_again()  # the stream broke in the middle of it
        watch.take(events[:2], 0)
        watch.take(events[2:4], 1)
        watch.take(events[4:], 2)
        assert await _take(watch, 6) == events
