"""What shared state asks of its store. `redis_store` and `memory_store` implement it, and one contract suite holds both."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from coordinator.ports import MAX_READ_BYTES
from coordinator.state.model import Command, Entry, Event, Limits, LockView, Verdict


class WriteAnswer(Enum):
    """What became of a batch."""

    APPLIED = "APPLIED"
    ALREADY_MINE = "ALREADY_MINE"  # this very batch was applied before: an earlier answer was lost; its verdicts come again
    FENCED = "FENCED"  # another coordinator owns the shard


@dataclass(frozen=True, slots=True)
class Written:
    """A batch's verdicts, one a command in order; the namespace's revision and incarnation after it; the store's time.

    `next_due_ms` is the date of the next deadline, None when nothing ends. When FENCED, there is nothing but the time. `lost` is by how
    many revisions the store was behind `known_revision`.
    """

    answer: WriteAnswer
    verdicts: Sequence[Verdict]
    revision: int
    date_ms: int
    next_due_ms: int | None
    incarnation: str
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """A namespace's state as a whole. `compact_revision` is the first revision whose events are kept.

    Of a namespace that was never written the revision is 0, and the incarnation empty.
    """

    revision: int
    incarnation: str
    compact_revision: int
    keys: int
    bytes: int
    next_due_ms: int | None


@dataclass(frozen=True, slots=True)
class EntryPage:
    """Entries as of `revision`; `after` is the last key that was looked at, None when there are no more."""

    revision: int
    entries: Sequence[Entry]
    after: str | None


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events in order, whole revisions only; `through` is the last revision that was looked at. `compact_revision` as of Facts."""

    events: Sequence[Event]
    through: int
    revision: int
    compact_revision: int


class StateStore(Protocol):
    """One shard's shared state. Every method raises coordinator.ports.StoreOutage or StoreCorrupt.

    Writes go in order, over a connection of their own, under the token of the shard's claim. Reads come from the primary, and see every
    write that was answered.
    """

    async def write(self, namespace: str, commands: Sequence[Command], *, nonce: str, limits: Limits, known_revision: int = 0) -> Written:
        """Applies each command for itself, in order: each checks everything before its first write.

        Repeating a call whose fate is unknown with the same arguments answers ALREADY_MINE with the first call's verdicts, if it was
        applied and nothing was written since.

        Args:
            namespace: whose state.
            commands: what to do.
            nonce: different at each call, in the whole world.
            limits: of the namespace.
            known_revision: the highest revision that the caller has seen of it. A store that is behind has lost writes: it goes on above
                that revision, under a new incarnation, and all that was before is compacted.
        """

    async def get(self, namespace: str, keys: Sequence[str], *, max_bytes: int = MAX_READ_BYTES) -> tuple[int, Sequence[Entry | None]]:
        """Keys as of one revision, in order; None where there is none.

        Those of the first keys alone, and of at least one, when all together have more than `max_bytes` of keys and values.
        """

    async def list(self, namespace: str, *, prefix: str, after: str, limit: int, max_bytes: int, keys_only: bool) -> EntryPage:
        """Keys by their UTF-8 bytes, behind `after`. At least one if there is one."""

    async def events(self, namespace: str, *, after: int, limit: int, max_bytes: int) -> EventPage:
        """Events above revision `after`. When it lies before `compact_revision` - 1, none."""

    async def history(self, namespace: str, key: str, *, after: int, limit: int, max_bytes: int) -> EventPage:
        """Events of one key above revision `after`, from what is kept."""

    async def entry_at(self, namespace: str, key: str, revision: int) -> Entry | None:
        """What a key's write at exactly this revision made of it, if it is kept."""

    async def locks(self, namespace: str, *, prefix: str, after: str, limit: int) -> Sequence[LockView]:
        """Locks by name, behind `after`."""

    async def facts(self, namespace: str) -> Facts:
        """The whole."""

    async def drop(self, namespace: str, *, limit: int) -> bool:
        """Of a namespace that was deleted: removes a bounded part of what it holds, and answers whether there is more.

        Answers False as well when the shard has another owner: the next write says so.
        """
