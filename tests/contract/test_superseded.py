"""What becomes of the record and the line of a task that is redriven, or purged: one suite for every ShardStore."""

import pytest

from coordinator.ports import AppendAnswer, EndedTask, Retention
from tests.contract.test_shard_store import MINUTE_MS, end, ids

NOTHING = Retention(0, 0, 0)


async def redrive(store, *tasks, sequence, ended=(), nonce="n", namespace="default"):
    redriven = [(namespace, task) for task in tasks]
    appended = await store.append(sequence=sequence, commit_nonce=nonce, blob=b"b", ended=ended, redriven=redriven)
    return appended.answer


async def held(store, namespace="default", *, of="abcd"):
    """(which records there are, how many are counted)"""
    records = await store.get_records(namespace, list(of))
    return "".join(task for task, record in zip(of, records, strict=True) if record is not None), await store.count_ended(namespace)


class TestRedriven:
    async def test_its_record_goes_with_the_commit_and_its_line_counts_for_nothing(self, owner):
        await end(owner, "a", "b", "c")
        assert await redrive(owner, "b", sequence=2) is AppendAnswer.APPLIED
        assert await held(owner) == ("ac", 2)
        assert await ids(owner) == ["c", "b", "a"], "lines are found by their place"

    async def test_it_may_end_again_in_the_same_commit(self, owner):
        await end(owner, "a", "b", record=b"first")
        now = await owner.now_ms()
        assert await redrive(owner, "a", sequence=2, ended=[EndedTask("default", "a", b"second", now)]) is AppendAnswer.APPLIED
        assert await owner.get_records("default", ["a", "b"]) == [b"second", b"first"]
        assert await owner.count_ended("default") == 2

    async def test_a_commit_that_is_repeated_is_counted_once(self, owner):
        await end(owner, "a", "b")
        assert await redrive(owner, "a", sequence=2) is AppendAnswer.APPLIED
        assert await redrive(owner, "a", sequence=2) is AppendAnswer.ALREADY_MINE
        assert await held(owner) == ("b", 1)

    async def test_a_commit_that_is_refused_removes_nothing(self, owner):
        await end(owner, "a")
        assert await redrive(owner, "a", sequence=7) is AppendAnswer.DIVERGED
        assert await held(owner) == ("a", 1)

    async def test_one_that_has_expired_meanwhile_is_no_matter(self, owner):
        await end(owner, "a", "b", age_ms=20 * MINUTE_MS)
        assert await owner.expire_ended("default", NOTHING, limit=1) == 1
        assert await redrive(owner, "a", sequence=2) is AppendAnswer.APPLIED
        assert await held(owner) == ("b", 1)

    async def test_many_at_a_time_of_many_namespaces(self, owner):
        names = [f"t{number}" for number in range(5000)]
        await end(owner, *names)
        await end(owner, "other", namespace="two")
        redriven = [("default", name) for name in names[::2]] + [("two", "other")]
        ended = [EndedTask("three", "x", b"x", 1), EndedTask("default", "t0", b"again", 1)]
        appended = await owner.append(sequence=3, commit_nonce="n", blob=b"b", ended=ended, redriven=redriven)
        assert appended.answer is AppendAnswer.APPLIED
        assert [await owner.count_ended(name) for name in ("default", "two", "three")] == [2501, 0, 1]
        assert await owner.get_records("default", ["t0", "t1", "t2"]) == [b"again", b"record", None]

    async def test_its_old_line_goes_as_soon_as_nothing_is_before_it_and_takes_nothing_along(self, owner):
        await end(owner, "a", record=b"first")
        await end(owner, "a", record=b"second", again=True)
        assert await owner.expire_ended("default", NOTHING, limit=10) == 1, "what it stood for is gone, however young"
        assert await owner.get_records("default", ["a"]) == [b"second"]
        assert await owner.count_ended("default") == 1
        assert await owner.expire_ended("default", NOTHING, limit=10) == 0

    async def test_it_leaves_the_bounds_to_the_others(self, owner):
        await end(owner, "a", "b", "c", age_ms=20 * MINUTE_MS, record=b"x" * 100)
        await redrive(owner, "b", sequence=2)
        assert await owner.expire_ended("default", Retention(10**15, 2, 200), limit=10) == 0
        assert await owner.expire_ended("default", Retention(10**15, 1, 10**9), limit=10) == 2
        assert await held(owner) == ("c", 1)
        await end(owner, "d", age_ms=20 * MINUTE_MS, record=b"x" * 100)
        assert await owner.expire_ended("default", Retention(10**15, 10**9, 200), limit=10) == 0, "what has gone takes no bytes"
        assert await owner.expire_ended("default", Retention(10**15, 10**9, 199), limit=10) == 1

    async def test_results_are_dropped_of_what_is_left(self, owner):
        await end(owner, "a", "b", record=b"record")
        await redrive(owner, "a", sequence=2)
        assert await owner.slim_ended("default", lambda record: record[:2], limit=10) == 2
        assert await owner.get_records("default", ["a", "b"]) == [None, b"re"]


class TestPurge:
    async def test_what_is_as_it_was_goes(self, owner):
        await end(owner, "a", "b", "c")
        assert sorted(await owner.purge_ended("default", {"a": b"record", "b": b"another", "x": b"record"})) == ["a"]
        assert await held(owner) == ("bc", 2)
        assert await owner.purge_ended("default", {"a": b"record"}) == []
        assert await held(owner) == ("bc", 2)

    async def test_its_id_is_free_then(self, owner):
        await end(owner, "a")
        await owner.purge_ended("default", {"a": b"record"})
        await end(owner, "a", record=b"another")
        assert await owner.get_records("default", ["a"]) == [b"another"]
        assert await owner.count_ended("default") == 1
        assert await owner.expire_ended("default", NOTHING, limit=10) == 1
        assert await held(owner) == ("a", 1)

    async def test_one_without_the_shard_purges_nothing(self, owner, backing):
        await end(owner, "a")
        other = backing.open()
        await other.claim()
        assert await owner.purge_ended("default", {"a": b"record"}) == []
        assert await held(other) == ("a", 1)

    async def test_nothing_is_nothing(self, owner):
        assert await owner.purge_ended("default", {}) == []

    @pytest.mark.parametrize("order", [1, -1])
    async def test_lines_go_when_all_of_them_stand_for_nothing(self, owner, order):
        await end(owner, *"abcd")
        for task in "abcd"[::order]:
            assert await owner.purge_ended("default", {task: b"record"}) == [task]
        assert await owner.expire_ended("default", NOTHING, limit=3) == 3
        assert await owner.expire_ended("default", NOTHING, limit=3) == 1
        assert await ids(owner) == []
        assert await held(owner) == ("", 0)
