"""Shared state for people and programs: what `muster state` prints, and the lines that it exports and imports."""

import base64
import difflib
import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from agent_node.arguments import text
from agent_node.cli.exits import CommandFailure, ExitCode
from agent_node.cli.payloads import Json, payload_fields, payload_text
from agent_node.state.values import Author, Entry, EventKind, LockHolder, LockInfo, LockWaiter, StateEvent

if TYPE_CHECKING:
    from rich.table import Table

    from agent_node.cli.records import Record

_NONE = "–"
_MAX_KEY_BYTES = 1024  # as the coordinator allows
_SHOWN = 60  # characters of a value in a table


def entry_record(entry: Entry, *, keys_only: bool = False) -> "Record":
    """A key for --json. As in protobuf's mapping, 64-bit integers are strings."""
    record: Record = {
        "key": entry.key,
        "revision": str(entry.revision),
        "create_revision": str(entry.create_revision),
        "version": str(entry.version),
        "lease_id": str(entry.lease_id),
        "author": author_record(entry.author),
    }
    if entry.write_time_ms:
        record["write_time"] = _time(entry.write_time_ms)
    return record if keys_only else record | payload_fields(entry.value, entry.content_type)


def event_record(event: StateEvent) -> "Record":
    """An event for --json."""
    record: Record = {
        "kind": event.kind.value,
        "key": event.key,
        "revision": str(event.revision),
        "author": author_record(event.author),
        "entry": entry_record(event.entry) if event.entry else None,
    }
    if event.event_time_ms:
        record["event_time"] = _time(event.event_time_ms)
    if event.previous:
        record["previous"] = entry_record(event.previous)
    return record


def author_record(author: Author) -> "Record":
    """Who wrote something, for --json."""
    return {"agent": author.agent, "task_id": author.task_id, "attempt": author.attempt, "client": author.client}


def lock_record(lock: LockInfo) -> "Record":
    """A lock with its holder and waiters, for --json."""

    def holder(each: LockHolder) -> "Record":
        since: Json = _time(each.since_time_ms) if each.since_time_ms else None
        return {"token": str(each.token), "author": author_record(each.author), "since_time": since}

    def waiter(each: LockWaiter) -> "Record":
        since: Json = _time(each.since_time_ms) if each.since_time_ms else None
        return {"waiter_id": each.waiter_id, "author": author_record(each.author), "since_time": since}

    return {"name": lock.name, "holder": holder(lock.holder) if lock.holder else None, "waiters": [waiter(each) for each in lock.waiters]}


def who(author: Author) -> str:
    """Who wrote something, for a person."""
    task = f"task {author.task_id}" + (f" attempt {author.attempt}" if author.attempt else "") if author.task_id else ""
    return ", ".join(filter(None, (author.agent, task, "" if author.agent else author.client))) or _NONE


def value_line(entry: Entry) -> str:
    """A value on one line, cut where it is long."""
    text = " ".join(payload_text(entry.value, entry.content_type).split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def event_line(event: StateEvent) -> str:
    """An event on a line."""
    what = value_line(event.entry) if event.entry else event.kind.value.lower()
    return f"{event.revision:>8}  {event.key}  {what}  ({who(event.author)})"


def entries_table(entries: Iterable[Entry], *, keys_only: bool) -> "Table":
    """Keys for a person."""
    from agent_node.cli.tables import new_table

    table = new_table("key", "revision", "version", "written by", *([] if keys_only else ["value"]))
    for entry in entries:
        table.add_row(entry.key, str(entry.revision), str(entry.version), who(entry.author), *([] if keys_only else [value_line(entry)]))
    return table


def history_table(events: Iterable[StateEvent]) -> "Table":
    """What has happened to a key, for a person."""
    from agent_node.cli.tables import new_table

    table = new_table("revision", "time", "what", "by", "value")
    for event in events:
        time = _local(event.event_time_ms) if event.event_time_ms else _NONE
        table.add_row(
            str(event.revision), time, event.kind.value.lower(), who(event.author), value_line(event.entry) if event.entry else _NONE
        )
    return table


def locks_table(locks: Iterable[LockInfo]) -> "Table":
    """Locks for a person: who holds each, and who waits in which order."""
    from agent_node.cli.tables import new_table

    table = new_table("lock", "token", "held by", "since", "waiting")
    for lock in locks:
        holder = lock.holder
        since = _local(holder.since_time_ms) if holder and holder.since_time_ms else _NONE
        table.add_row(
            lock.name,
            str(holder.token) if holder else _NONE,
            who(holder.author) if holder else _NONE,
            since,
            _waiting(lock),
        )
    return table


def _waiting(lock: LockInfo) -> str:
    shown = [who(each.author) if each.author != Author() else each.waiter_id for each in lock.waiters]
    if lock.waiter_count > len(shown):
        shown.append(f"{lock.waiter_count - len(shown)} more")
    return "; ".join(shown) or _NONE


def difference(key: str, before: StateEvent | None, after: StateEvent | None) -> list[str]:
    """The lines of a unified diff between two states of a key; None, and what deletes it, is a state without it."""

    def side(event: StateEvent | None) -> tuple[list[str], str]:
        if event is None:
            return [], f"{key} (not there)"
        if event.entry is None:
            return [], f"{key} ({event.kind.value.lower()} at {event.revision})"
        return payload_text(event.entry.value, event.entry.content_type).splitlines(), f"{key} (revision {event.revision})"

    (old, old_name), (new, new_name) = side(before), side(after)
    return list(difflib.unified_diff(old, new, old_name, new_name, lineterm=""))


def at_revision(events: Iterable[StateEvent], revision: int) -> StateEvent | None:
    """The last thing that had happened to a key at a revision; None when nothing is known."""
    found = None
    for event in events:
        if event.revision > revision:
            break
        found = event
    return found


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an export."""

    key: str
    value: bytes
    content_type: str


def export_line(entry: Entry) -> str:
    """A key as a line of JSON, from which `import_line` makes the same key."""
    value: Record = {"key": entry.key, "content_type": entry.content_type}
    try:
        value["text"] = entry.value.decode()
    except UnicodeDecodeError:
        value["base64"] = base64.b64encode(entry.value).decode("ascii")
    return json.dumps(value, ensure_ascii=False)


def import_line(line: str, number: int) -> Line:
    """Reads a line of an export. Raises CommandFailure, naming the line, for what isn't one."""
    try:
        record = json.loads(line)
        if not isinstance(record, dict):
            raise ValueError("it isn't a JSON object")
        key, content_type = text("key", record["key"]), text("content_type", record.get("content_type", ""))
        if not 1 <= len(key.encode()) <= _MAX_KEY_BYTES:
            raise ValueError(f"its key has {len(key.encode())} bytes, and 1 to {_MAX_KEY_BYTES} are allowed")
        if any(unicodedata.category(each) == "Cc" for each in key):
            raise ValueError("its key has a control character")
        if ("text" in record) == ("base64" in record):
            raise ValueError("it has one of text and base64")
        if "text" in record:
            value = text("text", record["text"]).encode()
        else:
            value = base64.b64decode(text("base64", record["base64"]), validate=True)
    except KeyError as error:
        raise CommandFailure(f"line {number}: it has no {error}.", ExitCode.USAGE) from None
    except (ValueError, TypeError, RecursionError) as error:
        raise CommandFailure(f"line {number} is no line of an export: {error}.", ExitCode.USAGE) from None
    return Line(key, value, content_type)


def is_put(event: StateEvent) -> bool:
    """Whether a key is there after an event."""
    return event.kind is EventKind.PUT and event.entry is not None


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _local(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
