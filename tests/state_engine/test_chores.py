"""What a namespace does by itself: it ends what is due on the store's clock, without polling, and forgets old history in small steps."""

import asyncio

import pytest

from coordinator.state.chores import COMPACT_LIMIT, EXPIRE_LIMIT, SWEEP_SPACING_S
from coordinator.state.model import Compact, EventKind, ExpireDue, ExtendAll, GrantLease, KeepLease, Limits, Outcome
from tests.support.state_world import START_MS, StateWorld, all_of, in_world, put


def commands(world: StateWorld, kind: type) -> list:
    return [command for _, batch in world.store.batches for command in batch if isinstance(command, kind)]


@in_world
async def test_a_key_ends_by_its_time_to_live_and_nobody_polls(world: StateWorld) -> None:
    await world.put("k", ttl_ms=60_000)
    await asyncio.sleep(59.9)
    assert len(world.store.batches) == 1
    assert await world.value("k") == b""
    await asyncio.sleep(0.2)
    assert await world.value("k") is None
    page = await world.engine.history("default", "k", after=0, limit=10, max_bytes=10_000)
    assert [event.kind for event in page.events] == [EventKind.PUT, EventKind.EXPIRED]
    assert len(world.store.batches) == 2


@in_world
async def test_a_lease_ends_with_its_keys_unless_it_is_kept(world: StateWorld) -> None:
    lease = (await world.send(GrantLease(3_000))).revision
    await all_of([world.send(put(f"k{number}", lease_id=lease)) for number in range(3)])
    for _ in range(5):
        await asyncio.sleep(2)
        assert (await world.send(KeepLease(lease))).outcome is Outcome.DONE
    assert await world.value("k0") == b""
    await asyncio.sleep(3.2)
    assert [entry for entry in await world.get("k0", "k1", "k2") if entry] == []
    assert (await world.send(KeepLease(lease))).outcome is Outcome.LEASE_NOT_FOUND


@in_world
async def test_many_deadlines_close_together_take_few_calls(world: StateWorld) -> None:
    await all_of([world.send(put(f"k{number}", ttl_ms=1_000 + number)) for number in range(200)])
    await asyncio.sleep(2)
    assert (await world.engine.facts("default")).keys == 0
    assert len(commands(world, ExpireDue)) <= 0.2 / SWEEP_SPACING_S + 2


@in_world
async def test_more_than_a_call_ends_goes_on_at_once(world: StateWorld) -> None:
    await all_of([world.send(put(f"k{number}", ttl_ms=1_000)) for number in range(2 * EXPIRE_LIMIT + 10)])
    await asyncio.sleep(1.1)
    assert (await world.engine.facts("default")).keys == 0
    assert len(commands(world, ExpireDue)) == 3


@in_world
async def test_deadlines_are_looked_at_by_the_store_s_clock_as_of_now(world: StateWorld) -> None:
    await world.put("k", ttl_ms=1_000)
    await asyncio.sleep(1.1)
    (expired,) = commands(world, ExpireDue)
    assert START_MS + 1_000 <= expired.until_ms <= START_MS + 1_010


@in_world
async def test_an_expiry_that_is_carried_out_late_ends_nothing_that_fell_due_meanwhile(world: StateWorld) -> None:
    await world.put("due", ttl_ms=1_000)
    await world.put("later", ttl_ms=1_500)
    world.store.gate = asyncio.Event()
    await asyncio.sleep(1.7)  # the sweep is under way, and the store stands still
    gate, world.store.gate = world.store.gate, None
    gate.set()
    await asyncio.sleep(0.001)
    assert [entry and entry.key for entry in (await world.get("due", "later"))] == [None, "later"]


@in_world
async def test_a_takeover_gives_leases_their_time_again_before_anything_ends(world: StateWorld) -> None:
    lease = (await world.send(GrantLease(3_000))).revision
    await world.put("k", lease_id=lease)
    await world.stop()
    await asyncio.sleep(60)
    world.store.batches.clear()
    await world.take_over()
    await asyncio.sleep(2.9)
    assert (await world.send(KeepLease(lease))).outcome is Outcome.DONE
    kinds = [type(command) for _, batch in world.store.batches for command in batch]
    assert kinds[0] is ExtendAll
    await asyncio.sleep(3.2)
    assert await world.value("k") is None


@in_world
async def test_a_namespace_without_deadlines_writes_nothing_at_a_takeover(world: StateWorld) -> None:
    await world.put("k")
    await world.take_over()
    await asyncio.sleep(10)
    assert world.store.batches == []


@in_world
async def test_after_a_stall_leases_get_their_time_again(world: StateWorld) -> None:
    lease = (await world.send(GrantLease(3_000))).revision
    await asyncio.sleep(2.9)
    world.clock.ahead_s += 30  # the process was stopped: its timers are late
    await asyncio.sleep(0.3)
    assert (await world.send(KeepLease(lease))).outcome is Outcome.DONE
    assert commands(world, ExtendAll)


@in_world
async def test_an_outage_ends_no_lease(world: StateWorld) -> None:
    lease = (await world.send(GrantLease(3_000))).revision
    world.down = True
    early = world.send(put("k"))
    await asyncio.sleep(30)
    world.down = False
    await early
    await asyncio.sleep(2)
    assert (await world.send(KeepLease(lease))).outcome is Outcome.DONE


@in_world(limits=Limits(keep_revisions=2_000, keep_ms=3_600_000))
async def test_history_is_bounded_by_revisions_in_small_steps(world: StateWorld) -> None:
    for _ in range(40):
        await all_of([world.send(put("k")) for _ in range(250)])
    await asyncio.sleep(1)
    facts = await world.engine.facts("default")
    assert facts.compact_revision == facts.revision - 2_000 + 1
    compactions = commands(world, Compact)
    assert {(command.revision, command.limit) for command in compactions} == {(0, COMPACT_LIMIT)}
    assert len(world.state.namespaces["default"].events) <= 3_000


@in_world(limits=Limits(keep_ms=60_000))
async def test_history_is_bounded_by_age_at_rest_too_and_then_there_is_rest(world: StateWorld) -> None:
    await all_of([world.send(put(f"k{number}")) for number in range(2_000)])
    await asyncio.sleep(200)
    assert world.state.namespaces["default"].events == []
    calls = len(world.store.batches)
    await asyncio.sleep(2_000)
    assert len(world.store.batches) == calls


@in_world(limits=Limits(keep_revisions=100))
async def test_compaction_does_not_hold_up_writers(world: StateWorld) -> None:
    await all_of([world.send(put("k")) for _ in range(5_000)])
    asked_s = world.loop.now_s
    await world.put("k")
    assert world.loop.now_s - asked_s == pytest.approx(0.001, abs=0.0011)
