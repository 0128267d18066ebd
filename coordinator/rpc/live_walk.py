"""Goes through a namespace's live tasks, a bounded amount of work at a time: there may be millions, and the loop has others to serve."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable

from coordinator.core.model import Task
from coordinator.core.state import State

# Work is counted in units of about 0.15 us.
SLICE = 40_000  # some 6 ms: then others have a turn
LOOK = 10  # at one task with a filter
SHOW = 200  # one task, as a message
REQUEST_BYTES_SHIFT = 10  # a look that parses the request: 1 KiB of it is a unit
SPARSE = 32  # numbers for each live task: above, most numbers are of tasks that have ended


class LiveWalk:
    """From the oldest live task to what was the newest one at the beginning. Tasks may come and go between two slices.

    Args:
        state: whose tasks.
        start: the first number to look at.
        numbers: the only ones to look at, in order, if not all; some may be below `start`, or of no live task.
    """

    def __init__(self, state: State, *, start: int, numbers: Iterable[int] | None = None) -> None:
        self._by_number = state.by_number
        self._end = state.next_number
        first = max(start, next(iter(state.by_number), self._end))  # numbers are in order: the first is the oldest live task
        if numbers is None:
            numbers = range(first, self._end)
            if len(numbers) > SPARSE * len(state.by_number):
                live = list(state.by_number)
                numbers = live[bisect_left(live, first) :]
        elif isinstance(numbers, list):
            numbers = numbers[bisect_left(numbers, first) :]
        self._numbers = iter(numbers)
        self._next = next(self._numbers, self._end)

    def slice(self, matches: Callable[[Task], bool], *, most: int) -> list[Task]:
        """The next tasks that match, at most `most`; fewer, or none, when the slice's work is done."""
        found: list[Task] = []
        by_number, numbers, end = self._by_number, self._numbers, self._end
        number, work = self._next, SLICE
        while number < end and work > 0 and len(found) < most:
            task = by_number.get(number)
            number = next(numbers, end)
            work -= 1
            if task is None:
                continue
            work -= LOOK + (len(task.spec.request) >> REQUEST_BYTES_SHIFT)
            if matches(task):
                found.append(task)
                work -= SHOW
        self._next = number
        return found

    def is_over(self) -> bool:
        """Whether all were looked at."""
        return self._next >= self._end

    def next_number(self) -> int:
        """Where a later walk goes on."""
        return min(self._next, self._end)
