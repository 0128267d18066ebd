"""Imports an export into a store that holds nothing of these shards. A coordinator sees all of it or nothing.

While an import writes, the deployment's record says so, and no coordinator starts; the shards' heads are written last, all of them, and
then the record says so no more.
"""

import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import IO, Any, Final

from muster.v1 import export_pb2

from coordinator.admin.access import OpenStore
from coordinator.admin.errors import BadExport, ToolError, ToolRefused
from coordinator.admin.export_file import Contents, check_file, read_records, unpacked
from coordinator.admin.record_terms import terms_of_record
from coordinator.admin.state_import import StateImport
from coordinator.admin.stray_keys import keys_of
from coordinator.journal.deployment import IMPORTING
from coordinator.journal.layout import (
    FORMAT_VERSION,
    JOURNAL_FIELD,
    MARKER_BYTES,
    PLACE_BITS,
    ShardKeys,
    deployment_key,
    index_line,
    unpack_line,
)
from coordinator.state.layout import STATE_VERSION

_COMMANDS: Final = 1000  # of a round trip
_BYTES: Final = 4 * 1024 * 1024  # likewise

# The client is redis-py's, whose types leave open what its pipelines answer.

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import brought in."""

    shards: tuple[int, ...]
    contents: Contents


class Batch:
    """Commands that go out together, and what is to be done with each answer."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._commands: list[tuple[Any, ...]] = []
        self._answered: list[Callable[[Any], None] | None] = []
        self._size = 0

    def add(self, *command: Any, answered: Callable[[Any], None] | None = None) -> None:
        """Takes a command in. All go out in order, but not before `send`."""
        self._commands.append(command)
        self._answered.append(answered)
        self._size += sum(len(word) if isinstance(word, bytes | str) else 8 for word in command)

    def is_full(self) -> bool:
        """Whether it should go out."""
        return len(self._commands) >= _COMMANDS or self._size >= _BYTES

    async def send(self) -> None:
        """Sends what there is. What is added by the answers goes out next time."""
        commands, answered = self._commands, self._answered
        self._commands, self._answered, self._size = [], [], 0
        if not commands:
            return
        async with self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            for answer, then in zip(await pipeline.execute(), answered, strict=True):
                if then is not None:
                    then(answer)


@dataclass(slots=True)
class _Ended:
    """A namespace's ended tasks, as they have been written."""

    lines: int = 0
    bytes: int = 0
    superseded: int = 0
    terms: dict[str, int] = field(default_factory=dict)  # each with the last position of its list's first entry
    last_runs: dict[str, list[int]] = field(default_factory=dict)


class ShardImport:
    """The import of one shard, but for its head.

    Args:
        client: of the store.
        keys: the shard's.
        new_incarnation: makes the name under which shared state goes on.
    """

    def __init__(self, *, client: Any, keys: ShardKeys, new_incarnation: Callable[[], str]) -> None:
        self.client = client
        self.keys = keys
        self.batch = Batch(client)
        self._new_incarnation = new_incarnation
        self._ended: dict[str, _Ended] = {}
        self._states: dict[str, StateImport] = {}

    async def begin(self) -> None:
        """The shard begins, maybe again."""
        await self.batch.send()
        for name in {*self._ended, *self._states}:
            await self._drop(name)
        await self.client.unlink(self.keys.journal, *self.keys.snapshots)

    async def take(self, record: export_pb2.ExportRecord) -> None:
        """Writes a record of the file."""
        match record.WhichOneof("record"):
            case "snapshot_piece":
                self.batch.add("RPUSH", self.keys.snapshots[0], record.snapshot_piece)
            case "commit":
                self.batch.add("XADD", self.keys.journal, f"{record.commit.sequence}-0", JOURNAL_FIELD, record.commit.commit)
            case "ended":
                await self._take_ended(record.ended)
            case "redrive":
                await self._take_redrive(record.redrive)
            case "dropped_namespace":
                await self.batch.send()
                await self._drop(record.dropped_namespace)
            case "state":
                await self._take_state(record.state)
            case _:
                raise BadExport("the export can't be used: its records are out of order; export again")
        if self.batch.is_full():
            await self.batch.send()

    async def _take_ended(self, ended: export_pb2.ExportedTasks) -> None:
        name = ended.namespace
        known = self._ended.setdefault(name, _Ended())
        prefix, index = self.keys.tasks(name), self.keys.ended(name)

        def was_there(size: int) -> None:
            if size:  # it had ended before, and what removed its record isn't told of yet, or was a purge
                known.superseded += 1
                known.bytes -= size - MARKER_BYTES

        for task_id, number, end_ms, record in zip(ended.task_ids, ended.markers, ended.end_ms, ended.records, strict=True):
            marker = number.to_bytes(MARKER_BYTES)
            self.batch.add("STRLEN", prefix + task_id, answered=was_there)
            self.batch.add("SET", prefix + task_id, marker + record)
            self.batch.add("RPUSH", index, index_line(marker, task_id, end_ms=end_ms, record_bytes=len(record)))
            for term in terms_of_record(record):
                run = known.last_runs.get(term)
                if run is not None and sum(run) == known.lines:
                    run[1] += 1
                    continue
                if run is not None:
                    self._push_run(name, known, term, run)
                known.last_runs[term] = [known.lines, 1]
            known.lines += 1
            known.bytes += len(record)
            if self.batch.is_full():
                await self.batch.send()

    def _push_run(self, name: str, known: _Ended, term: str, run: list[int]) -> None:
        first, count = run
        self.batch.add("RPUSH", self.keys.term(name, term), str(first) if count == 1 else f"{first}+{count}")
        known.terms.setdefault(term, first + count - 1)

    async def _take_redrive(self, redrive: export_pb2.ExportedRedrive) -> None:
        await self.batch.send()  # what ended is there, and counted
        key, known = self.keys.tasks(redrive.namespace) + redrive.task_id, self._ended.get(redrive.namespace)
        value = await self.client.get(key)
        if known is not None and value is not None and int.from_bytes(value[:MARKER_BYTES]) >> PLACE_BITS < redrive.sequence:
            self.batch.add("UNLINK", key)
            known.superseded += 1
            known.bytes -= len(value) - MARKER_BYTES

    async def _take_state(self, part: export_pb2.ExportedState) -> None:
        state = self._states.get(part.namespace)
        if state is None:
            state = self._states[part.namespace] = StateImport(keys=self.keys, namespace=part.namespace, batch=self.batch)
        await state.take(self.client, part)

    async def _drop(self, name: str) -> None:
        """Removes what was written of a namespace."""
        known = self._ended.pop(name, None)
        if known is not None:
            for first in range(0, known.lines, _COMMANDS):
                lines = await self.client.lrange(self.keys.ended(name), first, first + _COMMANDS - 1)
                await self.client.unlink(*(self.keys.tasks(name) + unpack_line(line, position=0).task_id for line in lines))
            lists = [self.keys.term(name, term) for term in known.terms]
            await self.client.unlink(self.keys.ended(name), self.keys.counters(name), self.keys.terms(name), *lists)
        state = self._states.pop(name, None)
        if state is not None:
            await self.client.unlink(*state.all_keys())

    async def finish(self, end: export_pb2.ExportedShardEnd) -> dict[str, str]:
        """All records are in: writes what follows from them. Answers the head."""
        for name, known in self._ended.items():
            for term, run in known.last_runs.items():
                self._push_run(name, known, term, run)
            await self.batch.send()  # answers count
            counters = {"base": 0, "bytes": known.bytes, "superseded": known.superseded, "slimmed": 0, "indexed": 0}
            self.batch.add("HSET", self.keys.counters(name), *chain.from_iterable(counters.items()))
            for term, last in known.terms.items():
                self.batch.add("ZADD", self.keys.terms(name), last, term)
                if self.batch.is_full():
                    await self.batch.send()
        for state in self._states.values():
            await state.finish(self.client, incarnation=self._new_incarnation())
        if not end.sequence:
            await self.batch.send()
            return {}
        if not end.commits:  # the journal is empty, and ends where its head says
            self.batch.add("XADD", self.keys.journal, f"{end.sequence}-0", JOURNAL_FIELD, b"")
            self.batch.add("XDEL", self.keys.journal, f"{end.sequence}-0")
        await self.batch.send()
        head = {"epoch": str(end.epoch), "sequence": str(end.sequence), "nonce": end.nonce}
        if end.snapshot_pieces:
            head |= {
                "snapshot_key": "a",
                "snapshot_sequence": str(end.sequence - end.commits),
                "snapshot_nonce": "imported",
                "snapshot_pieces": str(end.snapshot_pieces),
                "snapshot_bytes": str(end.snapshot_bytes),
            }
        return head


async def import_file(
    store: OpenStore,
    file: IO[bytes],
    *,
    shards: Sequence[int],
    new_incarnation: Callable[[], str],
    progress: Progress,
    discard_unfinished: bool = False,
) -> Imported:
    """Brings the shards of an export into a store that holds nothing of them.

    Args:
        store: where to.
        file: an export that can be read twice.
        shards: which of its shards; none for all.
        new_incarnation: makes names for shared state.
        progress: is told.
        discard_unfinished: removes what an import that was interrupted has left; without it, that is refused.

    Raises:
        BadExport: the file isn't a whole export that this release can read. Nothing was written.
        ToolRefused: the store holds something of these shards, or is another deployment's. Nothing was written.
        ToolError: it can't be done, in a sentence.
    """
    size = os.fstat(file.fileno()).st_size
    progress("checking the file", 0, None)
    contents = check_file(unpacked(file))
    header = contents.header
    if header.layout_version > FORMAT_VERSION or header.state_version > STATE_VERSION:
        raise BadExport("the export was written by a newer release of Muster: import it with that one, or a later one")
    if bad := [number for number in shards if number not in contents.shards]:
        raise ToolError(f"the export holds no shard {bad[0]}: it has {', '.join(map(str, contents.shards))}")
    numbers = sorted(set(shards)) or list(contents.shards)
    await _prepare(store, header, numbers, discard_unfinished=discard_unfinished)
    heads: dict[int, dict[str, str]] = {}
    current: ShardImport | None = None
    file.seek(0)
    for record in read_records(unpacked(file)):
        kind = record.WhichOneof("record")
        if kind == "shard" and record.shard.shard in numbers:
            if current is None:
                current = ShardImport(
                    client=store.client(record.shard.shard), keys=store.keys(record.shard.shard), new_incarnation=new_incarnation
                )
            await current.begin()
        elif kind == "shard_end" and current is not None:
            heads[record.shard_end.shard] = await current.finish(record.shard_end)
            current = None
        elif current is not None:
            await current.take(record)
            progress("writing", file.tell(), size)
    await _finish(store, heads)
    return Imported(tuple(numbers), contents)


async def _prepare(store: OpenStore, header: export_pb2.ExportHeader, numbers: Sequence[int], *, discard_unfinished: bool) -> None:
    """Makes sure that the store holds nothing of these shards, and keeps coordinators from starting."""
    client: Any = store.deployment_client()
    known = await store.find_deployment()
    if known is not None and known.shards != header.shards:
        raise ToolRefused(
            f"the export is of a deployment with {header.shards} shards, and the store {store.where} was made for {known.shards}: "
            "namespaces would lie in the wrong ones; import into an empty store, or under another key prefix"
        )
    key = deployment_key(store.where.key_prefix)
    if known is not None and known.importing:
        if not discard_unfinished:
            raise ToolRefused(
                f"an import into the store {store.where} isn't finished: wait for it, or if it was interrupted, "
                "add --discard-unfinished, which removes what it has left"
            )
        await _remove(store, known.importing)
        await client.delete(key)
    await _require_empty(store, numbers)
    async with client.pipeline(transaction=True) as transaction:
        transaction.hset(key, mapping={"shards": header.shards, "format_version": FORMAT_VERSION, IMPORTING: _named(numbers)})
        await transaction.execute()
    try:
        await _require_empty(store, numbers)  # a coordinator that starts from now on sees that we are here
    except ToolRefused:
        await client.hdel(key, IMPORTING)
        raise


def _named(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


async def _require_empty(store: OpenStore, numbers: Sequence[int]) -> None:
    async for _, key in _keys_of(store, numbers):
        raise ToolRefused(
            f"the store {store.where} isn't empty: it holds {key.decode(errors='replace')}, so that its shards are in use or were once; "
            "import into an empty store, or under another key prefix"
        )


async def _keys_of(store: OpenStore, numbers: Sequence[int]) -> AsyncIterator[tuple[Any, bytes]]:
    tags = tuple(store.keys(number).head.removesuffix("head").encode() for number in numbers)
    async for client, key in keys_of(store, numbers):
        if key.startswith(tags):
            yield client, key


async def _remove(store: OpenStore, numbers: Sequence[int]) -> None:
    """Removes all keys of these shards."""
    async for client, key in _keys_of(store, numbers):
        await client.unlink(key)


async def _finish(store: OpenStore, heads: dict[int, dict[str, str]]) -> None:
    """Writes the heads, and lets coordinators start: this is the moment from which all of it is there."""
    for number in heads:
        if await store.client(number).exists(store.keys(number).head):
            raise ToolRefused(
                f"a coordinator took shard {number} meanwhile, so that nothing of the import holds: stop it, and import into an empty store"
            )
    for number, head in heads.items():
        if head:
            client: Any = store.client(number)
            await client.hset(store.keys(number).head, mapping=head)
    record: Any = store.deployment_client()
    await record.hdel(deployment_key(store.where.key_prefix), IMPORTING)
