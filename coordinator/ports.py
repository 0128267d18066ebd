"""What the engine asks of the outside world: a store for a shard, and a clock. Adapters implement these; wiring chooses them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from coordinator.core.events import Commit
from coordinator.core.model import RetryPolicy, Task
from coordinator.core.policies import PolicyName, StandingPolicy
from coordinator.core.rates import Starts
from coordinator.core.webhooks import Delivery, GivenUp

MIN_RETAINED_MS = 10 * 60 * 1000
"""G6: an id and its outcome stay this long, whatever the bounds say. SDKs re-send a submit for five minutes."""
MAX_READ_BYTES = 8 * 1024 * 1024  # of records in one answer: some ten milliseconds of a store and of an event loop


class StoreOutage(Exception):
    """The store can't be used now, or a write's fate is unknown: repeat the identical call until it answers."""


class StoreCorrupt(Exception):
    """The store answered something that must not be: the shard stops and is rebuilt from its journal."""


class JournalTooNew(Exception):
    """The journal, or a snapshot, was written by a newer release: start that one, or a later one."""


class AppendAnswer(Enum):
    """What became of an append."""

    APPLIED = "APPLIED"
    ALREADY_MINE = "ALREADY_MINE"  # this very commit was applied before: an earlier answer was lost
    FENCED = "FENCED"  # another coordinator owns the shard
    DIVERGED = "DIVERGED"  # the journal doesn't end where the writer thinks


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A complete snapshot: the live tasks right after journal entry `sequence`, in `pieces` pieces with `size_bytes` in all."""

    sequence: int
    pieces: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who asks for a shard.

    Attributes:
        coordinator_id: no other coordinator that lives has it.
        address: where it is reached, as host:port.
        lease_ms: how long the shard stays its own without an append or a confirmation. 0: nobody else can come, as to a store of one's own,
            and the shard is taken from whoever has it.
    """

    coordinator_id: str = ""
    address: str = ""
    lease_ms: int = 0


ALONE = Claimant()
"""Somebody who has the store for himself."""


@dataclass(frozen=True, slots=True)
class Held:
    """A shard can't be claimed now: another coordinator has it, or was offered it (then `address` is empty), for so long at least."""

    coordinator_id: str
    address: str
    for_ms: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A shard's ownership, newly taken.

    `date_ms` is the store's time; `sequence` is the last entry that was written, 0 when none was; `snapshot` is where replay begins, None
    for the journal's start.
    """

    epoch: int
    sequence: int
    date_ms: int
    snapshot: StoredSnapshot | None = None


class EndedTask(NamedTuple):
    """A terminal task's record, to be written with the commit that ended it."""

    namespace: str
    task_id: str
    record: bytes  # a serialized TaskRecord
    end_ms: int
    terms: tuple[str, ...] = ()  # what it can be found by


@dataclass(frozen=True, slots=True)
class EndedEntry:
    """One line of the index of ended tasks. `position` grows by one per ended task of the namespace and is never reused."""

    position: int
    task_id: str
    end_ms: int
    record_bytes: int


@dataclass(frozen=True, slots=True)
class Appended:
    """The store's answer to an append, with its time in milliseconds since 1970."""

    answer: AppendAnswer
    date_ms: int


@dataclass(frozen=True, slots=True)
class Retention:
    """Bounds on ended tasks, per namespace."""

    max_age_ms: int
    max_count: int
    max_bytes: int
    min_age_ms: int = 10 * 60 * 1000  # G6: an id and its outcome stay this long, whatever the bounds; SDKs re-send for five minutes


@dataclass(frozen=True, slots=True)
class StoreFullness:
    """How full a store is.

    Attributes:
        used_bytes: of its memory, as it counts for its limit.
        limit_bytes: its `maxmemory`; 0 is no limit.
        free_disk_bytes: where a store of our own writes; None for somebody else's.
    """

    used_bytes: int
    limit_bytes: int
    free_disk_bytes: int | None


class StoreGauge(Protocol):
    """Says how full a store is."""

    async def fullness(self) -> StoreFullness:
        """Now. Raises StoreOutage; and StoreCorrupt when it isn't shown."""


class ShardStore(Protocol):
    """One shard's journal and the records of its ended tasks. Every method raises StoreOutage or StoreCorrupt."""

    async def claim(self, claimant: Claimant = ALONE) -> Claim | Held:
        """Takes the shard: a new nonce, and an epoch above every earlier one (at least the store's time in ms).

        Half a snapshot that somebody left is removed. With a lease, the shard is taken only when no lease of another coordinator runs, nor
        an offer to another; from an earlier life of the same coordinator it is taken at once. Without one, from whoever had it.
        """

    async def append(
        self,
        *,
        sequence: int,
        commit_nonce: str,
        blob: bytes,
        ended: Sequence[EndedTask],
        redriven: Sequence[tuple[str, str]] = (),
    ) -> Appended:
        """Writes entry `sequence` (the last one plus 1) and the records of tasks that it ended, all or nothing, if still the owner.

        Repeating a call whose fate is unknown with the same arguments answers ALREADY_MINE when it had been applied.

        Args:
            sequence: of the entry.
            commit_nonce: tells this commit from any other.
            blob: the entry.
            ended: tasks that ended in it.
            redriven: namespace and id of tasks that had ended before, and whose next run begins in it: their records go. One may have ended
                again in the same entry.
        """

    async def confirm(self, *, sequence: int) -> Appended:
        """What an append after entry `sequence` would answer now, without one: APPLIED, FENCED or DIVERGED.

        It extends the lease, as each append does that is applied, or was.
        """

    async def release(self, *, offer_to: str = "", offer_ms: int = 0) -> bool:
        """Gives the shard up: from now on its appends are FENCED, and anybody may claim it at once. False: it has another owner.

        Args:
            offer_to: the one coordinator that may claim it for `offer_ms`, with a lease; then all may. Empty: all at once.
            offer_ms: see there.
        """

    async def look(self) -> tuple[int, StoredSnapshot | None]:
        """The last entry's sequence and the current snapshot, whoever owns the shard."""

    async def read(self, *, after: int, limit: int) -> list[tuple[int, bytes]]:
        """At most `limit` journal entries with a sequence above `after`, in order."""

    async def write_snapshot(self, *, sequence: int, nonce: str, place: int, piece: bytes) -> bool:
        """Writes a piece of a snapshot. Piece 0 begins it, and ends one that was begun before. False: not written, and never will be.

        Repeating a call whose fate is unknown with the same arguments writes the piece once.

        Args:
            sequence: the journal entry after which the snapshot is taken.
            nonce: tells this snapshot from any other.
            place: which piece, from 0, without gaps.
            piece: its bytes.
        """

    async def finish_snapshot(self, *, sequence: int, nonce: str, pieces: int, size_bytes: int) -> bool:
        """Makes a snapshot with all its pieces the current one, and removes the one before. False: it isn't, and never will be.

        Repeating the call with the same arguments answers as the first one did.
        """

    async def read_snapshot(self, *, sequence: int, place: int) -> bytes | None:
        """A piece of the current snapshot; None when another one is current by now, which only another owner can have written."""

    async def trim_journal(self, *, limit: int) -> int:
        """Removes at most `limit` of the entries that the current snapshot covers, the oldest first. Answers how many.

        Answers 0 as well when the shard has another owner: the next append says so.
        """

    async def get_records(self, namespace: str, task_ids: Sequence[str], *, max_bytes: int = MAX_READ_BYTES) -> list[bytes | None]:
        """The records of ended tasks, in the order of `task_ids`; None where there is none.

        Those of the first ids alone, and of at least one, when all together have more than `max_bytes`: ask again for the others.
        """

    async def list_ended(self, namespace: str, *, before: int | None, limit: int, terms: Sequence[Sequence[str]] = ()) -> list[EndedEntry]:
        """The index of ended tasks, the latest first, from below position `before` (None: from the latest).

        Args:
            namespace: whose.
            before: where to go on from.
            limit: how many at most.
            terms: groups of terms. Only tasks that have one of a group's, for a group that the store chooses: the one that finds least.
                Others may be among them that ended before the store knew terms. Without a group: all.
        """

    async def count_ended(self, namespace: str) -> int:
        """How many ended tasks are retained."""

    async def expire_ended(self, namespace: str, retention: Retention, *, limit: int) -> int:
        """Removes at most `limit` ended tasks that a bound of `retention` no longer covers, the oldest first. Answers how many.

        Nothing younger than its `min_age_ms` is removed: G6 needs its id and outcome.
        """

    async def purge_namespace(self, namespace: str, *, limit: int) -> int:
        """Removes at most `limit` ended tasks of a namespace that was deleted, whatever their age, and at last all else that it has.

        Answers how many; 0 when nothing is left. Answers 0 as well when the shard has another owner: the next append says so.
        """

    async def slim_ended(self, namespace: str, slim: Callable[[bytes], bytes], *, limit: int) -> int:
        """Rewrites by `slim` at most `limit` of the records that it hasn't rewritten yet, the oldest first. Answers how many it went over.

        Answers 0 as well when the shard has another owner: the next append says so.
        """

    async def purge_ended(self, namespace: str, records: Mapping[str, bytes]) -> list[str]:
        """Removes ended tasks by their ids, if their records are still just these. Answers the ids of those that are gone.

        The caller has made sure that no promise covers them any more. None go when the shard has another owner: the next append says so.
        """

    async def now_ms(self) -> int:
        """The store's time."""


@dataclass(frozen=True, slots=True)
class SnapshotNamespace:
    """A namespace as a snapshot has it, but for its tasks.

    Its policies and `next_delivery` are in the first piece only (it is 0 in the others); what began under rate limits, and `webhooks`, are
    those of one piece. Of one that was deleted, the store may still hold records; nothing else is left of it.
    """

    name: str
    created_ms: int
    next_number: int
    policies: tuple[StandingPolicy, ...] = ()
    deleted: bool = False
    rate_logs: tuple[tuple[PolicyName, str, Starts], ...] = ()
    next_delivery: int = 0
    webhooks: tuple[Delivery | GivenUp, ...] = ()


@dataclass(frozen=True, slots=True)
class SnapshotPiece:
    """What one piece of a snapshot holds: tasks by namespace. `date_ms` is that of the journal entry `sequence`."""

    sequence: int
    date_ms: int
    parts: Sequence[tuple[SnapshotNamespace, Sequence[Task]]]


class SnapshotEncoder(Protocol):
    """Packs tasks into the pieces of a snapshot. `coordinator.journal.snapshot_codec` has the one."""

    def add(self, namespace: SnapshotNamespace, task: Task) -> None:
        """Takes a task in as it is now."""

    def add_webhook(self, namespace: SnapshotNamespace, stored: Delivery | GivenUp) -> None:
        """Takes in a webhook's delivery."""

    def add_rate_log(self, namespace: SnapshotNamespace, name: PolicyName, key: str, starts: Starts) -> None:
        """Takes in what began under a rate limit."""

    def take(self) -> bytes | None:
        """The next full piece, if there is one."""

    def finish(self) -> None:
        """All tasks are in: what is left becomes the last piece."""


class JournalCodec(Protocol):
    """How commits and records are written. `coordinator.journal.codec` is the one."""

    def encode(self, commit: Commit, defaults: RetryPolicy) -> bytes:
        """A commit as the journal holds it; `defaults` is the retry policy in force where a request gives none."""

    def decode(self, blob: bytes) -> Commit:
        """The commit that `encode` wrote, in this release or an earlier one."""

    def record_out(self, task: Task) -> bytes:
        """What stays of an ended task."""

    def slim_record(self, record: bytes) -> bytes:
        """A record without its payload and its outcome, which still tells what task it was, and that it is over."""

    def snapshot_encoder(self, *, sequence: int, date_ms: int, namespaces: Sequence[SnapshotNamespace], max_bytes: int) -> SnapshotEncoder:
        """What packs the tasks of a snapshot after entry `sequence` into pieces of about `max_bytes`, or of one task that is larger."""

    def canonical(self, stored: Task | StandingPolicy | Delivery | GivenUp) -> bytes:
        """All of it that must survive, as bytes: the same for equal ones, whoever made them, in one release."""

    def decode_snapshot(self, blob: bytes) -> SnapshotPiece:
        """What a piece holds that a release up to this one wrote."""


class WebhookVerdict(Enum):
    """What became of one attempt to deliver."""

    DELIVERED = "DELIVERED"  # it answered 2xx
    GONE = "GONE"  # it answered that it wants no more
    FAILED = "FAILED"  # it answered something else, or broke off
    UNREACHABLE = "UNREACHABLE"  # no answer: whatever else is for the same host would fare no better


@dataclass(frozen=True, slots=True)
class WebhookAnswer:
    """What became of one attempt to deliver, in a sentence without what the URL hides; `retry_after_s` is the receiver's wish."""

    verdict: WebhookVerdict
    reason: str
    retry_after_s: float | None = None


class WebhookCodec(Protocol):
    """What is sent. `coordinator.convert_deliveries` is the one."""

    def event_id(self, namespace: str, delivery: Delivery) -> str:
        """The same at every attempt and after every restart, and that of no other delivery."""

    def body(self, namespace: str, delivery: Delivery, record: bytes | None) -> bytes:
        """What is posted; `record` is the task's, if it is still there."""


class WebhookSender(Protocol):
    """Sends webhook requests. `coordinator.webhooks.sender` is the one."""

    async def send(self, *, url: str, secrets: Sequence[str], event_id: str, date_s: int, body: bytes) -> WebhookAnswer:
        """POSTs `body` to `url`, signed with each of `secrets`. Bounded in time; raises nothing but CancelledError."""


class Clock(Protocol):
    """Durations: seconds that go on while the machine sleeps."""

    def now_s(self) -> float:
        """Seconds from an arbitrary start; never backwards."""
