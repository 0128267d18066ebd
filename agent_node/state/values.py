"""What shared state is made of, as callers see it: entries, events, locks. Plain values; what the wire calls them is wire.py's business."""

import json
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar, overload

from agent_node.typed import from_json

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Author:
    """Who wrote something. What isn't known is empty, or 0.

    Args:
        agent: the agent's name.
        task_id: the task whose handler wrote it.
        attempt: which attempt of the task, from 1.
        client: what the writing client calls itself.
    """

    agent: str = ""
    task_id: str = ""
    attempt: int = 0
    client: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key as it was at one revision.

    Args:
        key: its name.
        value: its value; empty where only keys were asked for.
        content_type: the value's media type.
        revision: of its last write: what `if_revision` compares with.
        create_revision: of the write that made it.
        version: how many writes it has had since it was made; 1 is the first.
        lease_id: the lease that it ends with; 0 is none.
        author: who wrote it last.
        write_time_ms: when, in milliseconds since 1970 by the store's clock; 0 when not told.
    """

    key: str
    value: bytes = field(repr=False)
    content_type: str = ""
    revision: int = 0
    create_revision: int = 0
    version: int = 0
    lease_id: int = 0
    author: Author = Author()
    write_time_ms: int = 0

    def text(self) -> str:
        """The value as UTF-8 text. Raises UnicodeDecodeError when it isn't."""
        return self.value.decode()

    @overload
    def json(self) -> Any: ...

    @overload
    def json(self, kind: type[T]) -> T: ...

    def json(self, kind: type[Any] | None = None) -> Any:
        """The value, read as JSON; into a type, if one is given.

        Args:
            kind: a dataclass, a pydantic model, or what JSON has, such as `list[int]`.

        Raises:
            ValueError: it isn't JSON, and no type is given.
            PayloadError: it isn't JSON, or doesn't fit the type.
        """
        return json.loads(self.value) if kind is None else from_json(self.value, self.content_type, kind)


class EventKind(Enum):
    """What happened to a key."""

    PUT = "PUT"
    DELETED = "DELETED"
    EXPIRED = "EXPIRED"  # its ttl or its lease ended


@dataclass(frozen=True, slots=True)
class StateEvent:
    """One change of one key.

    Args:
        kind: what happened.
        key: to which key.
        revision: when: revisions only grow, and all events of one transaction share one.
        entry: the key after a PUT; None after the others.
        previous: the key before, where it was asked for and there was one.
        author: who did it.
        event_time_ms: when, in milliseconds since 1970 by the store's clock; 0 when not told.
    """

    kind: EventKind
    key: str
    revision: int
    entry: Entry | None = None
    previous: Entry | None = None
    author: Author = Author()
    event_time_ms: int = 0


@dataclass(frozen=True, slots=True)
class LockHolder:
    """Who holds a lock: the fencing token, since when (ms since 1970 by the store's clock), and until when without a sign of life."""

    token: int
    author: Author = Author()
    waiter_id: str = ""
    since_time_ms: int = 0


@dataclass(frozen=True, slots=True)
class LockWaiter:
    """Who waits for a lock, and since when (ms since 1970 by the store's clock)."""

    waiter_id: str
    author: Author = Author()
    since_time_ms: int = 0


@dataclass(frozen=True, slots=True)
class LockInfo:
    """One lock: who holds it, and who waits, the next one first; of `waiter_count`, the first 100."""

    name: str
    holder: LockHolder | None
    waiters: tuple[LockWaiter, ...] = ()
    waiter_count: int = 0


@dataclass(frozen=True, slots=True)
class StateStats:
    """How much a namespace's state holds."""

    revision: int
    compact_revision: int
    keys: int
    bytes: int
