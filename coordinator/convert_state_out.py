"""Shared state from its model to protos."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from muster.v1 import state_pb2 as pb

from coordinator.convert_timing import timestamp
from coordinator.state.model import Entry, Event, EventKind, LockParty, LockView

_KINDS = {kind: cast("pb.StateEventKind.ValueType", kind.value) for kind in EventKind}


def fill_entry(message: pb.StateEntry, entry: Entry, *, keys_only: bool = False) -> None:
    """Writes an entry into a message: field by field, for by keyword it takes a third longer."""
    message.key = entry.key
    if not keys_only:
        message.value = entry.value
    message.content_type = entry.content_type
    message.mod_revision = entry.mod_revision
    message.create_revision = entry.create_revision
    message.version = entry.version
    if entry.lease_id:
        message.lease_id = entry.lease_id
    if entry.author:
        message.author.MergeFromString(entry.author)
    write_time = message.write_time
    write_time.seconds = entry.write_ms // 1000
    write_time.nanos = entry.write_ms % 1000 * 1_000_000


def entry_out(entry: Entry) -> pb.StateEntry:
    """A key at one revision."""
    message = pb.StateEntry()
    fill_entry(message, entry)
    return message


def event_out(event: Event, previous: Entry | None = None) -> pb.StateEvent:
    """One change of one key."""
    message = pb.StateEvent(kind=_KINDS[event.kind], key=event.key, revision=event.revision, event_time=timestamp(event.date_ms))
    if event.entry is not None:
        fill_entry(message.entry, event.entry)
    if previous is not None:
        fill_entry(message.previous, previous)
    if event.author:
        message.author.MergeFromString(event.author)
    return message


def conflict_out(entries: Iterable[Entry]) -> pb.StateEntry:
    """What is there instead of what a condition asked for; without a key when nothing is."""
    return next((entry_out(entry) for entry in entries), pb.StateEntry())


def party_out(party: LockParty) -> pb.LockParty:
    """Somebody who holds a lock, or waits for it."""
    message = pb.LockParty(token=party.token, waiter_id=party.waiter_id, since_time=timestamp(party.since_ms))
    message.author.MergeFromString(party.author)
    return message


def lock_out(lock: LockView, *, shown: int = 100) -> pb.LockState:
    """One lock, with the first `shown` of those who wait."""
    return pb.LockState(
        name=lock.name,
        holder=None if lock.holder is None else party_out(lock.holder),
        waiters=[party_out(waiter) for waiter in lock.waiters[:shown]],
        waiter_count=len(lock.waiters),
    )


def author_out(*, agent_name: str = "", task_id: str = "", attempt: int = 0, client_name: str = "") -> bytes:
    """Who writes, as it is kept."""
    return pb.StateAuthor(agent_name=agent_name, task_id=task_id, attempt=attempt, client_name=client_name).SerializeToString()


def author_text(author: bytes) -> str:
    """Who wrote, or holds something, in words."""
    message = pb.StateAuthor.FromString(author)
    named = [
        f"{what} {name}"
        for what, name in (("agent", message.agent_name), ("task", message.task_id), ("client", message.client_name))
        if name
    ]
    return ", ".join(named)
