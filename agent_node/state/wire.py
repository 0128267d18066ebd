"""The one module of shared state that knows how its messages are laid out: operations to send, and what their answers say."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from google.protobuf.timestamp_pb2 import Timestamp
from muster.v1 import state_pb2 as pb
from muster.v1.state_pb2 import StateAnswer, StateOp, WatchRequest, WatchResponse

from agent_node.arguments import MAX_COUNT, count, no_text, text
from agent_node.connection import duration, from_refusal
from agent_node.errors import CompactedError, InvalidArgumentError, MusterError
from agent_node.state.values import Author, Entry, EventKind, LockHolder, LockInfo, LockWaiter, StateEvent, StateStats

_KINDS = {
    pb.STATE_EVENT_KIND_PUT: EventKind.PUT,
    pb.STATE_EVENT_KIND_DELETED: EventKind.DELETED,
    pb.STATE_EVENT_KIND_EXPIRED: EventKind.EXPIRED,
}


class Target(Enum):
    """What a condition looks at."""

    REVISION = pb.STATE_COMPARE_TARGET_MOD_REVISION
    CREATE_REVISION = pb.STATE_COMPARE_TARGET_CREATE_REVISION
    VERSION = pb.STATE_COMPARE_TARGET_VERSION
    VALUE = pb.STATE_COMPARE_TARGET_VALUE
    EXISTS = pb.STATE_COMPARE_TARGET_EXISTS


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition on a key: that what it looks at equals `number`, or `value`."""

    key: str
    target: Target
    number: int = 0
    value: bytes = b""


# operations


def get_op(keys: Iterable[str]) -> StateOp:
    """Reads keys."""
    no_text("keys", keys)
    return StateOp(get=pb.GetRequest(keys=[text("key", key) for key in keys]))


def list_op(prefix: str, *, page_size: int, page_token: str, keys_only: bool) -> StateOp:
    """Reads a page of keys."""
    size = count("page_size", page_size, most=MAX_COUNT)
    return StateOp(list=pb.ListRequest(prefix=text("prefix", prefix), page_size=size, page_token=page_token, keys_only=keys_only))


def history_op(key: str, *, page_size: int, page_token: str) -> StateOp:
    """Reads a page of a key's history."""
    size = count("page_size", page_size, most=MAX_COUNT)
    return StateOp(history=pb.HistoryRequest(key=text("key", key), page_size=size, page_token=page_token))


def stats_op() -> StateOp:
    """Asks how much there is."""
    return StateOp(stats=pb.GetStateStatsRequest())


def put_op(key: str, value: bytes, content_type: str, *, ttl_s: float | None = None, lease_id: int = 0) -> StateOp:
    """Sets a key."""
    put = pb.PutRequest(key=text("key", key), value=value, content_type=text("content_type", content_type))
    if lease_id:
        put.lease_id = count("lease", lease_id)
    if ttl_s is not None:
        put.ttl.CopyFrom(duration(ttl_s, name="ttl_s"))
    return StateOp(put=put)


def delete_op(key: str, *, prefix: bool = False) -> StateOp:
    """Deletes a key, or all with a prefix."""
    return StateOp(delete=pb.DeleteRequest(key=text("prefix" if prefix else "key", key), prefix=prefix))


def merge_patch_op(key: str, patch: bytes) -> StateOp:
    """Changes a value by a merge patch."""
    return StateOp(update=pb.UpdateRequest(key=text("key", key), merge_patch=patch))


def json_patch_op(key: str, patch: bytes) -> StateOp:
    """Changes a value by a JSON Patch."""
    return StateOp(update=pb.UpdateRequest(key=text("key", key), json_patch=patch))


def add_op(key: str, number: float) -> StateOp:
    """Adds to a number."""
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TypeError(f"number is {number!r}: give an int or a float")
    if isinstance(number, float) and not math.isfinite(number):
        raise InvalidArgumentError("number", f"is {number}, which no JSON holds: give a finite one")
    return StateOp(update=pb.UpdateRequest(key=text("key", key), add=repr(number)))


def append_op(key: str, items: Sequence[bytes]) -> StateOp:
    """Appends to a list."""
    return StateOp(update=pb.UpdateRequest(key=text("key", key), append=pb.JsonItems(items=items)))


def set_add_op(key: str, items: Sequence[bytes]) -> StateOp:
    """Adds to a list what isn't in it."""
    return StateOp(update=pb.UpdateRequest(key=text("key", key), set_add=pb.JsonItems(items=items)))


def set_remove_op(key: str, items: Sequence[bytes]) -> StateOp:
    """Takes out of a list."""
    return StateOp(update=pb.UpdateRequest(key=text("key", key), set_remove=pb.JsonItems(items=items)))


def txn_op(compares: Iterable[Compare], then: Iterable[StateOp], otherwise: Iterable[StateOp]) -> StateOp:
    """A transaction of puts, deletes and gets."""
    return StateOp(
        txn=pb.TxnRequest(
            compares=[pb.StateCompare(key=each.key, target=each.target.value, number=each.number, value=each.value) for each in compares],
            then_ops=map(_txn_op, then),
            else_ops=map(_txn_op, otherwise),
        )
    )


def compact_op(revision: int) -> StateOp:
    """Forgets history."""
    return StateOp(compact=pb.CompactRequest(revision=count("revision", revision)))


def grant_lease_op(ttl_s: float) -> StateOp:
    """Asks for a lease."""
    return StateOp(grant_lease=pb.GrantLeaseRequest(ttl=duration(ttl_s, name="ttl_s")))


def keep_lease_op(lease_id: int) -> StateOp:
    """A lease's sign of life."""
    return StateOp(keep_lease=pb.KeepLeaseRequest(lease_id=lease_id))


def revoke_lease_op(lease_id: int) -> StateOp:
    """Ends a lease."""
    return StateOp(revoke_lease=pb.RevokeLeaseRequest(lease_id=lease_id))


def lock_op(name: str, *, waiter_id: str, ttl_s: float, wait_s: float, author: Author) -> StateOp:
    """Waits for a lock."""
    ask = pb.LockRequest(name=name, waiter_id=waiter_id, ttl=duration(ttl_s, name="ttl_s"), author=_author_message(author))
    ask.wait.CopyFrom(duration(wait_s, name="wait_s"))
    return StateOp(lock=ask)


def keep_lock_op(name: str, token: int) -> StateOp:
    """A holder's sign of life."""
    return StateOp(keep_lock=pb.KeepLockRequest(name=name, token=token))


def unlock_op(name: str, token: int) -> StateOp:
    """Lets a lock go."""
    return StateOp(unlock=pb.UnlockRequest(name=name, token=token))


def leave_lock_op(name: str, waiter_id: str) -> StateOp:
    """Gives up waiting for a lock."""
    return StateOp(unlock=pb.UnlockRequest(name=name, waiter_id=waiter_id))


def locks_op(prefix: str, *, page_token: str) -> StateOp:
    """Asks for a page of locks."""
    return StateOp(list_locks=pb.ListLocksRequest(prefix=text("prefix", prefix), page_token=page_token))


def number_write(op: StateOp, sequence: int) -> None:
    """Gives a write the number that it is counted once by. What has no room for one is harmless to repeat."""
    name = op.WhichOneof("op")
    write = getattr(op, name) if name else None
    if write is not None and "options" in write.DESCRIPTOR.fields_by_name:
        write.options.sequence = sequence


def stamp(op: StateOp, author: Author, locks: Sequence[tuple[str, int]], attempt: tuple[str, int] | None, if_revision: int | None) -> None:
    """Says who writes, and what must hold for it."""
    write: pb.PutRequest | pb.DeleteRequest | pb.UpdateRequest | pb.TxnRequest
    match op.WhichOneof("op"):
        case "put":
            write = op.put
        case "delete":
            write = op.delete
        case "update":
            write = op.update
        case _:
            write = op.txn
    if if_revision is not None and not isinstance(write, pb.TxnRequest):
        write.if_revision = count("if_revision", if_revision)
    if author != _NOBODY:
        write.options.author.CopyFrom(_author_message(author))
    if locks:
        write.options.required_locks.extend(pb.RequiredLock(name=name, token=token) for name, token in locks)
    if attempt is not None:
        write.options.task_id, write.options.fence = attempt


# answers


def entries_got(answer: StateAnswer) -> list[Entry]:
    """The keys that are there."""
    return [read_entry(each) for each in answer.get.entries]


def listed(answer: StateAnswer) -> tuple[list[Entry], str]:
    """A page of keys, and the token of the next one."""
    return [read_entry(each) for each in answer.list.entries], answer.list.next_page_token


def history_of(answer: StateAnswer) -> tuple[list[StateEvent], str]:
    """A page of a key's history, and the token of the next one."""
    return [read_event(each) for each in answer.history.events], answer.history.next_page_token


def stats_of(answer: StateAnswer) -> StateStats:
    """How much there is."""
    stats = answer.stats
    return StateStats(stats.header.revision, stats.compact_revision, stats.keys, stats.bytes)


def revision_of(answer: StateAnswer) -> int:
    """The revision of a put."""
    return answer.put.revision


def deleted_count(answer: StateAnswer) -> int:
    """How many keys a delete found."""
    return answer.delete.deleted


def conflicts(answer: StateAnswer) -> bool:
    """Whether a write's condition on the revision didn't hold."""
    match answer.WhichOneof("answer"):
        case "put":
            return answer.put.HasField("conflict")
        case "delete":
            return answer.delete.HasField("conflict")
        case "update":
            return answer.update.HasField("conflict")
        case _:
            return False


def conflicting_entry(answer: StateAnswer) -> Entry | None:
    """What is there instead; None when nothing is."""
    match answer.WhichOneof("answer"):
        case "put":
            found = answer.put.conflict
        case "delete":
            found = answer.delete.conflict
        case _:
            found = answer.update.conflict
    return read_entry(found) if found.key else None


def entry_to_be(put: StateOp, before: Entry | None) -> Entry:
    """A key as a put that is under way will leave it, if nobody else is faster. Its revision isn't known yet."""
    return entry_written(put, before, 0)


def entry_written(put: StateOp, before: Entry | None, revision: int) -> Entry:
    """A key as a put has left it, of which it is known what was there before."""
    created = revision if before is None else before.create_revision
    return Entry(put.put.key, put.put.value, put.put.content_type, revision, created, before.version + 1 if before else 1, put.put.lease_id)


def entry_updated(answer: StateAnswer) -> Entry:
    """A key as an update has left it."""
    return read_entry(answer.update.entry)


def txn_result(answer: StateAnswer) -> tuple[bool, int, list[Entry]]:
    """Whether the conditions held, the revision, and what was read."""
    txn = answer.txn
    return txn.succeeded, txn.revision or txn.header.revision, [read_entry(each) for each in txn.entries]


def lease_granted(answer: StateAnswer) -> int:
    """The lease's id."""
    return answer.grant_lease.lease_id


def lock_granted(answer: StateAnswer) -> int | None:
    """The fencing token; None when the wait ended before."""
    return answer.lock.token or None


def locks_of(answer: StateAnswer) -> tuple[list[LockInfo], str]:
    """A page of locks, and the token of the next one."""

    def holder(party: pb.LockParty) -> LockHolder:
        return LockHolder(party.token, _read_author(party.author), party.waiter_id, _ms(party.since_time))

    def waiter(party: pb.LockParty) -> LockWaiter:
        return LockWaiter(party.waiter_id, _read_author(party.author), _ms(party.since_time))

    return [
        LockInfo(
            each.name,
            holder(each.holder) if each.HasField("holder") else None,
            tuple(waiter(party) for party in each.waiters),
            each.waiter_count,
        )
        for each in answer.list_locks.locks
    ], answer.list_locks.next_page_token


def read_entry(entry: pb.StateEntry) -> Entry:
    """A key."""
    return Entry(
        entry.key,
        entry.value,
        entry.content_type,
        entry.mod_revision,
        entry.create_revision,
        entry.version,
        entry.lease_id,
        _read_author(entry.author) if entry.HasField("author") else _NOBODY,
        _ms(entry.write_time) if entry.HasField("write_time") else 0,
    )


def read_event(event: pb.StateEvent) -> StateEvent:
    """An event."""
    return StateEvent(
        _KINDS[event.kind],
        event.key,
        event.revision,
        read_entry(event.entry) if event.HasField("entry") else None,
        read_entry(event.previous) if event.HasField("previous") else None,
        _read_author(event.author) if event.HasField("author") else _NOBODY,
        _ms(event.event_time) if event.HasField("event_time") else 0,
    )


# watches


@dataclass(slots=True)
class WatchNews:
    """What came of one watch."""

    watch_id: int
    created: bool = False
    events: list[StateEvent] = field(default_factory=list)
    through_revision: int = 0
    error: MusterError | None = None


def create_watch(
    watch_id: int, key: str, start_revision: int, *, is_prefix: bool, previous: bool, kinds: Iterable[EventKind]
) -> WatchRequest:
    """Begins a watch."""
    create = pb.CreateWatch(watch_id=watch_id, key=key, prefix=is_prefix, start_revision=start_revision, previous=previous)
    create.kinds.extend(number for number, kind in _KINDS.items() if kind in kinds)
    return WatchRequest(create=[create])


def cancel_watch(watch_id: int) -> WatchRequest:
    """Ends a watch."""
    return WatchRequest(cancel=[watch_id])


def joined(requests: Iterable[WatchRequest]) -> WatchRequest:
    """All of them in one message."""
    together = WatchRequest()
    for each in requests:
        together.MergeFrom(each)
    return together


def watch_news(response: WatchResponse) -> list[WatchNews]:
    """What came of which watch. An event that several watches see is read once, and is one object for all of them."""
    known: dict[tuple[str, int], tuple[pb.StateEvent, StateEvent]] | None = {} if len(response.news) > 1 else None
    return [
        WatchNews(
            each.watch_id,
            each.created,
            [read_event(event) if known is None else _read_once(event, known) for event in each.events],
            each.through_revision,
            _watch_error(each, response.header.revision) if each.HasField("refusal") else None,
        )
        for each in response.news
    ]


def _read_once(event: pb.StateEvent, known: dict[tuple[str, int], tuple[pb.StateEvent, StateEvent]]) -> StateEvent:
    name = event.key, event.revision
    found = known.get(name)
    if found is not None and found[0] == event:  # another watch's may lack `previous`, or be of before the store lost writes
        return found[1]
    read = read_event(event)
    known[name] = event, read
    return read


def _watch_error(news: pb.WatchNews, revision: int) -> MusterError:
    refusal = news.refusal
    if refusal.reason != "COMPACTED":
        return from_refusal(refusal)
    kept_from = int(refusal.metadata.get("compact_revision", "0"))
    present = int(refusal.metadata.get("revision", str(revision)))
    return CompactedError(
        f"revisions before {kept_from} are no longer kept: list the keys, and watch from revision {present + 1}",
        compact_revision=kept_from,
        revision=present,
    )


_NOBODY = Author()


def _txn_op(op: StateOp) -> pb.TxnOp:
    match op.WhichOneof("op"):
        case "put":
            return pb.TxnOp(put=op.put)
        case "delete":
            return pb.TxnOp(delete=op.delete)
        case _:
            return pb.TxnOp(get=op.get)


def _author_message(author: Author) -> pb.StateAuthor:
    return pb.StateAuthor(agent_name=author.agent, task_id=author.task_id, attempt=author.attempt, client_name=author.client)


def _read_author(author: pb.StateAuthor) -> Author:
    return Author(author.agent_name, author.task_id, author.attempt, author.client_name)


def _ms(time: Timestamp) -> int:
    return time.seconds * 1000 + time.nanos // 1_000_000
