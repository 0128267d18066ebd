"""What shared state is made of, and what can be asked of it: values without I/O. The protos are in `muster/v1/state.proto`.

A **command** changes state, and the store answers it with a **verdict**. Whoever wrote something is an *author*: the bytes of a
`StateAuthor`, which only the edge reads.
"""

from dataclasses import dataclass
from enum import Enum

MAX_KEY_BYTES = 1024
MAX_VALUE_BYTES = 1024 * 1024
MAX_TXN_OPS = 128
CONFIRM_MS = 1000  # within which a waiter confirms that it was told of its lock
KEPT_MS = 10 * 60 * 1000  # at least so long the verdict of a client's write is kept, for when it is repeated
GENERATIONS_PER_ERA = 144  # as many of these ten minutes a client is known after its last write: a day
KEPT_PER_CLIENT = 1024  # and at most so many of one client: no more of its writes may be under way at a time


@dataclass(frozen=True, slots=True)
class Entry:
    """A key at one revision. `version` counts its writes since it was made, from 1; `lease_id` 0 is none."""

    key: str
    value: bytes
    content_type: str
    mod_revision: int
    create_revision: int
    version: int
    lease_id: int
    author: bytes
    write_ms: int


class EventKind(Enum):
    """What happened to a key."""

    PUT = 1
    DELETED = 2
    EXPIRED = 3


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one key. `entry` is the key after a PUT; `previous_revision` is its write before, 0 when it wasn't there."""

    kind: EventKind
    key: str
    revision: int
    entry: Entry | None
    previous_revision: int
    author: bytes
    date_ms: int


class CompareTarget(Enum):
    """What a condition looks at. All but VALUE are 0 for a key that isn't there."""

    MOD_REVISION = 1
    CREATE_REVISION = 2
    VERSION = 3
    VALUE = 4
    EXISTS = 5


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition: that what it looks at equals `number`, or `value`."""

    key: str
    target: CompareTarget
    number: int = 0
    value: bytes = b""


@dataclass(frozen=True, slots=True)
class Put:
    """Sets a key. `ttl_ms` 0 is without end; not beside a lease. With `keeps_end`, which is beside neither, it ends as it did before."""

    key: str
    value: bytes
    content_type: str = ""
    lease_id: int = 0
    ttl_ms: int = 0
    keeps_end: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """Deletes a key, or with `prefix` all keys that begin with it."""

    key: str
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """Reads keys as they were before the transaction."""

    keys: tuple[str, ...]


Op = Put | Delete | Read


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asks, and that it is asked once: with a sequence above 0, a repetition by the same client gets the first one's verdict."""

    author: bytes = b""
    client_id: str = ""
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Transaction:
    """Every write of keys: if all `compares` hold `then_ops`, otherwise `else_ops`. Refused without each lock of `locks` (name, token)."""

    then_ops: tuple[Op, ...]
    compares: tuple[Compare, ...] = ()
    else_ops: tuple[Op, ...] = ()
    locks: tuple[tuple[str, int], ...] = ()
    origin: Origin = Origin()


@dataclass(frozen=True, slots=True)
class GrantLease:
    """A new lease. Its id is a revision."""

    ttl_ms: int
    origin: Origin = Origin()


@dataclass(frozen=True, slots=True)
class KeepLease:
    """The lease lasts for its time to live from now on."""

    lease_id: int


@dataclass(frozen=True, slots=True)
class RevokeLease:
    """The lease ends, and its keys are deleted in one revision."""

    lease_id: int
    origin: Origin = Origin()


@dataclass(frozen=True, slots=True)
class AcquireLock:
    """Takes a lock, or a place in its line. Again under the same `waiter_id` it keeps the place, or finds what was granted meanwhile.

    Whoever doesn't wait (`wait` False) takes no place. A waiter loses its place when it hasn't asked for `ttl_ms`.
    """

    name: str
    waiter_id: str
    ttl_ms: int
    wait: bool
    author: bytes = b""


@dataclass(frozen=True, slots=True)
class ConfirmLock:
    """A waiter has learnt that it holds the lock: its lease begins. A grant that nobody confirms within a second goes to the next."""

    name: str
    token: int


@dataclass(frozen=True, slots=True)
class KeepLock:
    """A holder's sign of life."""

    name: str
    token: int


@dataclass(frozen=True, slots=True)
class ReleaseLock:
    """Lets a lock go (`token`), or leaves its line and lets it go if it was granted meanwhile (`waiter_id`)."""

    name: str
    token: int = 0
    waiter_id: str = ""


@dataclass(frozen=True, slots=True)
class ExpireDue:
    """Ends at most `limit` of the keys, leases, grants, holders and waiters whose time was over at `until_ms`, and is by the store's clock.

    So a call that is carried out late, or repeated after an outage, ends nothing whose time went by meanwhile.
    """

    limit: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class ExtendAll:
    """After an outage or a takeover, before the next ExpireDue: nothing ends before its own time to live from now is over.

    It costs the same however many deadlines there are: each is looked at when it falls due. A date in `next_due_ms` may so be too early.
    """


@dataclass(frozen=True, slots=True)
class Compact:
    """Events before `revision` are forgotten, at once for every reader, and at most `limit` of them removed a call: see `Verdict.more`.

    With revision 0, those that the namespace's limits of revisions and age don't keep. Nothing else forgets any.
    """

    revision: int
    limit: int


Command = (
    Transaction
    | GrantLease
    | KeepLease
    | RevokeLease
    | AcquireLock
    | ConfirmLock
    | KeepLock
    | ReleaseLock
    | ExpireDue
    | ExtendAll
    | Compact
)


class Outcome(Enum):
    """What the store says to a command."""

    DONE = 0
    COMPARE_FAILED = 1  # a transaction's else branch: it was done
    LOCK_LOST = 2  # `parties` has the present holder, if any
    LEASE_NOT_FOUND = 3
    WAITING = 4  # a lock that somebody else holds; `number` is how many are before
    TOO_MANY_KEYS = 5  # the namespace's limit; `number` is how many there are
    TOO_MANY_BYTES = 6
    COMPACTED = 7  # `number` is the first revision that is kept
    FUTURE_REVISION = 8
    TOO_MANY_DELETED = 9  # a prefix with more keys than one transaction may delete; `number` is that limit
    NOT_WAITING = 10  # neither holder nor waiter
    SEQUENCE_TOO_OLD = 11  # a repetition whose verdict is no longer kept
    STORE_FULL = 12  # the store has no memory for what makes it larger; what makes it smaller is still done
    TOO_MANY_LEASES = 13
    TOO_MANY_LOCKS = 14
    TOO_MANY_WAITERS = 15
    LEASE_FULL = 16  # as many keys end with the lease as may end in one revision; `number` is that limit
    READ_TOO_LARGE = 17  # it reads more than one answer carries, or with those before it more than one batch's; `number` is the limit


@dataclass(frozen=True, slots=True)
class LockParty:
    """Somebody who holds a lock (`token` above 0) or waits for it."""

    token: int
    waiter_id: str
    author: bytes
    since_ms: int


@dataclass(frozen=True, slots=True)
class LockView:
    """One lock: who holds it, and who waits, the next one first."""

    name: str
    holder: LockParty | None
    waiters: tuple[LockParty, ...]


@dataclass(frozen=True, slots=True)
class Grant:
    """A lock was handed to a waiter, who is to be told and must confirm."""

    name: str
    waiter_id: str
    token: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a command.

    Attributes:
        outcome: as it says.
        revision: of its writes, or a lease's id, or a lock's token; 0 when it wrote nothing.
        number: how many keys were deleted, what ExpireDue ended, what Compact removed, or what `outcome` says.
        entries: what a transaction read, in order; and of each put, in order, the entry as written *without its value* (`puts`).
        more: whether ExpireDue or Compact has more to do.
        grants: locks that were handed on by it.
        holder: with LOCK_LOST or WAITING, who holds the lock.
    """

    outcome: Outcome
    revision: int = 0
    number: int = 0
    entries: tuple[Entry, ...] = ()
    puts: tuple[Entry, ...] = ()
    more: bool = False
    grants: tuple[Grant, ...] = ()
    holder: LockParty | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one namespace. History is bounded by revisions and by age, whichever is reached first.

    `max_read_bytes` is of one transaction, `max_batch_read_bytes` of all that are written together. With `max_kept` verdicts kept for
    repetitions, the older ones go before their ten minutes are over. `store_full`: there is no room for anything that makes the store
    larger, which is answered with STORE_FULL.
    """

    max_keys: int = 1_000_000
    max_bytes: int = 1024 * 1024 * 1024
    max_prefix_deletes: int = 10_000
    max_locks: int = 100_000
    max_waiters: int = 10_000
    max_leases: int = 100_000
    max_lease_keys: int = 10_000
    max_read_bytes: int = 3 * 1024 * 1024
    max_batch_read_bytes: int = 16 * 1024 * 1024
    max_kept: int = 250_000
    store_full: bool = False
    keep_revisions: int = 1_000_000
    keep_ms: int = 24 * 60 * 60 * 1000
