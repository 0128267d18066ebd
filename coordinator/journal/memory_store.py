"""A shard in memory, for tests and simulations: what `redis_store` promises, by a clock and with faults that the caller injects."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import islice

from coordinator.journal.layout import marker
from coordinator.journal.retention import count_expired
from coordinator.ports import MAX_READ_BYTES, AppendAnswer, Appended, Claim, EndedEntry, EndedTask, Retention, StoreOutage


class StoreCall(Enum):
    """What a fault may hit."""

    CLAIM = auto()
    APPEND = auto()
    CONFIRM = auto()
    READ = auto()
    EXPIRE = auto()


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
    record_bytes: int = 0
    records: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)


@dataclass(slots=True)
class MemoryShard:
    """The data of a shard, which outlives its owners: give it to the store of each."""

    owner: object | None = None
    epoch: int = 0
    sequence: int = 0
    commit_nonce: str = ""
    journal: dict[int, bytes] = field(default_factory=dict)
    namespaces: dict[str, _Namespace] = field(default_factory=dict)


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

    async def claim(self) -> Claim:
        """See ShardStore."""
        fault = await self._before(StoreCall.CLAIM)
        shard, now = self._shard, self._now_ms()
        shard.epoch = max(shard.epoch + 1, now)
        shard.owner = token = object()
        _after(fault)
        self._token = token
        return Claim(epoch=shard.epoch, sequence=shard.sequence, date_ms=now)

    async def append(self, *, sequence: int, commit_nonce: str, blob: bytes, ended: Sequence[EndedTask]) -> Appended:
        """See ShardStore."""
        token = self._token
        fault = await self._before(StoreCall.APPEND)
        answer = self._apply(token, sequence, commit_nonce, blob, ended)
        _after(fault)
        return Appended(answer=answer, date_ms=self._now_ms())

    def _apply(self, token: object, sequence: int, commit_nonce: str, blob: bytes, ended: Sequence[EndedTask]) -> AppendAnswer:
        shard = self._shard
        if shard.owner is not token:
            return AppendAnswer.FENCED
        if shard.sequence == sequence and shard.commit_nonce == commit_nonce:
            return AppendAnswer.ALREADY_MINE
        if shard.sequence != sequence - 1:
            return AppendAnswer.DIVERGED
        shard.journal[sequence] = blob
        for place, task in enumerate(ended):
            namespace = shard.namespaces.setdefault(task.namespace, _Namespace())
            task_marker = marker(sequence, place)
            position = namespace.base + len(namespace.index)
            entry = EndedEntry(position=position, task_id=task.task_id, end_ms=task.end_ms, record_bytes=len(task.record))
            namespace.index.append((task_marker, entry))
            namespace.records[task.task_id] = (task_marker, task.record)
            namespace.record_bytes += len(task.record)
        shard.sequence = sequence
        shard.commit_nonce = commit_nonce
        return AppendAnswer.APPLIED

    async def confirm(self, *, sequence: int) -> Appended:
        """See ShardStore."""
        token = self._token
        _after(await self._before(StoreCall.CONFIRM))
        shard = self._shard
        answer = AppendAnswer.APPLIED if shard.sequence == sequence else AppendAnswer.DIVERGED
        return Appended(answer=answer if shard.owner is token else AppendAnswer.FENCED, date_ms=self._now_ms())

    async def read(self, *, after: int, limit: int) -> list[tuple[int, bytes]]:
        """See ShardStore."""
        _after(await self._before(StoreCall.READ))
        journal = self._shard.journal
        first = max(after + 1, next(iter(journal), 0))
        return [(sequence, journal[sequence]) for sequence in range(first, min(first + limit, self._shard.sequence + 1))]

    async def first_sequence(self) -> int:
        """See ShardStore."""
        _after(await self._before(StoreCall.READ))
        return next(iter(self._shard.journal), 0)

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

    async def list_ended(self, namespace: str, *, before: int | None, limit: int) -> list[EndedEntry]:
        """See ShardStore."""
        _after(await self._before(StoreCall.READ))
        held = self._namespace(namespace)
        stop = len(held.index) if before is None else min(len(held.index), before - held.base)
        latest_first = islice(reversed(held.index), len(held.index) - max(stop, 0), None)
        return [entry for _, entry in islice(latest_first, limit)]

    async def count_ended(self, namespace: str) -> int:
        """See ShardStore."""
        _after(await self._before(StoreCall.READ))
        return len(self._namespace(namespace).index)

    async def expire_ended(self, namespace: str, retention: Retention, *, limit: int) -> int:
        """See ShardStore. Answers 0 as well when the shard has another owner: the next append says so."""
        token = self._token
        fault = await self._before(StoreCall.EXPIRE)
        expired = self._expire(self._namespace(namespace), retention, limit) if self._shard.owner is token else 0
        _after(fault)
        return expired

    def _expire(self, held: _Namespace, retention: Retention, limit: int) -> int:
        oldest = [entry for _, entry in islice(held.index, limit)]
        expired = count_expired(oldest, held=len(held.index), held_bytes=held.record_bytes, retention=retention, date_ms=self._now_ms())
        for _ in range(expired):
            task_marker, entry = held.index.popleft()
            held.base += 1
            held.record_bytes -= entry.record_bytes
            if entry.task_id in held.records and held.records[entry.task_id][0] == task_marker:
                del held.records[entry.task_id]
        return expired

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


def _after(fault: Fault) -> None:
    if fault is Fault.AFTER:
        raise StoreOutage("the store's answer was lost")
