"""A heap that is corrected when somebody looks. It orders lanes for agents, and agents for lanes; it must not know what either is.

An entry's key is a lower bound of its item's rank. A rank that gets worse (a head was taken, an agent got a task) is told to nobody: the
entry is put right when it comes up. A rank that gets better is told to the heaps that have looked at the item since it was last told; the
others still hold an entry before all ranks. So each telling is paid for by a look, and however many heaps an item stands in, a change
costs only those that used it.

One change makes many entries late at once: a fairness key's turn moves on wherever the key has tasks. A look puts right a bounded number
of those, and then takes the best that it has seen, if nothing can be of a better first part (which is the effective priority).

Entries that were superseded, or whose items have left, stay until they come up. Once they are a fifth of a large heap, whatever comes or
leaves sweeps some, so that no look finds very many before the first that is valid.
"""

import heapq
from abc import abstractmethod
from typing import Any, Generic, TypeVar

Rank = tuple[float, ...]
FIRST: Rank = ()  # before every rank

MAX_DRIFTED = 32  # entries that a look puts right though only their turn has moved on: 30 us
_MIN_STALE = 64  # compact only when it pays
_AT_ONCE = 1024  # entries that may be gone over at once: half a millisecond
_SWEPT = 8  # entries of a larger heap that are looked at with each that comes or leaves: two microseconds


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
Entry = tuple[Rank, int, T]  # a bound, and the item with its serial


class LazyHeap(Generic[T]):
    """Items by rank."""

    __slots__ = ("_compact_at", "_entries", "_heap", "_sweep_at", "found", "looks")
    found: Rank  # of the item that best() has just answered

    def __init__(self) -> None:
        self._heap: list[Entry[T]] = []
        self._entries: dict[T, Entry[T]] = {}  # each item's one valid entry
        self._compact_at = _MIN_STALE
        self._sweep_at = 0  # what is behind it in the heap has been swept
        self.looks = 0  # entries looked at so far, which is what the heap costs

    def __contains__(self, item: T) -> bool:
        return item in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def tell(self, item: T) -> None:
        """The item is new here, or its rank may have got better: it is looked at before any other."""
        self.put(item, FIRST)

    def put(self, item: T, bound: Rank) -> None:
        """Enters an item whose rank is `bound` or later."""
        entry = self._entries[item] = (bound, item.serial, item)
        heapq.heappush(self._heap, entry)
        if len(self._heap) > self._compact_at:
            self._compact()

    def discard(self, item: T) -> None:
        """The item doesn't belong here any more."""
        self._entries.pop(item, None)
        item.watchers.pop(self, None)
        if len(self._heap) > _AT_ONCE:
            self._sweep()

    def rest(self, item: T) -> None:
        """The item isn't due any more: it is looked at again when it says that its rank has got better."""
        if self._entries.pop(item, None) is not None:
            item.watchers[self] = None
            if len(self._heap) > _AT_ONCE:
                self._sweep()

    def bound(self) -> Rank | None:
        """A lower bound of all ranks here, without a look at any; None when nothing is here."""
        heap, entries = self._heap, self._entries
        while heap:
            entry = heap[0]
            if entries.get(entry[2]) is entry:
                return entry[0]
            heapq.heappop(heap)
        return None

    def best(self) -> T | None:
        """The item of the lowest rank, which stays; None when none is due."""
        heap, entries = self._heap, self._entries
        drifted = 0
        seen: Entry[T] | None = None  # the best of those that were put right
        while heap:
            entry = heap[0]
            bound, serial, item = entry
            if entries.get(item) is not entry:
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
                del entries[item]
            else:
                entry = entries[item] = (rank, serial, item)
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
            del self._entries[item]
        return item

    def _compact(self) -> None:
        """Drops entries as the heap has doubled, so that each pays for a constant part of it: of a small heap all that are of no use."""
        entries = self._entries
        if len(self._heap) > _AT_ONCE:
            self._sweep()
            return
        for item in [item for item in entries if item.rank() is None]:
            del entries[item]
            item.watchers[self] = None
        self._heap = list(entries.values())
        heapq.heapify(self._heap)
        self._compact_at = min(max(_MIN_STALE, 2 * len(entries)), _AT_ONCE)

    def _sweep(self) -> None:
        """Looks at some entries, from the end of the heap on: whoever takes the place of one that is dropped has been looked at before.

        An entry that comes meanwhile may move one that wasn't behind those that were, where only the next round finds it.
        """
        heap, entries = self._heap, self._entries
        if 4 * len(heap) <= 5 * len(entries):
            return
        for _ in range(min(_SWEPT, len(heap))):
            at = min(self._sweep_at or len(heap), len(heap)) - 1
            self._sweep_at = at
            entry = heap[at]
            if entries.get(entry[2]) is not entry:
                last = heap.pop()
                if last is not entry:
                    _put_at(heap, at, last)
                    self._sweep_at = at + 1  # one that wasn't looked at may have come here


def _put_at(heap: list[Entry[T]], at: int, entry: Entry[T]) -> None:
    """Puts an entry in the place of another one, and moves it to where it belongs."""
    while at and entry < heap[parent := (at - 1) // 2]:
        heap[at] = heap[parent]
        at = parent
    while (child := 2 * at + 1) < len(heap):
        if child + 1 < len(heap) and heap[child + 1] < heap[child]:
            child += 1
        if entry < heap[child]:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = entry
