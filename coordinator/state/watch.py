"""One watch of shared state: what it follows, and what waits for whoever takes it. Without I/O."""

from collections import deque
from collections.abc import Sequence
from enum import Enum, auto
from typing import NamedTuple, Protocol

from coordinator.errors import MusterError, Unavailable
from coordinator.state.model import Entry, Event, EventKind

MAX_QUEUED_EVENTS = 2_000  # of one watch; whole revisions, so one more of them
MAX_QUEUED_BYTES = 1024 * 1024
EVENT_BYTES = 200  # of an event beside its key and value, about


class News(NamedTuple):
    """News of one watch: whole revisions only, in order.

    Attributes:
        watch_id: the watch.
        created: it has begun, behind `through_revision`.
        events: what happened. The objects are shared by all watches that see them.
        previous: where the watch asked for it, the key before, one an event; else empty.
        through_revision: all up to here has been told.
        refusal: the watch has ended, because of this: RevisionOutOfRange (COMPACTED, FUTURE_REVISION).
    """

    watch_id: int
    created: bool
    events: Sequence[Event]
    previous: Sequence[Entry | None]
    through_revision: int
    refusal: MusterError | None


class Stream(Protocol):
    """Who takes news of watches."""

    def has_news(self, watch: "Watch") -> None:
        """There is something of a watch to take."""

    def begin(self) -> None:
        """It is known where the state is."""

    def end(self, error: Unavailable) -> None:
        """The engine stops."""


class Mode(Enum):
    """Where a watch gets its events from."""

    BEHIND = auto()  # it reads by itself
    LIVE = auto()  # it is in the reader's index
    ENDED = auto()


class Watch:
    """One watch. It is compared by identity, being a key of the index."""

    __slots__ = (
        "bytes",
        "created",
        "in_turn",
        "is_prefix",
        "key",
        "kinds",
        "mode",
        "position",
        "previous",
        "queue",
        "refusal",
        "stream",
        "taking",
        "told",
        "watch_id",
    )

    def __init__(
        self, stream: Stream, watch_id: int, key: str, *, is_prefix: bool, previous: bool, kinds: frozenset[EventKind] | None, position: int
    ) -> None:
        self.stream = stream
        self.watch_id = watch_id
        self.key = key
        self.is_prefix = is_prefix
        self.previous = previous
        self.kinds = kinds  # what it is told of; None is everything
        self.position = position  # all up to here is queued or told, or didn't concern it; once live, the reader's counts if it is higher
        self.mode = Mode.BEHIND
        self.in_turn = False  # it waits to read by itself
        self.taking = 0  # the revision whose events the reader is handing to it
        self.queue: deque[Event] = deque()
        self.bytes = 0
        self.created = False  # it has been told that it has begun
        self.told = 0  # through which revision it has been told; from its beginning on, the one that it begins behind
        self.refusal: MusterError | None = None

    def is_full(self) -> bool:
        """Whether no further revision may be queued."""
        return len(self.queue) >= MAX_QUEUED_EVENTS or self.bytes >= MAX_QUEUED_BYTES

    def sees(self, event: Event) -> bool:
        """Whether it follows the event's key, and events of its kind."""
        return (event.key.startswith(self.key) if self.is_prefix else event.key == self.key) and self.wants(event)

    def wants(self, event: Event) -> bool:
        """Whether it follows events of this one's kind."""
        return self.kinds is None or event.kind in self.kinds

    def add(self, event: Event) -> None:
        """An event to be told."""
        self.queue.append(event)
        self.bytes += event_bytes(event)
        self.position = event.revision
        self.stream.has_news(self)

    def pop(self) -> list[Event]:
        """The next revision's events."""
        revision = self.queue[0].revision
        events: list[Event] = []
        while self.queue and self.queue[0].revision == revision:
            events.append(self.queue.popleft())
            self.bytes -= event_bytes(events[-1])
        return events

    def push_back(self, events: Sequence[Event]) -> None:
        """What `pop` answered last is to be told later."""
        self.queue.extendleft(reversed(events))
        self.bytes += sum(map(event_bytes, events))


def event_bytes(event: Event) -> int:
    """What an event counts for."""
    return EVENT_BYTES + len(event.key) + (len(event.entry.value) if event.entry is not None else 0)
