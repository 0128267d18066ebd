"""What every store of shared state shows of it: keys, events, history, as far back as it is kept."""

import pytest

from coordinator.state.model import Compact, Limits, Outcome, Put, Transaction

BIG = bytes(range(256)) * 40  # kept apart


class TestReads:
    async def test_gets_are_bounded_in_bytes(self, writer):
        for key in ("a", "b", "c"):
            await writer.put(key, BIG)
        revision, entries = await writer.store.get("default", ["a", "none", "b", "c"], max_bytes=2 * len(BIG) + 2)
        assert (revision, [entry and entry.key for entry in entries]) == (3, ["a", None, "b"])
        assert len((await writer.store.get("default", ["a", "b"], max_bytes=1))[1]) == 1

    async def test_nothing_is_there_before_the_first_write(self, writer):
        facts = await writer.facts()
        assert (facts.revision, facts.incarnation, facts.keys, facts.bytes, facts.next_due_ms) == (0, "", 0, 0, None)
        assert await writer.get("k") is None
        assert await writer.keys() == []
        assert (await writer.events()).events == []

    @pytest.mark.parametrize("keys_only", [False, True])
    async def test_pages_of_keys(self, writer, keys_only):
        names = [f"p/{i:03}" for i in range(150)]
        await writer.batch(*(Transaction((Put(name, BIG if name.endswith("5") else b"v"),)) for name in ["o", *names, "q"]))
        found, after = [], ""
        while after is not None:
            page = await writer.store.list("default", prefix="p/", after=after, limit=64, max_bytes=10**9, keys_only=keys_only)
            assert page.revision == 152
            found += page.entries
            after = page.after
        assert [entry.key for entry in found] == names
        assert {len(entry.value) for entry in found} == ({0} if keys_only else {1, len(BIG)})

    async def test_a_page_is_bounded_in_bytes_and_has_at_least_one_key(self, writer):
        for key in ("a", "b", "c"):
            await writer.put(key, b"12345")

        async def page(max_bytes):
            page = await writer.store.list("default", prefix="", after="", limit=9, max_bytes=max_bytes, keys_only=False)
            return [entry.key for entry in page.entries], page.after

        assert await page(1) == (["a"], "a")
        assert await page(12) == (["a", "b"], "b")
        assert await page(18) == (["a", "b", "c"], None)

    async def test_events_come_in_whole_revisions(self, writer):
        await writer.put("a")
        await writer.do(Transaction((Put("a", BIG), Put("b", b""), Put("c", b""))))
        await writer.put("a")
        page = await writer.events(limit=2)
        assert ([event.revision for event in page.events], page.through, page.revision) == ([1, 2, 2, 2], 2, 3)
        page = await writer.events(after=1, limit=1)
        assert ([event.revision for event in page.events], page.through) == ([2, 2, 2], 2)
        assert page.events[0].entry.value == BIG
        assert page.events[0].previous_revision == 1
        page = await writer.events(after=2, limit=1)
        assert ([event.revision for event in page.events], page.through) == ([3], 3)
        assert [event.revision for event in (await writer.events(max_bytes=2)).events] == [1]

    async def test_a_revision_without_events_is_passed_over(self, writer):
        await writer.put("a")
        await writer.lease(1000)
        await writer.acquire("w")
        page = await writer.events(after=1)
        assert (page.events, page.through, page.revision) == ([], 3, 3)

    async def test_the_history_of_a_key_and_what_each_write_made_of_it(self, writer):
        await writer.put("k", b"1")
        await writer.put("k\x00", b"other")
        await writer.put("k", BIG)
        await writer.delete("k")
        await writer.put("k", b"4")
        page = await writer.store.history("default", "k", after=0, limit=10, max_bytes=10**9)
        assert [(event.kind.name, event.revision, event.previous_revision) for event in page.events] == [
            ("PUT", 1, 0), ("PUT", 3, 1), ("DELETED", 4, 3), ("PUT", 5, 0),
        ]  # fmt: skip
        page = await writer.store.history("default", "k", after=1, limit=2, max_bytes=10**9)
        assert ([event.revision for event in page.events], page.through) == ([3, 4], 4)
        at = {revision: await writer.store.entry_at("default", "k", revision) for revision in range(1, 7)}
        assert {revision: entry and entry.value for revision, entry in at.items()} == {1: b"1", 2: None, 3: BIG, 4: None, 5: b"4", 6: None}


class TestCompaction:
    @pytest.fixture
    async def filled(self, writer):
        for number in range(10):
            await writer.put(f"k{number % 2}", b"%d" % number)
            writer.clock.pass_ms(1000)
        return writer

    async def test_by_revision_in_steps(self, filled):
        verdict = await filled.do(Compact(8, 3))
        assert (verdict.number, verdict.more) == (3, True)
        assert (await filled.facts()).compact_revision == 8
        assert await filled.told(after=7) == [("PUT", "k1", 8), ("PUT", "k0", 9), ("PUT", "k1", 10)]
        page = await filled.events(after=6)
        assert (page.events, page.compact_revision, page.through) == ([], 8, 6)
        assert [event.revision for event in (await filled.store.history("default", "k0", after=0, limit=9, max_bytes=999)).events] == [9]
        assert await filled.store.entry_at("default", "k0", 7) is None
        assert (await filled.do(Compact(8, 100))).number == 4
        assert (await filled.do(Compact(8, 100))).more is False
        assert (await filled.facts()).keys == 2

    async def test_what_is_there_stays_readable_however_old_it_is(self, filled):
        await filled.do(Compact(10, 100))
        assert (await filled.store.entry_at("default", "k0", 9)).value == b"8"
        assert await filled.value("k0") == b"8"

    async def test_what_cannot_be(self, filled):
        assert (await filled.do(Compact(11, 100))).outcome is Outcome.FUTURE_REVISION
        await filled.do(Compact(5, 100))
        verdict = await filled.do(Compact(4, 100))
        assert (verdict.outcome, verdict.number) == (Outcome.COMPACTED, 5)

    async def test_by_count(self, filled):
        filled.limits = Limits(keep_revisions=4)
        assert (await filled.do(Compact(0, 100))).number == 6
        assert (await filled.facts()).compact_revision == 7

    async def test_by_age(self, filled):
        filled.limits = Limits(keep_ms=3000)
        assert (await filled.do(Compact(0, 2))).more
        await filled.do(Compact(0, 100))
        assert (await filled.facts()).compact_revision == 8

    async def test_within_the_limits_nothing_goes(self, filled):
        verdict = await filled.do(Compact(0, 100))
        assert (verdict.number, verdict.more, (await filled.facts()).compact_revision) == (0, False, 1)
