"""The single writer of a shard: it decides and applies commands in memory at once, and every answer waits for the commit that has them.

It must not know gRPC, nor which store it writes to.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from coordinator.core.effects import TaskEnded, WatchOpened
from coordinator.core.events import Commit, NamespaceCreated, NamespaceDeleted, Redriven
from coordinator.core.model import Now, Settings
from coordinator.core.placement import place
from coordinator.core.scheduler import Scheduler
from coordinator.core.state import State
from coordinator.core.ticks import tick
from coordinator.core.webhooks import Delivery
from coordinator.engine.commits import CommitQueue, PendingCommit
from coordinator.engine.lost_writes import LostWrites
from coordinator.engine.namespace import Namespace
from coordinator.engine.ownership import Ownership
from coordinator.engine.read_ahead import ReadAhead
from coordinator.engine.records import RecordReader
from coordinator.engine.recovery import rebuild, recover
from coordinator.engine.release import Releaser
from coordinator.engine.room import StoreRoom
from coordinator.engine.shared_state import NoSharedState, SharedState, run_together
from coordinator.engine.sinks import AgentSink, ClientStream, Stream
from coordinator.engine.snapshots import DEFAULT_SETTINGS, SnapshotSettings, Snapshotter
from coordinator.engine.store_calls import LAST_RETRY_S, READS_FAIL_AFTER_S, claimed, lease_kept, moved, release, settled, until_answered
from coordinator.engine.timekeeping import Timekeeper
from coordinator.engine.watches import Page, Watch
from coordinator.errors import NotFound, Unavailable
from coordinator.ids import Entropy
from coordinator.ports import ALONE, Appended, Claimant, Clock, EndedTask, JournalCodec, ShardStore, StoreCorrupt, StoreOutage
from coordinator.search_terms import terms_of

log = logging.getLogger(__name__)

DEFAULT_NAMESPACE = "default"
MAX_TICK_S = 1.0  # a stall shows as a gap between ticks
TICKS_PER_STALL = 4  # at least: else every tick would look like a stall
MIN_TICK_S = 0.005  # what is due by the clock may not be by the date of the commit that gathers: no spinning until it is written


class Shard:
    """One shard: its journal, its namespaces, and the loop that writes.

    Args:
        number: which shard it is.
        store: its journal and records.
        codec: how both are written.
        settings: the core's durations and limits.
        clock: the machine's clock of durations.
        entropy: where jitter and commit nonces come from.
        snapshots: when they are taken.
        room: in the store, which shards share.
        default_here: whether the namespace "default" lives in this shard, and is made if it isn't there.
        webhooks_due: takes what is to be delivered, by namespace; without it, nothing is.
    """

    def __init__(
        self,
        *,
        number: int,
        store: ShardStore,
        codec: JournalCodec,
        settings: Settings,
        clock: Clock,
        entropy: Entropy,
        snapshots: SnapshotSettings = DEFAULT_SETTINGS,
        room: StoreRoom | None = None,
        default_here: bool = False,
        webhooks_due: "Callable[[Shard, Namespace, Iterable[Delivery]], None] | None" = None,
    ) -> None:
        self.number = number
        self.settings = settings
        self.records = RecordReader(store=store)
        self.namespaces: dict[str, Namespace] = {}
        self.deleted: dict[str, Namespace | None] = {}  # as `deletion` has it
        self.agent_sinks: dict[str, AgentSink] = {}
        self.client_streams: set[ClientStream] = set()
        self.outage_since_s: float | None = None
        self.redrives = False  # a task was redriven, so that there may be more: commits are looked through for it
        self._webhooks_due = partial(webhooks_due or (lambda *_: None), self)
        self._releaser = Releaser(
            namespaces=self.namespaces,
            deleted=self.deleted,
            agent_sinks=self.agent_sinks,
            records=self.records,
            webhooks_due=self._webhooks_due,
        )
        self.store = store
        self._codec = codec
        self._clock = clock
        self._entropy = entropy
        self._default_here = default_here
        self.room = room or StoreRoom()
        self.state: SharedState = NoSharedState()  # set before it runs
        self.lost = LostWrites(shard=number)
        self.ahead = ReadAhead(store=store, codec=codec, lost=self.lost)
        self.snapshots = Snapshotter(shard=number, store=store, codec=codec, settings=snapshots, entropy=entropy, room=self.room)
        self.epoch = 0
        self.since_ms = 0  # when it was claimed
        self.sequence = 0  # of the last commit that is durable, or being written
        self.owned = False
        self.changed: Callable[[], None] = lambda: None  # called when it was claimed, is served, or isn't any more
        self.owner_address: Callable[[int], str] = lambda _: ""  # where it is served once it isn't here, if that is known
        self._last: PendingCommit | None = None  # the one to write before the shard is handed over
        self._offer = ("", 0)
        self._time = Timekeeper(clock=clock, date_ms=0, stall_s=settings.lease_s / 4)
        self.commits = CommitQueue()
        self.ownership = Ownership(clock=clock)
        self._wake = asyncio.Event()
        self.serving = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = float("inf")
        self._max_tick_s = min(MAX_TICK_S, settings.lease_s / 4 / TICKS_PER_STALL)
        self._outage_after_s = min(READS_FAIL_AFTER_S, settings.renew_period_s / 2)

    # --- life -----------------------------------------------------------------------------------------------------------------

    async def run(self, started: asyncio.Event, claimant: Claimant = ALONE) -> None:
        """Claims the shard, recovers it, sets `started`, and serves it until cancelled, or handed over.

        Raises:
            ShardLost: another coordinator has it.
        """
        self._last = None
        while True:
            try:
                await self._recover(claimant)
            except StoreOutage as error:
                log.warning("shard.waiting shard=%d reason=%s", self.number, error)
                await asyncio.sleep(LAST_RETRY_S)
                continue
            started.set()
            try:
                await run_together(self._write(), self.state.run(self.namespaces))
                self.serving = False  # before anybody else can
                await release(self.store, offer_to=self._offer[0], offer_ms=self._offer[1])
                self.owned = False
                return self._stop_serving(moved(self.owner_address(self.number)))
            except StoreCorrupt as error:
                log.warning("shard.rebuild shard=%d reason=%s", self.number, error)
                self._stop_serving(Unavailable("the shard is being rebuilt from its journal: try again", reason="SHARD_UNAVAILABLE"))
            except BaseException:
                self._stop_serving(moved(self.owner_address(self.number)))
                raise

    async def _recover(self, claimant: Claimant) -> None:
        claim, self.ownership = await claimed(self.store, claimant, clock=self._clock)
        self.epoch, self.since_ms, self.sequence, self.owned = claim.epoch, claim.date_ms, claim.sequence, True
        self.changed()
        async with lease_kept(self.store, self.ownership, clock=self._clock, sequence=claim.sequence):
            recovered = await recover(self.store, self._codec, claim, ahead=await self.ahead.take(), lost=self.lost)
            self._time = Timekeeper(clock=self._clock, date_ms=max(recovered.date_ms, claim.date_ms), stall_s=self.settings.lease_s / 4)
            self.commits = CommitQueue()
            self.namespaces |= await rebuild(recovered, self._new_namespace, self._time.now)
        self.deleted |= dict.fromkeys(recovered.deleted)
        self.serving = True
        self.changed()
        self.snapshots.recovered(claim.snapshot, recovered.journal_bytes)
        if self._default_here and DEFAULT_NAMESPACE not in self.namespaces:
            self.create_namespace(DEFAULT_NAMESPACE)
        for namespace in self.namespaces.values():
            if pending := namespace.scheduler.state.deliveries.pending:
                self._webhooks_due(namespace, list(pending.values()))
        log.info("shard.recovered shard=%d epoch=%d sequence=%d", self.number, self.epoch, self.sequence)
        self._arm_timer()

    def hand_over(self, *, offer_to: str = "", offer_ms: int = 0) -> None:
        """Writes what was decided until now, gives the shard up, and ends `run`. `offer_to` alone may claim it for `offer_ms`."""
        self._offer, self._last = (offer_to, offer_ms), self.commits.last
        self._wake.set()

    def _new_namespace(self, name: str, created_ms: int, state: State) -> Namespace:
        # Above all fences of a deleted namespace of the same name: its agents may still hold attempts of tasks that had the same ids.
        epoch = max(self.epoch, created_ms)
        scheduler = Scheduler(settings=self.settings, epoch=epoch, jitter=self._entropy.jitter, state=state)
        return Namespace(name=name, scheduler=scheduler, created_ms=created_ms)

    def _stop_serving(self, error: Unavailable) -> None:
        self.serving = False
        self.changed()
        self.snapshots.abandon()
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at_s = None, float("inf")
        self.commits.fail(error)
        being_deleted = [namespace for namespace in self.deleted.values() if namespace is not None]
        streams: list[Stream] = [*self.agent_sinks.values(), *self.client_streams, *self.namespaces.values(), *being_deleted]
        for stream in streams:
            stream.close(error)
        self.agent_sinks.clear()
        self.client_streams.clear()
        self.namespaces.clear()
        self.deleted.clear()
        self.outage_since_s = None

    # --- commands -------------------------------------------------------------------------------------------------------------

    def now(self) -> Now:
        """The time of a decision made now: all decisions of one commit have one date, so that replay repeats them exactly."""
        now = self._time.now()
        commit = self.commits.last
        if not commit.events:
            commit.date_ms = max(now.date_ms, commit.date_ms)
        return Now(now.mono_s, commit.date_ms)

    def namespace(self, name: str) -> Namespace:
        """A namespace of this shard.

        Raises:
            NotFound: it doesn't exist.
            Unavailable: the shard isn't served.
        """
        self.require_served()
        namespace = self.namespaces.get(name)
        if namespace is None:
            raise NotFound(f"namespace {name!r} doesn't exist: create it with AdminService.CreateNamespace", reason="NAMESPACE_NOT_FOUND")
        return namespace

    def require_served(self) -> None:
        """For what doesn't look up a namespace.

        Raises:
            Unavailable: the shard is being recovered.
        """
        if not self.serving:
            raise Unavailable("the shard is being recovered: try again", reason="SHARD_UNAVAILABLE")

    def require_current(self, namespace: Namespace) -> None:
        """After a wait: the shard may have been rebuilt, and decisions on the old namespace would be lost.

        Raises:
            Unavailable: it was.
            NotFound: the namespace was deleted.
        """
        if self.deleted.get(namespace.name) is namespace:
            raise NotFound(f"namespace {namespace.name!r} was deleted", reason="NAMESPACE_NOT_FOUND")
        if self.namespaces.get(namespace.name) is not namespace:
            raise Unavailable("the shard was rebuilt meanwhile: try again", reason="SHARD_UNAVAILABLE")

    def is_suspended(self) -> bool:
        """Whether nothing may be told for now: the store is out, or hasn't said for a whole lease whose the shard is."""
        return self.outage_since_s is not None or self.ownership.is_over()

    def require_store(self) -> None:
        """For new writes, before anything is decided.

        Raises:
            Unavailable: the store is out.
        """
        if self.outage_since_s is not None:
            raise Unavailable("the store can't be reached: nothing new is taken until it is back")

    def create_namespace(self, name: str) -> Namespace:
        """Makes a namespace, or answers the one that is there.

        Raises:
            Unavailable: the shard isn't served: what is made now would not be in its journal; or the last one of this name is still being
                removed from the store.
        """
        self.require_served()
        if name in self.deleted:
            raise Unavailable(
                f"namespace {name!r} was deleted, and what it held is still being removed: try again", reason="NAMESPACE_BEING_DELETED"
            )
        namespace = self.namespaces.get(name)
        if namespace is None:
            namespace = self.namespaces[name] = self._new_namespace(name, self.now().date_ms, State())
            self.state.open(name)
            self.commits.last.events.append((name, NamespaceCreated()))
            self._wake.set()
        return namespace

    def journal(self, name: str, event: NamespaceDeleted) -> None:
        """An event of a namespace that isn't there any more goes into the next commit."""
        self.now()  # which dates the commit
        self.commits.last.events.append((name, event))
        self._wake.set()

    def decided(self, namespace: Namespace, now: Now) -> None:
        """After commands on a namespace: places what became ready, and hands all that was decided to the next commit.

        Raises:
            Unavailable: the shard has been rebuilt since the namespace was looked up.
        """
        self.require_current(namespace)
        scheduler = namespace.scheduler
        if scheduler.awake:
            place(scheduler, now)
        events, effects, size = scheduler.take()
        if events or effects:
            self.commits.add(namespace.name, events, effects, size)
            self._wake.set()
        self._arm_timer()

    def when_durable(self, answer: Callable[[], None]) -> None:
        """Calls `answer` once everything that was decided so far is durable. Never, if the shard stops first: then streams are closed."""
        self.commits.last.answers.append(answer)
        self._wake.set()

    async def durable(self) -> None:
        """Waits until everything that was decided so far is durable: before any answer, a read's or a refusal's too.

        Raises:
            Unavailable: the store has been out for a second, or the shard stopped.
        """
        self.require_served()
        if self.commits.is_empty() and not self.ownership.is_doubtful():
            return None
        return await settled(self._waiter(), lambda: self.outage_since_s, clock=self._clock)

    async def durable_write(self) -> None:
        """As `durable`, for the caller of a write: it waits for as long as the outage lasts, since it may have been written.

        Raises:
            Unavailable: the shard stopped: it may have been written all the same.
        """
        self.require_served()
        await self._waiter()

    def _waiter(self) -> asyncio.Future[None]:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.commits.last.waiters.append(waiter)
        self._wake.set()
        return waiter

    def tell_page(self, namespace: Namespace, watch: Watch, page: Page) -> None:
        """Begins a watch, or goes on with what it is told first: state as it is now, released with what was decided so far."""
        effect = WatchOpened(lambda: namespace.watches.activate(watch, page))
        self.commits.last.effects.append((namespace.name, effect))
        self._wake.set()

    # --- time -----------------------------------------------------------------------------------------------------------------

    def _arm_timer(self) -> None:
        """Sets the timer to the core's next deadline, and not so far off that the gap would look like a stall."""
        real_s = self._clock.now_s()
        now = self._time.now()
        wait_s = min(self._max_tick_s, self.ownership.confirm_after_s / 2)
        for namespace in self.namespaces.values() if self.outage_since_s is None else ():  # during an outage nothing is due
            mono_s, date_ms = namespace.scheduler.next_due()
            if mono_s is not None:
                wait_s = min(wait_s, mono_s - now.mono_s)
            if date_ms is not None:
                wait_s = min(wait_s, (date_ms - now.date_ms) / 1000)
        at_s = real_s + max(wait_s, MIN_TICK_S)
        if self._timer is not None:
            if at_s >= self._timer_at_s:
                return
            self._timer.cancel()
        self._timer_at_s = at_s
        self._timer = asyncio.get_running_loop().call_later(at_s - real_s, self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_at_s = None, float("inf")
        stalled_s = self._time.observe()
        if stalled_s:
            log.warning("shard.stalled shard=%d stalled_s=%.2f", self.number, stalled_s)
        if self.outage_since_s is None and not stalled_s:  # after a stall: first what has arrived meanwhile, then the deadlines
            now = self.now()
            for namespace in self.namespaces.values():
                tick(namespace.scheduler, now)
                self.decided(namespace, now)
        if (self.namespaces or self.ownership.lease_s) and self.ownership.is_doubtful():
            self._wake.set()
        self._arm_timer()

    # --- the journal ----------------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        """Writes one commit after the other: what gathers while one is under way is the next."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            commit = self.commits.take()
            if self.commits.has_next():
                self._wake.set()
            else:  # memory is now as it will be right after `commit`: nothing else has been decided
                self.snapshots.begin_if_due(
                    commit, sequence=self.sequence + bool(commit.events), namespaces=self.namespaces, deleted=self.deleted
                )
            if commit.events:
                await self._append(commit)
            elif self.ownership.is_doubtful():
                await self._confirm(commit.date_ms)
            while self.ownership.is_over():  # it was durable in time, and somebody else may have decided something since
                await self._confirm(commit.date_ms)
            self.commits.written()
            self._releaser.release(commit)
            if commit is self._last:
                return
            del commit  # while the shard rests, it would hold on to the tasks that ended in it

    async def _append(self, commit: PendingCommit) -> None:
        self.sequence += 1
        blob = self._codec.encode(Commit(self.sequence, self.epoch, commit.date_ms, commit.events), self.settings.retry)
        ended = [
            EndedTask(name, effect.task.spec.task_id, self._codec.record_out(effect.task), effect.task.ended_ms, terms_of(effect.task))
            for name, effect in commit.effects
            if type(effect) is TaskEnded
        ]
        redriven = [(name, event.ended.spec.task_id) for name, event in commit.events if type(event) is Redriven] if self.redrives else ()
        sequence, nonce = self.sequence, self._entropy.nonce()
        await self._until_answered(
            lambda: self.store.append(sequence=sequence, commit_nonce=nonce, blob=blob, ended=ended, redriven=redriven),
            since_ms=commit.date_ms,
        )
        self.lost.acknowledged(self.epoch, sequence)
        self.snapshots.wrote(len(blob))

    async def _until_answered(self, ask: Callable[[], Awaitable[Appended]], *, since_ms: int) -> None:
        """Asks the store until it answers, and ends the shard if it is no longer ours.

        What was decided at `since_ms` or later is carried out when an outage is over.
        """
        out_after_s = min(self._outage_after_s, self.ownership.confirm_after_s)
        date_ms, asked_s = await until_answered(ask, clock=self._clock, out=self._outage, out_after_s=out_after_s)
        self.ownership.confirmed(asked_s)
        self._time.store_said(date_ms)
        self._outage_over(since_ms)

    async def _confirm(self, since_ms: int) -> None:
        await self._until_answered(lambda: self.store.confirm(sequence=self.sequence), since_ms=since_ms)

    def _outage(self, reason: str) -> None:
        if self.outage_since_s is None:
            log.error("store.out shard=%d reason=%s", self.number, reason)
            self.outage_since_s = self._clock.now_s()
            self._time.freeze()

    def _outage_over(self, since_ms: int) -> None:
        if self.outage_since_s is None:
            return
        log.warning("store.back shard=%d out_s=%.2f", self.number, self._clock.now_s() - self.outage_since_s)
        self.outage_since_s = None
        self._time.thaw()
        now = self._time.now()
        for namespace in self.namespaces.values():
            namespace.scheduler.extend_leases(now)
            namespace.scheduler.limits.postpone(since_ms, now.date_ms)
        self._arm_timer()
