"""The engine of one shard's shared state. It must not know gRPC, nor which store it writes to.

Everything of a namespace is written by one writer, in the order of the calls. What is hot (`write`, `update`, `get`, `lock`) is answered
by a callback, so that nobody needs a task for each operation; what is seldom is awaited.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from typing import Any

from coordinator.errors import Unavailable
from coordinator.ids import Entropy
from coordinator.ports import Clock
from coordinator.state.hot import HotEntries
from coordinator.state.lock_waits import LockWait
from coordinator.state.model import AcquireLock, Command, Limits, LockView
from coordinator.state.namespace import NamespaceState
from coordinator.state.ports import EntryPage, EventPage, Facts, StateStore
from coordinator.state.reads import GetAnswered
from coordinator.state.updates import Update
from coordinator.state.watch import News
from coordinator.state.watch_stream import WatchStream
from coordinator.state.writer import Header, WriteAnswered

__all__ = ["GetAnswered", "Header", "LockWait", "News", "StateEngine", "WatchStream", "WriteAnswered"]

log = logging.getLogger(__name__)


class StateEngine:
    """One shard's shared state.

    Args:
        store: where it is.
        clock: the machine's clock of durations.
        entropy: where nonces and jitter come from.
        limits: says what holds for a namespace now.
    """

    def __init__(self, *, store: StateStore, clock: Clock, entropy: Entropy, limits: Callable[[str], Limits]) -> None:
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._limits = limits
        self._hot = HotEntries()
        self._namespaces: dict[str, NamespaceState] = {}
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._failure: asyncio.Future[None] | None = None  # while it serves
        self._known: dict[str, Header] = {}  # where the state was that was served before
        self.lost_revisions = 0

    # --- life -------------------------------------------------------------------------------------------------------------------

    async def run(self, namespaces: Collection[str]) -> None:
        """Serves until cancelled. Before and after, everything is refused with Unavailable.

        Call it once the shard has its claim, whose token the store uses.

        Args:
            namespaces: those that are there.

        Raises:
            ShardLost: another coordinator has the shard.
        """
        failure = self._failure = asyncio.get_running_loop().create_future()
        for namespace in namespaces:
            self.open(namespace)
        try:
            await failure
        finally:
            self._failure = None
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for name in list(self._namespaces):
                self._close(name)

    def open(self, namespace: str) -> None:
        """A namespace was made: what ends in it by itself does from now on. Again is no error."""
        if self._failure is not None and namespace not in self._namespaces:
            self._namespaces[namespace] = state = NamespaceState(
                name=namespace,
                store=self._store,
                clock=self._clock,
                entropy=self._entropy,
                limits=partial(self._limits, namespace),
                hot=self._hot,
                known=self._known.get(namespace, _NOWHERE),
                lost=self._lost,
            )
            self._start(state.run(), namespace)

    def forget(self, namespace: str) -> None:
        """A namespace was deleted: what waits is refused, and watches end. Nobody may open it again before all of it was purged."""
        for task, name in self._tasks.items():
            if name == namespace:
                task.cancel()
        state = self._namespaces.pop(namespace, None)
        self._known.pop(namespace, None)
        if state is not None:
            state.close(Unavailable(f"namespace {namespace!r} was deleted", reason="NAMESPACE_BEING_DELETED"))

    async def purge(self, namespace: str, *, limit: int) -> bool:
        """Removes a part of what the store holds of a deleted namespace, and answers whether there is more.

        Raises:
            StoreOutage: the store can't be reached.
            StoreCorrupt: it answered something that must not be.
        """
        return await self._store.drop(namespace, limit=limit)

    def header(self, namespace: str) -> Header:
        """Where its state is, as far as it is known here."""
        state = self._namespaces.get(namespace)
        return state.writer.header if state is not None else _NOWHERE

    # --- hot --------------------------------------------------------------------------------------------------------------------

    def write(self, namespace: str, command: Command, answered: WriteAnswered) -> int:
        """Applies a command, after all that were given before it, and calls `answered` when it is durable, in the order of the calls.

        Args:
            namespace: whose state.
            command: what to do.
            answered: gets the verdict, whatever its outcome; or Unavailable (the store is out: it wasn't done; or the engine stopped: it
                may have been done), or LimitReached (too much waits). It must not raise. It may be called before this returns.

        Returns:
            The number of this write, for reads that are to come behind it.
        """
        state = self._state(namespace)
        if isinstance(state, Unavailable):
            answered(state, _NOWHERE)
            return 0
        return state.writer.write(command, answered)

    def update(self, namespace: str, update: Update, answered: WriteAnswered) -> int:
        """Changes a value where it is, in its place among the writes.

        Args:
            namespace: whose state.
            update: what to change.
            answered: as of `write`. With DONE, `verdict.entries[0]` is the key as it is now, value and all; with COMPARE_FAILED what is
                there, or nothing. Or InvalidRequest, whose field begins with the change's name in UpdateRequest: the change is wrong; or
                it can't be done to the value (PATCH_FAILED), which would become too large (VALUE_TOO_LARGE). For a JSON Patch, metadata
                has `index` and `path` of the operation. Or RevisionOutOfRange (COMPACTED): it is a repetition, and had been done, but
                what it made is no longer kept.

        Returns:
            As of `write`.
        """
        state = self._state(namespace)
        if isinstance(state, Unavailable):
            answered(state, _NOWHERE)
            return 0
        return state.writer.write(update, answered)

    def get(self, namespace: str, keys: Sequence[str], answered: GetAnswered, *, behind: int = 0) -> None:
        """Reads keys, all as of one revision. It sees every write that was answered before the call.

        Args:
            namespace: whose state.
            keys: at most 256.
            answered: gets the entries in the order of `keys`, None for those that aren't there; or Unavailable; or LimitReached when they
                have more than 3 MiB.
            behind: sees this write as well, and all before it: the number that `write` or `update` returned.
        """
        state = self._state(namespace)
        if isinstance(state, Unavailable):
            answered(state, _NOWHERE)
        else:
            state.reads.get(keys, answered, behind=behind)

    def lock(self, namespace: str, acquire: AcquireLock, wait_s: float, answered: WriteAnswered) -> LockWait:
        """Takes a lock, or waits for it in the line, in which it keeps its place for as long as it waits here.

        Args:
            namespace: whose state.
            acquire: what to take; `acquire.wait` says whether to wait.
            wait_s: how long to wait.
            answered: gets DONE with the token as `revision`, WAITING when the time is over, or what else the store says; or Unavailable.
        """
        state = self._state(namespace)
        if isinstance(state, Unavailable):
            answered(state, _NOWHERE)
            return LockWait(acquire, answered, forget=_nothing, over=True)
        return state.lock_waits.lock(acquire, wait_s, answered)

    # --- seldom -----------------------------------------------------------------------------------------------------------------
    # These see every write that was answered, and the one that they come `behind`. All raise Unavailable.

    async def list(
        self, namespace: str, *, prefix: str, after: str, limit: int, max_bytes: int, keys_only: bool, behind: int = 0
    ) -> EntryPage:
        """Keys by name, behind the key `after`; as StateStore.list."""
        return await self._required(namespace).read(
            lambda: self._store.list(namespace, prefix=prefix, after=after, limit=limit, max_bytes=max_bytes, keys_only=keys_only),
            behind=behind,
        )

    async def history(self, namespace: str, key: str, *, after: int, limit: int, max_bytes: int, behind: int = 0) -> EventPage:
        """A key's events above revision `after`; as StateStore.history."""
        return await self._required(namespace).read(
            lambda: self._store.history(namespace, key, after=after, limit=limit, max_bytes=max_bytes), behind=behind
        )

    async def locks(self, namespace: str, *, prefix: str, after: str, limit: int, behind: int = 0) -> Sequence[LockView]:
        """Locks by name, behind the lock `after`."""
        return await self._required(namespace).read(
            lambda: self._store.locks(namespace, prefix=prefix, after=after, limit=limit), behind=behind
        )

    async def facts(self, namespace: str, *, behind: int = 0) -> Facts:
        """The whole."""
        return await self._required(namespace).read(lambda: self._store.facts(namespace), behind=behind)

    def watch(self, namespace: str) -> WatchStream:
        """A stream of watches, none yet. Raises Unavailable."""
        return WatchStream(self._required(namespace).watches)

    # --- inside -----------------------------------------------------------------------------------------------------------------

    def _state(self, namespace: str) -> NamespaceState | Unavailable:
        state = self._namespaces.get(namespace)
        if state is None:
            if self._failure is None:
                return Unavailable("the shard is being recovered: try again", reason="SHARD_UNAVAILABLE")
            self.open(namespace)
            state = self._namespaces[namespace]
        return state

    def _required(self, namespace: str) -> NamespaceState:
        state = self._state(namespace)
        if isinstance(state, Unavailable):
            raise state
        return state

    def _close(self, namespace: str) -> None:
        """It is served no more, or anew: then the store must not be behind what it has shown."""
        header = self._namespaces.pop(namespace).writer.header
        if header.incarnation:
            self._known[namespace] = header

    def _lost(self, revisions: int) -> None:
        self.lost_revisions += revisions

    def _start(self, work: Coroutine[Any, Any, None], namespace: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"muster-state {namespace}")
        self._tasks[task] = namespace
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        namespace = self._tasks.pop(task)
        if task.cancelled() or self._failure is None:
            return
        error = task.exception()
        if error is not None:
            if not self._failure.done():
                self._failure.set_exception(error)
        elif namespace and (state := self._namespaces.get(namespace)) is not None and state.closed is not None:
            self._close(namespace)
            self.open(namespace)


_NOWHERE = Header(0, "")


def _nothing() -> None:
    """There is nothing to forget."""
