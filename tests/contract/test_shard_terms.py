"""How every ShardStore finds ended tasks by their terms, shown on each; on a server every key is compared with what must be there."""

import re
from collections import defaultdict

import pytest

from coordinator.journal.layout import unpack_line
from coordinator.ports import AppendAnswer, EndedTask, Retention, StoreCorrupt
from tests.support.shard_backings import KEYS, MemoryBacking

MINUTE_MS = 60_000
KEEP = Retention(max_age_ms=10**15, max_count=10**9, max_bytes=10**15)
NOTHING = Retention(0, 0, 0)
ON_SERVERS = pytest.mark.parametrize("backing", ["valkey", pytest.param("redis", marks=pytest.mark.redis)], indirect=True)
A, B, RED, BLUE = "type:a", "type:b", "label:team=red", "label:team=blue"


class Ended:
    """A store beside what must be in it."""

    def __init__(self, store):
        self.store = store
        self.sequence = 0
        self.lines = defaultdict(list)  # by namespace: (position, id, terms)

    async def end(self, *tasks, namespace="default", age_ms=20 * MINUTE_MS):
        """A commit in which these tasks end: an id and its terms each."""
        self.sequence += 1
        now = await self.store.now_ms()
        ended = [EndedTask(namespace, task_id, b"record", now - age_ms, tuple(terms)) for task_id, *terms in tasks]
        appended = await self.store.append(sequence=self.sequence, commit_nonce=f"n{self.sequence}", blob=b"", ended=ended)
        assert appended.answer is AppendAnswer.APPLIED
        lines = self.lines[namespace]
        first = lines[-1][0] + 1 if lines else getattr(self, "next", 0)
        lines += [(first + place, task_id, set(terms)) for place, (task_id, *terms) in enumerate(tasks)]

    async def expire(self, count):
        """The oldest `count` go."""
        assert await self.store.expire_ended("default", NOTHING, limit=count) == min(count, len(self.lines["default"]))
        if self.lines["default"]:
            self.next = self.lines["default"][-1][0] + 1
        del self.lines["default"][:count]

    def expected(self, groups, *, before=None):
        lines = [line for line in reversed(self.lines["default"]) if before is None or line[0] < before]
        found = [[(position, task_id) for position, task_id, terms in lines if terms & set(group)] for group in groups]
        return min(found, key=len)

    async def found(self, *groups, before=None, limit=1000):
        entries = await self.store.list_ended("default", before=before, limit=limit, terms=groups)
        return [(entry.position, entry.task_id) for entry in entries]


@pytest.fixture
async def ended(owner):
    return Ended(owner)


async def keys_of(backing):
    """All that a server holds of terms: by key, lists and sorted sets."""
    client = backing.client()
    held = {}
    for key in await client.keys("*:term*"):
        kind = await client.type(key)
        held[key.decode()] = await (client.lrange(key, 0, -1) if kind == b"list" else client.zrange(key, 0, -1, withscores=True))
    return held


async def check_keys(backing, ended):
    """What a server holds of terms is exactly what its lines have."""
    if isinstance(backing, MemoryBacking):
        return
    held = await keys_of(backing)
    client = backing.client()
    for namespace, lines in ended.lines.items():
        base = int(await client.hget(KEYS.counters(namespace), "base") or 0)
        stored = [unpack_line(line, position=base + place) for place, line in enumerate(await client.lrange(KEYS.ended(namespace), 0, -1))]
        assert [(entry.position, entry.task_id) for entry in stored] == [(position, task_id) for position, task_id, _ in lines]
        registry = {term.decode(): int(score) for term, score in held.pop(KEYS.terms(namespace), [])}
        for term in {term for _, _, terms in lines for term in terms}:
            entries = [parse(entry) for entry in held.pop(KEYS.term(namespace, term))]
            positions = [position for first, count in entries for position in range(first, first + count) if position >= base]
            assert positions == [position for position, _, terms in lines if term in terms]
            assert sum(entries[0]) > base, "the first entry is dead"
            assert registry.pop(term) == sum(entries[0]) - 1
        assert registry == {}
    assert held == {}, "keys of what is gone"


def parse(entry):
    first, count = re.fullmatch(rb"(\d+)(?:\+(\d+))?", entry).groups()
    return int(first), int(count or 1)


async def test_tasks_are_found_by_each_of_their_terms_the_latest_first(backing, ended):
    await ended.end(("1", A), ("2", A, RED), ("3", B, RED), ("4", A))
    await ended.end(("5", B), ("6", A, BLUE))
    assert await ended.found([A]) == [(5, "6"), (3, "4"), (1, "2"), (0, "1")]
    assert await ended.found([RED]) == [(2, "3"), (1, "2")]
    assert await ended.found([RED, BLUE]) == [(5, "6"), (2, "3"), (1, "2")]
    assert await ended.found(["label:team=green"]) == []
    await check_keys(backing, ended)


async def test_the_group_that_finds_least_is_taken(ended):
    await ended.end(*((f"{number}", A, *([RED] if number == 7 else [])) for number in range(50)))
    await ended.end(("late", B, BLUE))
    assert await ended.found([A], [RED, BLUE]) == [(50, "late"), (7, "7")]
    assert await ended.found([RED, BLUE], [A]) == [(50, "late"), (7, "7")]


async def test_pages_meet_each_task_once(ended):
    await ended.end(*((f"{number}", A, *([RED] if number % 3 else [])) for number in range(200)))
    await ended.end(*((f"x{number}", B if number % 2 else A) for number in range(200)))
    for groups in ([A], [RED], [A, B]):
        found, before = [], None
        while page := await ended.found(groups, before=before, limit=7):
            assert len(page) <= 7
            found += page
            before = page[-1][0]
        assert found == ended.expected([groups])


async def test_expiry_clears_the_terms(backing, ended):
    await ended.end(*((f"{number}", A, f"label:run={number // 4}") for number in range(20)))
    await ended.end(("20", B, RED), ("21", A))
    for count in (1, 5, 10, 4, 1):
        await ended.expire(count)
        await check_keys(backing, ended)
        assert await ended.found([A, B]) == ended.expected([[A, B]])
        assert await ended.found([A]) == ended.expected([[A]])
    await ended.expire(1)
    await check_keys(backing, ended)
    assert await ended.found([A]) == []
    await ended.end(("22", A))
    assert await ended.found([A]) == [(22, "22")]
    await check_keys(backing, ended)


async def test_what_was_left_behind_is_cleared_later(backing, ended, monkeypatch):
    """A coordinator may end between an expiry and the clearing of its terms."""
    await ended.end(("1", A, RED), ("2", B))
    if not isinstance(backing, MemoryBacking):

        async def interrupted(namespace):
            raise RuntimeError("interrupted")

        with monkeypatch.context() as patched:
            patched.setattr(ended.store, "_clear_terms", interrupted)
            with pytest.raises(RuntimeError, match="interrupted"):
                await ended.expire(1)
        ended.lines["default"].pop(0)
    else:
        await ended.expire(1)
    assert await ended.found([A]) == [], "what is dead isn't found"
    assert await ended.store.expire_ended("default", KEEP, limit=10) == 0
    await check_keys(backing, ended)


async def test_dropped_results_leave_the_terms_alone(backing, ended):
    await ended.end(("1", A, RED), ("2", B), ("1", A))
    await ended.store.slim_ended("default", lambda record: record[:1], limit=10)
    assert await ended.found([A]) == [(2, "1"), (0, "1")]
    await check_keys(backing, ended)


async def test_many_terms_and_many_tasks_take_one_commit(backing, ended):
    await ended.end(*((f"{number}", A if number % 2 else B, f"label:n={number}") for number in range(9000)))
    assert len(await ended.found([A], limit=100)) == 100
    assert await ended.found(["label:n=77"]) == [(77, "77")]
    await ended.expire(2000)
    assert await ended.found(["label:n=77"]) == []
    assert (await ended.found([B]))[-1] == (8998 - 2 * 999, f"{8998 - 2 * 999}")
    await check_keys(backing, ended)


async def test_namespaces_are_apart(backing, ended):
    await ended.end(("1", A))
    await ended.end(("other", A), namespace="other")
    assert await ended.found([A]) == [(0, "1")]
    await check_keys(backing, ended)


@ON_SERVERS  # memory has no older format
async def test_what_ended_before_there_were_terms_is_looked_at_as_well(backing, ended):
    """A store of format 1: its lines are in no list."""
    await ended.end(("old", A), ("older", B))
    client = backing.client()
    await client.delete(*(await client.keys("*:term*")))
    await client.hdel(KEYS.counters("default"), "indexed")
    assert [task_id for _, task_id in await ended.found([A])] == ["older", "old"]
    await ended.end(("new", A), ("newer", B))
    assert [task_id for _, task_id in await ended.found([A])] == ["new", "older", "old"]
    assert [task_id for _, task_id in await ended.found([A], limit=2)] == ["new", "older"]
    assert [task_id for _, task_id in await ended.found([A], before=1)] == ["old"]


async def test_who_is_fenced_clears_nothing(backing, ended):
    await ended.end(("1", A), ("2", B))
    await backing.open().claim()
    assert await ended.store.expire_ended("default", NOTHING, limit=1) == 0
    await check_keys(backing, ended)


@pytest.mark.parametrize("key", [KEYS.terms("default"), KEYS.term("default", A)])
@ON_SERVERS  # the types of what memory has are Python's
async def test_a_key_of_something_else_is_found_before_anything_is_written(backing, ended, key):
    client = backing.client()
    await client.set(key, "something")
    with pytest.raises(StoreCorrupt, match="CORRUPT"):
        await ended.end(("1", A))
    assert await ended.store.get_records("default", ["1"]) == [None]
    assert await ended.store.count_ended("default") == 0
