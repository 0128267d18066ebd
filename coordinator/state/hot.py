"""Updates of a value, computed one after the other in memory: the next one's begins with what the one before it will leave. Without I/O.

A shard has one writer, so the writer knows what is there. The store compares all the same: what was computed from something else is
computed again.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import NamedTuple

from coordinator.errors import InvalidRequest
from coordinator.state.json_patch import MISSING, Missing
from coordinator.state.model import Compare, CompareTarget, Entry, Outcome, Put, Read, Transaction, Verdict
from coordinator.state.updates import FIELDS, Step, Update, step_of, value_after

MAX_HOT_BYTES = 32 * 1024 * 1024  # of a shard
MAX_CHAINED_BYTES = 16 * 1024  # of a value that the next update of the same call begins with: as a condition, it travels twice
_ENTRY_BYTES = 600  # of an entry beside its key and value, as Python holds it
CONTENT_TYPE = "application/json"  # of what an update makes


class HotEntries:
    """What keys that are updated have, the ones used last; None for one that isn't there. Of all namespaces of a shard.

    Args:
        max_bytes: how much is kept.
    """

    def __init__(self, *, max_bytes: int = MAX_HOT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[tuple[int, str], Entry | None] = OrderedDict()
        self._bytes = 0
        self._spaces = 0

    def new_space(self) -> int:
        """A space of keys of its own. To forget one, take another: what was in it goes as what isn't used does."""
        self._spaces += 1
        return self._spaces

    def get(self, space: int, key: str) -> Entry | Missing | None:
        """MISSING when it isn't known."""
        found = self._entries.get((space, key), MISSING)
        if found is not MISSING:
            self._entries.move_to_end((space, key))
        return found

    def put(self, space: int, key: str, entry: Entry | None) -> None:
        """That is there now."""
        self.drop(space, key)
        self._entries[space, key] = entry
        self._bytes += _bytes(key, entry)
        while self._bytes > self._max_bytes:
            (_, oldest), gone = self._entries.popitem(last=False)
            self._bytes -= _bytes(oldest, gone)

    def drop(self, space: int, key: str) -> None:
        """It isn't known any more what is there."""
        gone = self._entries.pop((space, key), MISSING)
        if gone is not MISSING:
            self._bytes -= _bytes(key, gone)


def _bytes(key: str, entry: Entry | None) -> int:
    return _ENTRY_BYTES + len(key) + (len(entry.value) if entry is not None else 0)


class Expected(NamedTuple):
    """What a key has, or will have when what was computed before is written. Of one that isn't there: None, and zeros.

    `mod_revision` is None of what isn't written yet: then version and value are compared.
    """

    value: bytes | None
    content_type: str
    version: int
    mod_revision: int | None

    @property
    def can_be_compared(self) -> bool:
        """Whether an update may be computed from it: a large value is written first, so that it needn't travel twice."""
        return self.mod_revision is not None or len(self.value or b"") <= MAX_CHAINED_BYTES


def expected(entry: Entry | None) -> Expected:
    """As it is."""
    if entry is None:
        return Expected(None, CONTENT_TYPE, 0, 0)
    return Expected(entry.value, entry.content_type, entry.version, entry.mod_revision)


class Unsettled(Enum):
    """What an update's verdict leaves to do."""

    AGAIN = auto()  # it was computed from something else than what was there: nothing was done
    LOOK_UP = auto()  # it had been done before, under this sequence: what it made is `verdict.puts[0]`, without the value


@dataclass(slots=True)
class Job:
    """An update until it is answered."""

    update: Update
    step: Step
    before: Expected | None = None  # what the last attempt began with
    value: bytes = b""
    failure: InvalidRequest | None = None

    def attempt(self, before: Expected) -> tuple[Transaction, Expected]:
        """What to write, and what it will leave.

        An update that can't be done is written as well, as a transaction that only compares: nobody is told of a failure that comes from
        something that isn't durable yet, nor when it had been done before under the same sequence.
        """
        update, self.before, self.failure = self.update, before, None
        compares = [*update.compares]
        if before.mod_revision is not None:
            compares.append(Compare(update.key, CompareTarget.MOD_REVISION, before.mod_revision))
        else:
            compares.append(Compare(update.key, CompareTarget.VERSION, before.version))
            compares.append(Compare(update.key, CompareTarget.VALUE, value=before.value or b""))
        puts: tuple[Put, ...] = ()
        after = before
        try:
            self.value = value_after(before.value, self.step, FIELDS[type(update.change)])
        except InvalidRequest as failure:
            self.failure = failure
        else:
            puts = (Put(update.key, self.value, before.content_type, keeps_end=before.value is not None),)
            after = Expected(self.value, before.content_type, before.version + 1, None)
        return Transaction(puts, tuple(compares), (Read((update.key,)),), update.locks, update.origin), after

    def settle(self, verdict: Verdict, revision_before: int) -> Verdict | InvalidRequest | Unsettled:
        """What became of the last attempt.

        Args:
            verdict: the store's.
            revision_before: the namespace's revision before the call that held the attempt.
        """
        before = self.before
        assert before is not None  # noqa: S101 - attempted before it is settled
        match verdict.outcome:
            case Outcome.DONE if verdict.puts:
                written = verdict.puts[0]
                if self.failure or written.version != before.version + 1 or verdict.revision <= revision_before:
                    return Unsettled.LOOK_UP
                return replace(verdict, entries=(replace(written, value=self.value),))
            case Outcome.DONE if self.failure:
                return self.failure
            case Outcome.COMPARE_FAILED if not _is(verdict.entries, before):
                return Unsettled.AGAIN
            case _:
                return verdict


def job_of(update: Update) -> Job:
    """An update to be done. Raises InvalidRequest when it never can be."""
    return Job(update, step_of(update.change))


def _is(entries: Sequence[Entry], before: Expected) -> bool:
    if not entries:
        return before.version == 0
    present = entries[0]
    if before.mod_revision is not None:
        return present.mod_revision == before.mod_revision
    return (present.version, present.value) == (before.version, before.value)
