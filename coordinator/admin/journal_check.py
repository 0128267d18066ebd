"""Replays a shard's journal as a coordinator does when it starts, and holds what comes out against itself."""

from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from coordinator.admin.findings import Report
from coordinator.admin.shard_reads import Point, ShardReads
from coordinator.core.events import AnyEvent, Commit, NamespaceDeleted, Redriven
from coordinator.core.evolve import IllegalEvent
from coordinator.core.invariants import InvariantBroken, check
from coordinator.core.model import Now, Settings, Task, TaskState
from coordinator.core.scheduler import Scheduler
from coordinator.engine.digests import ShardDigest, digest_of
from coordinator.engine.recovery import Recovered, recover
from coordinator.errors import MusterError
from coordinator.journal import codec
from coordinator.journal.layout import PLACE_BITS
from coordinator.ports import AppendAnswer, Appended, Claim, SnapshotPiece, StoreCorrupt, StoredSnapshot

RESTORE = "restore the shard from a backup"
REPORT = "keep the store as it is, and report this"

TaskName = tuple[str, str]


@dataclass(frozen=True, slots=True)
class End:
    """An end of a task, as the journal has it."""

    marker: int
    state: TaskState
    number: int
    run: int
    fence: int
    end_ms: int


@dataclass(slots=True)
class Replayed:
    """What a replay came to.

    Attributes:
        recovered: the live state at the end.
        sequence: the last entry.
        first: the oldest entry that the journal still holds; 0 when it holds none.
        ends: of tasks whose last word in the journal is an end, that end.
        markers: of all ends.
        redriven: in which entry a task was redriven last.
        epoch: the last entry's that was gone over; 0 when none was.
    """

    recovered: Recovered = field(default_factory=Recovered)
    sequence: int = 0
    first: int = 0
    ends: dict[TaskName, End] = field(default_factory=dict)
    markers: set[tuple[str, int]] = field(default_factory=set)
    redriven: dict[TaskName, int] = field(default_factory=dict)
    epoch: int = 0


class _Source:
    """A shard's journal up to an entry, as recovery asks for it, and looked at on the way."""

    def __init__(self, reads: ShardReads, point: Point, *, after: int, through: int, report: Report) -> None:
        self._reads = reads
        self._point = point
        self._through = through
        self._report = report
        self._sequence = after
        self.entries = self.first = self.epoch = self._date_ms = 0

    async def read(self, *, after: int, limit: int) -> list[tuple[int, bytes]]:
        page = [entry for entry in await self._reads.commits(after=after) if entry[0] <= self._through][:limit]
        if any(sequence < 0 for sequence, _ in page):
            raise StoreCorrupt(f"the journal holds something behind entry {after} that isn't a commit")
        return page

    async def read_snapshot(self, *, sequence: int, place: int) -> bytes | None:
        return await self._reads.piece(sequence=sequence, place=place)

    async def confirm(self, *, sequence: int) -> Appended:  # noqa: ARG002 - the port's
        return Appended(AppendAnswer.APPLIED, 0)  # nobody takes anything from us: what is missing is missing

    def decode(self, blob: bytes) -> Commit:
        commit = codec.decode(blob)
        report, self._sequence, self.entries = self._report, self._sequence + 1, self.entries + 1
        self.first = self.first or self._sequence
        report.hold(
            commit.sequence == self._sequence,
            "journal",
            f"journal entry {self._sequence} holds the commit of entry {commit.sequence}: {RESTORE}",
        )
        report.hold(
            self.epoch <= commit.epoch <= self._point.epoch,
            "epoch",
            f"journal entry {self._sequence} has epoch {commit.epoch}, behind {self.epoch} and under a head with {self._point.epoch}: "
            f"a coordinator wrote that had lost the shard; {REPORT}",
        )
        report.hold(
            self._date_ms <= commit.date_ms,
            "date",
            f"journal entry {self._sequence} is dated {self._date_ms - commit.date_ms} ms before the one in front of it: {REPORT}",
        )
        self.epoch, self._date_ms = commit.epoch, commit.date_ms
        return commit

    def decode_snapshot(self, blob: bytes) -> SnapshotPiece:
        return codec.decode_snapshot(blob)


class _Follower:
    """Keeps of each event what is compared with records."""

    def __init__(self, replayed: Replayed, report: Report) -> None:
        self._replayed = replayed
        self._report = report
        self._sequence = 0
        self._place = 0

    def __call__(self, sequence: int, name: str, event: AnyEvent, task: Task | None) -> None:
        if sequence != self._sequence:
            self._sequence, self._place = sequence, 0
        replayed = self._replayed
        if isinstance(event, NamespaceDeleted):
            for kept in (replayed.ends, replayed.redriven):
                for key in [key for key in kept if key[0] == name]:
                    del kept[key]
            return
        if task is None:
            return
        if isinstance(event, Redriven):
            replayed.redriven[name, task.spec.task_id] = sequence
            replayed.ends.pop((name, task.spec.task_id), None)
        if task.ended_ms:
            marker = sequence << PLACE_BITS | self._place
            self._place += 1
            replayed.markers.add((name, marker))
            replayed.ends[name, task.spec.task_id] = End(marker, task.state, task.number, task.run, task.fence, task.ended_ms)


async def replay(
    reads: ShardReads, point: Point, report: Report, *, through: int | None = None, from_start: bool = False
) -> Replayed | None:
    """Replays a shard. Answers None when that can't be done to the end, which is reported.

    Args:
        reads: of the shard.
        point: its head.
        report: takes what is wrong.
        through: up to which entry; None for the head's.
        from_start: without the snapshot.

    Raises:
        JournalTooNew: a newer release wrote it.
    """
    replayed = Replayed()
    end = point.sequence if through is None else through
    snapshot = None
    if point.snapshot_sequence and not from_start:
        snapshot = StoredSnapshot(point.snapshot_sequence, point.snapshot_pieces, int(point.head.get(b"snapshot_bytes", b"0")))
    source = _Source(reads, point, after=snapshot.sequence if snapshot else 0, through=end, report=report)
    try:
        replayed.recovered = await recover(
            source, source, Claim(point.epoch, end, point.date_ms, snapshot), follow=_Follower(replayed, report)
        )
    except (StoreCorrupt, IllegalEvent, DecodeError, KeyError, ValueError, IndexError, MusterError) as error:
        said = str(error) if isinstance(error, StoreCorrupt | IllegalEvent) else f"{type(error).__name__}: {error}"
        report.wrong("journal", f"the journal can't be replayed up to entry {end}: {said}; {RESTORE}")
        return None
    finally:
        report.looked("journal entries", source.entries)
    replayed.sequence, replayed.first, replayed.epoch = end, source.first, source.epoch
    return replayed


async def check_journal(reads: ShardReads, point: Point, report: Report) -> Replayed | None:
    """Checks head, snapshot and journal, and the live state that they make. Answers that, if it could be made."""
    info_end = await _last_id(reads)
    if info_end != point.sequence and (await reads.point([], elements=0)).sequence == point.sequence:
        report.wrong("head", f"the head says that the journal ends at entry {point.sequence}, and it ends at {info_end}: {RESTORE}")
    await _check_snapshot(reads, point, report)
    replayed = await replay(reads, point, report)
    if replayed is None:
        return None
    for name, (state, created_ms) in replayed.recovered.states.items():
        _check_core(
            Report(report.shard, name, report.findings), Scheduler(settings=Settings(), epoch=1, jitter=_no_jitter, state=state), created_ms
        )
        report.looked("live tasks", len(state.tasks))
    report.looked("namespaces", len(replayed.recovered.states))
    await _check_from_start(reads, point, report, replayed)
    return replayed


async def _last_id(reads: ShardReads) -> int:
    if not await reads.connection.call("EXISTS", reads.keys.journal):
        return 0
    info = await reads.connection.call("XINFO", "STREAM", reads.keys.journal)
    fields = dict(zip(info[::2], info[1::2], strict=True))
    return int(fields[b"last-generated-id"].partition(b"-")[0])


async def _check_snapshot(reads: ShardReads, point: Point, report: Report) -> None:
    """Its pieces, which replay reads again: recovery doesn't count bytes."""
    if not point.snapshot_sequence:
        return
    size = 0
    for place in range(point.snapshot_pieces):
        piece = await reads.piece(sequence=point.snapshot_sequence, place=place)
        if piece is None:
            if (await reads.point([], elements=0)).snapshot_sequence == point.snapshot_sequence:
                report.wrong("snapshot", f"piece {place} of the snapshot at entry {point.snapshot_sequence} is missing: {RESTORE}")
            return
        size += len(piece)
    report.looked("snapshot pieces", point.snapshot_pieces)
    wanted = int(point.head.get(b"snapshot_bytes", b"0"))
    report.hold(
        size == wanted, "snapshot", f"the snapshot at entry {point.snapshot_sequence} has {size} bytes, and had {wanted}: {RESTORE}"
    )
    report.hold(
        await reads.piece(sequence=point.snapshot_sequence, place=point.snapshot_pieces) is None,
        "snapshot",
        f"the snapshot at entry {point.snapshot_sequence} has more pieces than the {point.snapshot_pieces} that it had: {RESTORE}",
    )


def _check_core(report: Report, scheduler: Scheduler, created_ms: int) -> None:
    try:
        for _ in scheduler.rebuild(Now(0.0, created_ms)):
            pass
        check(scheduler)
    except InvariantBroken as error:
        report.wrong("invariant", f"the live state isn't as it must be: {error}; {REPORT}")


def _no_jitter() -> float:
    return 0.0


async def _check_from_start(reads: ShardReads, point: Point, report: Report, replayed: Replayed) -> None:
    """As long as the journal holds everything, the snapshot must be what replay makes of what is before it."""
    if not point.snapshot_sequence or not (first := await reads.commits(after=0)) or first[0][0] != 1:
        return
    whole = await replay(reads, point, report, from_start=True)
    if whole is None or (whole.recovered.states.keys() == replayed.recovered.states.keys() and digest(whole) == digest(replayed)):
        return
    for name in {*whole.recovered.states, *replayed.recovered.states}:
        states = [one.recovered.states.get(name) for one in (whole, replayed)]
        if states[0] is None or states[1] is None:
            report.wrong("snapshot", f"namespace {name} is in only one of snapshot and journal: {RESTORE}")
            continue
        tasks = [{task.spec.task_id: codec.canonical(task) for task in state.tasks.values()} for state, _ in (states[0], states[1])]
        differing = sorted(task_id for task_id in {*tasks[0], *tasks[1]} if tasks[0].get(task_id) != tasks[1].get(task_id))
        for task_id in differing:
            report.wrong("snapshot", f"task {task_id} of namespace {name} is another one by the snapshot than by the journal: {RESTORE}")
        if not differing and tasks[0] == tasks[1]:
            report.wrong("snapshot", f"namespace {name} is another one by the snapshot than by the journal: {RESTORE}")


def digest(replayed: Replayed) -> ShardDigest:
    """What a coordinator answers that has just this state."""
    return digest_of(replayed.recovered.states, replayed.recovered.deleted, sequence=replayed.sequence, codec=codec)
