"""Watches: every revision once and in order, whoever is slow, and wherever they begin."""

import asyncio
import random
from unittest.mock import patch

import pytest

from coordinator.errors import InvalidRequest, LimitReached, RevisionOutOfRange, Unavailable
from coordinator.journal.memory_store import Fault
from coordinator.state import watch, watch_stream, watches
from coordinator.state.memory_store import StateCall
from coordinator.state.model import Compact, Delete, EventKind, Limits, Put, Transaction
from coordinator.state.watch_index import WatchIndex
from tests.support.state_world import StateWorld, Told, add, all_of, in_world, put


def told(world: StateWorld, key: str = "", *, is_prefix: bool = True, start_revision: int = 0, previous: bool = False) -> Told:
    stream = world.engine.watch("default")
    stream.create(1, key, is_prefix=is_prefix, start_revision=start_revision, previous=previous)
    return Told(stream)


@in_world
async def test_a_watch_sees_what_comes_from_now_on(world: StateWorld) -> None:
    await world.put("a/1")
    seen = told(world, "a/")
    await asyncio.sleep(0)
    await all_of([world.send(put("a/1", b"2")), world.send(put("b/1")), world.send(Transaction((Delete("a/1"),)))])
    await asyncio.sleep(0.1)
    assert seen.news[0].created
    assert seen.news[0].through_revision == 1
    assert [(event.key, event.revision, event.kind) for news in seen.news for event in news.events] == [
        ("a/1", 2, EventKind.PUT),
        ("a/1", 4, EventKind.DELETED),
    ]
    assert seen.news[-1].through_revision == 4
    assert seen.headers[-1].revision == 4
    seen.end()


@in_world
async def test_that_a_watch_has_begun_is_said_apart_from_what_it_sees(world: StateWorld) -> None:
    """Whoever resumes goes on behind where it began: what came before that was said must not be said to lie before it."""
    stream = world.engine.watch("default")
    stream.create(1, "", is_prefix=True)
    stream.create(2, "", is_prefix=True, start_revision=1)
    await asyncio.sleep(0)
    await all_of([world.send(put("a")), world.send(put("b"))])
    await asyncio.sleep(0.1)  # both are queued, and nothing was taken yet
    seen = Told(stream)
    await asyncio.sleep(0.1)
    for watch_id in (1, 2):
        first, *rest = seen.of(watch_id)
        assert (first.created, first.through_revision, list(first.events)) == (True, 0, [])
        assert seen.revisions(watch_id) == [1, 2]
        assert not any(news.created for news in rest)
    seen.end()


@in_world
async def test_a_watch_is_told_of_the_kinds_that_it_asked_for(world: StateWorld) -> None:
    """Live and from the past alike; it hears how far it has come all the same."""
    await all_of([world.send(put("k")), world.send(Transaction((Delete("k"),)))])
    stream = world.engine.watch("default")
    stream.create(1, "k", is_prefix=False, start_revision=1, kinds=[EventKind.DELETED])
    stream.create(2, "k", is_prefix=False, start_revision=1, kinds=[EventKind.PUT, EventKind.EXPIRED])
    seen = Told(stream)
    await asyncio.sleep(0.1)
    assert (seen.revisions(1), seen.revisions(2)) == ([2], [1])
    await all_of([world.send(put("k", ttl_ms=1_000)), world.send(put("other"))])
    await asyncio.sleep(2)
    assert (seen.revisions(1), seen.revisions(2)) == ([2], [1, 3, 5])
    await asyncio.sleep(60)
    assert seen.of(1)[-1].through_revision == 5
    seen.end()


@in_world
async def test_a_watch_begins_at_a_revision_and_begins_at_once(world: StateWorld) -> None:
    await all_of([world.send(put(f"k{number % 3}")) for number in range(30)])
    seen, other = told(world, "k1", is_prefix=False, start_revision=10), told(world, "none", start_revision=1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (seen.news[0].created, seen.news[0].through_revision) == (True, 9)
    assert (other.news[0].created, other.news[0].through_revision) == (True, 0)
    await asyncio.sleep(0.1)
    assert seen.revisions() == [11, 14, 17, 20, 23, 26, 29]
    assert seen.news[-1].through_revision == other.news[-1].through_revision == 30
    seen.end()
    other.end()


@in_world
async def test_all_events_of_a_revision_come_together(world: StateWorld) -> None:
    with patch.object(watch, "MAX_QUEUED_EVENTS", 5), patch.object(watch_stream, "TAKE_BYTES", 1):
        seen = told(world, start_revision=1)
        for _ in range(20):
            await world.send(Transaction(tuple(Put(f"k{number}", b"") for number in range(12))))
        await asyncio.sleep(0.1)
    assert [[event.revision for event in news.events] for news in seen.news if news.events] == [[number] * 12 for number in range(1, 21)]
    seen.end()


@in_world
async def test_previous_values_on_request(world: StateWorld) -> None:
    await world.put("k", b"1")
    seen, plain = told(world, "k", previous=True), told(world, "k")
    await world.put("k", b"2")
    await world.put("k", b"3")
    await world.send(Transaction((Delete("k"),)))
    await world.put("k", b"4")
    await asyncio.sleep(0.1)
    late = told(world, "k", start_revision=1, previous=True)
    await asyncio.sleep(0.1)
    assert [entry and entry.value for news in seen.news for entry in news.previous] == [b"1", b"2", b"3", None]
    assert [entry and entry.value for news in late.news for entry in news.previous] == [None, b"1", b"2", b"3", None]
    assert all(len(news.previous) == len(news.events) for news in seen.news)
    assert [entry for news in plain.news for entry in news.previous] == []
    for one in (seen, plain, late):
        one.end()


@in_world
async def test_previous_values_count_for_the_size_of_news(world: StateWorld) -> None:
    size = 300_000
    for number in range(20):
        await world.put(f"k{number}", b"x" * size)
    for number in range(20):
        await world.send(Transaction((Delete(f"k{number}"),)))
    seen = told(world, start_revision=21, previous=True)
    await asyncio.sleep(0.5)
    sizes = [sum(len(entry.value) for entry in news.previous if entry) for news in seen.news]
    assert sum(sizes) == 20 * size
    assert max(sizes) <= watch_stream.TAKE_BYTES
    seen.end()


@in_world(limits=Limits(keep_revisions=10_000))
async def test_a_revision_that_is_gone_ends_the_watch_and_says_which_is_kept(world: StateWorld) -> None:
    await all_of([world.send(put("k")) for _ in range(100)])
    await world.send(Compact(50, 1_000))
    seen, kept = told(world, start_revision=49), told(world, start_revision=50)
    await asyncio.sleep(0.1)
    refusal = seen.news[-1].refusal
    assert isinstance(refusal, RevisionOutOfRange)
    assert (refusal.reason, refusal.metadata) == ("COMPACTED", {"compact_revision": "50", "revision": "100"})
    assert seen.revisions() == []
    assert kept.revisions() == list(range(50, 101))
    await world.put("k")
    await asyncio.sleep(0.1)
    assert seen.news[-1].refusal is refusal
    seen.stream.create(1, "k", is_prefix=False)  # its number is free again
    seen.end()
    kept.end()


@in_world
async def test_a_future_revision_is_refused_but_the_next_one(world: StateWorld) -> None:
    await world.put("k")
    seen, following = told(world, start_revision=3), told(world, start_revision=2)
    await asyncio.sleep(0.1)
    assert seen.news[-1].refusal is not None
    assert seen.news[-1].refusal.reason == "FUTURE_REVISION"
    await world.put("k")
    await asyncio.sleep(0.1)
    assert following.revisions() == [2]
    seen.end()
    following.end()


@in_world
async def test_a_slow_watch_costs_only_itself(world: StateWorld) -> None:
    slow = world.engine.watch("default")
    slow.create(1, "", is_prefix=True)
    seen = told(world)
    await asyncio.sleep(0.01)
    for _ in range(30):
        await all_of([world.send(put("k", b"x" * 100)) for _ in range(250)])
    await asyncio.sleep(0.1)
    assert seen.revisions() == list(range(1, 7_501))
    (queue,) = slow._watches.values()
    assert len(queue.queue) == watch.MAX_QUEUED_EVENTS
    calls = len(world.store.calls)
    await all_of([world.send(put("k")) for _ in range(250)])
    await asyncio.sleep(0.1)
    assert len(world.store.calls) - calls <= 3  # nobody reads for it
    awake = Told(slow)
    await asyncio.sleep(1)
    assert awake.revisions() == list(range(1, 7_751))
    await world.put("k")
    await asyncio.sleep(0.1)
    assert awake.revisions()[-1] == 7_751
    seen.end()
    awake.end()


@in_world
async def test_one_reader_for_all_and_none_without_watches(world: StateWorld) -> None:
    await world.put("k")
    assert world.store.calls == []
    streams = [told(world) for _ in range(50)]
    await asyncio.sleep(0.01)
    world.store.calls.clear()
    await world.put("k")
    await asyncio.sleep(0.01)
    assert world.store.calls == [("events", "1")]
    assert all(stream.revisions() == [2] for stream in streams)
    for stream in streams:
        stream.end()
    await world.put("k")
    await asyncio.sleep(0.01)
    assert len(world.store.calls) == 1


@in_world
async def test_those_behind_share_what_they_read(world: StateWorld) -> None:
    for _ in range(12):
        await all_of([world.send(put("k")) for _ in range(250)])
    streams = [told(world, start_revision=1) for _ in range(20)]
    await asyncio.sleep(1)
    assert all(stream.revisions() == list(range(1, 3_001)) for stream in streams)
    assert len([call for call in world.store.calls if call[0] == "events"]) < 20
    for stream in streams:
        stream.end()


@in_world
async def test_progress_is_told_when_nothing_matches_and_seldom(world: StateWorld) -> None:
    seen = told(world, "other")
    await asyncio.sleep(0.01)
    for _ in range(100):
        await world.put("k")
        await asyncio.sleep(1)
    assert 3 <= len(seen.news) <= 6
    assert seen.news[-1].through_revision >= 60
    assert seen.revisions() == []
    await asyncio.sleep(100)
    said = len(seen.news)
    await asyncio.sleep(1_000)
    assert len(seen.news) == said
    assert seen.news[-1].through_revision == 100
    seen.end()


@in_world
async def test_a_cancelled_watch_says_nothing_more(world: StateWorld) -> None:
    seen = told(world)
    seen.stream.create(2, "k", is_prefix=False)
    await asyncio.sleep(0.01)
    seen.stream.cancel(1)
    seen.stream.cancel(7)
    await world.put("k")
    await asyncio.sleep(0.01)
    assert seen.revisions(1) == []
    assert seen.revisions(2) == [1]
    seen.stream.create(1, "k", is_prefix=False, start_revision=1)
    await asyncio.sleep(0.01)
    assert seen.revisions(1) == [1]
    seen.end()
    assert world.engine._namespaces["default"].watches.streams == set()
    assert not world.engine._namespaces["default"].watches._index


@in_world
async def test_numbers_of_watches(world: StateWorld) -> None:
    stream = world.engine.watch("default")
    stream.create(1, "k", is_prefix=False)
    with pytest.raises(InvalidRequest):
        stream.create(1, "k", is_prefix=False)
    with patch.object(watch_stream, "MAX_WATCHES", 2):
        stream.create(2, "k", is_prefix=False)
        with pytest.raises(LimitReached):
            stream.create(3, "k", is_prefix=False)


@in_world
async def test_watches_end_with_the_engine(world: StateWorld) -> None:
    seen = told(world)
    await asyncio.sleep(0.01)
    await world.stop()
    with pytest.raises(Unavailable):
        await seen.task
    with pytest.raises(Unavailable):
        world.engine.watch("default")


@in_world
async def test_an_outage_holds_a_watch_up_and_loses_nothing(world: StateWorld) -> None:
    seen = told(world)
    await world.put("k")
    world.faults = [(StateCall.READ, Fault.BEFORE), (StateCall.READ, Fault.AFTER)]
    await world.put("k")
    await asyncio.sleep(1)
    assert seen.revisions() == [1, 2]
    seen.end()


@in_world
async def test_a_watch_that_is_made_before_the_state_is_open(world: StateWorld) -> None:
    await world.put("k")
    await world.take_over()
    world.down = True
    seen = told(world, start_revision=1)
    cancelled = told(world)
    cancelled.stream.cancel(1)
    await asyncio.sleep(5)
    assert seen.news == []
    world.down = False
    await asyncio.sleep(5)
    assert seen.revisions() == [1]
    assert cancelled.news == []
    seen.end()
    cancelled.end()


@in_world
async def test_a_store_that_lost_writes_ends_every_watch(world: StateWorld) -> None:
    for _ in range(5):
        await world.put("k")
    seen, behind = told(world), world.engine.watch("default")
    behind.create(1, "", is_prefix=True, start_revision=1)
    await asyncio.sleep(0.1)
    world.state.namespaces.clear()  # a failover to a replica that knew nothing
    header = world.engine.header("default")
    verdict = await world.put("k")
    assert verdict.revision > header.revision
    assert world.engine.header("default").incarnation != header.incarnation
    await asyncio.sleep(0.1)
    refusal = seen.news[-1].refusal
    assert refusal is not None
    assert refusal.reason == "COMPACTED"
    seen.end()


@pytest.mark.parametrize("batch", range(4))
def test_no_gap_and_no_duplicate_at_any_seam(batch: int) -> None:
    """Watches come, are slow, go and come back while others write: each must have seen every revision of its keys once, in order."""
    for seed in range(10 * batch, 10 * batch + 10):
        _tell_a_story(seed)


def _tell_a_story(seed: int) -> None:
    print(f"story {seed}")
    rng = random.Random(seed)

    async def story(world: StateWorld) -> None:
        world.store.read_s = rng.choice([0.0001, 0.001])
        world.store.write_s = rng.choice([0.0002, 0.001])
        writing = True

        async def write(name: str) -> None:
            for number in range(rng.randrange(30, 120)):
                keys = {f"{rng.choice('abc')}/{rng.randrange(4)}" for _ in range(rng.randrange(1, 4))}
                if rng.random() < 0.1:
                    await world.send(Transaction((Delete(f"{rng.choice('abc')}/", prefix=True),)))
                elif rng.random() < 0.2:
                    await world.send(add(f"n/{name}"))
                else:
                    await world.send(Transaction(tuple(Put(key, b"%d" % number) for key in keys)))
                if rng.random() < 0.1:
                    await asyncio.sleep(rng.random() * 0.02)

        async def follow(key: str, *, is_prefix: bool, kinds: tuple[EventKind, ...]) -> tuple[str, bool, tuple[EventKind, ...], int, list]:
            position = rng.choice([0, 0, max(world.engine.header("default").revision - rng.randrange(50), 0)])
            first, seen = position or None, []
            patience = rng.choice([0.0, 0.0, 0.003, 0.02])
            previous = rng.random() < 0.3
            while writing or position < world.state.namespaces["default"].revision:
                stream = world.engine.watch("default")
                start = position + 1 if first is not None else 0
                stream.create(1, key, is_prefix=is_prefix, start_revision=start, previous=previous, kinds=kinds)
                takes = rng.randrange(1, 40)
                try:
                    for _ in range(takes):
                        async with asyncio.timeout(0.5):
                            _, news = await stream.take()
                        for one in news:
                            assert one.refusal is None
                            if first is None:
                                first = position = one.through_revision
                            assert one.through_revision >= position
                            for event in one.events:
                                assert event.revision > position
                            seen += one.events
                            position = one.through_revision
                        await asyncio.sleep(patience)
                except TimeoutError:
                    pass
                stream.close()
            return key, is_prefix, kinds, first or 0, seen

        followers = []
        writers = [asyncio.ensure_future(write(name)) for name in "xyz"]
        for _ in range(12):
            is_prefix = rng.random() < 0.7
            key = rng.choice(["", "a/", "b", "n/"]) if is_prefix else rng.choice(["a/1", "b/2", "n/x", "none"])
            kinds = rng.choice([(), (), (EventKind.PUT,), (EventKind.DELETED, EventKind.EXPIRED)])
            followers.append(asyncio.ensure_future(follow(key, is_prefix=is_prefix, kinds=kinds)))
            await asyncio.sleep(rng.random() * 0.02)
        await all_of(writers)
        writing = False
        events = world.state.namespaces["default"].events
        for follower in followers:
            key, is_prefix, kinds, first, seen = await follower
            concerned = [event for event in events if (event.key.startswith(key) if is_prefix else event.key == key)]
            assert seen == [event for event in concerned if event.revision > first and (not kinds or event.kind in kinds)]

    with patch.object(watch, "MAX_QUEUED_EVENTS", rng.choice([3, 10, 2_000])), patch.object(watches, "PAGE_EVENTS", rng.choice([2, 7, 50])):
        in_world(story)()


def test_the_index_finds_keys_and_prefixes() -> None:
    index: WatchIndex[str] = WatchIndex()
    for name, key, is_prefix in [("all", "", True), ("a", "a", True), ("a/", "a/", True), ("a/b", "a/b", False), ("é", "é", True)]:
        index.add(name, key, is_prefix=is_prefix)
    assert sorted(index.concerned("a/b")) == ["a", "a/", "a/b", "all"]
    assert sorted(index.concerned("a")) == ["a", "all"]
    assert sorted(index.concerned("élan")) == ["all", "é"]
    index.remove("a", "a", is_prefix=True)
    index.remove("a", "a", is_prefix=True)
    index.remove("all", "", is_prefix=True)
    assert sorted(index.concerned("a/b")) == ["a/", "a/b"]
    assert len(index) == len(list(index)) == 3


def test_an_event_costs_the_same_beside_ten_thousand_idle_watches() -> None:
    index: WatchIndex[int] = WatchIndex()
    for number in range(10_000):
        index.add(number, f"idle/{number:05}/", is_prefix=True)
        index.add(number, f"idle/{number:05}", is_prefix=False)
    assert list(index._lengths) == [11]
    assert index.concerned("idle/00077/x") == [77]
    assert index.concerned("busy") == []
