"""Commands as the script's arguments, and its answers as values. The bytes of what is stored are in `layout`; does no I/O."""

import struct
from collections.abc import Sequence
from typing import assert_never

from coordinator.state.layout import (
    ENTRY,
    EVENT,
    HOLDER,
    INLINE_BYTES,
    PLACE,
    PUT,
    VERDICT,
    WRITTEN,
    read_sized,
    sized,
)
from coordinator.state.model import (
    AcquireLock,
    Command,
    Compact,
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
    LockParty,
    LockView,
    Op,
    Outcome,
    Put,
    ReleaseLock,
    RevokeLease,
    Transaction,
    Verdict,
)

_LIMITS = struct.Struct(">14Q")
_TRANSACTION = struct.Struct(">cQHHII")
_NUMBER = struct.Struct(">cQ")
_TWO_NUMBERS = struct.Struct(">cQQ")
_ACQUIRE = struct.Struct(">cBQ")
_MORE, _READS, _GRANTS, _HOLDER = 1, 2, 4, 8
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
_KINDS = {kind.value: kind for kind in EventKind}


def pack_limits(limits: Limits, *, known_revision: int, full: bool) -> bytes:
    """The script's third argument."""
    return _LIMITS.pack(
        known_revision,
        full or limits.store_full,
        limits.max_keys,
        limits.max_bytes,
        limits.max_prefix_deletes,
        limits.max_locks,
        limits.max_waiters,
        limits.max_leases,
        limits.max_lease_keys,
        limits.max_read_bytes,
        limits.max_batch_read_bytes,
        limits.max_kept,
        limits.keep_revisions,
        limits.keep_ms,
    )


def pack_commands(commands: Sequence[Command]) -> list[bytes]:
    """The script's arguments from the fifth on: each command's head, whose first byte says what it is, and what its kind has beside it."""
    arguments: list[bytes] = []
    for command in commands:
        match command:
            case Transaction():
                _pack_transaction(command, arguments)
            case GrantLease(ttl_ms, origin):
                arguments += (_TWO_NUMBERS.pack(b"G", origin.sequence, ttl_ms), origin.client_id.encode())
            case KeepLease(lease_id):
                arguments.append(_NUMBER.pack(b"K", lease_id))
            case RevokeLease(lease_id, origin):
                head = _TWO_NUMBERS.pack(b"V", origin.sequence, lease_id)
                arguments += (head + origin.author, origin.client_id.encode())
            case AcquireLock():
                head = _ACQUIRE.pack(b"A", command.wait, command.ttl_ms)
                arguments += (head + command.author, command.name.encode(), command.waiter_id.encode())
            case ConfirmLock(name, token) | KeepLock(name, token):
                arguments += (_NUMBER.pack(b"C", token), name.encode())
            case ReleaseLock():
                arguments += (_NUMBER.pack(b"U", command.token), command.name.encode(), command.waiter_id.encode())
            case ExpireDue(limit, until_ms):
                arguments.append(_TWO_NUMBERS.pack(b"E", limit, until_ms))
            case ExtendAll():
                arguments.append(b"O")
            case Compact(revision, limit):
                arguments.append(_TWO_NUMBERS.pack(b"M", revision, limit))
            case _:
                assert_never(command)
    return arguments


def _pack_transaction(command: Transaction, arguments: list[bytes]) -> None:
    author = command.origin.author
    place = len(arguments)
    arguments += (b"", command.origin.client_id.encode())
    for name, token in command.locks:
        arguments += (name.encode(), token.to_bytes(8))
    for compare in command.compares:
        wanted = compare.value if compare.target is CompareTarget.VALUE else compare.number.to_bytes(8)
        arguments += (bytes((compare.target.value,)) + wanted, compare.key.encode())
    first_then = len(arguments)
    _pack_ops(command.then_ops, author, arguments)
    first_else = len(arguments)
    if command.else_ops:
        _pack_ops(command.else_ops, author, arguments)
    head = _TRANSACTION.pack(
        b"T",
        command.origin.sequence,
        len(command.locks),
        len(command.compares),
        first_else - first_then,
        len(arguments) - first_else,
    )
    arguments[place] = head + author


def _pack_ops(ops: Sequence[Op], author: bytes, arguments: list[bytes]) -> None:
    for op in ops:
        if isinstance(op, Put):
            size = len(op.value)
            flag = b"P" if size <= INLINE_BYTES else b"B"
            head = PUT.pack(flag.lower() if op.keeps_end else flag, op.lease_id, op.ttl_ms, size)
            arguments += (head + sized(op.content_type.encode()) + sized(author), op.key.encode(), op.value)
        elif isinstance(op, Delete):
            arguments += (b"X" if op.prefix else b"D", op.key.encode())
        else:
            for key in op.keys:
                arguments += (b"R", key.encode())


def unpack_verdicts(commands: Sequence[Command], packed: bytes) -> list[Verdict]:
    """What the script answered to these commands. Raises struct.error, IndexError or ValueError when it can't be that."""
    verdicts: list[Verdict] = []
    at = 0
    for command in commands:
        verdict, at = _unpack_verdict(command, packed, at)
        verdicts.append(verdict)
    if at != len(packed):
        raise ValueError("the verdicts are longer than the commands")
    return verdicts


def _unpack_verdict(command: Command, packed: bytes, at: int) -> tuple[Verdict, int]:
    code, flags, revision, number, count = VERDICT.unpack_from(packed, at)
    at += VERDICT.size
    outcome = _OUTCOMES[code]
    puts: tuple[Entry, ...] = ()
    if count:
        stop = at + count * WRITTEN.size
        author, ops = _written_by(command, outcome)
        puts = tuple(
            Entry(op.key, b"", op.content_type, revision, create, version, lease_id, author, date_ms)
            for op, (create, version, date_ms, lease_id) in zip(ops, WRITTEN.iter_unpack(packed[at:stop]), strict=False)
        )
        at = stop
    if not flags:
        return Verdict(outcome, revision, number, (), puts), at
    entries: list[Entry] = []
    grants: list[Grant] = []
    holder: LockParty | None = None
    if flags & _READS:
        count, at = int.from_bytes(packed[at : at + 2]), at + 2
        for _ in range(count):
            key, at = read_sized(packed, at)
            stop = at + 4 + int.from_bytes(packed[at : at + 4])
            entries.append(unpack_entry(key.decode(), packed[at + 4 : stop]))
            at = stop
    if flags & _GRANTS:
        count, at = int.from_bytes(packed[at : at + 2]), at + 2
        for _ in range(count):
            name, at = read_sized(packed, at)
            waiter_id, at = read_sized(packed, at)
            grants.append(Grant(name.decode(), waiter_id.decode(), int.from_bytes(packed[at : at + 8])))
            at += 8
    if flags & _HOLDER:
        record, at = read_sized(packed, at)
        holder = unpack_holder(record)
    return Verdict(outcome, revision, number, tuple(entries), puts, bool(flags & _MORE), tuple(grants), holder), at


def _written_by(command: Command, outcome: Outcome) -> tuple[bytes, list[Put]]:
    """Whose puts a verdict is of. A client that gives another command a sequence again gets a verdict that isn't of this one."""
    if not isinstance(command, Transaction):
        return b"", []
    ops = command.then_ops if outcome is Outcome.DONE else command.else_ops
    return command.origin.author, [op for op in ops if isinstance(op, Put)]


def unpack_entry(key: str, packed: bytes) -> Entry:
    """An entry as it is stored, with its value if that is behind it. Raises struct.error, IndexError or UnicodeDecodeError."""
    revision, create, version, date_ms, _, lease_id, _, _ = ENTRY.unpack_from(packed)
    content_type, at = read_sized(packed, ENTRY.size)
    author, at = read_sized(packed, at)
    return Entry(key, packed[at:], content_type.decode(), revision, create, version, lease_id, author, date_ms)


def unpack_event(event_id: bytes, packed: bytes) -> Event:
    """An entry of the stream. Raises as `unpack_entry` does, and KeyError."""
    kind, previous, date_ms, length = EVENT.unpack_from(packed)
    start = EVENT.size + length
    key = packed[EVENT.size : start].decode()
    revision = int(event_id.partition(b"-")[0])
    if kind == EventKind.PUT.value:
        entry = unpack_entry(key, packed[start:])
        return Event(EventKind.PUT, key, revision, entry, previous, entry.author, date_ms)
    return Event(_KINDS[kind], key, revision, None, previous, packed[start:], date_ms)


def unpack_holder(record: bytes) -> LockParty:
    """Who holds a lock. Raises as `unpack_entry` does."""
    token, _, _, since_ms = HOLDER.unpack_from(record)
    waiter_id, at = read_sized(record, HOLDER.size)
    author, _ = read_sized(record, at)
    return LockParty(token=token, waiter_id=waiter_id.decode(), author=author, since_ms=since_ms)


def unpack_lock(name: bytes, record: bytes, waiters: Sequence[bytes]) -> LockView:
    """A lock with its line: waiters' ids and places, in turn. Raises as `unpack_entry` does."""
    line = zip(waiters[::2], waiters[1::2], strict=True)
    return LockView(name=name.decode(), holder=unpack_holder(record), waiters=tuple(_unpack_waiter(*waiter) for waiter in line))


def _unpack_waiter(waiter_id: bytes, record: bytes) -> LockParty:
    _, _, since_ms = PLACE.unpack_from(record)
    return LockParty(token=0, waiter_id=waiter_id.decode(), author=record[PLACE.size :], since_ms=since_ms)
