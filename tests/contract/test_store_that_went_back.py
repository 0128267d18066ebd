"""A server that has lost a shard's last claim, as one that took over from a primary and was behind: that is told from a takeover."""

import shutil
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from coordinator.journal.server_binary import find_server_binary
from coordinator.ports import AppendAnswer, StoreCorrupt
from coordinator.state.layout import StateKeys
from coordinator.state.model import Put, Transaction
from coordinator.state.ports import WriteAnswer
from coordinator.state.redis_store import RedisStateStore
from tests.support.shard_backings import KEYS, running_server
from tests.support.state_backings import StateClock, StateWriter

FAR_MS = 4_000_000_000_000  # an epoch above any clock's


@pytest.fixture(params=["valkey", pytest.param("redis", marks=pytest.mark.redis)])
async def server(request, tmp_path):
    binary = find_server_binary() if request.param == "valkey" else Path(shutil.which("redis-server"))
    async with running_server(binary=binary, directory=tmp_path / "store") as backing:
        yield backing


async def append(store, sequence):
    return (await store.append(sequence=sequence, commit_nonce=f"n{sequence}", blob=b"blob", ended=())).answer


async def test_a_claim_that_is_lost_is_no_takeover_and_its_epoch_is_not_given_out_again(server):
    raw, owner = server.client(), server.open()
    await owner.claim()
    await raw.hset(KEYS.head, "epoch", FAR_MS)
    earlier = await raw.dump(KEYS.head)
    epoch = (await owner.claim()).epoch
    assert await append(owner, 1) is AppendAnswer.APPLIED
    await raw.restore(KEYS.head, 0, earlier, replace=True)
    await raw.delete(KEYS.journal)
    assert await append(owner, 2) is AppendAnswer.DIVERGED
    assert (await owner.confirm(sequence=1)).answer is AppendAnswer.DIVERGED
    claim = await owner.claim()
    assert (claim.epoch, claim.sequence) == (epoch + 1, 0)


async def test_so_it_is_for_shared_state(server):
    raw, owner = server.client(), server.open()
    async with AsyncExitStack() as closing:
        state = RedisStateStore(pool=raw.connection_pool, keys=StateKeys(shard=KEYS), token=owner.token)
        closing.push_async_callback(state.close)
        writer = StateWriter(store=state, clock=StateClock())
        await owner.claim()
        earlier = await raw.dump(KEYS.head)
        await owner.claim()
        await writer.put("a")
        await raw.restore(KEYS.head, 0, earlier, replace=True)
        with pytest.raises(StoreCorrupt, match="lost the claim"):
            await writer.put("b")
        await server.open().claim()  # somebody else: that is a takeover
        assert (await writer.batch(Transaction((Put("b", b"v"),)))).answer is WriteAnswer.FENCED


async def test_everything_lost_is_no_takeover(server):
    owner = server.open()
    await owner.claim()
    await append(owner, 1)
    await server.client().flushall()
    assert await append(owner, 2) is AppendAnswer.DIVERGED
    assert (await owner.claim()).sequence == 0
