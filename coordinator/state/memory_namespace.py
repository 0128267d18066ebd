"""One namespace's state in memory: what a command does to keys, leases, events and kept verdicts. Locks are in `memory_locks`."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

from coordinator.state.layout import key_deadline, lease_deadline
from coordinator.state.memory_locks import Deadlines, MemoryLocks
from coordinator.state.model import (
    GENERATIONS_PER_ERA,
    KEPT_MS,
    KEPT_PER_CLIENT,
    AcquireLock,
    Command,
    Compact,
    Compare,
    CompareTarget,
    ConfirmLock,
    Delete,
    Entry,
    Event,
    EventKind,
    ExpireDue,
    ExtendAll,
    Grant,
    GrantLease,
    KeepLease,
    KeepLock,
    Limits,
    Op,
    Origin,
    Outcome,
    Put,
    Read,
    ReleaseLock,
    RevokeLease,
    Transaction,
    Verdict,
)


@dataclass(slots=True)
class _Lease:
    ttl_ms: int
    keys: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Client:
    """What was kept of a client's writes. All up to `gone` that isn't kept was forgotten for its age; `before` is the next `gone`."""

    last: int
    before: int
    gone: int
    generation: int


class MemoryNamespace:
    """The data, and what commands do to it. Times are the store's, in milliseconds since 1970."""

    def __init__(self, *, incarnation: str) -> None:
        self.incarnation = incarnation
        self.revision = 0
        self.compact_revision = 1
        self.bytes = 0
        self.entries: dict[str, Entry] = {}
        self.names: list[bytes] = []  # of the entries, in order
        self.events: list[Event] = []
        self.deadlines = Deadlines()
        self.locks = MemoryLocks(deadlines=self.deadlines, next_revision=self._next_revision)
        self.last: tuple[str, Sequence[Verdict]] = ("", ())  # nonce and verdicts of the last batch
        self._ttls: dict[str, int] = {}
        self._leases: dict[int, _Lease] = {}
        self._kept: dict[int, dict[tuple[str, int], tuple[int, Verdict]]] = {}  # by generation, then by client and place in its ring
        self._clients: tuple[dict[str, _Client], dict[str, _Client]] = ({}, {})  # of this era, and of the one before
        self._era_began = 0
        self._generation = 0
        self._generation_ms = 0
        self._full = False
        self._batch_room = 0

    def recover(self, known_revision: int, incarnation: str) -> int:
        """Goes on above what the store has lost. Answers how much."""
        lost = max(known_revision - self.revision, 0)
        if lost:
            self.revision, self.compact_revision, self.incarnation = known_revision, known_revision + 1, incarnation
        return lost

    def begin_batch(self, limits: Limits, now: int) -> None:
        """Begins a batch: a new generation of kept verdicts every ten minutes, and forgets the one before the last; so with clients."""
        self._batch_room = limits.max_batch_read_bytes
        if not self._generation_ms:
            self._generation_ms = now
        passed = (now - self._generation_ms) // KEPT_MS
        if not passed and len(self._kept.get(self._generation, ())) >= limits.max_kept:
            passed = 1
        if passed > 0:
            self._generation += min(passed, 2)
            self._generation_ms = now
            self._kept = {one: kept for one, kept in self._kept.items() if one >= self._generation - 1}
        if self._generation - self._era_began >= GENERATIONS_PER_ERA or len(self._clients[0]) >= limits.max_kept:
            self._clients = ({}, self._clients[0])
            self._era_began = self._generation

    def apply(self, command: Command, limits: Limits, now: int, *, full: bool = False) -> Verdict:
        """What becomes of a command. With `full`, nothing is taken that needs memory."""
        self._full = full
        match command:
            case Transaction() | GrantLease() | RevokeLease():
                return self._once(command, limits, now)
            case KeepLease(lease_id):
                if lease_id not in self._leases:
                    return Verdict(Outcome.LEASE_NOT_FOUND)
                self.deadlines.put(lease_deadline(lease_id), now + self._leases[lease_id].ttl_ms)
                return Verdict(Outcome.DONE)
            case AcquireLock():
                return self.locks.acquire(command, limits, now, full=full)
            case ConfirmLock() | KeepLock():
                return self.locks.keep(command, now)
            case ReleaseLock():
                return self.locks.release(command, now)
            case ExpireDue(limit, until_ms):
                return self._expire(limit, now, min(now, until_ms))
            case ExtendAll():
                self.deadlines.extended_ms = now
                return Verdict(Outcome.DONE)
            case Compact():
                return self._compact(command, limits, now)
            case _:
                assert_never(command)

    def _once(self, command: Transaction | GrantLease | RevokeLease, limits: Limits, now: int) -> Verdict:
        origin = command.origin
        if not origin.sequence:
            return self._write(command, limits, now)
        known = self._client(origin)
        if known is not None and origin.sequence <= known.last:
            for kept in self._kept.values():
                sequence, verdict = kept.get((origin.client_id, origin.sequence % KEPT_PER_CLIENT), (0, None))
                if sequence == origin.sequence and verdict is not None:
                    return verdict
            if origin.sequence <= max(known.gone, known.last - KEPT_PER_CLIENT):
                return Verdict(Outcome.SEQUENCE_TOO_OLD)
        verdict = self._write(command, limits, now)
        if verdict.revision:
            kept = self._kept.setdefault(self._generation, {})
            place = (origin.client_id, origin.sequence % KEPT_PER_CLIENT)
            kept[place] = (origin.sequence, verdict)
            if known is None:
                known = _Client(last=0, before=0, gone=0, generation=self._generation)
            known.last = max(known.last, origin.sequence)
            self._clients[0][origin.client_id] = known
        return verdict

    def _client(self, origin: Origin) -> _Client | None:
        known = self._clients[0].get(origin.client_id) or self._clients[1].get(origin.client_id)
        if known is not None and known.generation < self._generation:
            known.gone = known.before if known.generation == self._generation - 1 else known.last
            known.before, known.generation = known.last, self._generation
        return known

    def _write(self, command: Transaction | GrantLease | RevokeLease, limits: Limits, now: int) -> Verdict:
        match command:
            case Transaction():
                return self._transact(command, limits, now)
            case GrantLease(ttl_ms):
                if len(self._leases) >= limits.max_leases:
                    return Verdict(Outcome.TOO_MANY_LEASES, number=len(self._leases))
                if self._full:
                    return Verdict(Outcome.STORE_FULL)
                lease_id = self._next_revision()
                self._leases[lease_id] = _Lease(ttl_ms)
                self.deadlines.put(lease_deadline(lease_id), now + ttl_ms)
                return Verdict(Outcome.DONE, revision=lease_id)
            case RevokeLease(lease_id, origin):
                if lease_id not in self._leases:
                    return Verdict(Outcome.LEASE_NOT_FOUND)
                ended, revision = self._end_lease(lease_id, EventKind.DELETED, origin.author, now)
                return Verdict(Outcome.DONE, revision=revision, number=ended)
            case _:
                assert_never(command)

    def _transact(self, command: Transaction, limits: Limits, now: int) -> Verdict:
        for name, token in command.locks:
            holder = self.locks.holder(name)
            if holder is None or holder.token != token:
                return self.locks.lost(name)
        held = all(self._holds(compare) for compare in command.compares)
        ops = command.then_ops if held else command.else_ops
        outcome = Outcome.DONE if held else Outcome.COMPARE_FAILED
        read = tuple(self.entries[key] for op in ops if isinstance(op, Read) for key in op.keys if key in self.entries)
        size = sum(map(_answer_bytes, read))
        if size > limits.max_read_bytes:
            return Verdict(Outcome.READ_TOO_LARGE, number=limits.max_read_bytes)
        if size > self._batch_room:
            return Verdict(Outcome.READ_TOO_LARGE, number=self._batch_room)
        self._batch_room -= size
        doomed = [list(self.named(op.key)) if op.prefix else [op.key] for op in ops if isinstance(op, Delete)]
        deleted = sum(key in self.entries for keys in doomed for key in keys)
        if deleted > limits.max_prefix_deletes:
            return Verdict(Outcome.TOO_MANY_DELETED, number=limits.max_prefix_deletes)
        refused = self._refusal([op for op in ops if isinstance(op, Put)], doomed, deleted, limits)
        if refused is not None:
            return refused
        if not deleted and not any(isinstance(op, Put) for op in ops):
            return Verdict(outcome, entries=read)
        revision = self._next_revision()
        puts = self._do(ops, doomed, revision, command.origin.author, now)
        return Verdict(outcome, revision=revision, number=deleted, entries=read, puts=puts)

    def _refusal(self, puts: Sequence[Put], doomed: Sequence[Sequence[str]], deleted: int, limits: Limits) -> Verdict | None:
        if puts and self._full:
            return Verdict(Outcome.STORE_FULL)
        joining: dict[int, int] = {}
        for put in puts:
            if put.lease_id and put.lease_id not in self._leases:
                return Verdict(Outcome.LEASE_NOT_FOUND, number=put.lease_id)
            if put.lease_id and put.key not in self._leases[put.lease_id].keys:
                joining[put.lease_id] = joining.get(put.lease_id, 0) + 1
        for lease_id, count in joining.items():
            if len(self._leases[lease_id].keys) + count > limits.max_lease_keys:
                return Verdict(Outcome.LEASE_FULL, number=limits.max_lease_keys)
        grown = sum(put.key not in self.entries for put in puts) - deleted
        if grown > 0 and len(self.entries) + grown > limits.max_keys:
            return Verdict(Outcome.TOO_MANY_KEYS, number=len(self.entries))
        larger = sum(_size(put.key, put.value) - self._held_bytes(put.key) for put in puts)
        larger -= sum(self._held_bytes(key) for keys in doomed for key in keys)
        if larger > 0 and self.bytes + larger > limits.max_bytes:
            return Verdict(Outcome.TOO_MANY_BYTES, number=self.bytes)
        return None

    def _do(self, ops: Sequence[Op], doomed: Iterable[Sequence[str]], revision: int, author: bytes, now: int) -> tuple[Entry, ...]:
        puts: list[Entry] = []
        dooms = iter(doomed)
        for op in ops:
            match op:
                case Put():
                    puts.append(replace(self._put(op, revision, author, now), value=b""))
                case Delete():
                    for key in next(dooms):
                        self._delete(key, revision, EventKind.DELETED, author, now)
                case Read():
                    pass
                case _:
                    assert_never(op)
        return tuple(puts)

    def _holds(self, compare: Compare) -> bool:
        entry = self.entries.get(compare.key)
        match compare.target:
            case CompareTarget.MOD_REVISION:
                return compare.number == (entry.mod_revision if entry else 0)
            case CompareTarget.CREATE_REVISION:
                return compare.number == (entry.create_revision if entry else 0)
            case CompareTarget.VERSION:
                return compare.number == (entry.version if entry else 0)
            case CompareTarget.VALUE:
                return entry is not None and compare.value == entry.value
            case CompareTarget.EXISTS:
                return compare.number == (1 if entry else 0)
            case _:
                assert_never(compare.target)

    def _put(self, op: Put, revision: int, author: bytes, now: int) -> Entry:
        before = self.entries.get(op.key)
        if before is None:
            insort(self.names, op.key.encode())
        elif op.keeps_end:
            op = replace(op, lease_id=before.lease_id, ttl_ms=0)
        elif before.lease_id and before.lease_id != op.lease_id:
            self._leases[before.lease_id].keys.discard(op.key)
        entry = Entry(
            key=op.key,
            value=op.value,
            content_type=op.content_type,
            mod_revision=revision,
            create_revision=before.create_revision if before else revision,
            version=before.version + 1 if before else 1,
            lease_id=op.lease_id,
            author=author,
            write_ms=now,
        )
        self.bytes += _size(op.key, op.value) - self._held_bytes(op.key)
        self.entries[op.key] = entry
        if op.lease_id:
            self._leases[op.lease_id].keys.add(op.key)
        if op.ttl_ms:
            self._ttls[op.key] = op.ttl_ms
            self.deadlines.put(key_deadline(op.key.encode()), now + op.ttl_ms)
        elif not op.keeps_end and self._ttls.pop(op.key, 0):
            self.deadlines.drop(key_deadline(op.key.encode()))
        self.events.append(Event(EventKind.PUT, op.key, revision, entry, before.mod_revision if before else 0, author, now))
        return entry

    def _delete(self, key: str, revision: int, kind: EventKind, author: bytes, now: int) -> None:
        if key not in self.entries:
            return
        self.bytes -= self._held_bytes(key)
        entry = self.entries.pop(key)
        del self.names[bisect_left(self.names, key.encode())]
        if entry.lease_id:
            self._leases[entry.lease_id].keys.discard(key)
        if self._ttls.pop(key, 0):
            self.deadlines.drop(key_deadline(key.encode()))
        self.events.append(Event(kind, key, revision, None, entry.mod_revision, author, now))

    def _end_lease(self, lease_id: int, kind: EventKind, author: bytes, now: int) -> tuple[int, int]:
        keys = sorted(self._leases[lease_id].keys, key=str.encode)
        revision = self._next_revision()
        for key in keys:
            self._delete(key, revision, kind, author, now)
        del self._leases[lease_id]
        self.deadlines.drop(lease_deadline(lease_id))
        return len(keys), revision

    def _expire(self, limit: int, now: int, until: int) -> Verdict:
        gone_over, ended, revision = 0, 0, 0
        grants: list[Grant] = []
        while gone_over < limit:
            member = min((due, member) for member, due in self.deadlines.due.items())[1] if self.deadlines.due else b""
            if not member or self.deadlines.due[member] > until:
                return Verdict(Outcome.DONE, revision=revision, number=ended, grants=tuple(grants))
            later = self.deadlines.extended_ms + self._ttl_ms(member)
            if later > until:
                self.deadlines.put(member, later)
                gone_over += 1
                continue
            count, written, granted = self._end(member, now)
            gone_over += max(count, 1)
            ended += max(count, 1)
            revision = written or revision
            grants += granted
        more = any(due <= until for due in self.deadlines.due.values())
        return Verdict(Outcome.DONE, revision=revision, number=ended, more=more, grants=tuple(grants))

    def _end(self, member: bytes, now: int) -> tuple[int, int, Sequence[Grant]]:
        """Ends what a deadline is of: answers how many keys, in which revision, and which locks were handed on."""
        kind, rest = member[:1], member[1:]
        if kind == b"k":
            revision = self._next_revision()
            self._delete(rest.decode(), revision, EventKind.EXPIRED, b"", now)
            return 1, revision, ()
        if kind == b"l":
            return *self._end_lease(int.from_bytes(rest), EventKind.EXPIRED, b"", now), ()
        if kind == b"h":
            return 0, 0, self.locks.pass_on(rest.decode(), now)
        self.locks.drop_waiter(*_waiter(rest))
        return 0, 0, ()

    def _ttl_ms(self, member: bytes) -> int:
        kind, rest = member[:1], member[1:]
        if kind == b"k":
            return self._ttls[rest.decode()]
        if kind == b"l":
            return self._leases[int.from_bytes(rest)].ttl_ms
        if kind == b"h":
            return self.locks.holder_ttl_ms(rest.decode())
        return self.locks.waiter_ttl_ms(*_waiter(rest))

    def _compact(self, command: Compact, limits: Limits, now: int) -> Verdict:
        if command.revision > self.revision:
            return Verdict(Outcome.FUTURE_REVISION, number=self.revision)
        if command.revision and command.revision < self.compact_revision:
            return Verdict(Outcome.COMPACTED, number=self.compact_revision)
        by_age = now - limits.keep_ms if not command.revision else 0
        target = command.revision or self.revision - limits.keep_revisions + 1
        self.compact_revision = max(self.compact_revision, target)
        removed = 0
        for event in self.events[: command.limit]:
            if event.revision >= self.compact_revision and event.date_ms >= by_age:
                break
            self.compact_revision = max(self.compact_revision, event.revision + 1)
            removed += 1
        del self.events[:removed]
        return Verdict(Outcome.DONE, number=removed, more=removed == command.limit)

    def kept_events(self) -> Iterator[Event]:
        """Those that a reader may see."""
        return (event for event in self.events if event.revision >= self.compact_revision)

    def named(self, prefix: str, after: str = "") -> Iterator[str]:
        """Keys that begin with `prefix`, behind `after`, by their bytes."""
        start = prefix.encode()
        for place in range(bisect_left(self.names, max(start, after.encode())), len(self.names)):
            name = self.names[place]
            if not name.startswith(start):
                return
            if name != after.encode():
                yield name.decode()

    def _held_bytes(self, key: str) -> int:
        entry = self.entries.get(key)
        return 0 if entry is None else _size(key, entry.value)

    def _next_revision(self) -> int:
        self.revision += 1
        return self.revision


def _size(key: str, value: bytes) -> int:
    return len(key.encode()) + len(value)


def _answer_bytes(entry: Entry) -> int:
    return _size(entry.key, entry.value)


def _waiter(rest: bytes) -> tuple[str, str]:
    size = int.from_bytes(rest[:2])
    return rest[2 : 2 + size].decode(), rest[2 + size :].decode()
