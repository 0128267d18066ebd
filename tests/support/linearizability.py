"""A checker of histories: is there an order of what concurrent clients did that explains every answer, and in which nothing that had ended
comes after what began later? It knows nothing of what is checked: a model says what a call may do to a state.

The search is that of Wing and Gong ("Testing and Verifying Concurrent Objects", 1993) with Lowe's memory of configurations that failed
("Testing for Linearizability", 2017), on each independent part of a history by itself (Horn and Kroening, "Faster linearizability checking
via P-compositionality", 2015). No checker for Python is maintained in the package index.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)

MAX_CONFIGURATIONS = 1_000_000


class Unknown:
    """The answer that never came: the call has had its effect, will have it at any later time, or never."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = Unknown()


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of one client.

    Args:
        client: who called.
        call: what was asked for.
        answer: what came of it, or UNKNOWN.
        called_s: when it was called, on a clock that never goes back and that all clients share.
        returned_s: when it had been answered; of no meaning when the answer is unknown.
    """

    client: str
    call: Any
    answer: Any
    called_s: float
    returned_s: float

    @property
    def is_open(self) -> bool:
        """Whether its answer never came."""
        return self.answer is UNKNOWN


class Model(Protocol[S]):
    """What the checked thing does when its calls come one after the other."""

    @property
    def initial(self) -> S:
        """The state before the first call."""

    def step(self, state: S, call: Any, answer: Any) -> Iterable[S]:
        """Every state that this call can leave behind when it is answered like this; none when it can't be. UNKNOWN fits all answers."""


@dataclass(frozen=True, slots=True)
class Violation(Generic[S]):
    """Why a history has no order.

    Args:
        explained: how many of the answered operations the best order explains.
        answered: how many there are.
        state: what this order leaves behind.
        stuck: the operations of which one would have to be next, and none can.
    """

    explained: int
    answered: int
    state: S
    stuck: tuple[Operation, ...]

    def __str__(self) -> str:
        rows = "".join(f"\n  {operation}" for operation in self.stuck)
        return f"no order explains more than {self.explained} of {self.answered} answers; then at {self.state}, none of these fits:{rows}"


class TooHardError(Exception):
    """The search took more configurations than it may: the history is neither right nor wrong."""


def find_violation(history: Iterable[Operation], model: Model[S], *, max_configurations: int = MAX_CONFIGURATIONS) -> Violation[S] | None:
    """Searches for an order. None when there is one: the history is linearizable.

    Args:
        history: what happened, in any order.
        model: what may happen.
        max_configurations: how much memory and time the search may take; some microseconds and 200 bytes each.

    Raises:
        TooHardError: that was not enough.
    """
    search = _Search(history, model)
    # Most open calls have had no effect, or none that matters: an order with few of them is found fast, and is an order.
    for most in (0, 1, 3):
        try:
            if search.run(max_configurations // 10, most_open=most) is None:
                return None
        except TooHardError:
            pass
    return search.run(max_configurations)


def independent_parts(
    history: Iterable[Operation], touched: Callable[[Any], Iterable[Hashable]]
) -> list[tuple[frozenset[Hashable], list[Operation]]]:
    """Splits a history into parts that share no object. It is linearizable exactly when each part is.

    Args:
        history: what happened.
        touched: the objects of a call, at least one. What one call touches together stays together.
    """
    part_of: dict[Hashable, set[Hashable]] = {}
    operations = list(history)
    for operation in operations:
        together = set(touched(operation.call))
        for name in tuple(together):
            together |= part_of.get(name, set())
        for name in together:
            part_of[name] = together
    parts: dict[frozenset[Hashable], list[Operation]] = {}
    for operation in operations:
        name = next(iter(touched(operation.call)))
        parts.setdefault(frozenset(part_of[name]), []).append(operation)
    return list(parts.items())


# How far an order has come: the number of answered operations, by time of call, that it holds without a gap; the ones after those that it
# holds, as bits; and the open ones that it holds, as bits. Short however long the history is, for only so many calls overlap.
_Place = tuple[int, int, int]


class _Search(Generic[S]):
    def __init__(self, history: Iterable[Operation], model: Model[S]) -> None:
        by_call = sorted(history, key=lambda operation: operation.called_s)
        self._answered = [operation for operation in by_call if not operation.is_open]
        self._open = [operation for operation in by_call if operation.is_open]
        self._model = model

    def run(self, max_configurations: int, *, most_open: int | None = None) -> Violation[S] | None:
        """Searches for an order that holds at most so many of the open calls; by default any number."""
        if not self._answered:
            return None
        start: _Place = (0, 0, 0)
        # By what is answered and the state: which open ones were used for it. Who has used these and more can reach nothing else.
        seen: dict[tuple[int, int, S], list[int]] = {(0, 0, self._model.initial): [0]}
        configurations = 1
        best = (0, start, self._model.initial)
        path = [self._next(start, self._model.initial)]
        while path:
            found = next(path[-1], None)
            if found is None:
                path.pop()
                continue
            (base, later, opened), state = found
            if most_open is not None and opened.bit_count() > most_open:
                continue
            known = seen.setdefault((base, later, state), [])
            if any(used & ~opened == 0 for used in known):
                continue
            if configurations >= max_configurations:
                raise TooHardError(f"{configurations} configurations of {len(self._answered)} answers and {len(self._open)} open calls")
            known.append(opened)
            configurations += 1
            place = found[0]
            if place[0] == len(self._answered):
                return None
            explained = place[0] + place[1].bit_count()
            if explained > best[0]:
                best = (explained, place, state)
            path.append(self._next(place, state))
        explained, place, state = best
        indexes, _ = self._candidates(place)
        return Violation(explained, len(self._answered), state, tuple(self._answered[index] for index in indexes))

    def _candidates(self, place: _Place) -> tuple[Sequence[int], float]:
        """The answered operations that may be next: those called before any that is still missing had returned; and when that was."""
        base, later, _ = place
        first_return_s = float("inf")
        indexes = []
        for index in range(base, len(self._answered)):
            operation = self._answered[index]
            if operation.called_s > first_return_s:
                break
            if not later >> (index - base) & 1:
                indexes.append(index)
                first_return_s = min(first_return_s, operation.returned_s)
        return [index for index in indexes if self._answered[index].called_s <= first_return_s], first_return_s

    def _next(self, place: _Place, state: S) -> Iterator[tuple[_Place, S]]:
        """All that one operation more can lead to; the likeliest first, the one that returned first."""
        base, later, opened = place
        indexes, first_return_s = self._candidates(place)
        for index in sorted(indexes, key=lambda index: self._answered[index].returned_s):
            operation = self._answered[index]
            now_base, now_later = base, later | 1 << (index - base)
            while now_later & 1:
                now_base, now_later = now_base + 1, now_later >> 1
            for after in self._model.step(state, operation.call, operation.answer):
                yield (now_base, now_later, opened), after
        for index, operation in enumerate(self._open):
            if operation.called_s > first_return_s:
                break
            if not opened >> index & 1:
                for after in self._model.step(state, operation.call, UNKNOWN):
                    if after != state:  # one that changes nothing explains nothing
                        yield (base, later, opened | 1 << index), after
