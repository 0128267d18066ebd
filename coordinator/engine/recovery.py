"""Recovery: the state of a shard's namespaces, from its snapshot and the journal behind it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from coordinator.core.events import AnyEvent, Commit, NamespaceCreated, NamespaceDeleted, NamespaceEvent
from coordinator.core.evolve import evolve, evolve_beside_tasks
from coordinator.core.model import Now, Task
from coordinator.core.policies import restore_policies
from coordinator.core.snapshot import restore, restored
from coordinator.core.state import State
from coordinator.core.webhooks import restore_delivery
from coordinator.engine.lost_writes import LostWrites
from coordinator.engine.namespace import Namespace
from coordinator.engine.ownership import ShardLost
from coordinator.ports import AppendAnswer, Appended, Claim, SnapshotNamespace, SnapshotPiece, StoreCorrupt, StoredSnapshot

READ_PAGE = 20  # journal entries per command: each may hold megabytes
BYTES_PER_STEP = 128 * 1024  # of the journal: some milliseconds; then other shards, and health checks


@dataclass(slots=True)
class Recovered:
    """What the store says: each namespace's state and date of creation, and the last entry's sequence and date."""

    states: dict[str, tuple[State, int]] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)  # namespaces of which the store may still hold records
    sequence: int = 0
    date_ms: int = 0
    journal_bytes: int = 0  # of the entries that were replayed
    last: bytes = b""  # the last of them


class JournalSource(Protocol):
    """Where a shard's snapshot and journal are read: what `ShardStore` has of that."""

    async def read(self, *, after: int, limit: int) -> list[tuple[int, bytes]]:
        """See ShardStore."""

    async def read_snapshot(self, *, sequence: int, place: int) -> bytes | None:
        """See ShardStore."""

    async def confirm(self, *, sequence: int) -> Appended:
        """See ShardStore."""


class JournalReader(Protocol):
    """How both are read: what `JournalCodec` has of that."""

    def decode(self, blob: bytes) -> Commit:
        """See JournalCodec."""

    def decode_snapshot(self, blob: bytes) -> SnapshotPiece:
        """See JournalCodec."""


Follow = Callable[[int, str, AnyEvent, Task | None], None]
"""Told of each event that is replayed: the entry's sequence, the namespace, the event, and a task's event's task as it is after it."""


async def recover(
    store: JournalSource,
    codec: JournalReader,
    claim: Claim,
    *,
    ahead: Recovered | None = None,
    lost: LostWrites | None = None,
    follow: Follow | None = None,
) -> Recovered:
    """Reads the snapshot piece by piece, and replays the journal behind it to its end, by the same `evolve` that runs live.

    Args:
        store: where both are read.
        codec: how they are written.
        claim: what they are.
        ahead: what was read before it was ours: only what came since is read, if the journal goes on from there.
        lost: knows what the store should hold.
        follow: is told of each event that is replayed.

    Raises:
        StoreOutage: the store can't be read now.
        StoreCorrupt: what it holds isn't a snapshot and the journal that goes on from it.
        ShardLost: another coordinator took the shard meanwhile.
        JournalTooNew: a newer release wrote it.
    """
    try:
        if ahead is not None and await _goes_on(store, ahead, claim):
            await _replay_rest(store, codec, ahead, lost, follow)
            recovered = ahead
        else:
            recovered = await read_all(store, codec, claim.snapshot, lost=lost, follow=follow)
    except _Gap as gap:
        await _lost_or_corrupt(store, claim, str(gap))
        raise
    if recovered.sequence != claim.sequence:
        await _lost_or_corrupt(store, claim, f"the journal ends at {recovered.sequence}, and its head says {claim.sequence}")
    if lost is not None:
        lost.recovered(claim.epoch, claim.sequence)
    return recovered


class _Gap(StoreCorrupt):
    """Something is missing: the store is corrupt, or the shard has another owner, who trims."""


async def read_all(
    store: JournalSource,
    codec: JournalReader,
    snapshot: StoredSnapshot | None,
    *,
    lost: LostWrites | None = None,
    follow: Follow | None = None,
) -> Recovered:
    """Reads a shard's snapshot and the journal behind it, whoever owns it. Raises as `recover` does, and StoreCorrupt for ShardLost."""
    recovered = Recovered()
    if lost is not None:
        lost.read_anew()
    if snapshot is not None:
        await _load(store, codec, snapshot, recovered)
    await _replay_rest(store, codec, recovered, lost, follow)
    return recovered


async def _goes_on(store: JournalSource, ahead: Recovered, claim: Claim) -> bool:
    """Whether the journal still has the entry that was read last: a store that lost its last writes has another one in its place."""
    if not ahead.last or ahead.sequence > claim.sequence:
        return False
    return await store.read(after=ahead.sequence - 1, limit=1) == [(ahead.sequence, ahead.last)]


async def _replay_rest(
    store: JournalSource, codec: JournalReader, recovered: Recovered, lost: LostWrites | None, follow: Follow | None
) -> None:
    since_rest = 0
    while page := await store.read(after=recovered.sequence, limit=READ_PAGE):
        for sequence, blob in page:
            if sequence != recovered.sequence + 1:
                raise _Gap(f"the journal goes from entry {recovered.sequence} to {sequence}: those between are missing")
            commit = codec.decode(blob)
            _replay(commit, recovered, follow)
            if lost is not None:
                lost.replayed(commit)
            recovered.sequence = sequence
            recovered.last = blob
            recovered.journal_bytes += len(blob)
            since_rest += len(blob)
            if since_rest >= BYTES_PER_STEP:
                since_rest = 0
                await asyncio.sleep(0)


async def rebuild(recovered: Recovered, make: Callable[[str, int, State], Namespace], now: Callable[[], Now]) -> dict[str, Namespace]:
    """Makes the namespaces, and derives bit by bit what follows from their states."""
    namespaces = {name: make(name, created_ms, state) for name, (state, created_ms) in recovered.states.items()}
    for namespace in namespaces.values():
        for _ in namespace.scheduler.rebuild(now()):
            await asyncio.sleep(0)
    for namespace in namespaces.values():  # leases begin once it is done: it may have taken a second
        namespace.scheduler.extend_leases(now())
    return namespaces


async def _lost_or_corrupt(store: JournalSource, claim: Claim, problem: str) -> None:
    """A coordinator that takes the shard while we read writes on, and trims the journal."""
    if (await store.confirm(sequence=claim.sequence)).answer is AppendAnswer.FENCED:
        raise ShardLost("the shard was taken over by another coordinator while its journal was read")
    raise StoreCorrupt(problem)


async def _load(store: JournalSource, codec: JournalReader, snapshot: StoredSnapshot, recovered: Recovered) -> None:
    next_numbers: dict[str, int] = {}
    for place in range(snapshot.pieces):
        blob = await store.read_snapshot(sequence=snapshot.sequence, place=place)
        if blob is None:
            raise _Gap(f"piece {place} of {snapshot.pieces} of the snapshot at entry {snapshot.sequence} is missing")
        piece = codec.decode_snapshot(blob)
        if piece.sequence != snapshot.sequence:
            raise StoreCorrupt(f"the snapshot at entry {snapshot.sequence} has a piece of one at {piece.sequence}")
        _take_in(piece, recovered, next_numbers)
        await asyncio.sleep(0)
    for name, (state, _) in recovered.states.items():
        restored(state, next_numbers[name])
    recovered.sequence = snapshot.sequence


def _take_in(piece: SnapshotPiece, recovered: Recovered, next_numbers: dict[str, int]) -> None:
    recovered.date_ms = piece.date_ms
    for namespace, tasks in piece.parts:
        if namespace.deleted:
            recovered.deleted.add(namespace.name)
            continue
        known = recovered.states.get(namespace.name)
        if known is None:
            known = recovered.states[namespace.name] = (State(), namespace.created_ms)
            next_numbers[namespace.name] = namespace.next_number
        try:
            restore_beside_tasks(known[0], namespace)
        except ValueError as error:
            raise StoreCorrupt(f"the snapshot at entry {piece.sequence} can't be: {error}") from error
        for task in tasks:
            try:
                restore(known[0], task)
            except ValueError as error:
                raise StoreCorrupt(f"the snapshot at entry {piece.sequence} can't be: {error}") from error


def restore_beside_tasks(state: State, namespace: SnapshotNamespace) -> None:
    """Puts what a snapshot's piece has of a namespace beside its tasks into a state. Raises ValueError when it can't be."""
    restore_policies(state, namespace.policies, namespace.rate_logs)
    for stored in namespace.webhooks:
        restore_delivery(state, stored)
    state.deliveries.next_number = max(state.deliveries.next_number, namespace.next_delivery)


def _replay(commit: Commit, recovered: Recovered, follow: Follow | None) -> None:
    for name, event in commit.events:
        task = _replay_event(commit, recovered, name, event)
        if follow is not None:
            follow(commit.sequence, name, event, task)
    recovered.date_ms = commit.date_ms


def _replay_event(commit: Commit, recovered: Recovered, name: str, event: AnyEvent) -> Task | None:
    if isinstance(event, NamespaceCreated):
        recovered.states[name] = (State(), commit.date_ms)
        return None
    if isinstance(event, NamespaceDeleted):
        if event.purged:
            recovered.deleted.discard(name)
        else:
            del recovered.states[name]
            recovered.deleted.add(name)
        return None
    state = recovered.states[name][0]
    if isinstance(event, NamespaceEvent):
        evolve_beside_tasks(state, event, commit.date_ms)
        return None
    task = evolve(state, event, commit.date_ms)
    if task.ended_ms:
        state.settle(task)
    return task
