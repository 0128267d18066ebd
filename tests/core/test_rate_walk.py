"""What began under many rate keys is handed to a snapshot in slices, and after an outage only what is new is looked at."""

from coordinator.core.policies import RateLimitPolicy
from coordinator.core.rates import Log, RateBook, RateWalk

KEYS = 5000


def book():
    """A key that something began under for each millisecond."""
    rates = RateBook()
    rates.set(RateLimitPolicy("k*", "", 10, 60_000))
    (rule,) = rates.keys.values()
    for number in range(KEYS):
        rule.note(f"k{number}", number)
    return rates, rule


def test_a_walk_hands_over_bounded_slices_of_what_was_when_it_began():
    rates, rule = book()
    kept = []
    walk = RateWalk(rates, lambda _name, key, starts: kept.append((key, starts)))
    sizes = []
    more = True
    while more:
        before = len(kept)
        more = walk.step(100)
        sizes.append(len(kept) - before)
        rule.note("k1", 50_000)  # not in it
    assert max(sizes) == 100
    assert kept == [(f"k{number}", ((number, 1),)) for number in range(KEYS)]


def test_a_walk_that_was_abandoned_hands_over_nothing_more():
    rates, _ = book()
    kept = []
    walk = RateWalk(rates, lambda *log: kept.append(log))
    walk.step(10)
    walk.abandon()
    assert not walk.step(10)
    assert len(kept) == 10


def test_an_outage_postpones_what_began_in_it_and_looks_at_nothing_else(monkeypatch):
    rates, rule = book()
    looked = []
    monkeypatch.setattr(Log, "postpone", lambda log, *_: looked.append(log))
    keys, types = rates.postpone(KEYS - 3, 2 * KEYS)
    assert sorted(keys) == [f"k{number}" for number in range(KEYS - 3, KEYS)]
    assert types == []
    assert looked == [rule.logs[key] for key in keys]
