"""Shared state in Redis or Valkey. Owns the calls and their arguments; names and bytes are in `layout`, the Lua in `scripts`."""

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from redis.asyncio import ConnectionPool
from redis.exceptions import OutOfMemoryError

from coordinator.journal.confirmed_writes import ConfirmedWrites
from coordinator.journal.ordered_connection import OrderedConnection
from coordinator.journal.redis_errors import as_store_errors
from coordinator.journal.replica_wait import ReplicaWait
from coordinator.journal.scripts import Script
from coordinator.ports import MAX_READ_BYTES, StoreCorrupt
from coordinator.state.layout import StateKeys, sized
from coordinator.state.model import Command, Entry, Limits, LockView
from coordinator.state.packing import pack_commands, pack_limits, unpack_entry, unpack_event, unpack_lock, unpack_verdicts
from coordinator.state.ports import EntryPage, EventPage, Facts, WriteAnswer, Written
from coordinator.state.read_scripts import DROP, ENTRY_AT, EVENTS, FACTS, GET, HISTORY, LIST, LOCKS
from coordinator.state.scripts import WRITE, WRITE_FULL

_ANSWERS = {answer.value.encode(): answer for answer in WriteAnswer}


class RedisStateStore:
    """Implements `coordinator.state.ports.StateStore`.

    Writes go over a connection of this shard's own, in order; reads over another. Nothing is retried here: the caller repeats a call that
    raised StoreOutage, and finds a new connection by then if there is a server.

    Args:
        pool: makes the connections, as for `RedisShardStore`.
        keys: the shard's.
        token: of the shard's claim: `RedisShardStore.token`.
        call_timeout_s: after this a call is an outage: a read has failed, a write has an unknown fate.
        wait: how many replicas are waited for before a write is answered, and reads and watches show it.
    """

    write_scripts: ClassVar = (WRITE, WRITE_FULL)

    def __init__(
        self,
        *,
        pool: ConnectionPool,
        keys: StateKeys,
        token: Callable[[], str],
        call_timeout_s: float = 10.0,
        wait: ReplicaWait | None = None,
    ) -> None:
        self._keys = keys
        self._token = token
        self._writes = OrderedConnection(pool=pool, call_timeout_s=call_timeout_s)
        self._reads = OrderedConnection(pool=pool, call_timeout_s=call_timeout_s)
        self._confirmed = ConfirmedWrites(connection=self._writes, wait=wait, head=keys.shard.head, token=token, timeout_s=call_timeout_s)

    async def write(self, namespace: str, commands: Sequence[Command], *, nonce: str, limits: Limits, known_revision: int = 0) -> Written:
        """See StateStore."""
        keys = (self._keys.shard.head, *self._keys.parts(namespace))
        packed = pack_commands(commands)

        async def run(script: Script, *, full: bool) -> Any:
            head = (self._token(), nonce, pack_limits(limits, known_revision=known_revision, full=full), len(commands))
            return await self._confirmed.run(script, keys=keys, arguments=(*head, *packed))

        write, write_full = self.write_scripts
        with as_store_errors():
            try:
                what, date_ms, *rest = await run(write, full=False)
            except OutOfMemoryError:  # it was refused before it began
                what, date_ms, *rest = await run(write_full, full=True)
        answer = _ANSWERS[what]
        if answer is WriteAnswer.FENCED:
            await self._require_later_claim()
            return Written(answer=answer, verdicts=(), revision=0, date_ms=date_ms, next_due_ms=None, incarnation="")
        revision, incarnation, next_due, verdicts, *lost = rest
        with _as_stored():
            return Written(
                answer=answer,
                verdicts=unpack_verdicts(commands, verdicts),
                revision=int(revision),
                date_ms=date_ms,
                next_due_ms=int(next_due) if next_due else None,
                incarnation=incarnation.decode(),
                lost=lost[0] if lost else 0,
            )

    async def _require_later_claim(self) -> None:
        """FENCED is by a later claim. If an earlier one is the last, the store has lost ours: the shard finds out, and claims it again."""
        with as_store_errors():
            epoch = await self._writes.call("HGET", self._keys.shard.head, "epoch")
        if int(epoch or 0) < int(self._token().partition(":")[0] or 0):
            raise StoreCorrupt("the store has lost the claim of the shard")

    async def get(self, namespace: str, keys: Sequence[str], *, max_bytes: int = MAX_READ_BYTES) -> tuple[int, Sequence[Entry | None]]:
        """See StateStore."""
        arguments = (max_bytes, *(key.encode() for key in keys))
        revision, *entries = await self._read(GET, namespace, "meta", "entries", "values", arguments=arguments)
        with _as_stored():
            found = [None if entry is None else unpack_entry(key, entry) for key, entry in zip(keys, entries, strict=False)]
            return int(revision), found

    async def list(self, namespace: str, *, prefix: str, after: str, limit: int, max_bytes: int, keys_only: bool) -> EntryPage:
        """See StateStore."""
        arguments = (*_range(prefix, after), limit, max_bytes, int(keys_only))
        revision, more, *rest = await self._read(LIST, namespace, "meta", "entries", "values", "index", arguments=arguments)
        with _as_stored():
            entries = [unpack_entry(key.decode(), entry) for key, entry in zip(rest[::2], rest[1::2], strict=True)]
            return EntryPage(revision=int(revision), entries=entries, after=entries[-1].key if more else None)

    async def events(self, namespace: str, *, after: int, limit: int, max_bytes: int) -> EventPage:
        """See StateStore."""
        page = await self._read(EVENTS, namespace, "meta", "events", arguments=(after, limit, max_bytes))
        with _as_stored():
            return _event_page(page, after)

    async def history(self, namespace: str, key: str, *, after: int, limit: int, max_bytes: int) -> EventPage:
        """See StateStore."""
        arguments = (sized(key.encode()), after, limit, max_bytes)
        page = await self._read(HISTORY, namespace, "meta", "events", "history", arguments=arguments)
        with _as_stored():
            return _event_page(page, None)

    async def entry_at(self, namespace: str, key: str, revision: int) -> Entry | None:
        """See StateStore."""
        arguments = (key.encode(), sized(key.encode()), revision.to_bytes(8))
        entry = await self._read(ENTRY_AT, namespace, "meta", "entries", "values", "events", "history", arguments=arguments)
        with _as_stored():
            return None if entry is None else unpack_entry(key, entry)

    async def locks(self, namespace: str, *, prefix: str, after: str, limit: int) -> Sequence[LockView]:
        """See StateStore."""
        arguments = (*_range(prefix, after), limit)
        locks = await self._read(LOCKS, namespace, "meta", "locks", "lock_index", "places", "line", arguments=arguments)
        with _as_stored():
            return [unpack_lock(*lock) for lock in locks]

    async def facts(self, namespace: str) -> Facts:
        """See StateStore."""
        facts = await self._read(FACTS, namespace, "meta", "entries", "deadlines", arguments=())
        with _as_stored():
            revision, incarnation, compact_revision, keys, size_bytes, next_due = facts
            return Facts(
                revision=int(revision),
                incarnation=incarnation.decode(),
                compact_revision=int(compact_revision),
                keys=keys,
                bytes=int(size_bytes),
                next_due_ms=int(next_due) if next_due else None,
            )

    async def drop(self, namespace: str, *, limit: int) -> bool:  # noqa: ARG002  # the server frees what is large in the background
        """See StateStore."""
        with as_store_errors():
            keys = (self._keys.shard.head, *self._keys.parts(namespace))
            await self._writes.run(DROP, keys=keys, arguments=(self._token(),))
        return False

    async def close(self) -> None:
        """Closes the connections."""
        await self._writes.close()
        await self._reads.close()

    async def _read(self, script: Script, namespace: str, *parts: str, arguments: Sequence[Any]) -> Any:
        keys = [self._keys.part(namespace, part) for part in parts]
        with as_store_errors():
            answer = await self._reads.run(script, keys=keys, arguments=arguments)
            await self._confirmed.settle()
            return answer


def _range(prefix: str, after: str) -> tuple[bytes, bytes]:
    """Names with a prefix, behind another, as ZRANGEBYLEX has it. No UTF-8 has the byte 255."""
    first, behind = prefix.encode(), after.encode()
    start = b"(" + behind if behind >= first and behind else b"[" + first
    return start, b"(" + first + b"\xff"


def _event_page(page: Sequence[Any], after: int | None) -> EventPage:
    """A script's answer. `after` is where a page of all events was to begin: before what is kept, nothing was looked at."""
    revision, compact_revision, more = int(page[0]), int(page[1]), page[2]
    events = [unpack_event(event_id, event) for event_id, event in zip(page[3::2], page[4::2], strict=True)]
    through = events[-1].revision if more else revision
    if after is not None and after < compact_revision - 1:
        through = after
    return EventPage(events=events, through=through, revision=revision, compact_revision=compact_revision)


@contextmanager
def _as_stored() -> Iterator[None]:
    """Turns what reading an answer raises into StoreCorrupt."""
    try:
        yield
    except (struct.error, IndexError, KeyError, ValueError, AttributeError) as error:
        raise StoreCorrupt(f"shared state holds what no release wrote: {error}") from error
