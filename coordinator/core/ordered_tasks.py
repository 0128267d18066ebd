"""Tasks in the order of a number that each has, such as its place. No step grows with how many there are, and whoever leaves is gone.

They lie in chunks. Nearly all come at the end and leave from the front, which costs what it does with a list; whoever comes back in
between, or leaves from there, is found by bisection and moves one chunk.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordinator.core.model import Task

CHUNK = 512  # moving one takes 0.1 us


class OrderedTasks:
    """Tasks by number; of two, no number is the same.

    Args:
        number_of: the number of a task, which doesn't change while it is here.

    Attributes:
        front: the first chunk: empty only when there are no tasks at all. To be read only.
    """

    __slots__ = ("_behind", "_last", "_number_of", "front")

    def __init__(self, number_of: Callable[[Task], int]) -> None:
        self.front: list[Task] = []
        self._behind: list[list[Task]] = []  # the other chunks, none of them empty
        self._last = -1  # whose number is greater comes last
        self._number_of = number_of

    def add(self, task: Task, number: int) -> bool:
        """Takes in a task of this number. Answers whether it is the first now."""
        if number > self._last:
            self._last = number
            behind = self._behind
            chunk = behind[-1] if behind else self.front
            if len(chunk) < CHUNK:
                chunk.append(task)
            else:
                behind.append([task])
        else:
            self._insert(task, number)
        return self.front[0] is task

    def pop(self) -> None:
        """Takes out the first task."""
        front = self.front
        front.pop(0)
        if not front and self._behind:
            self.front = self._behind.pop(0)

    def remove(self, task: Task) -> None:
        """Takes out a task. Raises KeyError when it isn't here."""
        if self.front and self.front[0] is task:
            self.pop()
            return
        number = self._number_of(task)
        place, chunk = self._chunk_of(number)
        at = bisect_left(chunk, number, key=self._number_of)
        if at == len(chunk) or chunk[at] is not task:
            raise KeyError(task)
        del chunk[at]
        if not chunk:  # not the front: the task would have been its first
            del self._behind[place]

    def _insert(self, task: Task, number: int) -> None:
        place, chunk = self._chunk_of(number)
        chunk.insert(bisect_left(chunk, number, key=self._number_of), task)
        if len(chunk) > CHUNK:
            self._behind.insert(place + 1, chunk[CHUNK // 2 :])
            del chunk[CHUNK // 2 :]

    def _chunk_of(self, number: int) -> tuple[int, list[Task]]:
        """The chunk that a number belongs to, and its place among those behind; -1 is the front."""
        place = bisect_right(self._behind, number, key=lambda chunk: self._number_of(chunk[0])) - 1
        return place, self._behind[place] if place >= 0 else self.front

    def __iter__(self) -> Iterator[Task]:
        """All tasks, in their order."""
        return chain(self.front, chain.from_iterable(self._behind))
