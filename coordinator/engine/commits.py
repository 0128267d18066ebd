"""The commit that gathers while the one before it is being written: events, the answers that wait for them, and what they set off."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from coordinator.core.effects import Effect
from coordinator.core.events import Event, NamespaceCreated
from coordinator.errors import Unavailable


@dataclass(slots=True)
class PendingCommit:
    """Everything decided since the last commit was handed to the store, in order. All of it has one date."""

    date_ms: int
    events: list[tuple[str, Event | NamespaceCreated]] = field(default_factory=list)
    effects: list[tuple[str, Effect]] = field(default_factory=list)
    answers: list[Callable[[], None]] = field(default_factory=list)
    waiters: list[asyncio.Future[None]] = field(default_factory=list)

    def is_empty(self) -> bool:
        """Nothing to write, and nobody waits."""
        return not (self.events or self.effects or self.answers or self.waiters)

    def fail(self, error: Unavailable) -> None:
        """It will never be durable: whoever waits is told. The streams of those who wait otherwise are closed by the shard."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(error)
