"""Who should own what: even within one, no more moves than it takes, one at a time, and everybody comes to the same."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.cluster.balance import Plan, balance

NAMES = ("a", "b", "c", "d", "e")


@st.composite
def worlds(draw):
    """Members, some that are leaving, and owners of some of the shards."""
    shards = draw(st.integers(1, 24))
    members = draw(st.sets(st.sampled_from(NAMES), min_size=1))
    leaving = draw(st.sets(st.sampled_from(("x", "y"))))
    names = [None, *sorted(members | leaving)]
    owners = {shard: owner for shard in range(shards) if (owner := draw(st.sampled_from(names))) is not None}
    return shards, members, leaving, owners


def loads(members, owners):
    return sorted(sum(owner == name for owner in owners.values()) for name in members)


def plans(shards, members, owners, **options):
    return {me: balance(members=members, owners=owners, shards=shards, me=me, **options) for me in sorted(members)}


@given(worlds())
@settings(max_examples=300)
def test_an_orphan_is_claimed_by_exactly_one_and_nothing_moves_meanwhile(world):
    shards, members, _, owners = world
    made = plans(shards, members, owners)
    claimed = sorted(shard for plan in made.values() for shard in plan.claim)
    assert claimed == [shard for shard in range(shards) if shard not in owners]
    if claimed:
        assert all(plan.give is None for plan in made.values())


@given(worlds())
@settings(max_examples=300)
def test_it_comes_to_rest_even_within_one_and_moves_no_more_than_it_must(world):
    shards, members, leaving, owners = world
    owners = {shard: owner for shard, owner in owners.items() if owner not in leaving}  # they have left
    for _ in range(2):
        for me, plan in plans(shards, members, owners).items():
            owners |= dict.fromkeys(plan.claim, me)
    assert set(owners) == set(range(shards))
    share, more = divmod(shards, len(members))
    begun = sorted(loads(members, owners), reverse=True)
    least = sum(max(0, load - share - (place < more)) for place, load in enumerate(begun))
    moves = 0
    while True:
        gives = {me: plan.give for me, plan in plans(shards, members, owners).items() if plan.give is not None}
        assert len(gives) <= 1
        if not gives:
            break
        [(giver, (shard, to))] = gives.items()
        assert owners[shard] == giver
        owners.pop(shard)
        [taker] = [me for me, plan in plans(shards, members, owners).items() if plan.claim == (shard,)]
        assert taker == to, "whoever it is offered to is who claims it"
        owners[shard] = taker
        moves += 1
        assert moves <= shards
    assert max(loads(members, owners)) - min(loads(members, owners)) <= 1
    assert moves == least


@given(worlds())
def test_nothing_moves_before_all_is_served_or_while_somebody_is_leaving(world):
    shards, members, leaving, owners = world
    assert all(plan.give is None for plan in plans(shards, members, owners, settled=False).values())
    if leaving & set(owners.values()):
        assert all(plan.give is None for plan in plans(shards, members, owners).values())


@pytest.mark.parametrize(
    "owners, give",
    [
        ({0: "a", 1: "a", 2: "a", 3: "a"}, (3, "b")),
        ({0: "a", 1: "a", 2: "a", 3: "b"}, (2, "b")),
        ({0: "a", 1: "a", 2: "b", 3: "b"}, None),
    ],
)
def test_a_newcomer_gets_its_share(owners, give):
    assert balance(members={"a", "b"}, owners=owners, shards=4, me="a") == Plan(give=give)
    assert balance(members={"a", "b"}, owners=owners, shards=4, me="b") == Plan()


def test_one_more_than_another_is_even_enough():
    assert balance(members={"a", "b"}, owners={0: "a", 1: "a", 2: "b"}, shards=3, me="a") == Plan()
