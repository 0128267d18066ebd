"""Locks: who waits is told by the call that hands the lock on, keeps its place, and never longer than it may."""

import asyncio

import pytest

from coordinator.errors import Unavailable
from coordinator.journal.memory_store import Fault
from coordinator.state.memory_store import StateCall
from coordinator.state.model import AcquireLock, ConfirmLock, KeepLock, Outcome, ReleaseLock
from tests.support.state_world import StateWorld, add, in_world, put


@in_world
async def test_a_free_lock_is_taken_and_its_token_grows(world: StateWorld) -> None:
    first = await world.lock("l", "a")
    assert first.outcome is Outcome.DONE
    assert (await world.lock("l", "b")).outcome is Outcome.WAITING
    await world.send(ReleaseLock("l", first.revision))
    second = await world.lock("l", "b")
    assert second.revision > first.revision


@in_world
async def test_waiters_get_it_in_turn_and_confirm(world: StateWorld) -> None:
    token = (await world.lock("l", "a")).revision
    waiting = {name: world.lock("l", name, wait_s=100) for name in "bcd"}
    await asyncio.sleep(0.1)
    calls = len(world.store.batches)
    await asyncio.sleep(1)
    assert len(world.store.batches) == calls  # nobody polls
    tokens = [token]
    for name in "bcd":
        released_s = world.loop.now_s
        await world.send(ReleaseLock("l", tokens[-1]))
        verdict = await waiting[name]
        assert verdict.outcome is Outcome.DONE
        assert world.loop.now_s - released_s < 0.01
        tokens.append(verdict.revision)
        assert not any(later.done() for other, later in waiting.items() if other > name)
        await asyncio.sleep(1.5)  # longer than an unconfirmed grant lasts
        assert (await world.send(KeepLock("l", tokens[-1]))).outcome is Outcome.DONE
    assert tokens == sorted(set(tokens))


@in_world
async def test_a_dead_holder_s_lock_goes_to_the_next_one_without_polling(world: StateWorld) -> None:
    await world.lock("l", "dead", ttl_ms=3_000)
    waiting = world.lock("l", "b", wait_s=100, ttl_ms=60_000)
    verdict = await waiting
    assert verdict.outcome is Outcome.DONE
    assert 3.0 <= world.loop.now_s < 3.1


@in_world
async def test_a_grant_to_somebody_who_is_gone_goes_to_the_next_after_a_second(world: StateWorld) -> None:
    token = (await world.lock("l", "a")).revision
    gone = world.lock("l", "gone", wait_s=100)
    await asyncio.sleep(0.01)
    waiting = world.lock("l", "b", wait_s=100)
    await asyncio.sleep(0.01)
    gone.cancel()
    await world.send(ReleaseLock("l", token))
    released_s = world.loop.now_s
    assert (await waiting).outcome is Outcome.DONE
    assert 0.9 < world.loop.now_s - released_s < 1.2


@in_world
async def test_the_wait_ends_in_time_and_the_place_stays(world: StateWorld) -> None:
    token = (await world.lock("l", "a", ttl_ms=60_000)).revision
    asked_s = world.loop.now_s
    assert (await world.lock("l", "b", wait_s=2.0)).outcome is Outcome.WAITING
    assert world.loop.now_s - asked_s == pytest.approx(2.0)
    late = world.lock("l", "c", wait_s=100)
    await asyncio.sleep(0.01)
    again = world.lock("l", "b", wait_s=100)
    await asyncio.sleep(0.01)
    await world.send(ReleaseLock("l", token))
    assert (await again).outcome is Outcome.DONE
    assert not late.done()
    late.cancel()


@in_world
async def test_whoever_waits_here_keeps_its_place_beyond_its_time_to_live(world: StateWorld) -> None:
    token = (await world.lock("l", "a", ttl_ms=600_000)).revision
    waiting = world.lock("l", "b", wait_s=100, ttl_ms=3_000)
    await asyncio.sleep(50)
    assert [waiter.waiter_id for waiter in (await world.engine.locks("default", prefix="", after="", limit=10))[0].waiters] == ["b"]
    await world.send(ReleaseLock("l", token))
    assert (await waiting).outcome is Outcome.DONE


@in_world
async def test_whoever_is_gone_loses_its_place_by_its_time_to_live(world: StateWorld) -> None:
    await world.lock("l", "a", ttl_ms=600_000)
    waiting = world.lock("l", "b", wait_s=100, ttl_ms=3_000)
    await asyncio.sleep(9.5)
    waiting.cancel()
    await asyncio.sleep(2)
    assert len((await world.engine.locks("default", prefix="", after="", limit=10))[0].waiters) == 1
    await asyncio.sleep(1.1)
    assert (await world.engine.locks("default", prefix="", after="", limit=10))[0].waiters == ()


@in_world
async def test_asking_again_under_the_same_id_takes_the_place_of_the_earlier_call(world: StateWorld) -> None:
    token = (await world.lock("l", "a")).revision
    first = world.lock("l", "b", wait_s=100)
    await asyncio.sleep(0.01)
    second = world.lock("l", "b", wait_s=100)
    assert (await first).outcome is Outcome.WAITING
    await world.send(ReleaseLock("l", token))
    assert (await second).outcome is Outcome.DONE


@in_world
async def test_a_grant_in_the_call_that_made_the_waiter_is_confirmed(world: StateWorld) -> None:
    token = (await world.lock("l", "a")).revision
    await world.put("k")
    waiting = world.lock("l", "b", wait_s=100)
    released = world.send(ReleaseLock("l", token))
    await released
    granted = await waiting
    assert granted.outcome is Outcome.DONE
    assert [len(commands) for _, commands in world.store.batches[-2:]] == [2, 1]
    assert world.store.batches[-1][1] == [ConfirmLock("l", granted.revision)]


@in_world
async def test_a_wait_whose_time_is_over_while_it_is_granted_gets_the_lock(world: StateWorld) -> None:
    token = (await world.lock("l", "a", ttl_ms=60_000)).revision
    waiting = world.lock("l", "b", wait_s=1.0)
    await asyncio.sleep(0.9985)
    released = world.send(ReleaseLock("l", token))
    verdict = await waiting
    await released
    assert verdict.outcome is Outcome.DONE
    assert world.loop.now_s > 1.0


@in_world
async def test_a_grant_whose_answer_was_lost_in_an_outage_is_found(world: StateWorld) -> None:
    token = (await world.lock("l", "a", ttl_ms=60_000)).revision
    waiting = world.lock("l", "b", wait_s=100, ttl_ms=60_000)
    await asyncio.sleep(0.01)
    world.faults = [(StateCall.WRITE, Fault.AFTER)] * 3
    await world.send(ReleaseLock("l", token))
    assert (await waiting).outcome is Outcome.DONE
    assert world.loop.now_s < 1


@in_world
async def test_an_outage_ends_no_lock_and_no_wait(world: StateWorld) -> None:
    token = (await world.lock("l", "a", ttl_ms=3_000)).revision
    waiting = world.lock("l", "b", wait_s=100, ttl_ms=3_000)
    await asyncio.sleep(0.1)
    world.down = True
    early = world.send(put("k"))
    await asyncio.sleep(20)
    assert not waiting.done()
    world.down = False
    await early
    assert (await world.send(KeepLock("l", token))).outcome is Outcome.DONE
    await world.send(ReleaseLock("l", token))
    assert (await waiting).outcome is Outcome.DONE


@in_world
async def test_a_lock_is_refused_while_the_store_is_out(world: StateWorld) -> None:
    world.down = True
    early = world.send(put("k"))
    await asyncio.sleep(0.1)
    with pytest.raises(Unavailable):
        await world.lock("l", "a", wait_s=10)
    world.down = False
    await early


@in_world
async def test_a_paused_holder_writes_nothing(world: StateWorld) -> None:
    token = (await world.lock("l", "a", ttl_ms=1_000)).revision
    await asyncio.sleep(2)
    assert (await world.send(add("n", locks=(("l", token),)))).outcome is Outcome.LOCK_LOST
    assert await world.value("n") is None


@in_world
async def test_waits_end_with_the_engine(world: StateWorld) -> None:
    await world.lock("l", "a")
    waiting = world.lock("l", "b", wait_s=100)
    await asyncio.sleep(0.1)
    await world.stop()
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await world.lock("l", "c")


@in_world
async def test_a_takeover_gives_locks_their_time_again(world: StateWorld) -> None:
    token = (await world.lock("l", "a", ttl_ms=3_000)).revision
    await asyncio.sleep(2.9)
    await world.take_over()
    await asyncio.sleep(2.5)
    assert (await world.send(KeepLock("l", token))).outcome is Outcome.DONE
    await asyncio.sleep(3.5)
    assert (await world.send(KeepLock("l", token))).outcome is Outcome.LOCK_LOST


@in_world
async def test_a_confirmation_that_came_too_late_waits_on(world: StateWorld) -> None:
    token = (await world.lock("l", "a", ttl_ms=60_000)).revision
    waiting = world.lock("l", "b", wait_s=100, ttl_ms=60_000)
    other = AcquireLock("l", "elsewhere", 60_000, wait=True)
    await asyncio.sleep(0.01)
    await world.send(other)
    wait = world.engine._namespaces["default"].lock_waits._waits["l", "b"]
    wait.asking = True  # it doesn't get round to confirming
    await world.send(ReleaseLock("l", token))
    await asyncio.sleep(1.5)
    assert (await world.send(other)).outcome is Outcome.DONE
    world.engine._namespaces["default"].lock_waits._confirm(wait)
    await asyncio.sleep(0.1)
    assert not waiting.done()
    (view,) = await world.engine.locks("default", prefix="l", after="", limit=10)
    assert [view.holder.waiter_id, *(waiter.waiter_id for waiter in view.waiters)] == ["elsewhere", "b"]
    waiting.cancel()
