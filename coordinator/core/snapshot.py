"""Snapshots of a state that goes on changing: every live task as it was at one moment, handed over in slices.

Whoever is about to change a task that hasn't been handed over yet hands it over first: `evolve` does, at the cost of one look per event.
What is done with a task, and when the next slice is due, the caller decides.
"""

from array import array
from collections.abc import Callable

from coordinator.core.model import Task, TaskState
from coordinator.core.state import State


class Walk:
    """One walk over a state's live tasks, by their numbers.

    A dict that changes can't be iterated in slices, and copying one of a million entries takes up to 20 ms. So the numbers that may be live
    are gone through instead: those that were at the walk before, then all that were given out since. Neither are more than the state holds,
    or the journal has grown by.

    Args:
        state: the state. It has one walk at a time.
        keep: takes a task as it was when the walk began, and copies what it needs: the task may be about to change.
    """

    __slots__ = ("_early", "_known", "_known_place", "_live", "_next", "_state", "_until", "keep", "left")

    def __init__(self, state: State, keep: Callable[[Task], None]) -> None:
        self._state = state
        self.keep = keep
        self.left = len(state.by_number)  # tasks not handed over yet
        self._until = state.next_number  # those from here on came later
        self._known, self._known_place = state.known_numbers, 0
        self._next = 0  # all below it have been handed over
        self._early: set[int] = set()
        self._live = array("Q")  # for the next walk
        state.walk = self

    def before_change(self, task: Task) -> None:
        """`task` is about to change, or to end."""
        number = task.number
        if self._next <= number < self._until and number not in self._early:
            self._early.add(number)
            self.left -= 1
            self.keep(task)

    def step(self, limit: int) -> bool:
        """Looks at the next `limit` numbers. Answers whether there are more.

        Raises:
            RuntimeError: all have been looked at, and some tasks were not among them: a bug, and no snapshot.
        """
        if self._known_place < len(self._known):
            numbers = self._known[self._known_place : self._known_place + limit]
            self._known_place += len(numbers)
            self._look_at(numbers, numbers[-1] + 1)
            return True
        first = max(self._next, self._state.known_until)
        stop = min(first + limit, self._until)
        self._look_at(range(first, stop), stop)
        if stop < self._until:
            return True
        self._finish()
        return False

    def _look_at(self, numbers: "array[int] | range", next_number: int) -> None:
        early, live = self._early, self._live
        for task in map(self._state.by_number.get, numbers):
            if task is not None:
                live.append(task.number)
                if task.number not in early:
                    self.left -= 1
                    self.keep(task)
        self._next = next_number

    def _finish(self) -> None:
        self._state.walk = None
        if self.left:
            raise RuntimeError(f"{self.left} tasks were not found by their numbers")
        self._state.known_numbers, self._state.known_until = self._live, self._until

    def is_current(self) -> bool:
        """Whether it goes on."""
        return self._state.walk is self

    def abandon(self) -> None:
        """Ends the walk before its time: nothing more is handed over."""
        if self._state.walk is self:
            self._state.walk = None


def restore(state: State, task: Task) -> None:
    """Puts a task of a snapshot into a state that is being recovered. Raises ValueError when one with its number or id is there."""
    if task.number in state.by_number or task.spec.task_id in state.tasks:
        raise ValueError(f"{task} is there twice")
    state.tasks[task.spec.task_id] = task
    state.by_number[task.number] = task
    state.bytes += len(task.spec.request)
    state.retrying += task.state is TaskState.RETRYING


def restored(state: State, next_number: int) -> None:
    """All tasks of a snapshot are in; the next one that is submitted has `next_number`."""
    state.next_number = next_number
    numbers = sorted(state.by_number)
    state.by_number = {number: state.by_number[number] for number in numbers}  # the oldest first, as always: pieces have them in any order
    state.known_numbers, state.known_until = array("Q", numbers), next_number
