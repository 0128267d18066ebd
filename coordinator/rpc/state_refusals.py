"""What the store says to a command of shared state, as an error where it is one."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.convert_state_out import author_text
from coordinator.errors import Conflict, LimitReached, MusterError, NotFound, PreconditionFailed, RevisionOutOfRange
from coordinator.state.engine import Header
from coordinator.state.model import Limits, LockParty, Outcome, Verdict

RETRY_AFTER_S = 2.0  # when there may be room again


def refusal_of_verdict(verdict: Verdict, header: Header, limits: Limits, names: Sequence[str] = ()) -> MusterError | None:
    """The error that a verdict is; None when the command was done, or its conditions didn't hold, or it waits.

    Args:
        verdict: the store's.
        header: where the state was then.
        limits: of the namespace.
        names: of the locks, or the lease, that it is about.
    """
    number = verdict.number
    match verdict.outcome:
        case Outcome.DONE | Outcome.COMPARE_FAILED | Outcome.WAITING:
            return None
        case Outcome.LOCK_LOST:
            return _lock_lost(verdict.holder, names)
        case Outcome.LEASE_NOT_FOUND:
            return NotFound("the lease has ended, or there never was one of this id: grant another", reason="LEASE_NOT_FOUND")
        case Outcome.NOT_WAITING:
            return NotFound(f"nobody of this waiter_id waits for {_lock(names)}, nor holds it", reason="NOT_WAITING")
        case Outcome.COMPACTED:
            return RevisionOutOfRange(
                f"history before revision {number} is forgotten",
                reason="COMPACTED",
                metadata={"compact_revision": str(number), "revision": str(header.revision)},
            )
        case Outcome.FUTURE_REVISION:
            return RevisionOutOfRange(
                f"the revision hasn't come yet: the namespace is at {header.revision}",
                reason="FUTURE_REVISION",
                metadata={"revision": str(header.revision)},
            )
        case Outcome.SEQUENCE_TOO_OLD:
            return PreconditionFailed(
                "the client has made so many writes since this sequence that it isn't known any more whether it was made: read the key",
                reason="SEQUENCE_TOO_OLD",
            )
        case _:
            return _limit_reached(verdict, limits)


def _limit_reached(verdict: Verdict, limits: Limits) -> LimitReached:
    used = verdict.number
    match verdict.outcome:
        case Outcome.TOO_MANY_KEYS:
            return _limit("the namespace has too many keys: delete some", "state_keys", used, limits.max_keys)
        case Outcome.TOO_MANY_BYTES:
            return _limit("the namespace's keys and values are too large: delete some", "state_bytes", used, limits.max_bytes)
        case Outcome.TOO_MANY_LEASES:
            return _limit("the namespace has too many leases: let several keys share one", "state_leases", used, limits.max_leases)
        case Outcome.TOO_MANY_LOCKS:
            return _limit("too many locks are held or waited for in the namespace", "state_locks", used, limits.max_locks)
        case Outcome.TOO_MANY_WAITERS:
            return _limit("too many wait for this lock", "state_lock_waiters", used, limits.max_waiters)
        case Outcome.LEASE_FULL:
            return _limit("too many keys end with this lease: grant another", "state_lease_keys", used, limits.max_lease_keys)
        case Outcome.TOO_MANY_DELETED:
            return _limit(
                "more keys begin with this prefix than one transaction may delete: delete by longer prefixes",
                "state_prefix_deletes",
                used,
                limits.max_prefix_deletes,
            )
        case Outcome.READ_TOO_LARGE:
            return _limit(
                "what the transaction reads is too large for an answer, and nothing was done: read fewer keys",
                "state_read_bytes",
                used,
                limits.max_read_bytes,
            )
        case Outcome.STORE_FULL:
            return LimitReached(
                "the store has no memory for more: delete keys, or compact their history",
                limit="store_memory",
                used=used,
                allowed=used,
                retry_after_s=RETRY_AFTER_S,
            )
        case _:
            raise AssertionError(f"{verdict.outcome} is no limit")


def _limit(message: str, limit: str, used: int, allowed: int) -> LimitReached:
    return LimitReached(f"{message} ({used} of {allowed})", limit=limit, used=used, allowed=allowed, retry_after_s=None)


def _lock(names: Sequence[str]) -> str:
    return f"the lock {names[0]!r}" if len(names) == 1 else f"one of the locks {', '.join(map(repr, names))}"


def _lock_lost(holder: LockParty | None, names: Sequence[str]) -> Conflict:
    if holder is None:
        return Conflict(f"{_lock(names)} is no longer held under this token, nor by anybody else: take it again", reason="LOCK_LOST")
    who = author_text(holder.author) or f"waiter {holder.waiter_id}"
    return Conflict(
        f"{_lock(names)} is somebody else's: {who} holds it under token {holder.token}",
        reason="LOCK_LOST",
        metadata={
            "holder": who,
            "holder_token": str(holder.token),
            "holder_waiter_id": holder.waiter_id,
            "holder_since_ms": str(holder.since_ms),
        },
    )


def stale_attempt(task_id: str) -> Conflict:
    """A write that is tied to an attempt which isn't current."""
    return Conflict(f"the attempt of task {task_id!r} that this write is tied to is no longer current: stop", reason="STALE_ATTEMPT")


def compare_failed(mod_revision: int, version: int) -> Conflict:
    """A call's condition on the revision didn't hold."""
    there = f"was last written at revision {mod_revision}" if mod_revision else "isn't there"
    return Conflict(
        f"the key {there}, which is not what if_revision says: read it again",
        reason="COMPARE_FAILED",
        metadata={"mod_revision": str(mod_revision), "version": str(version)},
    )
