"""Exports shards while they are written to, each as of one moment.

What only grows (the journal, the index of ended tasks, the events of shared state) is read first, page by page. Then one script says how
far each of them is at this moment, and answers what isn't in any of them: locks, leases, deadlines, kept verdicts. What had come up to
then is read behind it. A record that was read and is gone by that moment is known from the journal, since only a redrive removes a record
that anybody can still ask for; a key that was read and has changed, from the events.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from muster.v1 import export_pb2

from coordinator.admin.access import OpenStore
from coordinator.admin.errors import ToolError, ToolRefused
from coordinator.admin.export_file import ExportWriter, Record
from coordinator.admin.shard_reads import UNTOLD_PARTS, Line, NamespacePoint, Point, ShardReads
from coordinator.journal.layout import FORMAT_VERSION, MARKER_BYTES, PLACE_BITS
from coordinator.journal.outlines import outline_commit, outline_piece
from coordinator.state.layout import EVENT, STATE_VERSION
from coordinator.state.model import EventKind

MAX_ELEMENTS: Final = 100_000  # of locks, leases and the like, read in one go: 0.2 s in which the store does nothing else
_TRIES: Final = 20  # of what a busy coordinator can get in the way of
_STEADY_TRIES: Final = 3
_STATE_BYTES: Final = 4 * 1024 * 1024  # of a record of the file

Progress = Callable[[str, int, int | None], None]
"""Told of what is done: what, how much of it, and of how much; None when that isn't known."""


class _Trimmed(Exception):
    """The journal doesn't go on from where it was read any more: another snapshot has its place."""


@dataclass(slots=True)
class _Cursor:
    """How far a namespace has been read.

    Attributes:
        position: the next line of the index.
        revision: all events up to it have been read; None before the first.
        entries_revision: keys were read at this revision or later.
    """

    position: int = 0
    revision: int | None = None
    entries_revision: int = 0
    is_copied: bool = False


@dataclass(frozen=True, slots=True)
class ExportedShardFacts:
    """What was exported of a shard: up to which journal entry, and how much."""

    shard: int
    sequence: int
    ended: int
    state_entries: int


class ShardExport:
    """The export of one shard.

    Args:
        reads: of the shard.
        number: the shard's.
        writer: of the file.
        progress: is told.
    """

    def __init__(
        self, *, reads: ShardReads, number: int, writer: ExportWriter, progress: Progress, max_elements: int = MAX_ELEMENTS
    ) -> None:
        self._reads = reads
        self._number = number
        self._writer = writer
        self._progress = progress
        self._max_elements = max_elements
        self._cursors: dict[str, _Cursor] = {}
        self._sequence = 0
        self._snapshot = (0, 0, 0)  # sequence, pieces, bytes
        self._gone: dict[tuple[str, str], int] = {}  # redriven: in which entry last
        self._ended = 0
        self._entries = 0

    async def run(self) -> ExportedShardFacts:
        """Writes the shard to the file.

        Raises:
            ToolError: the shard is written to faster than it can be read.
            JournalTooNew: a newer release wrote it.
        """
        for _ in range(_TRIES):
            try:
                return await self._run()
            except _Trimmed:  # a snapshot took the place of what was being read: all of it anew, which the file allows for
                continue
        raise self._too_fast("snapshots came faster than one could be read")

    async def _run(self) -> ExportedShardFacts:
        self._ended = self._entries = 0
        self._cursors.clear()
        self._gone.clear()
        await self._copy_snapshot()
        for _ in range(_TRIES):
            await self._follow()
            for name, cursor in list(self._cursors.items()):
                if not cursor.is_copied and name in self._cursors:
                    await self._copy(name, cursor)
            point = await self._reads.point(list(self._cursors), elements=self._max_elements)
            await self._follow(through=point.sequence)
            # A namespace that came since wasn't looked at by the point; one that went was for nothing.
            if all(cursor.is_copied for cursor in self._cursors.values()) and await self._catch_up(point):
                return self._finish(point)
        raise self._too_fast("tasks were redriven, or keys compacted, faster than they could be read")

    def _too_fast(self, problem: str) -> ToolError:
        return ToolError(
            f"shard {self._number} can't be exported while it is so busy ({problem}): try again, or stop its coordinator first"
        )

    # --- tasks ------------------------------------------------------------------------------------------------------------------

    async def _copy_snapshot(self) -> None:
        """Begins the shard, with its snapshot."""
        head = await self._reads.point([], elements=0)
        self._sequence = head.snapshot_sequence
        self._writer.add(Record(shard=export_pb2.ExportedShard(shard=self._number, snapshot_sequence=self._sequence)))
        size = 0
        for place in range(head.snapshot_pieces if self._sequence else 0):
            self._tell("reading the snapshot", place, head.snapshot_pieces)
            piece = await self._reads.piece(sequence=self._sequence, place=place)
            if piece is None:
                if (await self._reads.point([], elements=0)).snapshot_sequence == self._sequence:
                    raise ToolRefused(
                        f"shard {self._number} is damaged: piece {place} of its snapshot is missing; `muster admin check` says more"
                    )
                raise _Trimmed
            for name in outline_piece(piece):
                self._cursors.setdefault(name, _Cursor())
            size += len(piece)
            self._writer.add(Record(snapshot_piece=piece))
        self._snapshot = (self._sequence, head.snapshot_pieces if self._sequence else 0, size)

    async def _follow(self, *, through: int | None = None) -> None:
        """Copies the journal as far as it is now, or `through` an entry."""
        while through is None or self._sequence < through:
            page = await self._reads.commits(after=self._sequence)
            if not page and through is None:
                return
            for sequence, blob in page or [(0, b"")]:
                if through is not None and self._sequence == through:
                    return
                if sequence != self._sequence + 1:
                    await self._explain_gap(sequence)
                self._writer.add(Record(commit=export_pb2.ExportedCommit(sequence=sequence, commit=blob)))
                self._sequence = sequence
                self._note(sequence, blob)
            self._tell("reading the journal", self._sequence, through)

    async def _explain_gap(self, found: int) -> None:
        point = await self._reads.point([], elements=0)
        if point.snapshot_sequence > self._sequence:
            raise _Trimmed
        raise ToolRefused(
            f"shard {self._number} is damaged: its journal goes from entry {self._sequence} to {found or 'nothing'}, and its head is at "
            f"{point.sequence}; `muster admin check` says more"
        )

    def _note(self, sequence: int, blob: bytes) -> None:
        outline = outline_commit(blob)
        for name, came in outline.namespaces:
            cursor = self._cursors.pop(name, None)
            if cursor is not None:
                self._writer.add(Record(dropped_namespace=name))
            if came:
                self._cursors[name] = _Cursor()
        for name, task_id in outline.redriven:
            self._gone[name, task_id] = sequence

    async def _copy(self, name: str, cursor: _Cursor) -> None:
        """Reads what there is of a namespace beside the journal; by the moment that counts it may have changed."""
        self._gone = {key: sequence for key, sequence in self._gone.items() if key[0] != name}  # what is read from now on knows of these
        point = (await self._reads.point([name], elements=0)).namespaces[name]
        cursor.position = point.base
        while cursor.position < point.stop:
            await self._copy_lines(name, cursor, stop=point.stop)
            self._tell(f"reading ended tasks of {name}", cursor.position - point.base, point.stop - point.base)
            await self._follow()  # it is trimmed behind us
            if self._cursors.get(name) is not cursor:
                return
        await self._copy_entries(name, cursor)
        while self._cursors.get(name) is cursor and await self._copy_events(name, cursor, through=None):
            await self._follow()
        cursor.is_copied = True  # if it wasn't dropped meanwhile: then this is nobody's cursor any more

    async def _copy_lines(self, name: str, cursor: _Cursor, *, stop: int) -> list[Line]:
        """Copies some lines before `stop`. Answers those whose records aren't there."""
        lines = await self._reads.lines(name, position=cursor.position)
        if not lines:  # all that was left has expired
            cursor.position = stop
            return []
        lines = [line for line in lines if line.entry.position < stop]
        cursor.position = lines[-1].entry.position + 1 if lines else stop
        current = [line for line in lines if line.is_current]
        if current:
            self._ended += len(current)
            self._writer.add(Record(ended=_ended(name, current)))
        return [line for line in lines if not line.is_current]

    # --- shared state -----------------------------------------------------------------------------------------------------------

    async def _copy_entries(self, name: str, cursor: _Cursor) -> None:
        after: bytes | None = None
        more, first = True, True
        while more and self._cursors.get(name) is cursor:
            revision, page, more = await self._reads.entries(name, after=after)
            if first:
                first, cursor.entries_revision = False, revision
            if page:
                after = page[-1][0]
                self._entries += len(page)
                self._add_state(name, "entries", page)
            self._tell(f"reading keys of {name}", self._entries, None)
            await self._follow()

    async def _copy_events(self, name: str, cursor: _Cursor, *, through: int | None) -> bool:
        """Copies a page of events, or those up to a revision. Answers whether there is more."""
        after = cursor.revision
        if after is None:
            _, compact, _, _ = await self._reads.events(name, after=0)
            after = compact - 1
        revision, compact, page, more = await self._reads.events(name, after=after)
        if compact - 1 > after:
            if cursor.revision is None:
                return True  # it was compacted just now
            # What came since can't be told any more, so that this namespace is read from its beginning again.
            self._writer.add(Record(dropped_namespace=name))
            self._cursors[name] = _Cursor()
            return False
        reached = _revision_of(page[-1][0]) if more else revision
        if through is not None and (not more or reached > through):
            page, reached = [event for event in page if _revision_of(event[0]) <= through], through
        self._add_state(name, "events", page)
        for event_id, event in page:
            if _revision_of(event_id) > cursor.entries_revision:
                self._add_change(name, event)
        cursor.revision = reached
        return more and reached != through

    def _add_change(self, name: str, event: bytes) -> None:
        kind, _, _, length = EVENT.unpack_from(event)
        key, rest = event[EVENT.size : EVENT.size + length], event[EVENT.size + length :]
        if kind == EventKind.PUT.value:
            self._add_state(name, "entries", [(key, rest)])
        else:
            self._add_state(name, "gone", [(key, b"")])

    def _add_state(self, name: str, part: str, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        state = export_pb2.ExportedState(namespace=name, part=part)
        size = 0
        for pair in pairs:
            size += len(pair[0]) + len(pair[1])
            if size > _STATE_BYTES and state.names:
                self._writer.add(Record(state=state))
                state, size = export_pb2.ExportedState(namespace=name, part=part), len(pair[0]) + len(pair[1])
            state.names.append(pair[0])
            state.values.append(pair[1])
        if state.names:
            self._writer.add(Record(state=state))

    # --- the moment -------------------------------------------------------------------------------------------------------------

    async def _catch_up(self, point: Point) -> bool:
        """Copies what was there at `point` and isn't copied yet. False: something of it is gone already; then a later moment must do."""
        for name, cursor in self._cursors.items():
            lost: list[Line] = []
            while cursor.position < point.namespaces[name].stop:
                lost += await self._copy_lines(name, cursor, stop=point.namespaces[name].stop)
            if not all(self._was_redriven(name, line) for line in lost):
                return False
        for name, cursor in list(self._cursors.items()):
            revision = point.namespaces[name].revision
            while (cursor.revision or 0) < revision and self._cursors.get(name) is cursor:
                await self._copy_events(name, cursor, through=revision)
        if not all(cursor.is_copied for cursor in self._cursors.values()):
            return False
        if point.elements > self._max_elements:
            return await self._copy_untold(point)
        for name in self._cursors:
            self._add_untold(name, point.namespaces[name])
        return True

    def _was_redriven(self, name: str, line: Line) -> bool:
        """Whether its record was gone at the moment that counts: then the journal up to there says so."""
        return self._gone.get((name, line.entry.task_id), 0) >= int.from_bytes(line.marker) >> PLACE_BITS

    def _add_untold(self, name: str, point: NamespacePoint) -> None:
        if point.meta:
            self._add_state(name, "meta", point.meta.items())
            for part, fields in point.parts.items():
                self._add_state(name, part, fields.items())

    async def _copy_untold(self, point: Point) -> bool:
        """Reads what no event tells of page by page, which is as of one moment only if nothing was written meanwhile."""
        names = list(self._cursors)
        for _ in range(_STEADY_TRIES):
            before = await self._reads.point(names, elements=0)
            if before.sequence != point.sequence or any(before.namespaces[name].meta != point.namespaces[name].meta for name in names):
                break
            for name in names:
                if not before.namespaces[name].meta:
                    continue
                self._add_state(name, "meta", before.namespaces[name].meta.items())
                for part in UNTOLD_PARTS:
                    cursor: bytes | int = 0
                    while cursor != b"0":
                        cursor, fields = await self._reads.part_page(name, part, cursor)
                        self._add_state(name, part, fields.items())
            if (await self._reads.point(names, elements=0)).unchanged_since(before):
                return True
        raise ToolRefused(
            f"shard {self._number} has {point.elements} locks, leases, deadlines and kept answers, which is more than can be read at one "
            "moment while it is written to: stop its coordinator, and export again"
        )

    def _finish(self, point: Point) -> ExportedShardFacts:
        for (name, task_id), sequence in self._gone.items():
            if name in self._cursors:
                self._writer.add(Record(redrive=export_pb2.ExportedRedrive(namespace=name, task_id=task_id, sequence=sequence)))
        snapshot_sequence, pieces, size = self._snapshot
        self._writer.add(
            Record(
                shard_end=export_pb2.ExportedShardEnd(
                    shard=self._number,
                    sequence=point.sequence,
                    nonce=point.head.get(b"nonce", b"").decode(),
                    epoch=point.epoch,
                    date_ms=point.date_ms,
                    snapshot_pieces=pieces,
                    snapshot_bytes=size,
                    commits=point.sequence - snapshot_sequence,
                    namespaces=sorted(self._cursors),
                )
            )
        )
        return ExportedShardFacts(self._number, point.sequence, self._ended, self._entries)

    def _tell(self, what: str, done: int, total: int | None) -> None:
        self._progress(f"shard {self._number}: {what}", done, total)


def _revision_of(event_id: bytes) -> int:
    return int(event_id.partition(b"-")[0])


def _ended(name: str, lines: Sequence[Line]) -> export_pb2.ExportedTasks:
    return export_pb2.ExportedTasks(
        namespace=name,
        task_ids=[line.entry.task_id for line in lines],
        markers=[int.from_bytes(line.marker) for line in lines],
        end_ms=[line.entry.end_ms for line in lines],
        records=[line.value[MARKER_BYTES:] for line in lines if line.value is not None],
    )


async def export(store: OpenStore, writer: ExportWriter, *, shards: Sequence[int], progress: Progress) -> list[ExportedShardFacts]:
    """Writes shards of a deployment to a file, one after the other; each is as of a moment of its own.

    Args:
        store: where they are.
        writer: of the file. It is closed when all of them are in it.
        shards: their numbers; none for all.
        progress: is told.

    Raises:
        ToolError: it can't be done, in a sentence.
        JournalTooNew: a newer release wrote a shard.
    """
    deployment = await store.deployment()
    if bad := [number for number in shards if not 0 <= number < deployment.shards]:
        raise ToolError(f"there is no shard {bad[0]}: the deployment has {deployment.shards}, from 0 on")
    numbers = sorted(set(shards)) or list(range(deployment.shards))
    seconds, microseconds = await store.deployment_client().time()
    header = export_pb2.ExportHeader(
        layout_version=FORMAT_VERSION,
        state_version=STATE_VERSION,
        shards=deployment.shards,
        exported_shards=numbers,
        date_ms=seconds * 1000 + microseconds // 1000,
        release=version("muster-agents"),
    )
    writer.add(Record(header=header))
    facts = []
    for number in numbers:
        async with store.connection(number) as connection:
            reads = ShardReads(connection=connection, keys=store.keys(number))
            facts.append(await ShardExport(reads=reads, number=number, writer=writer, progress=progress).run())
    writer.close()
    return facts
