"""What every ShardStore does with snapshots and with the journal behind them, shown on each."""

from coordinator.ports import AppendAnswer, StoredSnapshot
from tests.support.shard_backings import first_of


async def append(store, sequence, nonce="n"):
    return (await store.append(sequence=sequence, commit_nonce=nonce, blob=b"commit", ended=())).answer


async def take(store, sequence, *pieces):
    """Takes a snapshot of these pieces."""
    for place, piece in enumerate(pieces):
        assert await store.write_snapshot(sequence=sequence, nonce=f"s{sequence}", place=place, piece=piece)
    size = sum(map(len, pieces))
    assert await store.finish_snapshot(sequence=sequence, nonce=f"s{sequence}", pieces=len(pieces), size_bytes=size)


async def test_there_is_none_at_first(owner):
    assert (await owner.claim()).snapshot is None
    assert await owner.read_snapshot(sequence=1, place=0) is None


async def test_a_finished_one_is_where_the_next_owner_begins(backing, owner):
    await append(owner, 1)
    await take(owner, 1, b"\x00one", b"two\xff")
    claim = await backing.open().claim()
    assert (claim.sequence, claim.snapshot) == (1, StoredSnapshot(sequence=1, pieces=2, size_bytes=8))


async def test_its_pieces_are_read_one_by_one(owner):
    await append(owner, 1)
    await take(owner, 1, b"\x00one", b"two\xff")
    assert [await owner.read_snapshot(sequence=1, place=place) for place in (1, 0)] == [b"two\xff", b"\x00one"]


async def test_the_next_one_takes_its_place_when_it_is_finished(owner):
    await append(owner, 1)
    await take(owner, 1, b"old")
    for sequence in (2, 3):
        await append(owner, sequence, f"n{sequence}")
        assert await owner.write_snapshot(sequence=sequence, nonce="n", place=0, piece=b"new")
        assert await owner.read_snapshot(sequence=sequence - 1, place=0) in (b"old", b"new")
        assert await owner.read_snapshot(sequence=sequence, place=0) is None
        assert await owner.finish_snapshot(sequence=sequence, nonce="n", pieces=1, size_bytes=3)
        assert await owner.read_snapshot(sequence=sequence - 1, place=0) is None
        assert await owner.read_snapshot(sequence=sequence, place=0) == b"new"


async def test_what_is_repeated_counts_once(backing, owner):
    await append(owner, 1)
    for place, piece in [(0, b"a"), (0, b"a"), (1, b"b"), (0, b"a"), (1, b"b")]:
        assert await owner.write_snapshot(sequence=1, nonce="n", place=place, piece=piece)
    for _ in range(2):
        assert await owner.finish_snapshot(sequence=1, nonce="n", pieces=2, size_bytes=2)
    assert (await backing.open().claim()).snapshot == StoredSnapshot(sequence=1, pieces=2, size_bytes=2)


async def test_a_late_piece_of_one_that_was_given_up_is_refused(owner):
    await append(owner, 1)
    assert await owner.write_snapshot(sequence=1, nonce="first", place=0, piece=b"a")
    assert await owner.write_snapshot(sequence=1, nonce="second", place=0, piece=b"b")
    assert not await owner.write_snapshot(sequence=1, nonce="first", place=1, piece=b"a")
    assert not await owner.finish_snapshot(sequence=1, nonce="first", pieces=1, size_bytes=1)
    assert await owner.finish_snapshot(sequence=1, nonce="second", pieces=1, size_bytes=1)
    assert await owner.read_snapshot(sequence=1, place=0) == b"b"


async def test_a_late_beginning_of_one_that_was_given_up_spoils_the_other_and_is_not_finished(owner):
    await append(owner, 1)
    for nonce in ("first", "second", "first"):
        assert await owner.write_snapshot(sequence=1, nonce=nonce, place=0, piece=b"a")
    assert not await owner.write_snapshot(sequence=1, nonce="second", place=1, piece=b"b")
    assert not await owner.finish_snapshot(sequence=1, nonce="second", pieces=2, size_bytes=2)


async def test_a_piece_must_follow_the_one_before(owner):
    await append(owner, 1)
    assert not await owner.write_snapshot(sequence=1, nonce="n", place=1, piece=b"b")
    assert await owner.write_snapshot(sequence=1, nonce="n", place=0, piece=b"a")
    assert not await owner.write_snapshot(sequence=1, nonce="n", place=2, piece=b"c")


async def test_one_that_misses_a_piece_does_not_become_current(backing, owner):
    await append(owner, 1)
    await owner.write_snapshot(sequence=1, nonce="n", place=0, piece=b"a")
    assert not await owner.finish_snapshot(sequence=1, nonce="n", pieces=2, size_bytes=2)
    assert (await backing.open().claim()).snapshot is None


async def test_one_of_an_entry_that_is_not_durable_does_not_become_current(owner):
    await owner.write_snapshot(sequence=1, nonce="n", place=0, piece=b"a")
    assert not await owner.finish_snapshot(sequence=1, nonce="n", pieces=1, size_bytes=1)
    await append(owner, 1)
    assert await owner.finish_snapshot(sequence=1, nonce="n", pieces=1, size_bytes=1)


async def test_half_a_snapshot_is_gone_with_the_next_claim(backing, owner):
    await append(owner, 1)
    await take(owner, 1, b"whole")
    await append(owner, 2, "m")
    await owner.write_snapshot(sequence=2, nonce="half", place=0, piece=b"half")
    successor = backing.open()
    assert (await successor.claim()).snapshot == StoredSnapshot(sequence=1, pieces=1, size_bytes=5)
    assert await successor.read_snapshot(sequence=1, place=0) == b"whole"
    assert not await successor.write_snapshot(sequence=2, nonce="half", place=1, piece=b"other half")


async def test_who_is_fenced_writes_finishes_and_trims_nothing(backing, owner):
    await append(owner, 1)
    await take(owner, 1, b"a")
    await append(owner, 2, "m")
    successor = backing.open()
    await successor.claim()
    assert not await owner.write_snapshot(sequence=2, nonce="n", place=0, piece=b"b")
    assert not await owner.finish_snapshot(sequence=2, nonce="n", pieces=1, size_bytes=1)
    assert await owner.trim_journal(limit=10) == 0
    assert await first_of(successor) == 1


async def test_the_journal_is_trimmed_behind_it_and_no_further(backing, owner):
    for sequence in range(1, 11):
        await append(owner, sequence, f"n{sequence}")
    assert await owner.trim_journal(limit=100) == 0
    await take(owner, 7, b"a")
    assert [await owner.trim_journal(limit=3) for _ in range(4)] == [3, 3, 1, 0]
    assert await first_of(owner) == 8
    assert [sequence for sequence, _ in await owner.read(after=7, limit=10)] == [8, 9, 10]
    assert (await backing.open().claim()).sequence == 10


async def test_a_journal_that_was_trimmed_empty_goes_on(backing, owner):
    await append(owner, 1)
    await take(owner, 1, b"a")
    assert await owner.trim_journal(limit=10) == 1
    assert await first_of(owner) == 0
    successor = backing.open()
    assert (await successor.claim()).sequence == 1
    assert await successor.read(after=1, limit=10) == []
    assert await append(successor, 2, "m") is AppendAnswer.APPLIED
    assert await first_of(successor) == 2


async def test_anybody_can_look_how_far_it_is(backing, owner):
    other = backing.open()
    assert await other.look() == (0, None)
    await append(owner, 1)
    assert await other.look() == (1, None)
    assert await owner.write_snapshot(sequence=1, nonce="n", place=0, piece=b"piece")
    assert await other.look() == (1, None)
    assert await owner.finish_snapshot(sequence=1, nonce="n", pieces=1, size_bytes=5)
    await append(owner, 2)
    assert await other.look() == (2, StoredSnapshot(sequence=1, pieces=1, size_bytes=5))
