"""How every ShardStore removes what a deleted namespace has left, shown on each."""

from coordinator.ports import AppendAnswer, EndedTask
from tests.support.shard_backings import MemoryBacking


async def end(store, sequence, *tasks, namespace="blue"):
    now = await store.now_ms()
    ended = [EndedTask(namespace, task, b"record", now, ("type:a", f"label:n={task}")) for task in tasks]
    appended = await store.append(sequence=sequence, commit_nonce=f"n{sequence}", blob=b"", ended=ended)
    assert appended.answer is AppendAnswer.APPLIED


async def keys(backing):
    return sorted(key.decode() for key in await backing.client().keys("*")) if not isinstance(backing, MemoryBacking) else []


async def test_nothing_is_left_of_it_and_nothing_else_is_touched(backing, owner):
    await end(owner, 1, "a", "b", "c", namespace="green")
    before = await keys(backing)
    await end(owner, 2, *(f"t{number}" for number in range(7)))
    await end(owner, 3, "t1", "t2")
    assert [await owner.purge_namespace("blue", limit=4) for _ in range(4)] == [4, 4, 1, 0]
    assert await owner.count_ended("blue") == 0
    assert await owner.get_records("blue", ["t1", "t6"]) == [None, None]
    assert await owner.list_ended("blue", before=None, limit=10, terms=[["type:a"]]) == []
    assert await keys(backing) == before
    assert await owner.count_ended("green") == 3


async def test_its_name_begins_anew(owner):
    await end(owner, 1, "t")
    while await owner.purge_namespace("blue", limit=10):
        pass
    await end(owner, 2, "u")
    assert [(entry.position, entry.task_id) for entry in await owner.list_ended("blue", before=None, limit=10)] == [(0, "u")]
    assert [entry.task_id for entry in await owner.list_ended("blue", before=None, limit=10, terms=[["type:a"]])] == ["u"]


async def test_what_was_never_there_is_gone(owner):
    assert await owner.purge_namespace("blue", limit=10) == 0


async def test_who_is_fenced_removes_nothing(backing, owner):
    await end(owner, 1, "t")
    later = backing.open()
    await later.claim()
    assert await owner.purge_namespace("blue", limit=10) == 0
    assert await later.get_records("blue", ["t"]) == [b"record"]
