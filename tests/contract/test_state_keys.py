"""What every store of shared state does with keys, shown on each: in memory, on the embedded Valkey, and on a redis-server."""

from dataclasses import replace

import pytest

from coordinator.state.model import (
    KEPT_MS,
    KEPT_PER_CLIENT,
    Compact,
    Compare,
    CompareTarget,
    Delete,
    GrantLease,
    Limits,
    Origin,
    Outcome,
    Put,
    Read,
    ReleaseLock,
    Transaction,
)
from coordinator.state.ports import WriteAnswer
from tests.support.state_backings import START_MS, StateWriter

BIG = bytes(range(256)) * 40  # kept apart


class TestTransaction:
    async def test_a_put_is_there_as_it_was_written(self, writer):
        origin = Origin(author=b"\x00me")
        verdict = await writer.do(Transaction((Put("k\x00ü", b"\x00\xff", content_type="text/x"),), origin=origin))
        entry = await writer.get("k\x00ü")
        assert (entry.value, entry.content_type, entry.author, entry.write_ms) == (b"\x00\xff", "text/x", b"\x00me", START_MS)
        assert (entry.mod_revision, entry.create_revision, entry.version) == (1, 1, 1)
        assert verdict.puts == (replace(entry, value=b""),)

    async def test_versions_count_writes_since_the_key_was_made(self, writer):
        await writer.put("k")
        await writer.put("other")
        await writer.put("k", BIG)
        entry = await writer.get("k")
        assert (entry.mod_revision, entry.create_revision, entry.version, entry.value) == (3, 1, 2, BIG)
        await writer.delete("k")
        await writer.put("k", b"new")
        entry = await writer.get("k")
        assert (entry.mod_revision, entry.create_revision, entry.version, entry.value) == (5, 5, 1, b"new")

    async def test_all_of_it_shares_a_revision_and_reads_see_what_was_before(self, writer):
        await writer.put("a", b"old")
        await writer.put("b")
        verdict = await writer.do(Transaction((Put("a", b"new"), Delete("b"), Put("c", b"c"), Read(("a", "b", "none")))))
        assert (verdict.revision, verdict.number) == (3, 1)
        assert [(entry.key, entry.value) for entry in verdict.entries] == [("a", b"old"), ("b", b"v")]
        assert await writer.told(after=2) == [("PUT", "a", 3), ("DELETED", "b", 3), ("PUT", "c", 3)]
        assert await writer.value("b") is None

    async def test_what_writes_nothing_takes_no_revision(self, writer):
        await writer.put("a")
        for ops in [(), (Delete("none"),), (Delete("none/", prefix=True),), (Read(("a",)),)]:
            verdict = await writer.do(Transaction(ops))
            assert (verdict.outcome, verdict.revision, verdict.number) == (Outcome.DONE, 0, 0)
        assert (await writer.facts()).revision == 1

    @pytest.mark.parametrize(
        "target,held,broken",
        [
            (CompareTarget.MOD_REVISION, 3, 1),
            (CompareTarget.CREATE_REVISION, 1, 3),
            (CompareTarget.VERSION, 2, 1),
            (CompareTarget.EXISTS, 1, 0),
        ],
    )
    async def test_a_condition_on_a_number(self, writer, target, held, broken):
        await writer.put("k")
        await writer.put("other")
        await writer.put("k")
        for number, outcome in ((held, Outcome.DONE), (broken, Outcome.COMPARE_FAILED)):
            assert (await writer.do(Transaction((), (Compare("k", target, number),)))).outcome is outcome
        for number, outcome in ((0, Outcome.DONE), (1, Outcome.COMPARE_FAILED)):
            assert (await writer.do(Transaction((), (Compare("none", target, number),)))).outcome is outcome

    @pytest.mark.parametrize("value", [b"", b"v", BIG])
    async def test_a_condition_on_the_value(self, writer, value):
        await writer.put("k", value)
        for key, wanted, outcome in [("k", value, "DONE"), ("k", value + b"x", "COMPARE_FAILED"), ("none", value, "COMPARE_FAILED")]:
            compare = Compare(key, CompareTarget.VALUE, value=wanted)
            assert (await writer.do(Transaction((), (compare,)))).outcome.name == outcome

    async def test_one_broken_condition_makes_it_the_else_branch(self, writer):
        await writer.put("k")
        compares = (Compare("k", CompareTarget.EXISTS, 1), Compare("k", CompareTarget.VERSION, 7))
        verdict = await writer.do(Transaction((Put("then", b""),), compares, (Put("else", b""), Read(("k",)))))
        assert (verdict.outcome, verdict.revision, verdict.puts[0].key) == (Outcome.COMPARE_FAILED, 2, "else")
        assert await writer.keys() == ["else", "k"]
        assert [entry.key for entry in verdict.entries] == ["k"]

    async def test_a_batch_decides_each_on_what_the_ones_before_left(self, writer):
        compare = (Compare("k", CompareTarget.EXISTS, 0),)
        written = await writer.batch(Transaction((Put("k", b"1"),), compare), Transaction((Put("k", b"2"),), compare))
        assert [verdict.outcome for verdict in written.verdicts] == [Outcome.DONE, Outcome.COMPARE_FAILED]
        assert await writer.value("k") == b"1"

    async def test_a_prefix_is_deleted_in_one_revision(self, writer):
        for key in ("a", "a/1", "a/2\x00", "a/ü", "a0", "b"):
            await writer.put(key)
        verdict = await writer.delete("a/", prefix=True)
        assert (verdict.revision, verdict.number) == (7, 3)
        assert await writer.told(after=6) == [("DELETED", "a/1", 7), ("DELETED", "a/2\x00", 7), ("DELETED", "a/ü", 7)]
        assert await writer.keys() == ["a", "a0", "b"]

    async def test_namespaces_know_nothing_of_each_other(self, writer):
        other = StateWriter(store=writer.store, clock=writer.clock, namespace="other")
        await writer.put("k", b"1")
        await other.put("k", b"2")
        assert (await writer.value("k"), await other.value("k")) == (b"1", b"2")
        assert ((await writer.facts()).revision, (await other.facts()).revision) == (1, 1)


class TestLimits:
    async def refused(self, writer, transaction, outcome, number):
        before = await writer.facts()
        verdict = await writer.do(transaction)
        assert (verdict.outcome, verdict.number, verdict.revision) == (outcome, number, 0)
        assert await writer.facts() == before

    async def test_keys(self, writer):
        writer.limits = Limits(max_keys=2)
        await writer.put("a")
        await writer.put("b")
        await self.refused(writer, Transaction((Put("c", b""),)), Outcome.TOO_MANY_KEYS, 2)
        await writer.put("a")
        assert (await writer.do(Transaction((Put("c", b""), Delete("a"))))).outcome is Outcome.DONE

    async def test_bytes(self, writer):
        writer.limits = Limits(max_bytes=20)
        await writer.put("key", b"x" * 12)
        await self.refused(writer, Transaction((Put("more", b"12"),)), Outcome.TOO_MANY_BYTES, 15)
        await self.refused(writer, Transaction((Put("key", b"x" * 18),)), Outcome.TOO_MANY_BYTES, 15)
        await writer.put("key", b"x" * 17)
        writer.limits = Limits(max_bytes=10)  # lowered since: what makes it smaller is taken all the same
        await writer.put("key", b"x" * 16)
        assert (await writer.facts()).bytes == 19

    async def test_deletes(self, writer):
        writer.limits = Limits(max_prefix_deletes=2)
        for key in ("a/1", "a/2", "a/3", "b/1"):
            await writer.put(key)
        await self.refused(writer, Transaction((Delete("a/", prefix=True),)), Outcome.TOO_MANY_DELETED, 2)
        two = Transaction((Delete("a/1"), Delete("a/2"), Delete("b/", prefix=True)))
        await self.refused(writer, two, Outcome.TOO_MANY_DELETED, 2)
        assert (await writer.delete("b/", prefix=True)).number == 1

    async def test_what_one_transaction_reads(self, writer):
        writer.limits = Limits(max_read_bytes=10)
        await writer.put("a", b"12345")
        await writer.put("b", b"12345")
        await self.refused(writer, Transaction((Read(("a", "b")), Put("c", b""))), Outcome.READ_TOO_LARGE, 10)
        assert len((await writer.do(Transaction((Read(("a",)),)))).entries) == 1

    async def test_what_one_batch_reads(self, writer):
        writer.limits = Limits(max_batch_read_bytes=13)
        await writer.put("a", b"12345")
        read = Transaction((Read(("a",)),))
        written = await writer.batch(read, read, read)
        verdicts = [(verdict.outcome, verdict.number) for verdict in written.verdicts]
        assert verdicts == [(Outcome.DONE, 0), (Outcome.DONE, 0), (Outcome.READ_TOO_LARGE, 1)]

    async def test_a_full_store_is_emptied_and_takes_nothing_that_makes_it_larger(self, state, writer):
        lease = await writer.lease(1000)
        await writer.put("short", ttl_ms=1000)
        await writer.put("leased", lease_id=lease)
        await writer.put("k", BIG)
        token = (await writer.acquire("holder")).revision
        await writer.acquire("waiter")
        await state.fill()
        await self.refused(writer, Transaction((Put("k", b""),)), Outcome.STORE_FULL, 0)
        await self.refused(writer, GrantLease(1000), Outcome.STORE_FULL, 0)
        assert (await writer.acquire("w", name="other")).outcome is Outcome.STORE_FULL
        assert (await writer.acquire("w")).outcome is Outcome.STORE_FULL
        assert (await writer.acquire("waiter")).outcome is Outcome.WAITING
        mixed = await writer.batch(Transaction((Put("new", b""),)), Transaction((Delete("k"),)))
        assert [verdict.outcome for verdict in mixed.verdicts] == [Outcome.STORE_FULL, Outcome.DONE]
        assert await writer.lock() == ("holder", ["waiter"])
        writer.clock.pass_ms(1000)
        assert (await writer.expire()).number == 2
        assert await writer.keys() == []
        assert (await writer.do(Compact(0, 100))).outcome is Outcome.DONE
        released = await writer.do(ReleaseLock("l", token=token))
        assert [grant.waiter_id for grant in released.grants] == ["waiter"]

    async def test_the_caller_may_know_that_the_store_is_full(self, writer):
        await writer.put("other")
        writer.limits = Limits(store_full=True)
        await self.refused(writer, Transaction((Put("k", b""),)), Outcome.STORE_FULL, 0)
        assert (await writer.do(Transaction((Delete("k"),)))).outcome is Outcome.DONE


class TestOwner:
    async def test_whoever_lost_the_shard_writes_nothing(self, state, writer):
        await writer.put("k")
        successor = await state.open()
        written = await writer.batch(Transaction((Put("k", b"late"),)))
        assert (written.answer, list(written.verdicts)) == (WriteAnswer.FENCED, [])
        assert await writer.store.drop("default", limit=10) is False
        assert await StateWriter(store=successor, clock=state.clock).value("k") == b"v"

    async def test_a_repeated_batch_is_answered_as_it_was_and_done_once(self, writer):
        await writer.put("k", BIG)
        commands = (
            Transaction((Put("k", b"x"), Put("n", b"y", content_type="t"), Read(("k",)))),
            Transaction((Put("k", b"z"),), (Compare("k", CompareTarget.EXISTS, 0),), (Read(("k",)),)),
            GrantLease(1000),
        )
        first = await writer.batch(*commands, nonce="mine")
        again = await writer.batch(*commands, nonce="mine")
        assert (first.answer, again.answer) == (WriteAnswer.APPLIED, WriteAnswer.ALREADY_MINE)
        assert again.verdicts == first.verdicts
        assert (again.revision, again.incarnation, again.next_due_ms) == (first.revision, first.incarnation, first.next_due_ms)
        assert (await writer.facts()).revision == 3

    async def test_a_batch_tells_where_it_left_the_state(self, writer):
        written = await writer.batch(Transaction((Put("k", b"", ttl_ms=70),)), nonce="first")
        assert (written.revision, written.date_ms, written.next_due_ms) == (1, START_MS, START_MS + 70)
        assert written.incarnation == (await writer.facts()).incarnation != ""

    async def test_a_store_that_lost_writes_goes_on_above_them_in_another_incarnation(self, writer):
        await writer.put("k")
        before = await writer.facts()
        written = await writer.batch(Transaction((Put("k", b""),)), known_revision=41)
        after = await writer.facts()
        assert written.verdicts[0].revision == after.revision == 42
        assert after.incarnation == written.incarnation != before.incarnation
        assert after.compact_revision == 42
        assert (await writer.events(after=1)).events == []
        assert await writer.told(after=41) == [("PUT", "k", 42)]
        written = await writer.batch(Transaction((Put("k", b""),)), known_revision=42)
        assert (written.revision, written.incarnation) == (43, after.incarnation)


class TestSequences:
    def put(self, sequence, *, value=b"v", client="c"):
        return Transaction((Put("k", value),), origin=Origin(b"a", client, sequence))

    async def test_a_repetition_gets_the_first_verdict(self, writer):
        first = await writer.do(self.put(1))
        await writer.put("k", b"since")
        assert await writer.do(self.put(1)) == first
        assert (await writer.facts()).revision == 2
        assert (await writer.do(self.put(1, client="d"))).revision == 3

    async def test_what_wrote_nothing_is_decided_anew(self, writer):
        once = Transaction((Put("k", b""),), (Compare("k", CompareTarget.EXISTS, 1),), origin=Origin(b"", "c", 1))
        assert (await writer.do(once)).outcome is Outcome.COMPARE_FAILED
        await writer.put("k")
        assert (await writer.do(once)).outcome is Outcome.DONE
        assert (await writer.do(once)).revision == 2

    async def test_leases_count_once(self, writer):
        grant = GrantLease(1000, origin=Origin(b"", "c", 1))
        assert (await writer.do(grant)).revision == (await writer.do(grant)).revision == 1

    async def test_they_may_come_in_any_order(self, writer):
        for sequence in (5, 3, 4, 1):
            assert (await writer.do(self.put(sequence))).outcome is Outcome.DONE
        assert [(await writer.do(self.put(sequence))).revision for sequence in (1, 3, 4, 5)] == [4, 2, 3, 1]
        assert (await writer.do(self.put(2))).revision == 5

    async def test_verdicts_are_kept_for_ten_minutes_and_then_known_to_be_gone(self, writer):
        await writer.do(self.put(1))
        writer.clock.pass_ms(KEPT_MS - 1)
        assert (await writer.do(self.put(1))).revision == 1
        writer.clock.pass_ms(KEPT_MS)
        assert (await writer.do(self.put(2))).revision == 2
        assert (await writer.do(self.put(1))).revision == 1
        writer.clock.pass_ms(KEPT_MS)
        assert (await writer.do(self.put(3))).revision == 3
        assert (await writer.do(self.put(1))).outcome is Outcome.SEQUENCE_TOO_OLD
        assert (await writer.do(self.put(2))).revision == 2

    async def test_a_client_that_slept_for_an_hour_is_still_known(self, writer):
        await writer.do(self.put(7))
        writer.clock.pass_ms(60 * 60 * 1000)
        assert (await writer.do(self.put(7))).outcome is Outcome.SEQUENCE_TOO_OLD
        assert (await writer.do(self.put(8))).outcome is Outcome.DONE

    async def test_of_one_client_only_the_last_ones_are_kept(self, writer):
        count = KEPT_PER_CLIENT + 3
        await writer.batch(*(self.put(sequence) for sequence in range(1, count + 1)))
        assert (await writer.do(self.put(3))).outcome is Outcome.SEQUENCE_TOO_OLD
        assert (await writer.do(self.put(4))).revision == 4
        assert (await writer.facts()).revision == count

    async def test_kept_verdicts_are_bounded(self, writer):
        writer.limits = Limits(max_kept=3)
        for sequence in range(1, 8):
            await writer.do(self.put(sequence))
        assert (await writer.do(self.put(1))).outcome is Outcome.SEQUENCE_TOO_OLD
        assert (await writer.do(self.put(7))).revision == 7

    async def test_another_command_under_a_used_sequence_does_no_harm(self, writer):
        await writer.do(self.put(1))
        other = await writer.batch(GrantLease(50, origin=Origin(b"", "c", 1)), self.put(2))
        assert [verdict.revision for verdict in other.verdicts] == [1, 2]


async def test_counts_are_exact(writer):
    await writer.put("a", b"12")
    await writer.put("üb", BIG)
    await writer.put("a", b"1")
    facts = await writer.facts()
    assert (facts.keys, facts.bytes) == (2, 2 + 3 + len(BIG))
    await writer.delete("", prefix=True)
    facts = await writer.facts()
    assert (facts.keys, facts.bytes) == (0, 0)


async def test_a_namespace_that_is_dropped_leaves_nothing(writer):
    other = StateWriter(store=writer.store, clock=writer.clock, namespace="other")
    await other.put("k")
    await writer.put("k", BIG, lease_id=await writer.lease(1000))
    await writer.acquire("w")
    while await writer.store.drop("default", limit=10):
        pass
    facts = await writer.facts()
    assert (facts.revision, facts.incarnation, facts.keys, facts.next_due_ms) == (0, "", 0, None)
    assert await writer.lock() == ("", [])
    assert await other.value("k") == b"v"
