"""What every ShardStore does, shown on each: in memory, on the embedded Valkey, and on a redis-server of the system."""

import pytest

from coordinator.ports import AppendAnswer, EndedTask, Retention, StoreOutage
from tests.support.eventually import eventually
from tests.support.shard_backings import first_of

MINUTE_MS = 60_000
KEEP_ALL = Retention(max_age_ms=10**15, max_count=10**9, max_bytes=10**15)


async def end(store, *tasks, age_ms=0, namespace="default", record=b"record", again=False):
    """Appends the next commit, in which these tasks end; `again` if they had ended before, and were redriven."""
    last = await last_sequence(store)
    now = await store.now_ms()
    ended = [EndedTask(namespace=namespace, task_id=task, record=record, end_ms=now - age_ms) for task in tasks]
    redriven = [(namespace, task) for task in tasks] if again else []
    appended = await store.append(sequence=last + 1, commit_nonce=f"c{last + 1}", blob=b"commit", ended=ended, redriven=redriven)
    assert appended.answer is AppendAnswer.APPLIED


async def last_sequence(store):
    entries = await store.read(after=0, limit=10_000)
    return entries[-1][0] if entries else 0


async def ids(store, *, before=None, limit=100, namespace="default"):
    return [entry.task_id for entry in await store.list_ended(namespace, before=before, limit=limit)]


async def append(store, sequence, nonce="n", *, blob=b"blob", ended=()):
    return (await store.append(sequence=sequence, commit_nonce=nonce, blob=blob, ended=ended)).answer


async def confirm(store, sequence):
    return (await store.confirm(sequence=sequence)).answer


async def until_answered(call):
    """What the caller of a store does: the identical call, until it answers."""

    async def once():
        try:
            return await call()
        except StoreOutage:
            return None

    return await eventually(once, message="the store to answer")


class TestClaim:
    async def test_an_empty_journal_ends_at_0(self, backing):
        claim = await backing.open().claim()
        assert claim.sequence == 0

    async def test_an_epoch_is_at_least_the_stores_time(self, backing):
        store = backing.open()
        before = await store.now_ms()
        claim = await store.claim()
        assert claim.epoch >= claim.date_ms >= before

    async def test_epochs_grow_even_within_a_millisecond(self, backing):
        store = backing.open()
        epochs = [(await store.claim()).epoch for _ in range(20)]
        assert epochs == sorted(set(epochs))

    async def test_it_says_where_the_journal_ends(self, backing, owner):
        await append(owner, 1)
        await append(owner, 2, "m")
        assert (await backing.open().claim()).sequence == 2


class TestAppend:
    async def test_the_next_entry_is_applied_and_can_be_read(self, owner):
        assert await append(owner, 1, blob=b"\x00first\xff") is AppendAnswer.APPLIED
        assert await append(owner, 2, "m", blob=b"second") is AppendAnswer.APPLIED
        assert await owner.read(after=0, limit=10) == [(1, b"\x00first\xff"), (2, b"second")]

    async def test_it_answers_with_the_stores_time(self, owner):
        before = await owner.now_ms()
        appended = await owner.append(sequence=1, commit_nonce="n", blob=b"", ended=())
        assert before <= appended.date_ms <= await owner.now_ms()

    async def test_the_same_commit_again_is_already_mine_and_changes_nothing(self, owner):
        ended = [EndedTask(namespace="default", task_id="t", record=b"r", end_ms=1)]
        assert await append(owner, 1, "n", ended=ended) is AppendAnswer.APPLIED
        assert await append(owner, 1, "n", ended=ended) is AppendAnswer.ALREADY_MINE
        assert await owner.count_ended("default") == 1
        assert len(await owner.read(after=0, limit=10)) == 1

    @pytest.mark.parametrize("sequence,nonce", [(2, "other"), (4, "n"), (1, "n"), (100, "m")])
    async def test_an_entry_that_does_not_follow_the_last_diverges_and_changes_nothing(self, owner, sequence, nonce):
        await append(owner, 1, "n")
        await append(owner, 2, "n")
        ended = [EndedTask(namespace="default", task_id="t", record=b"r", end_ms=1)]
        assert await append(owner, sequence, nonce, ended=ended) is AppendAnswer.DIVERGED
        assert await last_sequence(owner) == 2
        assert await owner.get_records("default", ["t"]) == [None]

    async def test_who_has_not_claimed_is_fenced(self, backing):
        assert await append(backing.open(), 1) is AppendAnswer.FENCED

    async def test_the_later_claim_fences_the_earlier(self, backing, owner):
        await append(owner, 1)
        later = backing.open()
        await later.claim()
        assert await append(owner, 2, "m", ended=[EndedTask("default", "t", b"r", 1)]) is AppendAnswer.FENCED
        assert await later.get_records("default", ["t"]) == [None]
        assert await append(later, 2, "m") is AppendAnswer.APPLIED

    async def test_who_is_fenced_is_not_told_of_his_own_commit(self, backing, owner):
        await append(owner, 1, "n")
        await backing.open().claim()
        assert await append(owner, 1, "n") is AppendAnswer.FENCED

    async def test_who_owns_the_shard_is_told_so_and_nothing_changes(self, backing, owner):
        assert await confirm(owner, 0) is AppendAnswer.APPLIED
        await append(owner, 1)
        before = await owner.now_ms()
        confirmed = await owner.confirm(sequence=1)
        assert (confirmed.answer, confirmed.date_ms >= before) == (AppendAnswer.APPLIED, True)
        assert await confirm(owner, 2) is AppendAnswer.DIVERGED
        assert await confirm(backing.open(), 1) is AppendAnswer.FENCED
        assert await append(owner, 2) is AppendAnswer.APPLIED
        await backing.open().claim()
        assert await confirm(owner, 2) is AppendAnswer.FENCED

    async def test_who_asks_whether_it_owns_a_shard_may_find_an_outage(self, backing):
        store = backing.open_impatient()
        await until_answered(store.claim)
        async with backing.outage():
            with pytest.raises(StoreOutage):
                await store.confirm(sequence=0)
        assert await until_answered(lambda: confirm(store, 0)) is AppendAnswer.APPLIED

    async def test_who_claims_again_goes_on(self, backing, owner):
        await backing.open().claim()
        await owner.claim()
        assert await append(owner, 1) is AppendAnswer.APPLIED

    async def test_a_commit_may_end_thousands_of_tasks_in_many_namespaces(self, owner):
        names = ("default", "other", "third")
        ended = [EndedTask(names[i % 3], f"task-{i}", b"%d" % i, i) for i in range(26_000)]
        assert await append(owner, 1, ended=ended) is AppendAnswer.APPLIED
        assert [await owner.count_ended(name) for name in names] == [8667, 8667, 8666]
        assert await ids(owner, namespace="other", limit=2) == ["task-25999", "task-25996"]
        asked = [f"task-{i}" for i in range(0, 26_000, 3)]
        assert await owner.get_records("default", asked) == [b"%d" % i for i in range(0, 26_000, 3)]


class TestRead:
    async def test_an_empty_journal_has_nothing(self, owner):
        assert await owner.read(after=0, limit=10) == []
        assert await first_of(owner) == 0

    async def test_it_starts_after_and_stops_at_the_limit(self, owner):
        for sequence in range(1, 8):
            await append(owner, sequence, blob=b"%d" % sequence)
        assert await owner.read(after=2, limit=3) == [(3, b"3"), (4, b"4"), (5, b"5")]
        assert await owner.read(after=6, limit=3) == [(7, b"7")]
        assert await owner.read(after=7, limit=3) == []
        assert await first_of(owner) == 1


class TestRecords:
    async def test_they_come_in_the_order_asked_for(self, owner):
        await append(owner, 1, ended=[EndedTask("default", "a", b"A", 1), EndedTask("default", "b", b"\x00\xff", 1)])
        assert await owner.get_records("default", ["b", "missing", "a", "b"]) == [b"\x00\xff", None, b"A", b"\x00\xff"]

    async def test_an_answer_is_bounded_in_bytes_and_has_at_least_one(self, owner):
        await append(owner, 1, ended=[EndedTask("default", name, name.encode() * 1000, 1) for name in "abcd"])
        assert await owner.get_records("default", ["none", "a", "b", "c"], max_bytes=2500) == [None, b"a" * 1000, b"b" * 1000]
        assert await owner.get_records("default", ["c", "d"], max_bytes=10) == [b"c" * 1000]
        assert await owner.get_records("default", list("abcd"), max_bytes=5000) == [name.encode() * 1000 for name in "abcd"]

    async def test_the_bound_holds_over_thousands(self, owner):
        await append(owner, 1, ended=[EndedTask("default", f"task-{i}", b"x" * 92, 1) for i in range(3000)])
        found = await owner.get_records("default", [f"task-{i}" for i in range(3000)], max_bytes=200_000)
        assert 2000 <= len(found) < 2200
        assert None not in found

    async def test_none_asked_for_is_none(self, owner):
        assert await owner.get_records("default", []) == []

    @pytest.mark.parametrize("task_id", ["a b", "{s1}", "x:y", "größe", "*", "\n", "0" * 255])
    async def test_an_id_may_be_anything(self, owner, task_id):
        await end(owner, task_id)
        assert await owner.get_records("default", [task_id]) == [b"record"]
        assert await ids(owner) == [task_id]

    async def test_a_namespace_sees_its_own(self, owner):
        await end(owner, "t", namespace="one")
        assert await owner.get_records("two", ["t"]) == [None]
        assert await ids(owner, namespace="two") == []
        assert await owner.count_ended("two") == 0

    async def test_an_empty_record_is_there(self, owner):
        await end(owner, "t", record=b"")
        assert await owner.get_records("default", ["t"]) == [b""]

    async def test_a_task_that_ends_again_has_its_last_record(self, owner):
        await end(owner, "t", record=b"first")
        await end(owner, "t", record=b"second", again=True)
        assert await owner.get_records("default", ["t"]) == [b"second"]


class TestIndex:
    async def test_the_latest_comes_first_with_what_it_says(self, owner):
        await append(owner, 1, ended=[EndedTask("default", "a", b"four", 7), EndedTask("default", "b", b"", 8)])
        latest, earlier = await owner.list_ended("default", before=None, limit=10)
        assert (latest.task_id, latest.end_ms, latest.record_bytes) == ("b", 8, 0)
        assert (earlier.task_id, earlier.end_ms, earlier.record_bytes) == ("a", 7, 4)
        assert latest.position == earlier.position + 1

    async def test_pages_cover_everything_once(self, owner):
        await end(owner, *(f"t{i}" for i in range(10)))
        seen, before = [], None
        while page := await owner.list_ended("default", before=before, limit=3):
            seen += [entry.task_id for entry in page]
            before = page[-1].position
        assert seen == [f"t{i}" for i in reversed(range(10))]

    async def test_positions_stay_when_the_oldest_expire_and_new_ones_come(self, owner):
        await end(owner, *(f"t{i}" for i in range(10)), age_ms=20 * MINUTE_MS)
        before = (await owner.list_ended("default", before=None, limit=3))[-1].position
        assert await owner.expire_ended("default", Retention(0, 0, 0), limit=4) == 4
        await end(owner, "new")
        assert await ids(owner, before=before) == ["t6", "t5", "t4"]
        assert await ids(owner, before=before, limit=2) == ["t6", "t5"]

    async def test_a_position_below_what_is_held_has_nothing_before_it(self, owner):
        await end(owner, "a", "b", "c", age_ms=20 * MINUTE_MS)
        first = (await owner.list_ended("default", before=None, limit=10))[-1].position
        assert await owner.list_ended("default", before=first, limit=10) == []
        await owner.expire_ended("default", Retention(0, 0, 0), limit=2)
        assert await owner.list_ended("default", before=first + 1, limit=10) == []

    async def test_a_position_above_what_is_held_starts_at_the_latest(self, owner):
        await end(owner, "a", "b")
        assert await ids(owner, before=10**6) == ["b", "a"]

    async def test_positions_are_not_used_again_when_all_have_expired(self, owner):
        await end(owner, "a", "b", age_ms=20 * MINUTE_MS)
        last = (await owner.list_ended("default", before=None, limit=1))[0].position
        assert await owner.expire_ended("default", Retention(0, 0, 0), limit=10) == 2
        await end(owner, "c")
        assert (await owner.list_ended("default", before=None, limit=1))[0].position == last + 1


class TestExpiry:
    async def test_what_the_bounds_cover_stays(self, owner):
        await end(owner, "a", "b", age_ms=20 * MINUTE_MS)
        assert await owner.expire_ended("default", KEEP_ALL, limit=10) == 0
        assert await ids(owner) == ["b", "a"]

    async def test_by_age(self, owner):
        await end(owner, "old", age_ms=60 * MINUTE_MS)
        await end(owner, "newer", age_ms=20 * MINUTE_MS)
        retention = Retention(max_age_ms=30 * MINUTE_MS, max_count=10**9, max_bytes=10**9)
        assert await owner.expire_ended("default", retention, limit=10) == 1
        assert await ids(owner) == ["newer"]
        assert await owner.get_records("default", ["old", "newer"]) == [None, b"record"]

    async def test_by_count(self, owner):
        await end(owner, "a", "b", "c", age_ms=20 * MINUTE_MS)
        assert await owner.expire_ended("default", Retention(10**15, 2, 10**9), limit=10) == 1
        assert await ids(owner) == ["c", "b"]
        assert await owner.count_ended("default") == 2

    async def test_by_bytes_and_what_is_removed_no_longer_counts(self, owner):
        retention = Retention(10**15, 10**9, max_bytes=250)
        await end(owner, "a", "b", "c", age_ms=20 * MINUTE_MS, record=b"x" * 100)
        assert await owner.expire_ended("default", retention, limit=10) == 1
        assert await owner.expire_ended("default", retention, limit=10) == 0
        await end(owner, "d", age_ms=20 * MINUTE_MS, record=b"x" * 100)
        assert await owner.expire_ended("default", retention, limit=10) == 1
        assert await ids(owner) == ["d", "c"]

    async def test_nothing_younger_than_ten_minutes_goes(self, owner):
        await end(owner, "older", age_ms=11 * MINUTE_MS)
        await end(owner, "young", age_ms=9 * MINUTE_MS)
        assert await owner.expire_ended("default", Retention(0, 0, 0), limit=10) == 1
        assert await ids(owner) == ["young"]

    async def test_it_stops_at_the_limit(self, owner):
        await end(owner, "a", "b", "c", age_ms=20 * MINUTE_MS)
        assert await owner.expire_ended("default", Retention(0, 0, 0), limit=2) == 2
        assert await ids(owner) == ["c"]

    async def test_the_line_of_an_earlier_end_takes_nothing_with_it(self, owner):
        await end(owner, "t", age_ms=20 * MINUTE_MS, record=b"first")
        await end(owner, "t", age_ms=1 * MINUTE_MS, record=b"second", again=True)
        assert await owner.expire_ended("default", Retention(0, 0, 0), limit=10) == 1
        assert await owner.get_records("default", ["t"]) == [b"second"]
        assert await ids(owner) == ["t"]

    async def test_who_is_fenced_removes_nothing(self, backing, owner):
        await end(owner, "t", age_ms=20 * MINUTE_MS)
        await backing.open().claim()
        assert await owner.expire_ended("default", Retention(0, 0, 0), limit=10) == 0
        assert await ids(owner) == ["t"]

    async def test_an_empty_namespace_has_nothing_to_expire(self, owner):
        assert await owner.expire_ended("default", Retention(0, 0, 0), limit=10) == 0


class TestOutage:
    async def test_every_call_says_so_and_the_identical_append_is_applied_afterwards(self, backing, owner):
        await end(owner, "before")
        async with backing.outage():
            for call in (
                lambda: append(owner, 2, "m"),
                lambda: owner.read(after=0, limit=1),
                lambda: owner.get_records("default", ["before"]),
                lambda: owner.list_ended("default", before=None, limit=1),
                lambda: owner.count_ended("default"),
                lambda: owner.expire_ended("default", KEEP_ALL, limit=1),
                lambda: owner.slim_ended("default", bytes, limit=1),
                owner.now_ms,
                lambda: backing.open().claim(),
                lambda: owner.write_snapshot(sequence=1, nonce="n", place=0, piece=b""),
                lambda: owner.finish_snapshot(sequence=1, nonce="n", pieces=1, size_bytes=0),
                lambda: owner.read_snapshot(sequence=1, place=0),
                lambda: owner.trim_journal(limit=1),
            ):
                with pytest.raises(StoreOutage):
                    await call()
        assert await until_answered(lambda: append(owner, 2, "m")) is AppendAnswer.APPLIED
        assert await ids(owner) == ["before"]
        assert await owner.get_records("default", ["before"]) == [b"record"]

    async def test_an_append_whose_answer_was_lost_is_already_mine(self, backing):
        store = backing.open_impatient()
        await until_answered(lambda: append(store, 1))  # FENCED: but from now on the server knows the script
        await until_answered(store.claim)
        ended = [EndedTask("default", "t", b"r", 1)]
        async with backing.lost_answers():
            with pytest.raises(StoreOutage):
                await append(store, 1, "n", ended=ended)
        observer = backing.open()
        await eventually(lambda: observer.read(after=0, limit=1), message="the append to be applied")
        assert await until_answered(lambda: append(store, 1, "n", ended=ended)) is AppendAnswer.ALREADY_MINE
        assert await until_answered(lambda: append(store, 2, "m")) in (AppendAnswer.APPLIED, AppendAnswer.ALREADY_MINE)  # it is impatient
        assert await observer.count_ended("default") == 1

    async def test_a_claim_whose_answer_was_lost_is_repeated(self, backing):
        store = backing.open_impatient()
        earlier = await until_answered(store.claim)
        async with backing.lost_answers():
            with pytest.raises(StoreOutage):
                await store.claim()
        # The lost claim may have been applied under a token that nobody knows: only another claim helps, and it can be the last.
        await eventually(lambda: append_is_fenced(backing, store), message="the lost claim to be applied")
        assert (await until_answered(store.claim)).epoch > earlier.epoch
        assert await until_answered(lambda: append(store, 1)) in (AppendAnswer.APPLIED, AppendAnswer.ALREADY_MINE)


async def append_is_fenced(backing, store):
    try:
        return await append(store, 99) is AppendAnswer.FENCED
    except StoreOutage:
        return False
