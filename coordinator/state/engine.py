"""The engine of one shard's shared state: what is written and read, who waits for a lock, who watches, and what ends. It must not know
gRPC, nor which store it writes to.

Everything of a namespace is written by one writer, in the order of the calls. What is hot (`write`, `update`, `get`, `lock`) is answered by a
callback, so that nobody needs a task for each operation; what is seldom is awaited.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from coordinator.errors import MusterError
from coordinator.ids import Entropy
from coordinator.ports import Clock
from coordinator.state.model import AcquireLock, Command, Entry, Event, Limits, LockView, Verdict
from coordinator.state.ports import EntryPage, EventPage, Facts, StateStore
from coordinator.state.updates import Update


class Header(NamedTuple):
    """Where a namespace's state is: for every answer. One object serves all answers of one call to the store."""

    revision: int
    incarnation: str


WriteAnswered = Callable[[Verdict | MusterError, Header], None]
GetAnswered = Callable[[Sequence[Entry | None] | MusterError, Header], None]


class LockWait:
    """Somebody who waits for a lock here."""

    def forget(self) -> None:
        """The caller is gone: it gets no answer. Its place in the line stays until its time to live is over; so it may come back."""
        raise NotImplementedError


class News(NamedTuple):
    """News of one watch: whole revisions only, in order.

    Attributes:
        watch_id: the watch.
        created: it has begun, behind `through_revision`.
        events: what happened. The objects are shared by all watches that see them.
        previous: where the watch asked for it, the key before, one an event; else empty.
        through_revision: all up to here has been told.
        refusal: the watch has ended, because of this: RevisionOutOfRange (COMPACTED), or Unavailable.
    """

    watch_id: int
    created: bool
    events: Sequence[Event]
    previous: Sequence[Entry | None]
    through_revision: int
    refusal: MusterError | None


class WatchStream:
    """The watches of one client's stream."""

    def create(self, watch_id: int, key: str, *, is_prefix: bool, start_revision: int = 0, previous: bool = False) -> None:
        """Begins a watch; `take` tells that it has begun.

        Args:
            watch_id: the client's number for it.
            key: the key, or what keys begin with; then empty is all.
            is_prefix: whether it is what keys begin with.
            start_revision: the first revision to see; 0 is what comes from now on.
            previous: whether to tell what was there before each change.

        Raises:
            InvalidRequest: the number is taken.
            LimitReached: too many watches on one stream.
        """
        raise NotImplementedError

    def cancel(self, watch_id: int) -> None:
        """Ends a watch. Nothing more comes of it; one that isn't there is no error."""
        raise NotImplementedError

    async def take(self) -> tuple[Header, Sequence[News]]:
        """Waits until there is news, and answers what there is, of about 2 MiB at most: more only when one revision has more.

        Raises:
            Unavailable: the engine stopped, or the namespace was deleted.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Ends all of them."""
        raise NotImplementedError


class StateEngine:
    """One shard's shared state.

    Args:
        store: where it is.
        clock: the machine's clock of durations.
        entropy: where nonces and jitter come from.
        limits: of each namespace.
    """

    def __init__(self, *, store: StateStore, clock: Clock, entropy: Entropy, limits: Limits) -> None:
        raise NotImplementedError

    # --- life -------------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serves until cancelled. Before and after, everything is refused with Unavailable.

        Call it once the shard has its claim, whose token the store uses.

        Raises:
            ShardLost: another coordinator has the shard.
            StoreCorrupt: the store answered something that must not be.
        """
        raise NotImplementedError

    def open(self, namespace: str) -> None:
        """A namespace of this shard is there: what ends in it by itself does from now on.

        To be called for every namespace when the shard has been recovered, and when one is made; again is no error.
        """
        raise NotImplementedError

    def forget(self, namespace: str) -> None:
        """A namespace was deleted: what waits is refused, watches end, and all that it held is removed from the store."""
        raise NotImplementedError

    def header(self, namespace: str) -> Header:
        """Where its state is, as far as it is known here."""
        raise NotImplementedError

    # --- hot --------------------------------------------------------------------------------------------------------------------

    def write(self, namespace: str, command: Command, answered: WriteAnswered) -> int:
        """Applies a command, after all that were given before it, and calls `answered` when it is durable, in the order of the calls.

        Args:
            namespace: whose state.
            command: what to do.
            answered: gets the verdict, whatever its outcome; or Unavailable (the store is out: it wasn't done, or the engine stopped, and it
                may have been done), or LimitReached (too much waits). It must not raise. It may be called before this returns.

        Returns:
            The number of this write, for reads that are to come behind it.
        """
        raise NotImplementedError

    def update(self, namespace: str, update: Update, answered: WriteAnswered) -> int:
        """Changes a value where it is, in its place among the writes.

        Args:
            namespace: whose state.
            update: what to change.
            answered: as of `write`. With DONE, `verdict.entries[0]` is the key as it is now, value and all; with COMPARE_FAILED what is
                there, or nothing. Or InvalidRequest: the value isn't such that this can be done to it (reason PATCH_FAILED; field is the
                change's name in UpdateRequest; for a JSON Patch metadata has `index` and `path` of the operation), or would become too large.

        Returns:
            As of `write`.
        """
        raise NotImplementedError

    def get(self, namespace: str, keys: Sequence[str], answered: GetAnswered, *, behind: int = 0) -> None:
        """Reads keys, all as of one revision. It sees every write that was answered before the call.

        Args:
            namespace: whose state.
            keys: at most 256.
            answered: gets the entries in the order of `keys`, None for those that aren't there; or Unavailable.
            behind: sees this write as well, and all before it: the number that `write` or `update` returned.
        """
        raise NotImplementedError

    def lock(self, namespace: str, acquire: AcquireLock, wait_s: float, answered: WriteAnswered) -> LockWait:
        """Takes a lock, or waits for it in the line, in which it keeps its place for as long as it waits here.

        Args:
            namespace: whose state.
            acquire: what to take; `acquire.wait` says whether to wait.
            wait_s: how long to wait.
            answered: gets DONE with the token as `revision`, WAITING when the time is over, or what else the store says; or Unavailable.
        """
        raise NotImplementedError

    # --- seldom -----------------------------------------------------------------------------------------------------------------

    async def list(self, namespace: str, *, prefix: str, after: str, limit: int, max_bytes: int, keys_only: bool) -> EntryPage:
        """Keys by name, behind `after`; as StateStore.list. These see every write that was answered; all raise Unavailable."""
        raise NotImplementedError

    async def history(self, namespace: str, key: str, *, after: int, limit: int, max_bytes: int) -> EventPage:
        """A key's events above revision `after`; as StateStore.history."""
        raise NotImplementedError

    async def locks(self, namespace: str, *, prefix: str, after: str, limit: int) -> Sequence[LockView]:
        """Locks by name, behind `after`."""
        raise NotImplementedError

    async def facts(self, namespace: str) -> Facts:
        """The whole."""
        raise NotImplementedError

    def watch(self, namespace: str) -> WatchStream:
        """A stream of watches, none yet. Raises Unavailable."""
        raise NotImplementedError
