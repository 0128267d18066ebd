"""Shared state from protos to its model: checks what comes in, and says field by field what is wrong."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from google.protobuf.duration_pb2 import Duration
from muster.v1 import state_pb2 as pb

from coordinator.checks import MAX_ID_CHARS, check_name
from coordinator.convert_timing import milliseconds
from coordinator.errors import InvalidRequest
from coordinator.state.model import (
    MAX_KEY_BYTES,
    MAX_TXN_OPS,
    MAX_VALUE_BYTES,
    AcquireLock,
    Compare,
    CompareTarget,
    Delete,
    GrantLease,
    KeepLock,
    Op,
    Origin,
    Put,
    Read,
    ReleaseLock,
    RevokeLease,
    Transaction,
)
from coordinator.state.updates import Add, Append, Change, JsonPatch, MergePatch, SetAdd, SetRemove, Update

MAX_GET_KEYS = 256
MAX_CONTENT_TYPE_CHARS = 128
MAX_REQUIRED_LOCKS = 16
MAX_ADD_CHARS = 1024  # digits of a number
MAX_ITEMS = 10_000  # of a list, in one update
MAX_AUTHOR_BYTES = 2048  # three names
MAX_NUMBER = 2**53 - 1  # of a revision, an id, a version or a sequence: what every JSON reader and the store's scripts hold exactly

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_TARGETS = {target.value: target for target in CompareTarget}
_NOBODY = Origin()
_NO_OPTIONS = pb.WriteOptions()


class Attempt(NamedTuple):
    """The attempt that a write is tied to."""

    task_id: str
    fence: int


# --- names and numbers --------------------------------------------------------------------------------------------------------------


def check_key(key: str, field: str) -> str:
    """A key, or a lock's name: 1 byte to 1 KiB of UTF-8, without control characters: a key is printed, logged and typed.

    Raises:
        InvalidRequest: names the field.
    """
    if key.isascii() and 0 < len(key) <= MAX_KEY_BYTES and key.isprintable():  # 0.1 us
        return key
    if not key:
        raise InvalidRequest(f"{field} is empty: give it 1 to {MAX_KEY_BYTES} bytes", field=field, reason="KEY_EMPTY")
    size = len(key.encode())
    if size > MAX_KEY_BYTES:
        raise InvalidRequest(
            f"{field} has {size} bytes: at most {MAX_KEY_BYTES} are allowed",
            field=field,
            reason="KEY_TOO_LONG",
            metadata={"limit": str(MAX_KEY_BYTES), "size": str(size)},
        )
    if found := _CONTROL.search(key):
        raise InvalidRequest(
            f"{field} has the control character U+{ord(found[0]):04X} as its character {found.start() + 1}: leave it out",
            field=field,
            reason="KEY_HAS_CONTROL_CHARACTERS",
        )
    return key


def check_prefix(prefix: str, field: str) -> str:
    """What keys begin with: as a key, or empty for all. Raises InvalidRequest."""
    return check_key(prefix, field) if prefix else prefix


def check_number(number: int, field: str, *, at_least: int = 0) -> int:
    """A revision, an id or a count. Raises InvalidRequest for one that can't be: a negative one arrives as a huge one."""
    if at_least <= number <= MAX_NUMBER:
        return number
    raise InvalidRequest(f"{field} is {number}: give {at_least} to {MAX_NUMBER}", field=field)


def _ttl_ms(message: Duration, field: str, *, without: str) -> int:
    ttl_ms = milliseconds(message, field)
    if ttl_ms == 0:
        raise InvalidRequest(f"{field} is zero: {without}", field=field)
    return ttl_ms


def _check_value(value: bytes, field: str) -> bytes:
    if len(value) <= MAX_VALUE_BYTES:
        return value
    raise InvalidRequest(
        f"{field} has {len(value)} bytes: at most {MAX_VALUE_BYTES} are allowed; store it elsewhere and keep a reference here",
        field=field,
        reason="VALUE_TOO_LARGE",
        metadata={"limit": str(MAX_VALUE_BYTES), "size": str(len(value))},
    )


def _check_content_type(text: str, field: str) -> str:
    if len(text) <= MAX_CONTENT_TYPE_CHARS and text.isprintable():
        return text
    raise InvalidRequest(f"{field} is no media type: give at most {MAX_CONTENT_TYPE_CHARS} printable characters", field=field)


# --- who writes, and under what -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _checked_author(blob: bytes, field: str) -> bytes:
    if len(blob) > MAX_AUTHOR_BYTES:
        raise InvalidRequest(f"{field} has {len(blob)} bytes: at most {MAX_AUTHOR_BYTES} are allowed", field=field)
    author = pb.StateAuthor.FromString(blob)
    author.DiscardUnknownFields()
    for name in ("agent_name", "task_id", "client_name"):
        if text := getattr(author, name):
            check_name(text, f"{field}.{name}")
    return author.SerializeToString()


def author_in(message: pb.StateAuthor, field: str) -> bytes:
    """Who it is, as it is kept. Raises InvalidRequest."""
    return _checked_author(message.SerializeToString(), field)


def client_id_in(client_id: str, field: str = "client_id") -> str:
    """What a writing client is known by; empty where it needs none. Raises InvalidRequest."""
    return check_name(client_id, field) if client_id else client_id


def origin_in(options: pb.WriteOptions, client_id: str) -> Origin:
    """Who asks.

    Args:
        options: of the request.
        client_id: the session's, which holds where the request names none.

    Raises:
        InvalidRequest: names the field at fault.
    """
    known = options.client_id or client_id
    if not options.sequence:
        return Origin(_author_of(options, known)) if known or options.HasField("author") else _NOBODY
    if not known:
        raise InvalidRequest(
            "options.sequence is set and no client is named: set options.client_id, or client_id in the session's first message",
            field="options.client_id",
        )
    return Origin(
        _author_of(options, known),
        client_id_in(known, "options.client_id"),
        check_number(options.sequence, "options.sequence"),
    )


def _author_of(options: pb.WriteOptions, client_id: str) -> bytes:
    return author_in(options.author, "options.author") if options.HasField("author") else client_author(client_id)


@lru_cache(maxsize=4096)
def client_author(client_id: str) -> bytes:
    """Who writes, where nothing more is said: a client by its id. Raises InvalidRequest."""
    return pb.StateAuthor(client_name=client_id_in(client_id, "options.client_id")).SerializeToString()


def attempt_in(options: pb.WriteOptions) -> Attempt | None:
    """The attempt that a write is tied to, if it is to one. Raises InvalidRequest."""
    if not options.fence and not options.task_id:
        return None
    if not options.fence:
        raise InvalidRequest("options.task_id is set and options.fence isn't: set both, or neither", field="options.fence")
    return Attempt(check_name(options.task_id, "options.task_id"), options.fence)


def _locks_in(options: pb.WriteOptions) -> tuple[tuple[str, int], ...]:
    required = options.required_locks
    if len(required) > MAX_REQUIRED_LOCKS:
        raise InvalidRequest(
            f"options.required_locks has {len(required)} entries: at most {MAX_REQUIRED_LOCKS}", field="options.required_locks"
        )
    return tuple(
        (
            check_key(lock.name, f"options.required_locks[{index}].name"),
            check_number(lock.token, f"options.required_locks[{index}].token", at_least=1),
        )
        for index, lock in enumerate(required)
    )


# --- writes -------------------------------------------------------------------------------------------------------------------------


def put_in(message: pb.PutRequest, client_id: str) -> Transaction:
    """Sets a key. Raises InvalidRequest, which names the field at fault; so do all that follow."""
    return _single(_put(message, ""), message.key, message, client_id)


def delete_in(message: pb.DeleteRequest, client_id: str) -> Transaction:
    """Deletes a key, or all with a prefix."""
    if message.prefix and message.HasField("if_revision"):
        raise InvalidRequest(
            "if_revision is about one key, and prefix is set: leave one out, or use Txn with conditions", field="if_revision"
        )
    return _single(_delete(message, ""), message.key, message, client_id)


def conditions(key: str, message: pb.PutRequest | pb.DeleteRequest | pb.UpdateRequest) -> tuple[Compare, ...]:
    """What `if_revision` asks for."""
    if not message.HasField("if_revision"):
        return ()
    return (Compare(key, CompareTarget.MOD_REVISION, check_number(message.if_revision, "if_revision")),)


def _single(op: Op, key: str, message: pb.PutRequest | pb.DeleteRequest, client_id: str) -> Transaction:
    compares = conditions(key, message)
    options = message.options if message.HasField("options") else _NO_OPTIONS
    return Transaction(
        (op,),
        compares,
        (Read((key,)),) if compares else (),
        _locks_in(options) if options.required_locks else (),
        origin_in(options, client_id),
    )


def update_in(message: pb.UpdateRequest, client_id: str) -> Update:
    """Changes a value where it is. Whether the change fits the value is seen when it is made."""
    options = message.options if message.HasField("options") else _NO_OPTIONS
    return Update(
        check_key(message.key, "key"),
        _change(message),
        conditions(message.key, message),
        _locks_in(options) if options.required_locks else (),
        origin_in(options, client_id),
    )


def _change(message: pb.UpdateRequest) -> Change:
    match message.WhichOneof("change"):
        case "merge_patch":
            return MergePatch(_check_value(message.merge_patch, "merge_patch"))
        case "json_patch":
            return JsonPatch(_check_value(message.json_patch, "json_patch"))
        case "add":
            if len(message.add) > MAX_ADD_CHARS:
                raise InvalidRequest(f"add has {len(message.add)} characters: at most {MAX_ADD_CHARS} are allowed", field="add")
            return Add(message.add)
        case "append":
            return Append(_items(message.append, "append"))
        case "set_add":
            return SetAdd(_items(message.set_add, "set_add"))
        case "set_remove":
            return SetRemove(_items(message.set_remove, "set_remove"))
        case _:
            raise InvalidRequest("no change is set: give merge_patch, json_patch, add, append, set_add or set_remove", field="change")


def _items(message: pb.JsonItems, field: str) -> tuple[bytes, ...]:
    items = tuple(message.items)
    if not 0 < len(items) <= MAX_ITEMS:
        raise InvalidRequest(f"{field}.items has {len(items)} entries: give 1 to {MAX_ITEMS}", field=f"{field}.items")
    if sum(map(len, items)) > MAX_VALUE_BYTES:
        raise InvalidRequest(
            f"{field}.items has more than {MAX_VALUE_BYTES} bytes, which is more than a value may have",
            field=f"{field}.items",
            reason="VALUE_TOO_LARGE",
        )
    return items


def txn_in(message: pb.TxnRequest, client_id: str) -> Transaction:
    """A transaction."""
    if len(message.compares) > MAX_TXN_OPS:
        raise _too_many(len(message.compares), "compares")
    return Transaction(
        _ops(message.then_ops, "then_ops"),
        tuple(_compare(compare, f"compares[{index}]") for index, compare in enumerate(message.compares)),
        _ops(message.else_ops, "else_ops"),
        _locks_in(message.options),
        origin_in(message.options, client_id),
    )


def _put(message: pb.PutRequest, path: str) -> Put:
    ttl_ms = _ttl_ms(message.ttl, f"{path}ttl", without="leave it out for a key without end") if message.HasField("ttl") else 0
    if ttl_ms and message.lease_id:
        raise InvalidRequest(f"{path}ttl is set beside a lease, which the key would end with: leave one of them out", field=f"{path}ttl")
    return Put(
        check_key(message.key, f"{path}key"),
        _check_value(message.value, f"{path}value"),
        _check_content_type(message.content_type, f"{path}content_type"),
        check_number(message.lease_id, f"{path}lease_id"),
        ttl_ms,
    )


def _delete(message: pb.DeleteRequest, path: str) -> Delete:
    if message.prefix and not message.key:
        raise InvalidRequest(
            f"{path}key is empty, and every key begins with that: give what the keys to delete begin with",
            field=f"{path}key",
            reason="KEY_EMPTY",
        )
    return Delete(check_key(message.key, f"{path}key"), message.prefix)


def _ops(messages: Sequence[pb.TxnOp], field: str) -> tuple[Op, ...]:
    if len(messages) > MAX_TXN_OPS:
        raise _too_many(len(messages), field)
    ops = tuple(_op(message, f"{field}[{index}]") for index, message in enumerate(messages))
    if sum(len(op.keys) for op in ops if isinstance(op, Read)) > MAX_GET_KEYS:
        raise InvalidRequest(f"{field} reads more than {MAX_GET_KEYS} keys: read the others on their own", field=field)
    _check_written_once(ops, field)
    return ops


def _op(message: pb.TxnOp, field: str) -> Op:
    match message.WhichOneof("op"):
        case "put":
            return _put(message.put, f"{field}.put.")
        case "delete":
            return _delete(message.delete, f"{field}.delete.")
        case "get":
            return Read(get_in(message.get, f"{field}.get."))
        case _:
            raise InvalidRequest(f"{field} says nothing to do: set put, delete or get", field=field)


def _check_written_once(ops: Iterable[Op], field: str) -> None:
    """Of what is deleted by prefix, all keys are written. By name, what begins with a prefix follows it directly."""
    written = sorted((op.key, isinstance(op, Delete) and op.prefix, index) for index, op in enumerate(ops) if not isinstance(op, Read))
    for (key, is_prefix, _), (other, other_is_prefix, index) in itertools.pairwise(written):
        if key == other or (is_prefix and other.startswith(key)):
            raise InvalidRequest(
                f"{field} writes {'keys that begin with ' if other_is_prefix else ''}{other[:MAX_ID_CHARS]!r} twice: once is allowed",
                field=f"{field}[{index}]",
                reason="KEY_WRITTEN_TWICE",
            )


def _compare(message: pb.StateCompare, field: str) -> Compare:
    target = _TARGETS.get(message.target)
    if target is None:
        raise InvalidRequest(f"{field}.target is {message.target}, which is none: say what to look at", field=f"{field}.target")
    if target is not CompareTarget.VALUE and message.value:
        raise InvalidRequest(f"{field}.value is only for the target VALUE: use number", field=f"{field}.value")
    if target is CompareTarget.VALUE and message.number:
        raise InvalidRequest(f"{field}.number is for all targets but VALUE: use value", field=f"{field}.number")
    if target is CompareTarget.EXISTS and message.number > 1:
        raise InvalidRequest(f"{field}.number is {message.number}: 1 when it must be there, 0 when not", field=f"{field}.number")
    return Compare(
        check_key(message.key, f"{field}.key"),
        target,
        check_number(message.number, f"{field}.number"),
        _check_value(message.value, f"{field}.value"),
    )


def _too_many(count: int, field: str) -> InvalidRequest:
    return InvalidRequest(
        f"{field} has {count} entries: at most {MAX_TXN_OPS} are allowed in a transaction",
        field=field,
        reason="TOO_MANY_OPERATIONS",
        metadata={"limit": str(MAX_TXN_OPS), "size": str(count)},
    )


# --- reads --------------------------------------------------------------------------------------------------------------------------


def get_in(message: pb.GetRequest, path: str = "") -> tuple[str, ...]:
    """The keys that are asked for."""
    if not 0 < len(message.keys) <= MAX_GET_KEYS:
        raise InvalidRequest(f"{path}keys has {len(message.keys)} entries: give 1 to {MAX_GET_KEYS}", field=f"{path}keys")
    return tuple(check_key(key, f"{path}keys[{index}]") for index, key in enumerate(message.keys))


# --- leases and locks ---------------------------------------------------------------------------------------------------------------


def grant_lease_in(message: pb.GrantLeaseRequest, client_id: str) -> GrantLease:
    """Asks for a lease."""
    return GrantLease(_ttl_ms(message.ttl, "ttl", without="say how long it lasts"), origin_in(message.options, client_id))


def lease_id_in(lease_id: int) -> int:
    """A lease."""
    return check_number(lease_id, "lease_id", at_least=1)


def revoke_lease_in(message: pb.RevokeLeaseRequest, client_id: str) -> RevokeLease:
    """Ends a lease."""
    return RevokeLease(lease_id_in(message.lease_id), origin_in(message.options, client_id))


def acquire_lock_in(message: pb.LockRequest, client_id: str = "") -> AcquireLock:
    """Waits for a lock."""
    return AcquireLock(
        check_key(message.name, "name"),
        check_name(message.waiter_id, "waiter_id"),
        _ttl_ms(message.ttl, "ttl", without="say how long a holder is believed in without a sign of life"),
        milliseconds(message.wait, "wait") > 0,
        author_in(message.author, "author") if message.HasField("author") else client_author(client_id),
    )


def wait_s_in(message: pb.LockRequest) -> float:
    """How long whoever asks for a lock waits."""
    return milliseconds(message.wait, "wait") / 1000


def keep_lock_in(message: pb.KeepLockRequest) -> KeepLock:
    """A holder's sign of life."""
    return KeepLock(check_key(message.name, "name"), check_number(message.token, "token", at_least=1))


def release_lock_in(message: pb.UnlockRequest) -> ReleaseLock:
    """Lets a lock go, or leaves its line."""
    if message.token and message.waiter_id:
        raise InvalidRequest("token and waiter_id are both set: give a holder's token, or the id of a waiter", field="waiter_id")
    if not message.token and not message.waiter_id:
        raise InvalidRequest("neither token nor waiter_id is set: give a holder's token, or the id of a waiter", field="token")
    return ReleaseLock(
        check_key(message.name, "name"),
        check_number(message.token, "token"),
        check_name(message.waiter_id, "waiter_id") if message.waiter_id else "",
    )
