"""The faults that a simulation injects into a shard in memory."""

import pytest

from coordinator.journal.memory_store import Fault, MemoryShard, MemoryShardStore, StoreCall
from coordinator.ports import AppendAnswer, EndedTask, Retention, StoreOutage
from tests.support.shard_backings import first_of

NOW_MS = 1_800_000_000_000
ENDED = [EndedTask("default", "t", b"r", 0)]


class Faults:
    """Answers the faults it was given, in order, then none; and remembers what was asked for."""

    def __init__(self, *faults):
        self.calls = []
        self._faults = list(faults)
        self.meanwhile = None

    async def __call__(self, call):
        self.calls.append(call)
        if self.meanwhile is not None:
            await self.meanwhile()
        return self._faults.pop(0) if self._faults else Fault.NONE


@pytest.fixture
def shard():
    return MemoryShard()


def open_store(shard, faults):
    return MemoryShardStore(shard=shard, now_ms=lambda: NOW_MS, fault=faults)


async def append(store, sequence):
    return (await store.append(sequence=sequence, commit_nonce=f"n{sequence}", blob=b"", ended=ENDED)).answer


async def test_a_fault_before_an_append_leaves_nothing(shard):
    store = open_store(shard, Faults(Fault.NONE, Fault.BEFORE))
    await store.claim()
    with pytest.raises(StoreOutage):
        await append(store, 1)
    assert await first_of(store) == 0
    assert await append(store, 1) is AppendAnswer.APPLIED


async def test_a_fault_after_an_append_leaves_all_of_it(shard):
    store = open_store(shard, Faults(Fault.NONE, Fault.AFTER))
    await store.claim()
    with pytest.raises(StoreOutage):
        await append(store, 1)
    assert await store.get_records("default", ["t"]) == [b"r"]
    assert await append(store, 1) is AppendAnswer.ALREADY_MINE


async def test_a_claim_in_the_middle_of_an_append_fences_it(shard):
    faults = Faults()
    store = open_store(shard, faults)
    await store.claim()
    faults.meanwhile = open_store(shard, Faults()).claim
    assert await append(store, 1) is AppendAnswer.FENCED
    assert await first_of(store) == 0


async def test_a_claim_whose_answer_was_lost_fences_its_own_store(shard):
    store = open_store(shard, Faults(Fault.NONE, Fault.AFTER))
    await store.claim()
    with pytest.raises(StoreOutage):
        await store.claim()
    assert await append(store, 1) is AppendAnswer.FENCED


async def test_a_fault_after_expiry_leaves_it_done(shard):
    store = open_store(shard, Faults(Fault.NONE, Fault.NONE, Fault.AFTER))
    await store.claim()
    await append(store, 1)
    with pytest.raises(StoreOutage):
        await store.expire_ended("default", Retention(0, 0, 0), limit=10)
    assert await store.count_ended("default") == 0


async def test_every_call_asks_for_its_fault(shard):
    faults = Faults()
    store = open_store(shard, faults)
    await store.claim()
    await append(store, 1)
    await store.expire_ended("default", Retention(0, 0, 0), limit=10)
    reads = [
        store.read(after=0, limit=1),
        store.get_records("default", []),
        store.list_ended("default", before=None, limit=1),
        store.count_ended("default"),
        store.now_ms(),
    ]
    for read in reads:
        await read
    assert faults.calls == [StoreCall.CLAIM, StoreCall.APPEND, StoreCall.EXPIRE, *[StoreCall.READ] * len(reads)]


async def test_time_that_stands_still_or_goes_back_gives_no_epoch_twice(shard):
    times = iter([100, 100, 50])
    store = MemoryShardStore(shard=shard, now_ms=lambda: next(times))
    assert [(await store.claim()).epoch for _ in range(3)] == [100, 101, 102]
