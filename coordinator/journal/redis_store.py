"""A shard in Redis or Valkey. Owns the calls and their arguments; key names are in `layout`, the Lua in `scripts`."""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, count
from typing import Any

from redis.asyncio import ConnectionPool

from coordinator.journal.confirmed_writes import ConfirmedWrites
from coordinator.journal.layout import JOURNAL_FIELD, MARKER_BYTES, ShardKeys, marker_of_line, pack_tasks, resized_line, unpack_line
from coordinator.journal.ordered_connection import OrderedConnection
from coordinator.journal.redis_errors import as_store_errors
from coordinator.journal.replica_wait import ReplicaWait
from coordinator.journal.retention import count_expired
from coordinator.journal.scripts import (
    APPEND,
    CLAIM,
    CONFIRM,
    COUNT_ENDED,
    EXPIRE_ENDED,
    FINISH_SNAPSHOT,
    LIST_ENDED,
    MARKERS,
    OLDEST_ENDED,
    PURGE_ENDED,
    READ_RECORDS,
    READ_SNAPSHOT,
    RELEASE,
    RENEW,
    SLIM_ENDED,
    TRIM_JOURNAL,
    UNSLIMMED_ENDED,
    WRITE_SNAPSHOT,
    Script,
)
from coordinator.journal.term_scripts import CLEAR_TERMS, DEAD_TERMS, DROP_NAMESPACE, FIND_ENDED
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
    StoreCorrupt,
    StoredSnapshot,
)

_ANSWERS = {answer.value.encode(): answer for answer in AppendAnswer}
_KEYS_PER_READ = 1000  # one script blocks the server for about a millisecond
_TERMS_PER_CALL = 500  # likewise


class RedisShardStore:
    """Implements `coordinator.ports.ShardStore`.

    Writes go over a connection of this shard's own, in order; reads over another. Nothing is retried here: the caller repeats a call that
    raised StoreOutage, and finds a new connection by then if there is a server.

    Args:
        pool: makes the connections: they answer bytes (no decode_responses), retry nothing, and have no time-out but for connecting.
        keys: the shard's.
        new_nonce: makes the random part of an owner's token, different at each call.
        call_timeout_s: after this a call is an outage: a read has failed, a write has an unknown fate.
        wait: how many replicas are waited for before a claim, an append or a confirmation is answered, and reads show what it wrote.
    """

    def __init__(
        self,
        *,
        pool: ConnectionPool,
        keys: ShardKeys,
        new_nonce: Callable[[], str],
        call_timeout_s: float = 10.0,
        wait: ReplicaWait | None = None,
    ) -> None:
        self._keys = keys
        self._new_nonce = new_nonce
        # Writes don't wait behind reads, nor reads behind writes.
        self._writes = OrderedConnection(pool=pool, call_timeout_s=call_timeout_s)
        self._reads = OrderedConnection(pool=pool, call_timeout_s=call_timeout_s)
        self._snapshots = OrderedConnection(pool=pool, call_timeout_s=call_timeout_s)  # a commit needn't wait until a megabyte is sent
        self._confirmed = ConfirmedWrites(connection=self._writes, wait=wait, head=keys.head, token=self.token, timeout_s=call_timeout_s)
        self._epoch = 0  # of the last claim
        self._token = ""  # no owner has an empty token: before a claim every append is FENCED
        self._confirm = CONFIRM

    def token(self) -> str:
        """What the shard's head says while it is this store's: shared state's writes are fenced by it, too."""
        return self._token

    async def claim(self, claimant: Claimant = ALONE) -> Claim | Held:
        """See ShardStore."""
        nonce = self._new_nonce()
        with as_store_errors():
            answer = await self._confirmed.run(
                CLAIM,
                keys=(self._keys.head, self._keys.journal, *self._keys.snapshots),
                arguments=(nonce, claimant.lease_ms, claimant.coordinator_id, claimant.address, self._epoch),
            )
        if answer[0] == b"HELD":
            return Held(coordinator_id=answer[1].decode(), address=answer[2].decode(), for_ms=answer[3])
        epoch, sequence, date_ms, *snapshot = answer
        self._epoch, self._token = epoch, f"{epoch}:{nonce}"
        self._confirm = RENEW if claimant.lease_ms else CONFIRM
        return Claim(epoch=epoch, sequence=sequence, date_ms=date_ms, snapshot=StoredSnapshot(*snapshot) if snapshot[0] else None)

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
        by_namespace: dict[str, list[tuple[int, EndedTask]]] = {}
        for place in enumerate(ended):
            by_namespace.setdefault(place[1].namespace, []).append(place)
        gone: dict[str, list[str]] = {}
        for namespace, task_id in redriven:
            gone.setdefault(namespace, []).append(self._keys.tasks(namespace) + task_id)
            by_namespace.setdefault(namespace, [])
        keys = [self._keys.head, self._keys.journal]
        arguments: list[Any] = [self._token, sequence, sequence - 1, commit_nonce, blob, len(by_namespace)]
        groups = [pack_tasks(tasks, sequence=sequence, prefix=self._keys.tasks(namespace)) for namespace, tasks in by_namespace.items()]
        lists: list[str] = []
        runs: list[str] = []
        for namespace, group in zip(by_namespace, groups, strict=True):
            keys += (self._keys.ended(namespace), self._keys.counters(namespace), self._keys.terms(namespace))
            arguments += (len(group.keys), group.record_bytes, len(group.runs), len(gone.get(namespace, ())))
            for term, having in group.runs.items():
                lists.append(self._keys.term(namespace, term))
                runs += (term, having)
        keys += lists
        arguments += runs
        for group in groups:
            keys += group.keys
            arguments += group.lines
        for namespace in by_namespace if gone else ():
            keys += gone.get(namespace, ())
        for group in groups:
            arguments += group.values
        with as_store_errors():
            answer, date_ms = await self._confirmed.run(APPEND, keys=keys, arguments=arguments)
            return Appended(answer=await self._became(answer), date_ms=date_ms)

    async def confirm(self, *, sequence: int) -> Appended:
        """See ShardStore."""
        with as_store_errors():
            answer, date_ms = await self._confirmed.run(self._confirm, keys=(self._keys.head,), arguments=(self._token, sequence))
            return Appended(answer=await self._became(answer), date_ms=date_ms)

    async def _became(self, answer: bytes) -> AppendAnswer:
        """FENCED is by a later claim. If an earlier one is the last, the store has lost ours, and nobody else has the shard by it."""
        if answer == b"FENCED" and int(await self._writes.call("HGET", self._keys.head, "epoch") or 0) < self._epoch:
            return AppendAnswer.DIVERGED
        return _ANSWERS[answer]

    async def release(self, *, offer_to: str = "", offer_ms: int = 0) -> bool:
        """See ShardStore."""
        with as_store_errors():
            released = await self._writes.run(RELEASE, keys=(self._keys.head,), arguments=(self._token, offer_to, offer_ms))
        return bool(released)

    async def look(self) -> tuple[int, StoredSnapshot | None]:
        """See ShardStore."""
        names = ("sequence", "snapshot_sequence", "snapshot_pieces", "snapshot_bytes")
        sequence, *snapshot = await self._read("HMGET", self._keys.head, *names)
        return int(sequence or 0), StoredSnapshot(*map(int, snapshot)) if snapshot[0] else None

    async def read(self, *, after: int, limit: int) -> list[tuple[int, bytes]]:
        """See ShardStore."""
        entries = await self._read("XRANGE", self._keys.journal, f"{after + 1}-0", "+", "COUNT", limit)
        return [_entry(entry) for entry in entries]

    async def write_snapshot(self, *, sequence: int, nonce: str, place: int, piece: bytes) -> bool:
        """See ShardStore."""
        return await self._snapshot(WRITE_SNAPSHOT, sequence, nonce, place, piece)

    async def finish_snapshot(self, *, sequence: int, nonce: str, pieces: int, size_bytes: int) -> bool:
        """See ShardStore."""
        return await self._snapshot(FINISH_SNAPSHOT, sequence, nonce, pieces, size_bytes)

    async def _snapshot(self, script: Script, *arguments: int | str | bytes) -> bool:
        with as_store_errors():
            done = await self._snapshots.run(script, keys=(self._keys.head, *self._keys.snapshots), arguments=(self._token, *arguments))
        return bool(done)

    async def read_snapshot(self, *, sequence: int, place: int) -> bytes | None:
        """See ShardStore."""
        piece: bytes | None = await self._run_read(
            READ_SNAPSHOT, keys=(self._keys.head, *self._keys.snapshots), arguments=(sequence, place)
        )
        return piece

    async def trim_journal(self, *, limit: int) -> int:
        """See ShardStore."""
        with as_store_errors():
            trimmed: int = await self._snapshots.run(
                TRIM_JOURNAL, keys=(self._keys.head, self._keys.journal), arguments=(self._token, limit)
            )
        return trimmed

    async def get_records(self, namespace: str, task_ids: Sequence[str], *, max_bytes: int = MAX_READ_BYTES) -> list[bytes | None]:
        """See ShardStore."""
        values = await self._values(namespace, task_ids, max_bytes)
        return [None if value is None else value[MARKER_BYTES:] for value in values]

    async def _values(self, namespace: str, task_ids: Sequence[str], max_bytes: int) -> list[bytes | None]:
        """The records of the first ids, each behind its marker."""
        prefix = self._keys.tasks(namespace)
        values: list[bytes | None] = []
        room = max_bytes
        for start in range(0, len(task_ids), _KEYS_PER_READ):
            keys = [prefix + task_id for task_id in task_ids[start : start + _KEYS_PER_READ]]
            found = await self._run_read(READ_RECORDS, keys=keys, arguments=(room, 0 if values else 1))
            values.extend(found)
            room -= sum(len(value) for value in found if value is not None)
            if len(found) < len(keys):
                break
        return values

    async def list_ended(self, namespace: str, *, before: int | None, limit: int, terms: Sequence[Sequence[str]] = ()) -> list[EndedEntry]:
        """See ShardStore."""
        ended, counters = self._keys.ended(namespace), self._keys.counters(namespace)
        found: list[EndedEntry] = []
        if terms:
            lists = [self._keys.term(namespace, term) for group in terms for term in group]
            base, indexed, positions, lines = await self._run_read(
                FIND_ENDED, keys=(ended, counters, *lists), arguments=("" if before is None else before, limit, *map(len, terms))
            )
            found = _entries(lines, positions)
            if len(found) >= limit or base >= indexed:
                return found
            before, limit = indexed if before is None else min(before, indexed), limit - len(found)  # the rest, as it is in no list
        first, *rest = await self._run_read(
            LIST_ENDED,
            keys=(ended, counters),
            arguments=("" if before is None else before, limit),
        )
        entries = _entries(rest[0], count(first)) if rest else []
        return found + entries[::-1]

    async def count_ended(self, namespace: str) -> int:
        """See ShardStore."""
        count: int = await self._run_read(COUNT_ENDED, keys=(self._keys.ended(namespace), self._keys.counters(namespace)), arguments=())
        return count

    async def expire_ended(self, namespace: str, retention: Retention, *, limit: int) -> int:
        """See ShardStore. Answers 0 as well when the shard has another owner: the next append says so."""
        ended, counters, terms = self._keys.ended(namespace), self._keys.counters(namespace), self._keys.terms(namespace)
        base, held_bytes, superseded, held, date_ms, lines, dead_terms = await self._run_read(
            OLDEST_ENDED, keys=(ended, counters, terms), arguments=(limit,)
        )
        entries = _entries(lines, count(base))
        prefix = self._keys.tasks(namespace)
        stale: set[int] = set()
        if superseded:
            markers = await self._run_read(MARKERS, keys=[prefix + entry.task_id for entry in entries], arguments=())
            known = zip(entries, lines, markers, strict=True)
            stale = {entry.position for entry, line, found in known if found != marker_of_line(line)}
        held -= superseded
        expired = count_expired(entries, held=held, held_bytes=held_bytes, retention=retention, date_ms=date_ms, superseded=stale)
        if dead_terms and not expired:  # somebody was interrupted
            await self._clear_terms(namespace)
        if not expired:
            return 0
        return await self._remove_ended(namespace, base, lines[:expired], entries[:expired])

    async def purge_namespace(self, namespace: str, *, limit: int) -> int:
        """See ShardStore."""
        ended, counters, terms = self._keys.ended(namespace), self._keys.counters(namespace), self._keys.terms(namespace)
        base, *_, lines, _ = await self._run_read(OLDEST_ENDED, keys=(ended, counters, terms), arguments=(limit,))
        if lines:
            return await self._remove_ended(namespace, base, lines, _entries(lines, count(base)))
        await self._clear_terms(namespace)  # somebody may have been interrupted
        with as_store_errors():
            await self._writes.run(DROP_NAMESPACE, keys=(self._keys.head, ended, counters, terms), arguments=(self._token,))
        return 0

    async def _remove_ended(self, namespace: str, base: int, lines: Sequence[bytes], entries: Sequence[EndedEntry]) -> int:
        """Removes the oldest ended tasks, which these are, with all that is kept of them."""
        ended, counters = self._keys.ended(namespace), self._keys.counters(namespace)
        prefix = self._keys.tasks(namespace)
        with as_store_errors():
            removed: int = await self._writes.run(
                EXPIRE_ENDED,
                keys=[self._keys.head, ended, counters, *(prefix + entry.task_id for entry in entries)],
                arguments=[
                    self._token,
                    base,
                    *chain.from_iterable((marker_of_line(line), entry.record_bytes) for line, entry in zip(lines, entries, strict=True)),
                ],
            )
        await self._clear_terms(namespace)
        return removed

    async def purge_ended(self, namespace: str, records: Mapping[str, bytes]) -> list[str]:
        """See ShardStore."""
        task_ids = list(records)
        values = await self._values(namespace, task_ids, sum(MARKER_BYTES + len(record) for record in records.values()))
        wanted = {
            task_id: value[:MARKER_BYTES]
            for task_id, value in zip(task_ids, values, strict=False)
            if value is not None and value[MARKER_BYTES:] == records[task_id]
        }
        if not wanted:
            return []
        prefix = self._keys.tasks(namespace)
        with as_store_errors():
            gone: list[int] = await self._writes.run(
                PURGE_ENDED,
                keys=[self._keys.head, self._keys.counters(namespace), *(prefix + task_id for task_id in wanted)],
                arguments=[self._token, *wanted.values()],
            )
        return [task_id for task_id, is_gone in zip(wanted, gone, strict=True) if is_gone]

    async def _clear_terms(self, namespace: str) -> None:
        """Removes what is left of expired tasks in the lists of their terms: no more than they had."""
        counters, terms = self._keys.counters(namespace), self._keys.terms(namespace)
        while dead := await self._run_read(DEAD_TERMS, keys=(counters, terms), arguments=(_TERMS_PER_CALL,)):
            lists = [self._keys.term(namespace, term.decode()) for term in dead]
            with as_store_errors():
                cleared = await self._writes.run(
                    CLEAR_TERMS, keys=[self._keys.head, counters, terms, *lists], arguments=[self._token, *dead]
                )
            if not cleared:
                return

    async def slim_ended(self, namespace: str, slim: Callable[[bytes], bytes], *, limit: int) -> int:
        """See ShardStore."""
        ended, counters = self._keys.ended(namespace), self._keys.counters(namespace)
        first, lines = await self._run_read(UNSLIMMED_ENDED, keys=(ended, counters), arguments=(limit,))
        task_ids = [entry.task_id for entry in _entries(lines, count(first))]
        values = await self._values(namespace, task_ids, MAX_READ_BYTES) if task_ids else []
        arguments: list[Any] = [self._token, first]
        for line, value in zip(lines, values, strict=False):
            task_marker = marker_of_line(line)
            if value is None or not value.startswith(task_marker):  # it has ended again since: that end has a line of its own
                arguments += (task_marker, b"", b"", 0)
                continue
            slimmed = task_marker + slim(value[MARKER_BYTES:])
            shorter = resized_line(line, record_bytes=len(slimmed) - MARKER_BYTES)
            arguments += (task_marker, slimmed, shorter, len(value) - len(slimmed))
        if not values:
            return 0
        prefix = self._keys.tasks(namespace)
        keys = [self._keys.head, ended, counters, *(prefix + task_id for task_id in task_ids[: len(values)])]
        with as_store_errors():
            gone_over: int = await self._writes.run(SLIM_ENDED, keys=keys, arguments=arguments)
        return gone_over

    async def now_ms(self) -> int:
        """See ShardStore."""
        seconds, microseconds = await self._read("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def close(self) -> None:
        """Closes the shard's connections."""
        await self._writes.close()
        await self._reads.close()
        await self._snapshots.close()

    async def _read(self, *command: str | int) -> Any:
        with as_store_errors():
            answer = await self._reads.call(*command)
            await self._confirmed.settle()
            return answer

    async def _run_read(self, script: Script, *, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        with as_store_errors():
            answer = await self._reads.run(script, keys=keys, arguments=arguments)
            await self._confirmed.settle()
            return answer


def _entry(entry: tuple[bytes, list[bytes]]) -> tuple[int, bytes]:
    entry_id, fields = entry
    if len(fields) != 2 or fields[0] != JOURNAL_FIELD:
        raise StoreCorrupt(f"the journal holds an entry {entry_id!r} that isn't a commit")
    return int(entry_id.partition(b"-")[0]), fields[1]


def _entries(lines: Sequence[bytes], positions: Iterable[int]) -> list[EndedEntry]:
    try:
        return [unpack_line(line, position=position) for position, line in zip(positions, lines, strict=False)]
    except (struct.error, UnicodeDecodeError) as error:
        raise StoreCorrupt("the index of ended tasks holds a line that can't be read") from error
