"""A heap that is corrected when somebody looks. It orders lanes for agents, and agents for lanes; it must not know what either is.

An entry's key is a lower bound of its item's rank. A rank that gets worse (a head was taken, an agent got a task) is told to nobody: the
entry is put right when it comes up. A rank that gets better is told to the heaps that have looked at the item since it was last told; the
others still hold an entry before all ranks. So each telling is paid for by a look, and however many heaps an item stands in, a change
costs only those that used it.

One change makes many entries late at once: a fairness key's turn moves on wherever the key has tasks. A look puts right a bounded number
of those, and then takes the best that it has seen, if nothing can be of a better first part (which is the effective priority).
"""

import heapq
from abc import abstractmethod
from typing import Any, Generic, TypeVar

Rank = tuple[float, ...]
FIRST: Rank = ()  # before every rank

MAX_DRIFTED = 32  # entries that a look puts right though only their turn has moved on: 30 us
_MIN_STALE = 64  # compact only when it pays


class Ranked:
    """What stands in lazy heaps. `serial` is unique among the items of a heap, and decides between equal ranks."""

    __slots__ = ("serial", "watchers")

    def __init__(self, serial: int) -> None:
        self.serial = serial
        self.watchers: dict[LazyHeap[Any], None] = {}  # heaps that have looked, and rely on the rank not getting better

    @abstractmethod
    def rank(self) -> Rank | None:
        """How early the item is due, the lower the earlier; None when it isn't due at all."""

    def improved(self) -> None:
        """The rank may have got better."""
        watchers = self.watchers
        if watchers:
            for heap in watchers:
                heap.tell(self)
            watchers.clear()


T = TypeVar("T", bound=Ranked)


class LazyHeap(Generic[T]):
    """Items by rank."""

    __slots__ = ("_bounds", "_compact_at", "_heap", "found", "looks")
    found: Rank  # of the item that best() has just answered

    def __init__(self) -> None:
        self._heap: list[tuple[Rank, int, T]] = []
        self._bounds: dict[T, Rank] = {}  # the key of each item's one valid entry
        self._compact_at = _MIN_STALE
        self.looks = 0  # entries looked at so far, which is what the heap costs

    def __contains__(self, item: T) -> bool:
        return item in self._bounds

    def __len__(self) -> int:
        return len(self._bounds)

    def tell(self, item: T) -> None:
        """The item is new here, or its rank may have got better: it is looked at before any other."""
        self.put(item, FIRST)

    def put(self, item: T, bound: Rank) -> None:
        """Enters an item whose rank is `bound` or later."""
        self._bounds[item] = bound
        heapq.heappush(self._heap, (bound, item.serial, item))
        if len(self._heap) > self._compact_at:
            self._compact()

    def discard(self, item: T) -> None:
        """The item doesn't belong here any more."""
        self._bounds.pop(item, None)
        item.watchers.pop(self, None)

    def bound(self) -> Rank | None:
        """A lower bound of all ranks here, without a look at any; None when nothing is here."""
        heap, bounds = self._heap, self._bounds
        while heap:
            bound, _, item = heap[0]
            if bounds.get(item) == bound:
                return bound
            heapq.heappop(heap)
        return None

    def best(self) -> T | None:
        """The item of the lowest rank, which stays; None when none is due."""
        heap, bounds = self._heap, self._bounds
        drifted = 0
        seen: tuple[Rank, int, T] | None = None  # the best of those that were put right
        while heap:
            bound, serial, item = heap[0]
            if bounds.get(item) != bound:
                heapq.heappop(heap)
                continue
            self.looks += 1
            rank = item.rank()
            if rank == bound:
                self.found = bound
                return item
            item.watchers[self] = None
            if rank is None:
                heapq.heappop(heap)
                del bounds[item]
            else:
                bounds[item] = rank
                entry = (rank, serial, item)
                heapq.heapreplace(heap, entry)
                if bound and rank[0] == bound[0] and rank[-1] == bound[-1]:
                    drifted += 1
                    seen = entry if seen is None else min(seen, entry)
                    if drifted >= MAX_DRIFTED and (top := heap[0][0]) and top[0] >= seen[0][0]:
                        self.found = seen[0]
                        return seen[2]
        return None

    def take(self) -> T | None:
        """The item of the lowest rank, taken out: whoever takes it puts it back. The rank may get better meanwhile only by being told."""
        item = self.best()
        if item is not None:
            if self._heap[0][2] is item:
                heapq.heappop(self._heap)
            del self._bounds[item]
        return item

    def _compact(self) -> None:
        """Drops superseded entries and what isn't due. It runs when the heap has doubled, so each entry pays for a constant part of it."""
        for item in [item for item in self._bounds if item.rank() is None]:
            del self._bounds[item]
            item.watchers[self] = None
        self._heap = [(bound, item.serial, item) for item, bound in self._bounds.items()]
        heapq.heapify(self._heap)
        self._compact_at = max(_MIN_STALE, 2 * len(self._heap))
