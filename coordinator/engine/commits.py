"""The commits that wait to be written: events, the answers that wait for them, and what they set off. Each is bounded in size.

The last one gathers what is decided now, while the one before it is being written. During an outage many may wait: they are written one
after the other when the store is back, so that no append is larger than a store and a connection take well.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from coordinator.core.effects import Effect, TaskEnded
from coordinator.core.events import AnyEvent
from coordinator.core.sizes import size_of_event, size_of_record
from coordinator.errors import Unavailable

MAX_COMMIT_BYTES = 16 * 1024 * 1024  # some ten milliseconds of an event loop and of a store; one task's record may have half of it
MAX_COMMIT_EVENTS = 10_000  # likewise, when the events are small; what one command decides stays together beyond it
MAX_WAITING_BYTES = 128 * 1024 * 1024  # then agents' streams are read no more until some has been written


@dataclass(slots=True)
class PendingCommit:
    """What was decided, in order, and belongs into one append. All of it has one date."""

    date_ms: int
    events: list[tuple[str, AnyEvent]] = field(default_factory=list)
    effects: list[tuple[str, Effect]] = field(default_factory=list)
    answers: list[Callable[[], None]] = field(default_factory=list)
    waiters: list[asyncio.Future[None]] = field(default_factory=list)
    size: int = 0  # about how many bytes it takes
    settled: int = 0  # of `answers`: the first ones, which came before what was decided last

    def is_empty(self) -> bool:
        """Nothing to write, and nobody waits."""
        return not (self.events or self.effects or self.answers or self.waiters)

    def fail(self, error: Unavailable) -> None:
        """It will never be durable: whoever waits is told. The streams of those who wait otherwise are closed by the shard."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(error)

    def add(self, namespace: str, events: Sequence[AnyEvent], effects: Sequence[Effect], size: int) -> None:
        """Takes in what was decided on a namespace."""
        if events:
            self.events.extend([(namespace, event) for event in events])
        if effects:
            self.effects.extend([(namespace, effect) for effect in effects])
        self.size += size


class CommitQueue:
    """The commits of a shard that aren't durable yet, oldest first."""

    def __init__(self) -> None:
        self.last = PendingCommit(0)
        self.writing: PendingCommit | None = None
        self._full: deque[PendingCommit] = deque()
        self._size = 0  # of all of them
        self._room = asyncio.Event()

    def add(self, namespace: str, events: Sequence[AnyEvent], effects: Sequence[Effect], size: int) -> None:
        """What was decided on a namespace goes into the last commit, or into new ones when it would grow too large."""
        self._size += size
        if self.last.size + size > MAX_COMMIT_BYTES or len(self.last.events) >= MAX_COMMIT_EVENTS:
            self._close_last()
        if size > MAX_COMMIT_BYTES:
            self._add_in_parts(namespace, events, effects)
        else:
            self.last.add(namespace, events, effects, size)
        self.last.settled = len(self.last.answers)

    def _close_last(self) -> None:
        full = self.last
        if full.events:
            self._full.append(full)
            self.last = PendingCommit(full.date_ms)
            # Whoever answers a message may leave the answer before handing over what was decided: then it goes with that.
            full.answers, self.last.answers = full.answers[: full.settled], full.answers[full.settled :]

    def _add_in_parts(self, namespace: str, events: Sequence[AnyEvent], effects: Sequence[Effect]) -> None:
        """Cuts what one command decided behind the ends of tasks, whose records are what is large.

        An end comes with its record, and nothing is set off before the events that it follows from: whatever was set off before a task's
        end follows from events before that end.
        """
        ends = {event.number: place for place, event in enumerate(events)}  # a task that has ended doesn't change any more
        first_event = next_event = first_effect = next_effect = size = 0
        for place, effect in enumerate(effects):
            if type(effect) is not TaskEnded:
                continue
            stop = ends[effect.task.number] + 1
            more = sum(map(size_of_event, events[next_event:stop])) + size_of_record(effect.task)
            if size and size + more > MAX_COMMIT_BYTES:
                self.last.add(namespace, events[first_event:next_event], effects[first_effect:next_effect], size)
                self._close_last()
                first_event, first_effect, size = next_event, next_effect, 0
            next_event, next_effect, size = stop, place + 1, size + more
        rest = sum(map(size_of_event, events[next_event:]))
        if size + rest > MAX_COMMIT_BYTES:
            self.last.add(namespace, events[first_event:next_event], effects[first_effect:next_effect], size)
            self._close_last()
            first_event, first_effect, size = next_event, next_effect, 0
        self.last.add(namespace, events[first_event:], effects[first_effect:], size + rest)

    def take(self) -> PendingCommit:
        """The next commit to write: call `written` with it when it is durable."""
        if self._full:
            self.writing = self._full.popleft()
        else:
            self.writing, self.last = self.last, PendingCommit(self.last.date_ms)
        return self.writing

    def written(self) -> None:
        """What was taken is durable."""
        if self.writing is not None:
            self._size -= self.writing.size
            self.writing = None
            self._room.set()

    def has_next(self) -> bool:
        """Whether there is something to take."""
        return bool(self._full) or not self.last.is_empty()

    def is_empty(self) -> bool:
        """Nothing waits, nor is being written."""
        return self.writing is None and not self.has_next()

    def is_crowded(self) -> bool:
        """Whether so much waits that what can wait elsewhere should."""
        return self._size > MAX_WAITING_BYTES

    async def until_roomy(self) -> None:
        """Waits while it is crowded."""
        while self.is_crowded():
            self._room.clear()
            await self._room.wait()

    def fail(self, error: Unavailable) -> None:
        """None of them will ever be durable: whoever waits is told."""
        for commit in (self.writing, *self._full, self.last):
            if commit is not None:
                commit.fail(error)
