"""One namespace's shared state: what belongs to it, put together."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from coordinator.errors import RevisionOutOfRange, Unavailable
from coordinator.ids import Entropy
from coordinator.ports import Clock, StoreCorrupt
from coordinator.state.chores import Chores
from coordinator.state.hot import HotEntries, Job
from coordinator.state.lock_waits import LockWaits
from coordinator.state.model import Entry, Grant, Limits, Verdict
from coordinator.state.outages import LAST_RETRY_S, Outage, read_within
from coordinator.state.ports import EntryPage, EventPage, Facts, StateStore, Written
from coordinator.state.reads import Reads, lost_writes
from coordinator.state.watches import Watches
from coordinator.state.writer import Header, WriteAnswered, Writer

log = logging.getLogger(__name__)

T = TypeVar("T")


class NamespaceState:
    """One namespace's shared state, from when it is opened until it is closed. See StateEngine for the arguments.

    Args:
        known: where the state was when it was last seen here.
        lost: is told how many revisions the store has lost.
    """

    def __init__(
        self,
        *,
        name: str,
        store: StateStore,
        clock: Clock,
        entropy: Entropy,
        limits: Callable[[], Limits],
        hot: HotEntries,
        known: Header,
        lost: Callable[[int], None],
    ) -> None:
        self.name = name
        self._known = known
        self._lost = lost
        self.closed: Unavailable | None = None
        self._store = store
        self._outage = Outage(namespace=name, clock=clock, over=self._outage_over)
        self._chores = Chores(namespace=name, clock=clock, limits=limits(), wake=self._wake)
        self.writer = Writer(
            namespace=name,
            store=store,
            entropy=entropy,
            limits=limits,
            hot=hot,
            outage=self._outage,
            chores=self._chores,
            follower=self,
        )
        self.reads = Reads(namespace=name, store=store, writer=self.writer)
        self.lock_waits = LockWaits(write=self.writer.write, header=lambda: self.writer.header)
        self.watches = Watches(namespace=name, store=store, header=lambda: self.writer.header, seen=self.seen)
        self._lookups: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serves it until cancelled. Raises ShardLost."""
        try:
            await _all(self._serve(), self.reads.run())
        except StoreCorrupt as error:
            log.error("state.corrupt namespace=%s reason=%s", self.name, error)  # noqa: TRY400 - its traceback says nothing more
            self.close(Unavailable("the store answered what must not be, and the state is opened anew: try again", reason="STATE_REOPENED"))
            await asyncio.sleep(LAST_RETRY_S)
        except BaseException:
            self.close(Unavailable("this coordinator no longer serves the shard: try again", reason="SHARD_UNAVAILABLE"))
            raise

    async def _serve(self) -> None:
        await self._open()
        await _all(self.writer.run(), self.watches.run_live(), self.watches.run_behind())

    async def _open(self) -> None:
        facts = await self._outage.until_answered(lambda: self._store.facts(self.name))
        self.writer.opened(Header(facts.revision, facts.incarnation), self._known)
        self.reads.opened()
        self.watches.open()
        self.watches.written()
        if facts.next_due_ms is not None:
            self._chores.extend()  # who had the shard before may have answered nobody for a while

    def _wake(self) -> None:
        self.writer.wake()

    def close(self, error: Unavailable) -> None:
        """Refuses what waits, and what comes."""
        if self.closed is not None:
            return
        self.closed = error
        self._chores.close()
        for part in (self.writer, self.reads, self.watches):
            part.close(error)
        self.lock_waits.close(error)
        for lookup in self._lookups:
            lookup.cancel()

    # --- reads ----------------------------------------------------------------------------------------------------------------------

    async def read(self, ask: Callable[[], Awaitable[T]], *, behind: int) -> T:
        """One read on its own, behind a write.

        Raises:
            Unavailable: the store didn't answer in a second, or the engine stopped.
        """
        await self.reads.when_done(behind)
        known = self.writer.seen_revision
        answer = await self.reads.ask(ask)
        if isinstance(answer, EntryPage | EventPage | Facts) and answer.revision < known:
            self.writer.store_is_behind()
            raise lost_writes()
        return answer

    def seen(self, revision: int) -> None:
        """The store has shown a revision: one that isn't known yet is of a write that isn't answered yet."""
        self.writer.seen(revision)

    # --- what the writer tells ------------------------------------------------------------------------------------------------------

    def written(self, written: Written) -> None:
        """See Follower."""
        self._chores.written(date_ms=written.date_ms, next_due_ms=written.next_due_ms, revision=written.revision)
        self.reads.written()
        self.watches.written()

    def lost(self, revisions: int) -> None:
        """See Follower."""
        log.error(
            "state.lost namespace=%s revisions=%d revision=%d: the store has gone back behind what it acknowledged, as in a failover to "
            "a replica that was behind. What was written last is gone: write it again, and prevent it with --durability wait-replicas:1",
            self.name,
            revisions,
            self.writer.header.revision,
        )
        self._lost(revisions)
        self.watches.lost()

    def granted(self, grants: Sequence[Grant]) -> None:
        """See Follower."""
        self.lock_waits.granted(grants)

    def look_up(self, job: Job, verdict: Verdict, answered: WriteAnswered) -> None:
        """See Follower."""
        lookup = asyncio.get_running_loop().create_task(self._look_up(job, verdict, answered), name="state look up")
        self._lookups.add(lookup)
        lookup.add_done_callback(self._lookups.discard)

    async def _look_up(self, job: Job, verdict: Verdict, answered: WriteAnswered) -> None:
        entry: Entry | None = None
        try:
            entry = await read_within(lambda: self._store.entry_at(self.name, job.update.key, verdict.revision))
        except Unavailable as error:
            answered(error, self.writer.header)
            return
        except asyncio.CancelledError:
            answered(self.closed or Unavailable("the shard stopped: try again"), self.writer.header)
            raise
        if entry is None:
            gone = f"the update was done at revision {verdict.revision}, whose value is no longer kept: read the key"
            answered(RevisionOutOfRange(gone, reason="COMPACTED", metadata={"revision": str(verdict.revision)}), self.writer.header)
        else:
            answered(Verdict(verdict.outcome, revision=verdict.revision, entries=(entry,), puts=verdict.puts), self.writer.header)

    def _outage_over(self) -> None:
        self._chores.extend()
        self.lock_waits.ask_again()


async def _all(*parts: Coroutine[Any, Any, None]) -> None:
    """Runs them together, until one fails, whose error it raises, or it is cancelled."""
    tasks = [asyncio.get_running_loop().create_task(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
