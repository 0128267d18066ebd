"""Who may claim a shard while somebody has it, shown on every store."""

import pytest

from coordinator.ports import AppendAnswer, Claim, Claimant
from tests.support.eventually import eventually

LONG_MS = 60_000
SHORT_MS = 300  # in memory each call takes a millisecond


def claimant(name, *, lease_ms=LONG_MS):
    return Claimant(coordinator_id=name, address=f"{name}:7450", lease_ms=lease_ms)


async def append(store, sequence, nonce="n"):
    return (await store.append(sequence=sequence, commit_nonce=nonce, blob=b"blob", ended=())).answer


async def moments(store):
    """In memory, time goes on by a millisecond with each call."""
    for _ in range(20):
        await store.now_ms()


async def until_claimed(store, asking):
    async def claimed():
        await moments(store)
        answer = await store.claim(asking)
        return answer if isinstance(answer, Claim) else None

    return await eventually(claimed, message="the lease to end")


async def test_a_lease_keeps_others_out_and_says_whose_it_is(backing):
    first, second = backing.open(), backing.open()
    claim = await first.claim(claimant("a"))
    held = await second.claim(claimant("b"))
    assert (held.coordinator_id, held.address) == ("a", "a:7450")
    assert 0 < held.for_ms <= LONG_MS
    assert await append(first, claim.sequence + 1) is AppendAnswer.APPLIED
    assert await append(second, claim.sequence + 2) is AppendAnswer.FENCED


async def test_a_lease_that_has_ended_is_anybodys_and_its_owners_while_nobody_came(backing):
    first, second = backing.open(), backing.open()
    before = await first.claim(claimant("a", lease_ms=1))
    await moments(second)
    assert await append(first, 1) is AppendAnswer.APPLIED, "nobody else has claimed it"
    after = await until_claimed(second, claimant("b"))
    assert after.epoch > before.epoch
    assert await append(first, 2) is AppendAnswer.FENCED
    assert (await first.confirm(sequence=1)).answer is AppendAnswer.FENCED


@pytest.mark.parametrize("sign", ["append", "repeated append", "confirm"])
async def test_each_sign_of_life_extends_the_lease(backing, sign):
    first, second = backing.open(), backing.open()
    await first.claim(claimant("a"))
    assert await append(first, 1, "same") is AppendAnswer.APPLIED

    async def some_has_gone():
        await moments(second)
        held = await second.claim(claimant("b"))
        return held.for_ms if held.for_ms <= LONG_MS - 400 else 0

    before_ms = await eventually(some_has_gone, message="some of the lease to be over")
    match sign:
        case "append":
            assert await append(first, 2) is AppendAnswer.APPLIED
        case "repeated append":
            assert await append(first, 1, "same") is AppendAnswer.ALREADY_MINE
        case _:
            assert (await first.confirm(sequence=1)).answer is AppendAnswer.APPLIED
    assert (await second.claim(claimant("b"))).for_ms > before_ms


async def test_what_is_refused_extends_nothing(backing):
    first, second = backing.open(), backing.open()
    await first.claim(claimant("a", lease_ms=SHORT_MS))

    async def claimed():
        assert await append(first, 7) is AppendAnswer.DIVERGED
        assert (await first.confirm(sequence=7)).answer is AppendAnswer.DIVERGED
        await moments(first)
        return isinstance(await second.claim(claimant("b")), Claim)

    await eventually(claimed, message="the lease to end")


async def test_the_same_coordinator_comes_back_at_once(backing):
    first, again = backing.open(), backing.open()
    before = await first.claim(claimant("a"))
    after = await again.claim(claimant("a"))
    assert after.epoch > before.epoch
    assert await append(first, 1) is AppendAnswer.FENCED
    assert await append(again, 1) is AppendAnswer.APPLIED


async def test_whoever_is_alone_takes_it_and_leaves_no_lease(backing):
    first, alone, third = backing.open(), backing.open(), backing.open()
    await first.claim(claimant("a"))
    assert isinstance(await alone.claim(), Claim)
    assert await append(alone, 1) is AppendAnswer.APPLIED
    assert (await alone.confirm(sequence=1)).answer is AppendAnswer.APPLIED
    assert isinstance(await third.claim(claimant("c")), Claim)


async def test_what_is_released_is_anybodys_and_not_its_owners_any_more(backing):
    first, second = backing.open(), backing.open()
    await first.claim(claimant("a"))
    assert await first.release() is True
    assert await append(first, 1) is AppendAnswer.FENCED
    assert isinstance(await second.claim(claimant("b")), Claim)
    assert await first.release() is False, "it is another's"
    assert await append(second, 1) is AppendAnswer.APPLIED


async def test_a_store_that_never_claimed_owns_nothing_even_of_a_released_shard(backing):
    first, never = backing.open(), backing.open()
    await first.claim(claimant("a"))
    await first.release()
    assert await append(never, 1) is AppendAnswer.FENCED
    assert await never.release() is False


async def test_an_offer_is_for_one_and_ends(backing):
    first, wanted, other = backing.open(), backing.open(), backing.open()
    await first.claim(claimant("a"))
    await first.release(offer_to="b", offer_ms=LONG_MS)
    held = await other.claim(claimant("c"))
    assert (held.coordinator_id, held.address) == ("b", "")
    assert isinstance(await wanted.claim(claimant("b")), Claim)
    await wanted.release(offer_to="gone", offer_ms=SHORT_MS)
    await until_claimed(other, claimant("c"))


async def test_a_claim_ends_an_offer(backing):
    first, wanted, other = backing.open(), backing.open(), backing.open()
    await first.claim(claimant("a"))
    await first.release(offer_to="b", offer_ms=LONG_MS)
    await wanted.claim(claimant("b"))
    await wanted.release()
    assert isinstance(await other.claim(claimant("c")), Claim)
