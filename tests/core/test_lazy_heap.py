"""What is of no use any more leaves a large heap bit by bit, and a small one soon; whatever the order, the best is found."""

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.core import lazy_heap
from coordinator.core.lazy_heap import LazyHeap, Ranked

MANY = 10_000


class Item(Ranked):
    """Of a rank that its test sets."""

    def __init__(self, serial, at=0):
        super().__init__(serial)
        self.at = at

    def rank(self):
        return None if self.at is None else (self.at, self.serial)


@pytest.fixture
def sizes(rng):
    """A large heap, and what its steps leave in it."""
    heap = LazyHeap()
    items = [Item(serial, rng.random()) for serial in range(MANY)]
    for item in items:
        heap.put(item, item.rank())
    return heap, items


def most_dropped(heap, steps):
    """The most entries that one of these steps drops."""
    most = 0
    for step in steps:
        before = len(heap._heap)
        step()
        most = max(most, before - len(heap._heap))
    return most


def test_superseded_entries_of_a_large_heap_go_bit_by_bit(sizes, rng):
    heap, items = sizes

    def supersede():
        item = rng.choice(items)
        item.at = rng.random()
        heap.put(item, item.rank())

    assert most_dropped(heap, [supersede] * (2 * MANY)) <= lazy_heap._SWEPT
    assert len(heap._heap) < 1.5 * MANY
    assert heap.best() is min(items, key=Item.rank)


@pytest.mark.parametrize("way", ["discard", "rest"])
def test_those_of_items_that_left_go_bit_by_bit_and_so_no_look_meets_many(sizes, way):
    heap, items = sizes
    items.sort(key=Item.rank)  # the worst that can be: all of them are before the first that stays
    gone, stays = items[:-2000], items[-2000:]

    def leave():
        item = gone.pop()
        item.at = None
        getattr(heap, way)(item)

    assert most_dropped(heap, [leave] * len(gone)) <= lazy_heap._SWEPT
    assert len(heap._heap) < 1.3 * len(stays)
    assert heap.best() is stays[0]


def test_who_rests_is_due_again_when_it_says_so():
    heap, item = LazyHeap(), Item(1)
    heap.tell(item)
    assert heap.best() is item
    item.at = None
    heap.rest(item)
    assert item not in heap
    assert heap.best() is None
    item.at = 5
    item.improved()
    assert heap.best() is item


def test_who_rests_before_anybody_looked_is_told_too():
    heap, item = LazyHeap(), Item(1, 5)
    heap.put(item, item.rank())
    heap.rest(item)
    item.improved()
    assert heap.best() is item


def test_what_takes_the_place_of_an_entry_goes_up_or_down(rng):
    for _ in range(200):
        items = [Item(serial, rng.random()) for serial in range(40)]
        heap = [(item.rank(), item.serial, item) for item in items]
        heapq.heapify(heap)
        last, at = heap.pop(), rng.randrange(39)
        lazy_heap._put_at(heap, at, last)
        assert all(heap[place] > heap[(place - 1) // 2] for place in range(1, len(heap)))


def test_who_was_never_here_needs_no_rest():
    heap, item = LazyHeap(), Item(1)
    heap.rest(item)
    item.improved()
    assert item not in heap


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["worse", "better", "put", "discard", "rest", "best", "take"]), st.integers(0, 9), st.integers(0, 50)),
    max_size=150,
)


@given(OPERATIONS)
@pytest.mark.parametrize("at_once", [0, 1024])
def test_the_best_is_found_whatever_is_swept(at_once, operations):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy_heap, "_MIN_STALE", 2)
        patch.setattr(lazy_heap, "_AT_ONCE", at_once)
        patch.setattr(lazy_heap, "_SWEPT", 2)
        heap, items = LazyHeap(), [Item(serial, None) for serial in range(10)]
        here = set()
        for operation, which, at in operations:
            item = items[which]
            if operation in ("worse", "better"):
                before, item.at = item.at, at
                if before is None or at < before:
                    item.improved()
            elif operation == "put":
                heap.tell(item)
                here.add(item)
            elif operation == "discard":
                heap.discard(item)
                here.discard(item)
            elif operation == "rest":
                item.at = None
                heap.rest(item)
            else:
                due = [one for one in here if one.at is not None]
                found = getattr(heap, operation)()
                assert found is min(due, key=Item.rank, default=None)
                if found is not None and operation == "take":
                    heap.put(found, found.rank())


def test_every_heap_that_has_looked_is_told_that_a_rank_has_got_better():
    heaps = [LazyHeap() for _ in range(3)]
    slow, fast = Item(1, at=5), Item(2, at=3)
    for heap in heaps:
        heap.tell(slow)
        heap.tell(fast)
        assert heap.best() is fast
    slow.at = 1
    slow.improved()
    assert [heap.best() for heap in heaps] == [slow] * 3
    slow.at = 0
    slow.improved()
    assert not slow.watchers, "whoever was told is told again only once it has looked"
