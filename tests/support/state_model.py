"""What shared state does when calls come one after the other, for the checker of concurrent histories: a few keys that hold whole numbers,
each with a lock of its own that writes may be guarded by. It is written from protos/muster/v1/state.proto alone.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.support.linearizability import UNKNOWN, Operation, Violation, find_violation, independent_parts

# What clients ask for.


@dataclass(frozen=True, slots=True)
class Read:
    """Reads keys as of one revision. The answer is a tuple of what is there, `Seen` or None each."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Write:
    """Sets keys in one revision, a put or a transaction. Answered by Written, Conflict or Refused.

    Args:
        puts: keys and their new values.
        if_revision: only if the first key's last write was at this revision, 0: if it isn't there; None is no condition.
        token: only while the first key's lock is held by this token; 0 is no condition.
    """

    puts: tuple[tuple[str, int], ...]
    if_revision: int | None = None
    token: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Deletes a key. The answer is whether it was there."""

    key: str


@dataclass(frozen=True, slots=True)
class Add:
    """Adds to a key; one that isn't there begins at 0. The answer is `Seen`."""

    key: str
    number: int


@dataclass(frozen=True, slots=True)
class Acquire:
    """Takes a key's lock. The answer is the token; 0 when the wait ended before."""

    key: str


@dataclass(frozen=True, slots=True)
class Release:
    """Lets a key's lock go. The answer is True, or Refused."""

    key: str
    token: int


# What they get.


@dataclass(frozen=True, slots=True)
class Seen:
    """A key that is there."""

    value: int
    revision: int
    version: int


@dataclass(frozen=True, slots=True)
class Written:
    """A write was made, at this revision."""

    revision: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """A condition didn't hold: `seen` is what is there."""

    seen: Seen | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The lock's token is no longer the holder's."""


def keys_of(call: Any) -> tuple[str, ...]:
    """The keys that a call touches."""
    match call:
        case Read(keys):
            return keys
        case Write(puts):
            return tuple(key for key, _ in puts)
        case _:
            return (call.key,)


def find_state_violation(history: Iterable[Operation]) -> Violation[Any] | None:
    """Checks each set of keys that were used together by itself. None when every answer has an explanation."""
    for keys, operations in independent_parts(history, keys_of):
        violation = find_violation(operations, StateModel(sorted(map(str, keys))))
        if violation is not None:
            return violation
    return None


class Cell(NamedTuple):
    """A key in the model.

    Args:
        value: what it holds; None when it isn't there.
        revision: of its last write; None when nobody was told yet.
        version: how many writes it has had since it was made.
        floor: the last revision known; what comes is above it.
        token: of its lock's last holder that is known; 0 when nobody holds it.
    """

    value: int | None = None
    revision: int | None = None
    version: int = 0
    floor: int = 0
    token: int = 0


State = tuple[Cell, ...]


class StateModel:
    """Some keys, none of which is there at first.

    Args:
        keys: their names.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._index = {key: index for index, key in enumerate(keys)}

    @property
    def initial(self) -> State:
        return (Cell(),) * len(self._index)

    def step(self, state: State, call: Any, answer: Any) -> Iterator[State]:
        """As of Model."""
        match call:
            case Read(keys):
                cells = (
                    {}
                    if answer is UNKNOWN
                    else {key: _as_seen(self._cell(state, key), seen) for key, seen in zip(keys, answer, strict=True)}
                )
                yield from self._with(state, cells)
            case Write():
                yield from self._write(state, call, answer)
            case Delete(key):
                cell = self._cell(state, key)
                was_there = cell.value is not None
                if answer is UNKNOWN or answer == was_there:
                    yield from self._with(state, {key: cell._replace(value=None, revision=None, version=0)})
            case Add(key, number):
                cell = self._cell(state, key)
                revision = None if answer is UNKNOWN else answer.revision
                after = _as_written(cell, (cell.value or 0) + number, revision)
                yield from self._with(state, {key: after if answer is UNKNOWN or after is None else _as_seen(after, answer)})
            case Acquire(key):
                cell = self._cell(state, key)
                if answer is UNKNOWN or answer == 0:
                    yield state  # whoever holds it, nobody knows the token
                elif answer > cell.token:
                    yield from self._with(state, {key: cell._replace(token=answer)})
            case Release(key, token):
                cell = self._cell(state, key)
                if isinstance(answer, Refused):
                    yield state
                elif cell.token == token:
                    yield from self._with(state, {key: cell._replace(token=0)})
            case _:
                raise TypeError(f"not a call: {call!r}")

    def _write(self, state: State, call: Write, answer: Any) -> Iterator[State]:
        first = call.puts[0][0]
        if isinstance(answer, Refused):
            if call.token:
                yield state  # its lease may have ended without anybody having been told
            return
        if call.token and self._cell(state, first).token != call.token:
            return
        for holds, cell in _compared(self._cell(state, first), call.if_revision):
            before = self._replaced(state, {first: cell})
            if holds and (answer is UNKNOWN or isinstance(answer, Written)):
                revision = answer.revision if isinstance(answer, Written) else None
                yield from self._with(before, {key: _as_written(self._cell(before, key), value, revision) for key, value in call.puts})
            elif not holds and isinstance(answer, Conflict):
                yield from self._with(before, {first: _as_seen(cell, answer.seen)})

    def _cell(self, state: State, key: str) -> Cell:
        return state[self._index[key]]

    def _replaced(self, state: State, cells: Mapping[str, Cell]) -> State:
        after = list(state)
        for key, cell in cells.items():
            after[self._index[key]] = cell
        return tuple(after)

    def _with(self, state: State, cells: Mapping[str, Cell | None]) -> Iterator[State]:
        """The state with these cells, unless one of them can't be."""
        possible = {key: cell for key, cell in cells.items() if cell is not None}
        if len(possible) == len(cells):
            yield self._replaced(state, possible)


def _as_seen(cell: Cell, seen: Seen | None) -> Cell | None:
    """The cell, when this is what a client saw of it: it may have learnt the revision."""
    if seen is None or cell.value is None:
        return cell if seen is None and cell.value is None else None
    if (cell.value, cell.version) != (seen.value, seen.version):
        return None
    if cell.revision is None:
        return cell._replace(revision=seen.revision, floor=seen.revision) if seen.revision > cell.floor else None
    return cell if cell.revision == seen.revision else None


def _as_written(cell: Cell, value: int, revision: int | None) -> Cell | None:
    if revision is None:
        return cell._replace(value=value, revision=None, version=cell.version + 1)
    return cell._replace(value=value, revision=revision, version=cell.version + 1, floor=revision) if revision > cell.floor else None


def _compared(cell: Cell, if_revision: int | None) -> Iterator[tuple[bool, Cell]]:
    """Whether the condition holds; both, when nobody was told the revision yet, and what is known of it then."""
    if if_revision is None:
        yield True, cell
    elif cell.value is None:
        yield if_revision == 0, cell
    elif cell.revision is not None:
        yield if_revision == cell.revision, cell
    else:
        if if_revision > cell.floor:
            yield True, cell._replace(revision=if_revision, floor=if_revision)
        yield False, cell
