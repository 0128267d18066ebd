"""How every ShardStore drops the results of ended tasks to make room, shown on each."""

import pytest

from coordinator.ports import AppendAnswer, EndedTask, Retention

MINUTE_MS = 60_000
KEEP = Retention(max_age_ms=10**15, max_count=10**9, max_bytes=10**15)


def slim(record):
    """Leaves the first two bytes."""
    return record[:2]


async def end(store, sequence, *tasks, record=b"a long record", namespace="default", age_ms=20 * MINUTE_MS):
    now = await store.now_ms()
    ended = [EndedTask(namespace, task, record, now - age_ms) for task in tasks]
    appended = await store.append(sequence=sequence, commit_nonce=f"n{sequence}", blob=b"", ended=ended)
    assert appended.answer is AppendAnswer.APPLIED


async def sizes(store):
    return {entry.task_id: entry.record_bytes for entry in await store.list_ended("default", before=None, limit=100)}


async def test_the_oldest_are_rewritten_first_and_each_once(owner):
    await end(owner, 1, "a", "b", "c")
    assert await owner.slim_ended("default", slim, limit=2) == 2
    assert await owner.get_records("default", ["a", "b", "c"]) == [b"a ", b"a ", b"a long record"]
    assert await sizes(owner) == {"a": 2, "b": 2, "c": 13}
    assert [await owner.slim_ended("default", lambda record: b"again", limit=2) for _ in range(2)] == [1, 0]
    assert await owner.get_records("default", ["a", "b", "c"]) == [b"a ", b"a ", b"again"]
    await end(owner, 2, "d")
    assert await owner.slim_ended("default", slim, limit=10) == 1
    assert await owner.get_records("default", ["d"]) == [b"a "]


async def test_what_it_freed_no_longer_counts(owner):
    await end(owner, 1, "a", "b", record=b"x" * 100)
    await owner.slim_ended("default", slim, limit=1)
    assert await owner.expire_ended("default", Retention(10**15, 10**9, max_bytes=102), limit=10) == 0
    assert await owner.expire_ended("default", Retention(10**15, 10**9, max_bytes=101), limit=10) == 1
    assert await owner.expire_ended("default", Retention(10**15, 10**9, max_bytes=100), limit=10) == 0
    assert await sizes(owner) == {"b": 100}


async def test_it_goes_on_where_it_was_when_the_oldest_have_expired(owner):
    await end(owner, 1, "a", "b", "c", "d")
    await owner.slim_ended("default", slim, limit=1)
    assert await owner.expire_ended("default", Retention(0, 0, 0), limit=2) == 2
    assert await owner.slim_ended("default", slim, limit=1) == 1
    assert await owner.get_records("default", ["c", "d"]) == [b"a ", b"a long record"]


async def test_the_record_of_a_later_end_waits_for_its_own_line(owner):
    await end(owner, 1, "t", record=b"first")
    await end(owner, 2, "t", record=b"second")
    assert await owner.slim_ended("default", slim, limit=1) == 1
    assert await owner.get_records("default", ["t"]) == [b"second"]
    assert await owner.slim_ended("default", slim, limit=1) == 1
    assert await owner.get_records("default", ["t"]) == [b"se"]
    assert await owner.expire_ended("default", Retention(0, 0, 0), limit=5) == 2
    assert await owner.get_records("default", ["t"]) == [None]


async def test_who_is_fenced_drops_nothing(backing, owner):
    await end(owner, 1, "t")
    await backing.open().claim()
    assert await owner.slim_ended("default", slim, limit=1) == 0
    assert await owner.get_records("default", ["t"]) == [b"a long record"]


@pytest.mark.parametrize("namespace", ["default", "other"])
async def test_an_empty_namespace_has_nothing_to_drop(owner, namespace):
    await end(owner, 1, "t", namespace="third")
    assert await owner.slim_ended(namespace, slim, limit=1) == 0


async def test_thousands_and_large_ones_take_several_calls(owner):
    await end(owner, 1, *(f"t{number}" for number in range(2500)), record=b"x" * 5000)
    counts = []
    while count := await owner.slim_ended("default", slim, limit=2000):
        counts.append(count)
    assert sum(counts) == 2500
    assert set((await sizes(owner)).values()) == {2}
