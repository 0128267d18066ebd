"""Takes a shard's snapshots while the shard works on, and trims the journal behind them."""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from coordinator.core.rates import RateWalk
from coordinator.core.snapshot import Walk
from coordinator.core.webhooks import DeliveryWalk
from coordinator.engine.commits import PendingCommit
from coordinator.engine.digests import DigestTaker
from coordinator.engine.namespace import Namespace
from coordinator.engine.room import StoreRoom
from coordinator.ids import Entropy
from coordinator.ports import JournalCodec, ShardStore, SnapshotEncoder, SnapshotNamespace, StoreCorrupt, StoredSnapshot, StoreOutage

SnapshotWalk = Walk | RateWalk | DeliveryWalk

log = logging.getLogger(__name__)

TRIMMED_PER_CALL = 500  # journal entries: about a millisecond of the store
RETRY_AFTER = 8  # a snapshot that came to nothing is tried again when the journal has grown by this part of what makes one due
TASK_BYTES = 32  # of a task in a snapshot, beside its request
WEBHOOK_BYTES = 256  # of a webhook's delivery
REST_SHARE = 1.0  # after each call, rest as long as it took: appends find the store free for half of the time


@dataclass(frozen=True, slots=True)
class SnapshotSettings:
    """When a snapshot is taken, and in what pieces. Sizes in bytes."""

    min_journal_bytes: int = 64 * 1024 * 1024  # replayed in about four seconds; also the last snapshot's size must be outgrown
    piece_bytes: int = 1024 * 1024  # some milliseconds of the store and of the event loop
    tasks_per_step: int = 1000  # about a millisecond of the event loop


DEFAULT_SETTINGS = SnapshotSettings()


class SnapshotLost(Exception):
    """The store doesn't take the snapshot any more: the shard has another owner."""


class Snapshotter:
    """Owns the snapshots of one shard, one at a time. The shard's writer calls it; the writing is a task of its own.

    Args:
        shard: the shard's number, for the log.
        store: where it writes.
        codec: how.
        settings: when, and in what pieces.
        entropy: makes the nonces.
        room: in the store: where it is tight, snapshots are taken sooner.
    """

    def __init__(
        self, *, shard: int, store: ShardStore, codec: JournalCodec, settings: SnapshotSettings, entropy: Entropy, room: StoreRoom
    ) -> None:
        self.journal_bytes = 0  # written since the last snapshot
        self.digests = DigestTaker(codec=codec)  # a state has one walk at a time
        self.sequence = 0  # of the journal entry after which the last one was taken
        self._shard = shard
        self._store = store
        self._codec = codec
        self._settings = settings
        self._entropy = entropy
        self._room = room
        self._outgrow_bytes = 0  # the last snapshot's size
        self._not_before_bytes = 0  # a snapshot came to nothing: not before the journal is so long
        self._walks: list[SnapshotWalk] = []
        self._task: asyncio.Task[None] | None = None
        self._durable: asyncio.Future[None] | None = None

    def recovered(self, snapshot: StoredSnapshot | None, journal_bytes: int) -> None:
        """The shard begins to serve, from `snapshot` and this much of the journal behind it. What is left to trim is trimmed."""
        self.journal_bytes = journal_bytes
        self.sequence = snapshot.sequence if snapshot is not None else 0
        self._outgrow_bytes = snapshot.size_bytes if snapshot is not None else 0
        self._not_before_bytes = 0
        if snapshot is not None:
            self._task = asyncio.create_task(self._trim(), name="snapshot.trim")

    def _is_due(self, namespaces: Iterable[Namespace]) -> bool:
        """Whether the journal has outgrown its bounds, and no snapshot is under way. Raises what ended the one before, if it was a bug."""
        if self.journal_bytes < self._not_before_bytes or not self._is_worthwhile(namespaces):
            return False
        if self._task is None:
            return True
        if self._task.done():
            self._task.result()
            self._task = None
            return True
        return False

    def _is_worthwhile(self, namespaces: Iterable[Namespace]) -> bool:
        if self.journal_bytes >= max(self._room.journal_bytes(self._settings.min_journal_bytes), self._outgrow_bytes):
            return True
        if not self._room.is_tight():
            return False
        return self.journal_bytes + self._outgrow_bytes - size_of_next(namespaces) >= self._room.worthwhile_bytes()

    def is_walking(self) -> bool:
        """Whether a snapshot goes over the tasks now."""
        return any(isinstance(walk, Walk) and walk.is_current() for walk in self._walks)

    def wrote(self, count: int) -> None:
        """A commit of so many bytes is durable."""
        self.journal_bytes += count
        self._room.wrote(count)

    def begin_if_due(
        self, commit: PendingCommit, *, sequence: int, namespaces: Mapping[str, Namespace], deleted: Iterable[str] = ()
    ) -> None:
        """Begins a snapshot of the namespaces as they are now, if one is due, or else a digest, if one is asked for.

        Args:
            commit: what is to be written next, and the last that was decided: the snapshot must not be current before it is durable.
            sequence: of the last journal entry then.
            namespaces: all of the shard.
            deleted: names of those of which the store may still hold records.
        """
        if self.digests.is_walking():
            return
        if not self._is_due(namespaces.values()):
            if not self.is_walking():
                self.digests.begin_if_asked(commit, sequence=sequence, namespaces=namespaces, deleted=deleted)
            return
        heads = [_head(one) for one in namespaces.values()]
        encoder = self._codec.snapshot_encoder(
            sequence=sequence,
            date_ms=commit.date_ms,
            namespaces=[*heads, *(SnapshotNamespace(name, 0, 0, deleted=True) for name in deleted)],
            max_bytes=self._settings.piece_bytes,
        )
        self._walks = []
        for namespace, head in zip(namespaces.values(), heads, strict=True):
            state = namespace.scheduler.state
            self._walks.append(Walk(state, partial(encoder.add, head)))
            self._walks.append(RateWalk(state.rates, partial(encoder.add_rate_log, head)))
            self._walks.append(DeliveryWalk(state.deliveries, partial(encoder.add_webhook, head)))
        durable = self._durable = asyncio.get_running_loop().create_future()
        commit.waiters.append(durable)
        self._task = asyncio.create_task(self._take(encoder, sequence, durable), name="snapshot")

    def abandon(self) -> None:
        """The shard stops: so does the snapshot that is under way. Half of one in the store is removed by the next claim."""
        self.digests.abandon()
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._durable is not None:
            self._durable.cancel()
        _end(self._walks)

    async def _take(self, encoder: SnapshotEncoder, sequence: int, durable: asyncio.Future[None]) -> None:
        walks, before_bytes = self._walks, self.journal_bytes
        try:
            pieces, size_bytes = await self._write(encoder, walks, sequence, durable)
        except (StoreOutage, StoreCorrupt, SnapshotLost) as error:
            log.warning("snapshot.failed shard=%d sequence=%d reason=%s", self._shard, sequence, error)
            self._not_before_bytes = self.journal_bytes + self._room.journal_bytes(self._settings.min_journal_bytes) // RETRY_AFTER
            return
        finally:
            _end(walks)
        self.journal_bytes -= before_bytes
        self._outgrow_bytes, self._not_before_bytes, self.sequence = size_bytes, 0, sequence
        log.info("snapshot.taken shard=%d sequence=%d pieces=%d bytes=%d", self._shard, sequence, pieces, size_bytes)
        await self._trim()

    async def _write(
        self, encoder: SnapshotEncoder, walks: Sequence[SnapshotWalk], sequence: int, durable: asyncio.Future[None]
    ) -> tuple[int, int]:
        nonce = self._entropy.nonce()
        pieces = size_bytes = 0
        for walk in walks:
            more = True
            while more:
                more = walk.step(self._settings.tasks_per_step)
                await asyncio.sleep(0)
                while (piece := encoder.take()) is not None:
                    await self._write_piece(sequence, nonce, pieces, piece)
                    pieces, size_bytes = pieces + 1, size_bytes + len(piece)
        encoder.finish()
        while (piece := encoder.take()) is not None:
            await self._write_piece(sequence, nonce, pieces, piece)
            pieces, size_bytes = pieces + 1, size_bytes + len(piece)
        await durable
        if not await self._store.finish_snapshot(sequence=sequence, nonce=nonce, pieces=pieces, size_bytes=size_bytes):
            raise SnapshotLost("the store refused to make it the current one")
        return pieces, size_bytes

    async def _write_piece(self, sequence: int, nonce: str, place: int, piece: bytes) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        if not await self._store.write_snapshot(sequence=sequence, nonce=nonce, place=place, piece=piece):
            raise SnapshotLost(f"the store refused piece {place}")
        await asyncio.sleep(REST_SHARE * (loop.time() - began_s))

    async def _trim(self) -> None:
        """Bounded work per call: commits go in between."""
        try:
            trimmed = TRIMMED_PER_CALL
            while trimmed:
                trimmed = await self._store.trim_journal(limit=TRIMMED_PER_CALL)
        except (StoreOutage, StoreCorrupt) as error:  # the next snapshot trims what is left
            log.warning("snapshot.not_trimmed shard=%d reason=%s", self._shard, error)


def _head(namespace: Namespace) -> SnapshotNamespace:
    state = namespace.scheduler.state
    return SnapshotNamespace(
        namespace.name,
        namespace.created_ms,
        state.next_number,
        tuple(state.policies.values()),
        next_delivery=state.deliveries.next_number,
    )


def _end(walks: Sequence[SnapshotWalk]) -> None:
    for walk in walks:
        walk.abandon()


def size_of_next(namespaces: Iterable[Namespace]) -> int:
    """About how many bytes a snapshot of these would take now."""
    states = [namespace.scheduler.state for namespace in namespaces]
    return sum(state.bytes + TASK_BYTES * len(state.tasks) + WEBHOOK_BYTES * len(state.deliveries.pending) for state in states)
