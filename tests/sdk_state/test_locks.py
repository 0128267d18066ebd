"""Leases and locks: the token goes with every write, and a loss is noticed."""

import asyncio
import gc

import pytest

from agent_node import LockLost, RefusedError
from agent_node.state.values import EventKind
from tests.support.eventually import eventually

TTL_S = 1.5  # renewed each third of it: a real coordinator on a busy machine must not end it before


async def test_writes_inside_carry_the_token(state, service):
    async with state.lock("l") as lock:
        assert lock.token == service.locks["l"].token > 0
        await state.put("k", 1)
        await state.add("n")
        await state.txn().put("m", 1).commit()
        async with state.lock("inner"):
            await state.delete("k")
    await state.put("k", 2)
    required = [list(op.put.options.required_locks) for op in service.ops if op.HasField("put")]
    assert [each.token for each in required[0]] == [lock.token]
    assert required[1] == []
    deletes = [op.delete.options.required_locks for op in service.ops if op.HasField("delete")]
    assert [each.name for each in deletes[0]] == ["l", "inner"]
    assert service.locks["l"].token == 0


async def test_another_clients_writes_are_not_under_it(connect, service):
    async with connect().state.lock("l"):
        await connect().state.put("k", 1)
    assert not service.ops[1].put.options.required_locks


async def test_who_waits_is_served_in_turn_with_growing_tokens(connect):
    states = [connect().state for _ in range(4)]
    order = []

    async def turn(number):
        async with states[number].lock("l") as lock:
            order.append((number, lock.token))

    async with states[0].lock("l"):
        waiting = []
        for number in range(4):
            waiting.append(asyncio.ensure_future(turn(number)))

            async def in_line(length=number + 1):
                [lock] = await states[0].locks()
                return len(lock.waiters) == length

            await eventually(in_line, message="the waiter to be in line")
    await asyncio.gather(*waiting)
    assert [number for number, _ in order] == [0, 1, 2, 3]
    tokens = [token for _, token in order]
    assert tokens == sorted(set(tokens))


async def test_a_loss_comes_out_of_the_body(state, service):
    with pytest.raises(LockLost):  # noqa: PT012 - it comes out of the whole block
        async with state.lock("l", ttl_s=TTL_S):
            service.take_lock_away("l")
            await asyncio.Event().wait()
    # The cancellation ended with the block.
    await asyncio.sleep(0)


async def test_a_write_under_a_lost_lock_is_refused(state, service):
    with pytest.raises(LockLost):  # noqa: PT012 - it comes out of the whole block
        async with state.lock("l"):
            service.take_lock_away("l")
            await state.put("k", 1)
    assert "k" not in service.entries


async def test_a_lock_that_cannot_be_renewed_is_lost_before_another_has_it(state, service):
    with pytest.raises(LockLost, match="could not be renewed"):  # noqa: PT012 - it comes out of the whole block
        async with state.lock("l", ttl_s=TTL_S):
            service.answering = False
            await asyncio.Event().wait()


async def test_a_lock_in_a_generator_that_is_left_in_the_middle_is_let_go(state, service):
    async def held():
        async with state.lock("l"):
            yield 1
            yield 2

    async for _ in held():
        break
    gc.collect()  # the event loop closes it then, in a context of its own
    await eventually(lambda: service.locks["l"].token == 0, message="the lock to be let go")
    await state.put("k", 1)  # no longer inside of it
    assert not service.ops[-1].put.options.required_locks


async def test_what_the_body_raises_passes(state, service):
    with pytest.raises(KeyError):
        async with state.lock("l"):
            raise KeyError("mine")
    assert service.locks["l"].token == 0


async def test_a_cancel_from_outside_stays_one(state, service):
    entered = asyncio.Event()

    async def hold():
        async with state.lock("l"):
            entered.set()
            await asyncio.Event().wait()

    holding = asyncio.ensure_future(hold())
    await entered.wait()
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding
    await eventually(lambda: service.locks["l"].token == 0, message="the lock to be let go")


async def test_a_waiter_that_gives_up_or_is_cancelled_leaves_the_line(connect, service):
    first, second = connect().state, connect().state
    async with first.lock("l"):
        with pytest.raises(TimeoutError, match="muster state locks"):
            async with second.lock("l", wait_s=0.05):
                pass
        waiting = asyncio.ensure_future(second.lock("l").acquire())
        await eventually(lambda: service.locks["l"].waiters, message="the waiter")
        waiting.cancel()
        await eventually(lambda: not service.locks["l"].waiters, message="the line to be empty")


async def test_a_waiter_keeps_its_place_over_a_broken_stream(connect, service):
    first, second = connect().state, connect().state
    async with first.lock("l"):
        waiting = asyncio.ensure_future(second.lock("l").acquire())
        await eventually(lambda: service.locks["l"].waiters, message="the waiter")
        await service.break_streams()
        await eventually(lambda: sum(op.HasField("lock") for op in service.ops) == 3, message="it to ask again")
        assert len(service.locks["l"].waiters) == 1
    await waiting


async def test_a_lease_lives_until_its_block_ends(state, service):
    async with await state.lease(TTL_S) as lease, state.watch("k") as watch:
        await state.put("k", 1, lease=lease)
        await eventually(lambda: sum(op.HasField("keep_lease") for op in service.ops) >= 2, message="signs of life")
        assert (await anext(watch)).entry.lease_id == lease.lease_id
        await lease.revoke()
        lease.lost.set()
        assert (await anext(watch)).kind is EventKind.DELETED


async def test_a_lease_that_has_ended_says_so(state, service):
    lease = await state.lease(TTL_S)
    service.end_lease(lease.lease_id)
    await asyncio.wait_for(lease.lost.wait(), 5)
    with pytest.raises(RefusedError):
        await state.put("k", 1, lease=lease)
