"""A shard in memory, for tests and simulations: what `redis_store` promises, by a clock and with faults that the caller injects."""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from itertools import islice

from coordinator.journal.layout import marker
from coordinator.journal.retention import count_expired
from coordinator.ports import (
    ALONE,
    MAX_READ_BYTES,
    AppendAnswer,
    Appended,
    Claim,
    Claimant,
    EndedEntry,
    EndedTask,
    Held,
    Retention,
    StoredSnapshot,
    StoreOutage,
)


class StoreCall(Enum):
    """What a fault may hit."""

    CLAIM = auto()
    APPEND = auto()
    CONFIRM = auto()
    RELEASE = auto()
    READ = auto()
    EXPIRE = auto()
    SNAPSHOT = auto()
    TRIM = auto()


class Fault(Enum):
    """What goes wrong with a call."""

    NONE = auto()
    BEFORE = auto()  # StoreOutage, and nothing was done
    AFTER = auto()  # it was done, and StoreOutage all the same: the answer was lost


FaultHook = Callable[[StoreCall], Awaitable[Fault]]
"""Asked before each call, and awaited: it may also delay the call, or claim the shard for somebody else meanwhile."""


async def no_faults(call: StoreCall) -> Fault:  # noqa: ARG001
    """The hook of a store that never fails."""
    return Fault.NONE


@dataclass(slots=True)
class _Namespace:
    index: deque[tuple[bytes, EndedEntry]] = field(default_factory=deque)
    base: int = 0
    slimmed: int = 0
    superseded: int = 0
    record_bytes: int = 0
    records: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    terms: dict[str, deque[int]] = field(default_factory=dict)  # positions, in order

    def is_last(self, task_id: str, task_marker: bytes) -> bool:
        """Whether a line stands for its task's record."""
        return task_id in self.records and self.records[task_id][0] == task_marker


@dataclass(slots=True)
class _Snapshot:
    sequence: int
    nonce: str
    pieces: list[bytes] = field(default_factory=list)

    def stored(self) -> StoredSnapshot:
        return StoredSnapshot(sequence=self.sequence, pieces=len(self.pieces), size_bytes=sum(map(len, self.pieces)))


@dataclass(slots=True)
class MemoryShard:
    """The data of a shard, which outlives its owners: give it to the store of each."""

    owner: object | None = None
    claimant: Claimant = ALONE
    lease_until_ms: int = 0
    offered_to: str = ""
    offered_until_ms: int = 0
    epoch: int = 0
    sequence: int = 0
    commit_nonce: str = ""
    journal: dict[int, bytes] = field(default_factory=dict)
    namespaces: dict[str, _Namespace] = field(default_factory=dict)
    snapshot: _Snapshot | None = None  # the current one
    unfinished: _Snapshot | None = None


class MemoryShardStore:
    """Implements `coordinator.ports.ShardStore`.

    Args:
        shard: the data. Two stores over the same data are two coordinators over one shard: the later claim fences the earlier.
        now_ms: the store's time, in milliseconds since 1970.
        fault: decides what goes wrong.
    """

    def __init__(self, *, shard: MemoryShard, now_ms: Callable[[], int], fault: FaultHook = no_faults) -> None:
        self._shard = shard
        self._now_ms = now_ms
        self._fault = fault
        self._token: object = object()
        self._epoch = 0

    def owns(self) -> bool:
        """Whether the shard is still this store's: shared state in memory asks before each write."""
        return self._shard.owner is self._token

    async def claim(self, claimant: Claimant = ALONE) -> Claim | Held:
        """See ShardStore."""
        fault = await self._before(StoreCall.CLAIM)
        shard, now = self._shard, self._now_ms()
        held = _held(shard, claimant, now)
        if held is not None:
            _after(fault)
            return held
        shard.claimant, shard.lease_until_ms, shard.offered_until_ms = claimant, now + claimant.lease_ms, 0
        shard.epoch = max(shard.epoch + 1, self._epoch + 1, now)
        shard.owner = token = object()
        shard.unfinished = None
        _after(fault)
        self._token, self._epoch = token, shard.epoch
        snapshot = shard.snapshot.stored() if shard.snapshot is not None else None
        return Claim(epoch=shard.epoch, sequence=shard.sequence, date_ms=now, snapshot=snapshot)

    async def append(
        self,
        *,
        sequence: int,
        commit_nonce: str,
        blob: bytes,
        ended: Sequence[EndedTask],
        redriven: Sequence[tuple[str, str]] = (),
    ) -> Appended:
        """See ShardStore."""
        token = self._token
        fault = await self._before(StoreCall.APPEND)
        answer = self._apply(token, sequence, commit_nonce, blob, ended, redriven)
        _after(fault)
        return Appended(answer=answer, date_ms=self._now_ms())

    def _apply(
        self,
        token: object,
        sequence: int,
        commit_nonce: str,
        blob: bytes,
        ended: Sequence[EndedTask],
        redriven: Sequence[tuple[str, str]],
    ) -> AppendAnswer:
        shard = self._shard
        if shard.owner is not token:
            return self._fenced()
        if shard.sequence == sequence and shard.commit_nonce == commit_nonce:
            self._extend()
            return AppendAnswer.ALREADY_MINE
        if shard.sequence != sequence - 1:
            return AppendAnswer.DIVERGED
        shard.journal[sequence] = blob
        for name, task_id in redriven:
            self._supersede(shard.namespaces.setdefault(name, _Namespace()), task_id)
        for place, task in enumerate(ended):
            namespace = shard.namespaces.setdefault(task.namespace, _Namespace())
            task_marker = marker(sequence, place)
            position = namespace.base + len(namespace.index)
            entry = EndedEntry(position=position, task_id=task.task_id, end_ms=task.end_ms, record_bytes=len(task.record))
            namespace.index.append((task_marker, entry))
            for term in task.terms:
                namespace.terms.setdefault(term, deque()).append(position)
            namespace.records[task.task_id] = (task_marker, task.record)
            namespace.record_bytes += len(task.record)
        shard.sequence = sequence
        shard.commit_nonce = commit_nonce
        self._extend()
        return AppendAnswer.APPLIED

    def _extend(self) -> None:
        self._shard.lease_until_ms = self._now_ms() + self._shard.claimant.lease_ms

    @staticmethod
    def _supersede(held: _Namespace, task_id: str) -> None:
        """A record goes; its line stays, and stands for nothing."""
        known = held.records.pop(task_id, None)
        if known is not None:
            held.record_bytes -= len(known[1])
            held.superseded += 1

    async def confirm(self, *, sequence: int) -> Appended:
        """See ShardStore."""
        token = self._token
        fault = await self._before(StoreCall.CONFIRM)
        answer = AppendAnswer.APPLIED if self._shard.sequence == sequence else AppendAnswer.DIVERGED
        if self._shard.owner is not token:
            answer = self._fenced()
        if answer is AppendAnswer.APPLIED:
            self._extend()
        _after(fault)
        return Appended(answer=answer, date_ms=self._now_ms())

    def _fenced(self) -> AppendAnswer:
        """By a later claim. If an earlier one is the last, the store has lost ours."""
        return AppendAnswer.DIVERGED if self._shard.epoch < self._epoch else AppendAnswer.FENCED

    async def release(self, *, offer_to: str = "", offer_ms: int = 0) -> bool:
        """See ShardStore."""
        token = self._token
        fault = await self._before(StoreCall.RELEASE)
        shard = self._shard
        released = shard.owner is token
        if released:
            shard.owner, shard.claimant, shard.lease_until_ms = None, ALONE, 0
            shard.offered_to, shard.offered_until_ms = offer_to, self._now_ms() + offer_ms if offer_to else 0
        _after(fault)
        return released

    async def look(self) -> tuple[int, StoredSnapshot | None]:
        """See ShardStore."""
        _after(await self._before(StoreCall.READ))
        snapshot = self._shard.snapshot
        return self._shard.sequence, snapshot.stored() if snapshot is not None else None

    async def read(self, *, after: int, limit: int) -> list[tuple[int, bytes]]:
        """See ShardStore."""
        _after(await self._before(StoreCall.READ))
        journal = self._shard.journal
        first = max(after + 1, next(iter(journal), 0))
        held = (sequence for sequence in range(first, self._shard.sequence + 1) if sequence in journal)  # a test may have torn a hole
        return [(sequence, journal[sequence]) for sequence in islice(held, limit)]

    async def write_snapshot(self, *, sequence: int, nonce: str, place: int, piece: bytes) -> bool:
        """See ShardStore."""
        token = self._token
        fault = await self._before(StoreCall.SNAPSHOT)
        written = self._shard.owner is token and self._write_piece(sequence, nonce, place, piece)
        _after(fault)
        return written

    def _write_piece(self, sequence: int, nonce: str, place: int, piece: bytes) -> bool:
        shard, snapshot = self._shard, self._shard.unfinished
        if snapshot is None or (snapshot.sequence, snapshot.nonce) != (sequence, nonce):
            if place != 0:
                return False
            snapshot = shard.unfinished = _Snapshot(sequence, nonce)
        if place > len(snapshot.pieces):
            return False
        if place == len(snapshot.pieces):
            snapshot.pieces.append(piece)
        return True

    async def finish_snapshot(self, *, sequence: int, nonce: str, pieces: int, size_bytes: int) -> bool:
        """See ShardStore."""
        token = self._token
        fault = await self._before(StoreCall.SNAPSHOT)
        finished = self._shard.owner is token and self._finish(sequence, nonce, pieces, size_bytes)
        _after(fault)
        return finished

    def _finish(self, sequence: int, nonce: str, pieces: int, size_bytes: int) -> bool:
        shard = self._shard
        if shard.snapshot is not None and (shard.snapshot.sequence, shard.snapshot.nonce) == (sequence, nonce):
            return True
        snapshot = shard.unfinished
        if snapshot is None or (snapshot.sequence, snapshot.nonce) != (sequence, nonce) or sequence > shard.sequence:
            return False
        if snapshot.stored() != StoredSnapshot(sequence=sequence, pieces=pieces, size_bytes=size_bytes):
            return False
        shard.snapshot, shard.unfinished = snapshot, None
        return True

    async def read_snapshot(self, *, sequence: int, place: int) -> bytes | None:
        """See ShardStore."""
        _after(await self._before(StoreCall.READ))
        snapshot = self._shard.snapshot
        return snapshot.pieces[place] if snapshot is not None and snapshot.sequence == sequence else None

    async def trim_journal(self, *, limit: int) -> int:
        """See ShardStore."""
        token = self._token
        fault = await self._before(StoreCall.TRIM)
        trimmed = self._trim(limit) if self._shard.owner is token else 0
        _after(fault)
        return trimmed

    def _trim(self, limit: int) -> int:
        snapshot, journal = self._shard.snapshot, self._shard.journal
        covered = list(islice((one for one in journal if snapshot is not None and one <= snapshot.sequence), limit))
        for sequence in covered:
            del journal[sequence]
        return len(covered)

    async def get_records(self, namespace: str, task_ids: Sequence[str], *, max_bytes: int = MAX_READ_BYTES) -> list[bytes | None]:
        """See ShardStore."""
        _after(await self._before(StoreCall.READ))
        held = self._namespace(namespace).records
        records: list[bytes | None] = []
        room = max_bytes
        for task_id in task_ids:
            record = held[task_id][1] if task_id in held else None
            room -= len(record or b"")
            if room < 0 and records:
                break
            records.append(record)
        return records

    async def list_ended(self, namespace: str, *, before: int | None, limit: int, terms: Sequence[Sequence[str]] = ()) -> list[EndedEntry]:
        """See ShardStore."""
        _after(await self._before(StoreCall.READ))
        held = self._namespace(namespace)
        if terms:
            groups = [[position for term in group for position in held.terms.get(term, ())] for group in terms]
            found = sorted((position for position in min(groups, key=len) if before is None or position < before), reverse=True)
            return [held.index[position - held.base][1] for position in found[:limit]]
        stop = len(held.index) if before is None else min(len(held.index), before - held.base)
        latest_first = islice(reversed(held.index), len(held.index) - max(stop, 0), None)
        return [entry for _, entry in islice(latest_first, limit)]

    async def count_ended(self, namespace: str) -> int:
        """See ShardStore."""
        _after(await self._before(StoreCall.READ))
        held = self._namespace(namespace)
        return len(held.index) - held.superseded

    async def expire_ended(self, namespace: str, retention: Retention, *, limit: int) -> int:
        """See ShardStore. Answers 0 as well when the shard has another owner: the next append says so."""
        token = self._token
        fault = await self._before(StoreCall.EXPIRE)
        expired = self._expire(self._namespace(namespace), retention, limit) if self._shard.owner is token else 0
        _after(fault)
        return expired

    def _expire(self, held: _Namespace, retention: Retention, limit: int) -> int:
        oldest = [entry for _, entry in islice(held.index, limit)]
        stale = [entry.position for task_marker, entry in islice(held.index, limit) if not held.is_last(entry.task_id, task_marker)]
        expired = count_expired(
            oldest,
            held=len(held.index) - held.superseded,
            held_bytes=held.record_bytes,
            retention=retention,
            date_ms=self._now_ms(),
            superseded=stale,
        )
        return self._remove(held, expired)

    @staticmethod
    def _remove(held: _Namespace, expired: int) -> int:
        """Removes the oldest."""
        for _ in range(expired):
            task_marker, entry = held.index.popleft()
            held.base += 1
            if held.is_last(entry.task_id, task_marker):
                held.record_bytes -= entry.record_bytes
                del held.records[entry.task_id]
            else:
                held.superseded -= 1
        for term, positions in list(held.terms.items()) if expired else ():
            while positions and positions[0] < held.base:
                positions.popleft()
            if not positions:
                del held.terms[term]
        return expired

    async def purge_ended(self, namespace: str, records: Mapping[str, bytes]) -> list[str]:
        """See ShardStore."""
        token = self._token
        fault = await self._before(StoreCall.EXPIRE)
        held = self._namespace(namespace)
        known = held.records if self._shard.owner is token else {}
        gone = [task_id for task_id, record in records.items() if task_id in known and known[task_id][1] == record]
        for task_id in gone:
            self._supersede(held, task_id)
        _after(fault)
        return gone

    async def purge_namespace(self, namespace: str, *, limit: int) -> int:
        """See ShardStore."""
        token = self._token
        fault = await self._before(StoreCall.EXPIRE)
        removed = 0
        if self._shard.owner is token:
            held = self._namespace(namespace)
            removed = self._remove(held, min(limit, len(held.index)))
            if not removed:
                self._shard.namespaces.pop(namespace, None)
        _after(fault)
        return removed

    async def slim_ended(self, namespace: str, slim: Callable[[bytes], bytes], *, limit: int) -> int:
        """See ShardStore."""
        token = self._token
        fault = await self._before(StoreCall.EXPIRE)
        gone_over = self._slim(self._namespace(namespace), slim, limit) if self._shard.owner is token else 0
        _after(fault)
        return gone_over

    def _slim(self, held: _Namespace, slim: Callable[[bytes], bytes], limit: int) -> int:
        first = max(held.base, held.slimmed)
        stop = min(first + limit, held.base + len(held.index))
        for place in range(first - held.base, stop - held.base):
            task_marker, entry = held.index[place]
            known = held.records.get(entry.task_id)
            if known is not None and known[0] == task_marker:
                record = slim(known[1])
                held.records[entry.task_id] = (task_marker, record)
                held.index[place] = (task_marker, replace(entry, record_bytes=len(record)))
                held.record_bytes += len(record) - len(known[1])
        held.slimmed = stop
        return stop - first

    async def now_ms(self) -> int:
        """See ShardStore."""
        _after(await self._before(StoreCall.READ))
        return self._now_ms()

    def _namespace(self, name: str) -> _Namespace:
        return self._shard.namespaces.get(name) or _Namespace()

    async def _before(self, call: StoreCall) -> Fault:
        fault = await self._fault(call)
        if fault is Fault.BEFORE:
            raise StoreOutage("the store can't be reached")
        return fault


def _held(shard: MemoryShard, claimant: Claimant, now_ms: int) -> Held | None:
    """Who has a shard, or was offered it, while somebody else asks for it."""
    if not claimant.lease_ms:
        return None
    owner, me = shard.claimant, claimant.coordinator_id
    if shard.owner is not None and owner.lease_ms and shard.lease_until_ms > now_ms and owner.coordinator_id != me:
        return Held(owner.coordinator_id, owner.address, shard.lease_until_ms - now_ms)
    if shard.offered_until_ms > now_ms and shard.offered_to != me:
        return Held(shard.offered_to, "", shard.offered_until_ms - now_ms)
    return None


def _after(fault: Fault) -> None:
    if fault is Fault.AFTER:
        raise StoreOutage("the store's answer was lost")
