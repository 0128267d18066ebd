"""Locks of one namespace in memory: who holds them, and who waits in which order. Knows nothing of keys."""

from collections.abc import Callable
from dataclasses import dataclass, field

from coordinator.state.layout import holder_deadline, waiter_deadline
from coordinator.state.model import (
    CONFIRM_MS,
    AcquireLock,
    ConfirmLock,
    Grant,
    KeepLock,
    Limits,
    LockParty,
    LockView,
    Outcome,
    ReleaseLock,
    Verdict,
)


@dataclass(slots=True)
class _Party:
    waiter_id: str
    author: bytes
    since_ms: int
    ttl_ms: int
    token: int = 0
    confirmed: bool = True

    def view(self) -> LockParty:
        return LockParty(token=self.token, waiter_id=self.waiter_id, author=self.author, since_ms=self.since_ms)


@dataclass(slots=True)
class _Lock:
    holder: _Party
    line: dict[str, _Party] = field(default_factory=dict)


class Deadlines:
    """When what ends, by the members of `layout`."""

    def __init__(self) -> None:
        self.due: dict[bytes, int] = {}
        self.extended_ms = 0  # nothing ends before its own time to live after this

    def put(self, member: bytes, due_ms: int) -> None:
        """Sets a deadline, or moves it."""
        self.due[member] = due_ms

    def drop(self, member: bytes) -> None:
        """Removes one, if it is there."""
        self.due.pop(member, None)

    def next_ms(self) -> int | None:
        """The earliest."""
        return min(self.due.values(), default=None)


class MemoryLocks:
    """See `coordinator.state.model` for what each command means. `next_revision` takes one from the namespace's counter."""

    def __init__(self, *, deadlines: Deadlines, next_revision: Callable[[], int]) -> None:
        self._deadlines = deadlines
        self._next_revision = next_revision
        self._locks: dict[str, _Lock] = {}

    def holder(self, name: str) -> LockParty | None:
        """Who holds a lock."""
        lock = self._locks.get(name)
        return None if lock is None else lock.holder.view()

    def views(self, *, prefix: str, after: str, limit: int) -> list[LockView]:
        """Locks by name."""
        names = sorted(name.encode() for name in self._locks)
        found = [name.decode() for name in names if name.startswith(prefix.encode()) and name > after.encode()][:limit]
        return [
            LockView(name=name, holder=lock.holder.view(), waiters=tuple(waiter.view() for waiter in lock.line.values()))
            for name, lock in ((name, self._locks[name]) for name in found)
        ]

    def acquire(self, command: AcquireLock, limits: Limits, now: int, *, full: bool) -> Verdict:
        """See AcquireLock. With `full`, there are no more locks and places than there were."""
        lock = self._locks.get(command.name)
        asking = _Party(waiter_id=command.waiter_id, author=command.author, since_ms=now, ttl_ms=command.ttl_ms)
        if lock is None:
            if full:
                return Verdict(Outcome.STORE_FULL)
            if len(self._locks) >= limits.max_locks:
                return Verdict(Outcome.TOO_MANY_LOCKS, number=len(self._locks))
            asking.token = self._next_revision()
            self._locks[command.name] = _Lock(asking)
            return self._held(command.name, asking, now)
        if lock.holder.waiter_id == command.waiter_id:
            lock.holder.ttl_ms = command.ttl_ms
            return self._held(command.name, lock.holder, now)
        place = lock.line.get(command.waiter_id)
        if place is None and not command.wait:
            return Verdict(Outcome.WAITING, number=len(lock.line), holder=lock.holder.view())
        if place is None:
            if full:
                return Verdict(Outcome.STORE_FULL)
            waiting = sum(len(one.line) for one in self._locks.values())
            if waiting >= limits.max_waiters:
                return Verdict(Outcome.TOO_MANY_WAITERS, number=waiting)
            lock.line[command.waiter_id] = asking
        else:
            place.ttl_ms, place.author = command.ttl_ms, command.author
        self._deadlines.put(waiter_deadline(command.name.encode(), command.waiter_id.encode()), now + command.ttl_ms)
        return Verdict(Outcome.WAITING, number=list(lock.line).index(command.waiter_id), holder=lock.holder.view())

    def keep(self, command: ConfirmLock | KeepLock, now: int) -> Verdict:
        """See ConfirmLock and KeepLock."""
        lock = self._locks.get(command.name)
        if lock is None or lock.holder.token != command.token:
            return self.lost(command.name)
        return self._held(command.name, lock.holder, now)

    def release(self, command: ReleaseLock, now: int) -> Verdict:
        """See ReleaseLock."""
        lock = self._locks.get(command.name)
        if command.token:
            if lock is None or lock.holder.token != command.token:
                return self.lost(command.name)
        elif lock is not None and command.waiter_id in lock.line:
            self.drop_waiter(command.name, command.waiter_id)
            return Verdict(Outcome.DONE)
        elif lock is None or lock.holder.waiter_id != command.waiter_id:
            return Verdict(Outcome.NOT_WAITING)
        return Verdict(Outcome.DONE, grants=self.pass_on(command.name, now))

    def pass_on(self, name: str, now: int) -> tuple[Grant, ...]:
        """The holder is gone: the next in line has the lock."""
        lock = self._locks[name]
        self._deadlines.drop(holder_deadline(name.encode()))
        if not lock.line:
            del self._locks[name]
            return ()
        waiter_id, waiter = next(iter(lock.line.items()))
        self.drop_waiter(name, waiter_id)
        waiter.token, waiter.confirmed, waiter.since_ms = self._next_revision(), False, now
        lock.holder = waiter
        self._deadlines.put(holder_deadline(name.encode()), now + CONFIRM_MS)
        return (Grant(name=name, waiter_id=waiter_id, token=waiter.token),)

    def drop_waiter(self, name: str, waiter_id: str) -> None:
        """A waiter is no longer in line."""
        del self._locks[name].line[waiter_id]
        self._deadlines.drop(waiter_deadline(name.encode(), waiter_id.encode()))

    def holder_ttl_ms(self, name: str) -> int:
        """What a holder's deadline is made of."""
        holder = self._locks[name].holder
        return holder.ttl_ms if holder.confirmed else CONFIRM_MS

    def waiter_ttl_ms(self, name: str, waiter_id: str) -> int:
        """What a waiter's deadline is made of."""
        return self._locks[name].line[waiter_id].ttl_ms

    def lost(self, name: str) -> Verdict:
        """The lock isn't the asker's."""
        return Verdict(Outcome.LOCK_LOST, holder=self.holder(name))

    def _held(self, name: str, holder: _Party, now: int) -> Verdict:
        holder.confirmed = True
        self._deadlines.put(holder_deadline(name.encode()), now + holder.ttl_ms)
        return Verdict(Outcome.DONE, revision=holder.token)
