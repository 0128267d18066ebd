"""What every store of shared state does with what ends: times to live, leases, and locks with their lines."""

import pytest

from coordinator.state.model import (
    CONFIRM_MS,
    AcquireLock,
    Compare,
    CompareTarget,
    ConfirmLock,
    Delete,
    ExpireDue,
    ExtendAll,
    Grant,
    GrantLease,
    KeepLease,
    KeepLock,
    Limits,
    LockParty,
    Origin,
    Outcome,
    Put,
    ReleaseLock,
    RevokeLease,
    Transaction,
)
from tests.support.state_backings import START_MS


class TestTimeToLive:
    async def test_a_key_is_there_until_its_end_is_an_event(self, writer):
        await writer.put("k", ttl_ms=100)
        writer.clock.pass_ms(99)
        assert (await writer.expire()).number == 0
        writer.clock.pass_ms(1)
        assert await writer.value("k") == b"v"
        verdict = await writer.expire()
        assert (verdict.number, verdict.revision, verdict.more) == (1, 2, False)
        assert await writer.told(after=1) == [("EXPIRED", "k", 2)]
        assert await writer.value("k") is None
        assert (await writer.facts()).next_due_ms is None

    async def test_each_write_sets_it_anew(self, writer):
        await writer.put("k", ttl_ms=100)
        await writer.put("k", ttl_ms=500)
        assert (await writer.facts()).next_due_ms == START_MS + 500
        await writer.put("k")
        assert (await writer.facts()).next_due_ms is None
        await writer.put("k", ttl_ms=100)
        await writer.delete("k")
        assert (await writer.facts()).next_due_ms is None

    async def test_a_write_may_leave_it_as_it_is(self, writer):
        lease = await writer.lease(5000)
        await writer.put("k", ttl_ms=100)
        await writer.put("leased", lease_id=lease)
        writer.clock.pass_ms(50)
        await writer.put("k", b"new", keeps_end=True)
        verdict = await writer.do(Transaction((Put("leased", b"n", keeps_end=True), Put("made", b"m", keeps_end=True))))
        assert [entry.lease_id for entry in verdict.puts] == [lease, 0]
        writer.clock.pass_ms(50)
        await writer.expire()
        assert await writer.keys() == ["leased", "made"]
        await writer.do(RevokeLease(lease))
        assert await writer.keys() == ["made"]

    async def test_a_bounded_number_ends_at_a_time_in_the_order_of_their_dates(self, writer):
        for number in range(5):
            await writer.put(f"k{number}", ttl_ms=100 - number)
        writer.clock.pass_ms(100)
        verdict = await writer.expire(limit=2)
        assert (verdict.number, verdict.more) == (2, True)
        verdict = await writer.expire(limit=3)
        assert (verdict.number, verdict.more) == (3, False)
        assert [key for _, key, _ in await writer.told(after=5)] == ["k4", "k3", "k2", "k1", "k0"]

    async def test_nothing_ends_that_was_not_due_when_the_call_was_made(self, writer):
        await writer.put("k", ttl_ms=100)
        writer.clock.pass_ms(500)
        assert (await writer.do(ExpireDue(10, START_MS + 99))).number == 0
        assert (await writer.do(ExpireDue(10, START_MS + 100))).number == 1

    async def test_nor_what_is_not_due_by_the_stores_clock(self, writer):
        await writer.put("k", ttl_ms=100)
        assert (await writer.do(ExpireDue(10, START_MS + 10**6))).number == 0


class TestLeases:
    async def test_all_its_keys_end_in_one_revision(self, writer):
        lease = await writer.lease(100)
        for key in ("b", "a", "c"):
            await writer.put(key, lease_id=lease)
        assert (await writer.get("a")).lease_id == lease
        writer.clock.pass_ms(100)
        verdict = await writer.expire()
        assert (verdict.number, verdict.revision) == (3, 5)
        assert await writer.told(after=4) == [("EXPIRED", "a", 5), ("EXPIRED", "b", 5), ("EXPIRED", "c", 5)]
        assert (await writer.do(KeepLease(lease))).outcome is Outcome.LEASE_NOT_FOUND

    async def test_a_sign_of_life_keeps_it(self, writer):
        lease = await writer.lease(100)
        writer.clock.pass_ms(99)
        assert (await writer.do(KeepLease(lease))).outcome is Outcome.DONE
        writer.clock.pass_ms(99)
        assert (await writer.expire()).number == 0
        assert (await writer.facts()).next_due_ms == START_MS + 199

    async def test_revoking_deletes_its_keys_in_the_name_of_who_asks(self, writer):
        lease = await writer.lease(100)
        await writer.put("k", lease_id=lease)
        verdict = await writer.do(RevokeLease(lease, origin=Origin(author=b"me")))
        assert (verdict.number, verdict.revision) == (1, 3)
        event = (await writer.events(after=2)).events[0]
        assert (event.kind.name, event.author, event.previous_revision) == ("DELETED", b"me", 2)
        assert (await writer.do(RevokeLease(lease))).outcome is Outcome.LEASE_NOT_FOUND
        assert (await writer.facts()).next_due_ms is None

    async def test_a_key_leaves_it_by_another_write_or_a_delete(self, writer):
        first, second = await writer.lease(100), await writer.lease(5000)
        for key in ("moved", "freed", "deleted", "kept"):
            await writer.put(key, lease_id=first)
        await writer.put("moved", lease_id=second)
        await writer.put("freed")
        await writer.delete("deleted")
        await writer.put("deleted")
        await writer.put("kept", lease_id=first)
        assert (await writer.do(RevokeLease(first))).number == 1
        assert await writer.keys() == ["deleted", "freed", "moved"]

    async def test_an_unknown_one_is_refused_and_nothing_is_written(self, writer):
        verdict = await writer.do(Transaction((Put("a", b""), Put("k", b"", lease_id=7))))
        assert (verdict.outcome, verdict.number) == (Outcome.LEASE_NOT_FOUND, 7)
        assert await writer.keys() == []

    async def test_it_has_a_bounded_number_of_keys(self, writer):
        writer.limits = Limits(max_lease_keys=2)
        lease = await writer.lease(100)
        await writer.put("a", lease_id=lease)
        await writer.put("b", lease_id=lease)
        await writer.put("a", lease_id=lease)
        verdict = await writer.do(Transaction((Put("c", b"", lease_id=lease),)))
        assert (verdict.outcome, verdict.number) == (Outcome.LEASE_FULL, 2)

    async def test_there_is_a_bounded_number_of_them(self, writer):
        writer.limits = Limits(max_leases=1)
        await writer.lease(100)
        verdict = await writer.do(GrantLease(100))
        assert (verdict.outcome, verdict.number) == (Outcome.TOO_MANY_LEASES, 1)


class TestAfterAnOutage:
    async def test_everything_has_its_own_time_again(self, writer):
        lease = await writer.lease(1000)
        await writer.put("leased", lease_id=lease)
        await writer.put("k", ttl_ms=2000)
        await writer.acquire("holder", ttl_ms=3000)
        await writer.acquire("waiter", ttl_ms=4000)
        writer.clock.pass_ms(60_000)
        await writer.do(ExtendAll())
        ended = []
        for _ in range(5):
            await writer.expire()
            ended.append((await writer.keys(), await writer.lock()))
            writer.clock.pass_ms(1000)
        held = ("holder", ["waiter"])
        assert ended[:3] == [(["k", "leased"], held), (["k"], held), ([], held)]
        assert ended[3] == ([], ("waiter", []))

    async def test_a_grant_is_still_to_be_confirmed_within_a_second(self, writer):
        token = (await writer.acquire("a")).revision
        await writer.acquire("b", ttl_ms=9000)
        await writer.acquire("c", ttl_ms=9000)
        await writer.do(ReleaseLock("l", token=token))
        writer.clock.pass_ms(5000)
        await writer.do(ExtendAll())
        writer.clock.pass_ms(CONFIRM_MS - 1)
        await writer.expire()
        assert await writer.lock() == ("b", ["c"])
        writer.clock.pass_ms(1)
        await writer.expire()
        assert await writer.lock() == ("c", [])

    async def test_a_deadline_that_is_later_stays(self, writer):
        await writer.put("k", ttl_ms=1000)
        await writer.do(ExtendAll())
        writer.clock.pass_ms(500)
        await writer.put("k", ttl_ms=1000)
        writer.clock.pass_ms(999)
        assert (await writer.expire()).number == 0
        writer.clock.pass_ms(1)
        assert (await writer.expire()).number == 1


class TestLocks:
    async def test_a_token_is_a_revision_that_grows_with_every_acquisition(self, writer):
        await writer.put("k")
        first = await writer.acquire("a")
        assert (first.outcome, first.revision) == (Outcome.DONE, 2)
        await writer.do(ReleaseLock("l", token=first.revision))
        assert (await writer.acquire("a")).revision == 3
        assert (await writer.facts()).revision == 3

    async def test_asking_again_finds_what_was_granted(self, writer):
        first = await writer.acquire("a")
        assert await writer.acquire("a") == first

    async def test_waiters_are_served_in_their_order(self, writer):
        token = (await writer.acquire("a")).revision
        holder = LockParty(token=token, waiter_id="a", author=b"a", since_ms=START_MS)
        for number, waiter in enumerate(["b", "c", "d"]):
            verdict = await writer.acquire(waiter)
            assert (verdict.outcome, verdict.number, verdict.holder) == (Outcome.WAITING, number, holder)
        assert (await writer.acquire("c")).number == 1
        served = []
        for _ in range(3):
            grant = (await writer.do(ReleaseLock("l", token=token))).grants[0]
            assert grant.token > token
            token = grant.token
            served.append(grant.waiter_id)
            assert (await writer.do(ConfirmLock("l", token))).revision == token
        assert served == ["b", "c", "d"]
        assert (await writer.do(ReleaseLock("l", token=token))).grants == ()
        assert await writer.lock() == ("", [])
        assert (await writer.facts()).next_due_ms is None

    async def test_whoever_does_not_wait_takes_no_place(self, writer):
        await writer.acquire("a")
        await writer.acquire("b")
        verdict = await writer.acquire("c", wait=False)
        assert (verdict.outcome, verdict.number) == (Outcome.WAITING, 1)
        assert await writer.lock() == ("a", ["b"])

    async def test_a_holder_that_is_silent_loses_it_to_the_next(self, writer):
        await writer.acquire("a", ttl_ms=1000)
        await writer.acquire("b", ttl_ms=9000)
        writer.clock.pass_ms(999)
        assert (await writer.expire()).grants == ()
        writer.clock.pass_ms(1)
        verdict = await writer.expire()
        assert verdict.grants == (Grant("l", "b", 2),)
        assert verdict.number == 1

    async def test_a_holders_sign_of_life_keeps_it(self, writer):
        token = (await writer.acquire("a", ttl_ms=1000)).revision
        writer.clock.pass_ms(999)
        assert (await writer.do(KeepLock("l", token))).outcome is Outcome.DONE
        writer.clock.pass_ms(999)
        await writer.expire()
        assert await writer.lock() == ("a", [])

    async def test_a_grant_that_is_not_confirmed_within_a_second_goes_to_the_next(self, writer):
        token = (await writer.acquire("a")).revision
        await writer.acquire("b")
        await writer.acquire("c")
        await writer.do(ReleaseLock("l", token=token))
        writer.clock.pass_ms(CONFIRM_MS - 1)
        await writer.expire()
        assert await writer.lock() == ("b", ["c"])
        writer.clock.pass_ms(1)
        (grant,) = (await writer.expire()).grants
        assert grant.waiter_id == "c"
        assert (await writer.do(ConfirmLock("l", grant.token))).outcome is Outcome.DONE
        writer.clock.pass_ms(9999)
        await writer.expire()
        assert await writer.lock() == ("c", [])
        assert (await writer.do(ConfirmLock("l", 2))).outcome is Outcome.LOCK_LOST

    async def test_asking_again_confirms_a_grant(self, writer):
        token = (await writer.acquire("a")).revision
        await writer.acquire("b")
        (grant,) = (await writer.do(ReleaseLock("l", token=token))).grants
        assert (await writer.acquire("b")).revision == grant.token
        writer.clock.pass_ms(9999)
        await writer.expire()
        assert await writer.lock() == ("b", [])

    async def test_a_waiter_that_does_not_ask_again_loses_its_place(self, writer):
        await writer.acquire("a", ttl_ms=60_000)
        await writer.acquire("b", ttl_ms=1000)
        await writer.acquire("c", ttl_ms=1000)
        writer.clock.pass_ms(600)
        await writer.acquire("b", ttl_ms=1000)
        writer.clock.pass_ms(400)
        assert (await writer.expire()).number == 1
        assert await writer.lock() == ("a", ["b"])

    async def test_a_waiter_may_leave_and_lets_go_of_what_was_granted_meanwhile(self, writer):
        token = (await writer.acquire("a")).revision
        await writer.acquire("b")
        await writer.acquire("c")
        assert (await writer.do(ReleaseLock("l", waiter_id="b"))).grants == ()
        assert await writer.lock() == ("a", ["c"])
        await writer.do(ReleaseLock("l", token=token))
        await writer.acquire("d")
        assert (await writer.do(ReleaseLock("l", waiter_id="c"))).grants[0].waiter_id == "d"
        for name in ("l", "other"):
            assert (await writer.do(ReleaseLock(name, waiter_id="nobody"))).outcome is Outcome.NOT_WAITING

    async def test_only_the_holder_lets_go_and_keeps(self, writer):
        token = (await writer.acquire("a")).revision
        for command in (ReleaseLock("l", token=token + 1), KeepLock("l", token + 1), ConfirmLock("l", token + 1)):
            verdict = await writer.do(command)
            assert (verdict.outcome, verdict.holder.waiter_id) == (Outcome.LOCK_LOST, "a")
        assert (await writer.do(ReleaseLock("none", token=token))).holder is None
        assert await writer.lock() == ("a", [])

    async def test_a_write_needs_the_token_of_the_holder(self, writer):
        token = (await writer.acquire("a", ttl_ms=1000)).revision
        await writer.acquire("b", ttl_ms=9000)
        guarded = Transaction((Put("k", b"a"),), locks=(("l", token),))
        assert (await writer.do(guarded)).outcome is Outcome.DONE
        writer.clock.pass_ms(1000)
        await writer.expire()
        verdict = await writer.do(guarded)
        assert (verdict.outcome, verdict.holder.waiter_id, verdict.revision) == (Outcome.LOCK_LOST, "b", 0)
        both = Transaction(
            (Delete("k"),), (Compare("k", CompareTarget.EXISTS, 0),), (Delete("k"),), locks=(("l", verdict.holder.token), ("m", 1))
        )
        verdict = await writer.do(both)
        assert (verdict.outcome, verdict.holder) == (Outcome.LOCK_LOST, None)
        assert await writer.value("k") == b"a"

    async def test_names_that_begin_alike_are_different_locks(self, writer):
        names = ["l", "l\x00", "l\x00\x00", "lo", "m"]
        for name in names:
            await writer.acquire("a", name=name)
            await writer.acquire(f"\x00b{name}", name=name)
        views = await writer.store.locks("default", prefix="", after="", limit=10)
        assert [(view.name, [waiter.waiter_id for waiter in view.waiters]) for view in views] == [
            (name, [f"\x00b{name}"]) for name in names
        ]
        views = await writer.store.locks("default", prefix="l", after="l\x00", limit=2)
        assert [view.name for view in views] == ["l\x00\x00", "lo"]

    async def test_there_is_a_bounded_number_of_locks_and_waiters(self, writer):
        writer.limits = Limits(max_locks=1, max_waiters=1)
        await writer.acquire("a")
        verdict = await writer.acquire("a", name="m")
        assert (verdict.outcome, verdict.number) == (Outcome.TOO_MANY_LOCKS, 1)
        await writer.acquire("b")
        verdict = await writer.acquire("c")
        assert (verdict.outcome, verdict.number) == (Outcome.TOO_MANY_WAITERS, 1)
        assert (await writer.acquire("b")).outcome is Outcome.WAITING

    async def test_a_thousand_waiters_of_one_lock(self, writer):
        await writer.acquire("holder", ttl_ms=60_000)
        await writer.batch(*(AcquireLock("l", f"w{number}", 60_000, wait=True) for number in range(1000)))
        assert (await writer.acquire("w999")).number == 999
        assert (await writer.lock())[1][::333] == ["w0", "w333", "w666", "w999"]


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_all_kinds_end_whatever_the_steps(writer, limit):
    lease = await writer.lease(10)
    await writer.put("leased", lease_id=lease)
    await writer.put("k", ttl_ms=10)
    await writer.acquire("a", ttl_ms=10)
    await writer.acquire("b", ttl_ms=10)
    for _ in range(20):
        writer.clock.pass_ms(CONFIRM_MS)
        verdict = await writer.expire(limit=limit)
    assert verdict.number == 0
    assert await writer.lock() == ("", [])
    assert await writer.keys() == []
    assert (await writer.facts()).next_due_ms is None
