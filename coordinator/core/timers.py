"""A timer wheel: deadlines in slots of equal width. Arming and disarming cost the same however many deadlines wait."""

import heapq
from itertools import islice
from typing import Generic, Protocol, TypeVar


class Timed(Protocol):
    """What can wait in a wheel. It remembers its slot, so it waits in one wheel at a time; 0 means that it doesn't wait."""

    due_slot: int


T = TypeVar("T", bound=Timed)

_MIN_STALE = 64  # compact only when it pays


class TimerWheel(Generic[T]):
    """Items by due time. An item may come out up to one slot late, never early.

    Args:
        slot_width: how much time a slot covers, in the unit of the due times.
    """

    def __init__(self, *, slot_width: float) -> None:
        self._width = slot_width
        self._slots: dict[int, dict[T, None]] = {}
        self._order: list[int] = []  # a heap of the slots that exist, or existed: one may be in it twice

    def arm(self, item: T, due: float) -> None:
        """Lets `item` come out once `due` has passed."""
        slot = int(due / self._width) + 1
        item.due_slot = slot
        items = self._slots.get(slot)
        if items is None:
            self._slots[slot] = {item: None}
            heapq.heappush(self._order, slot)
        else:
            items[item] = None

    def disarm(self, item: T) -> None:
        """Takes `item` out, if it waits."""
        items = self._slots.get(item.due_slot)
        if items is not None:
            items.pop(item, None)
            if not items:  # deadlines are far off and seldom come: what is left of theirs would gather
                del self._slots[item.due_slot]
                if len(self._order) > 2 * len(self._slots) + _MIN_STALE:
                    self._order = list(self._slots)
                    heapq.heapify(self._order)
        item.due_slot = 0

    def next_due(self) -> float | None:
        """When the next slot is over; None when nothing waits."""
        while self._order:
            if self._order[0] in self._slots:
                return self._order[0] * self._width
            heapq.heappop(self._order)
        return None

    def take_due(self, now: float, *, at_most: int | None = None) -> list[T]:
        """Takes out what is in slots that are over, in the order of the slots: everything, or no more than `at_most`.

        Of a slot with more than that, those come first that were armed first.
        """
        due: list[T] = []
        while self._order and self._order[0] * self._width <= now:
            slot = self._slots.get(self._order[0])
            if slot is None:
                heapq.heappop(self._order)
                continue
            if at_most is not None and len(due) + len(slot) > at_most:
                first = list(islice(slot, at_most - len(due)))  # skips what was taken before: a millisecond at a million
                for item in first:
                    del slot[item]
                due.extend(first)
                break
            due.extend(self._slots.pop(heapq.heappop(self._order)))
        for item in due:
            item.due_slot = 0
        return due
