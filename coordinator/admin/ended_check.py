"""Holds a namespace's ended tasks against each other: records, index, counters, lists of terms, and what the journal says of them."""

import struct
from dataclasses import dataclass, field
from itertools import pairwise

from google.protobuf.message import DecodeError
from muster.v1 import common_pb2, event_pb2

from coordinator import convert
from coordinator.admin.findings import Report
from coordinator.admin.journal_check import REPORT, RESTORE, End, Replayed
from coordinator.admin.record_terms import terms_of_record
from coordinator.admin.shard_reads import Fields, Line, NamespacePoint, ShardReads
from coordinator.core.model import TaskState
from coordinator.journal.layout import MARKER_BYTES, PLACE_BITS
from coordinator.ports import MIN_RETAINED_MS

_TERM_ENTRIES = 1000  # of a list, per command
_STATES = {number: state for state, number in convert.STATE_OUT.items()}


@dataclass(slots=True)
class EndedTasks:
    """A namespace's ended tasks, as the store has them.

    Attributes:
        first_marker: of the index's first line; 0 when there is none.
        lines: the markers of all lines.
        current: by id, the marker of its record.
        bytes: of all records.
        superseded: lines whose record isn't there.
        terms: by term, the positions of lines that must be found by it.
    """

    first_marker: int = 0
    lines: set[int] = field(default_factory=set)
    current: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    superseded: int = 0
    terms: dict[str, list[int]] = field(default_factory=dict)


async def check_ended(
    reads: ShardReads, name: str, point: NamespacePoint, replayed: Replayed, report: Report, *, head_sequence: int, date_ms: int
) -> EndedTasks:
    """Checks a namespace's ended tasks.

    Args:
        reads: of the shard.
        name: the namespace.
        point: where its index begins and ends.
        replayed: what the journal says.
        report: takes what is wrong.
        head_sequence: the journal's last entry when it was looked at.
        date_ms: the store's time.
    """
    counters = _numbers(point.counters, report)
    indexed = counters.get("indexed", point.stop)
    found = EndedTasks()
    position, last = point.base, 0
    while position < point.stop:
        try:
            lines = [line for line in await reads.lines(name, position=position) if line.entry.position < point.stop]
        except (struct.error, UnicodeDecodeError):
            report.wrong("index", f"the index of ended tasks has a line behind {position} that can't be read: {RESTORE}")
            return found
        if not lines:
            break
        position = lines[-1].entry.position + 1
        report.looked("index lines", len(lines))
        for line in lines:
            last = _check_line(line, last, replayed, report, name)
            report.hold(
                last >> PLACE_BITS <= head_sequence,
                "index",
                f"the index has a line of an end in journal entry {last >> PLACE_BITS}, and the journal ends at {head_sequence}: {RESTORE}",
            )
            _take_in(line, indexed, found, report, replayed.ends.get((name, line.entry.task_id)))
    report.looked("records", len(found.current))
    _check_counters(counters, point, found, report)
    await _check_terms(reads, name, point, found, report)
    _check_journal(name, replayed, found, report, base=point.base, date_ms=date_ms)
    return found


def _numbers(counters: Fields, report: Report) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for counter, value in counters.items():
        try:
            numbers[counter.decode()] = int(value)
        except ValueError:
            report.wrong("counters", f"the counter {counter.decode(errors='replace')} is {value!r}, which is no number: {RESTORE}")
    return numbers


def _check_line(line: Line, last: int, replayed: Replayed, report: Report, name: str) -> int:
    """Checks a line for itself. Answers its marker."""
    marker, where = int.from_bytes(line.marker), f"the index line of task {line.entry.task_id} at {line.entry.position}"
    report.hold(marker > last, "index", f"{where} stands behind one of a later end: {RESTORE}")
    sequence = marker >> PLACE_BITS
    if replayed.first <= sequence <= replayed.sequence and replayed.first:
        report.hold(
            (name, marker) in replayed.markers,
            "index",
            f"{where} is of an end in journal entry {sequence}, which says nothing of it: {REPORT}",
        )
    return marker


def _take_in(line: Line, indexed: int, found: EndedTasks, report: Report, end: End | None) -> None:
    marker = int.from_bytes(line.marker)
    found.first_marker = found.first_marker or marker
    found.lines.add(marker)
    if not line.is_current or line.value is None:
        found.superseded += 1
        return
    entry, record = line.entry, line.value[MARKER_BYTES:]
    found.current[entry.task_id] = marker
    found.bytes += len(record)
    where = f"the record of task {entry.task_id}"
    report.hold(
        len(record) == entry.record_bytes,
        "record",
        f"{where} has {len(record)} bytes, and its index line says {entry.record_bytes}: {RESTORE}",
    )
    try:
        said = event_pb2.TaskRecord.FromString(record)
        task_id = common_pb2.TaskSpec.FromString(said.request).task_id
        terms = terms_of_record(record)
    except (DecodeError, KeyError, ValueError):
        report.wrong("record", f"{where} can't be read: {RESTORE}")
        return
    report.hold(task_id == entry.task_id, "record", f"{where} is that of task {task_id}: {RESTORE}")
    report.hold(
        said.end_ms == entry.end_ms, "record", f"{where} says that it ended at {said.end_ms}, and its index line {entry.end_ms}: {RESTORE}"
    )
    if end is not None and end.marker == marker:
        told = (TaskState(_STATES[said.state]), said.number, said.run, said.fence, said.end_ms)
        same = told == (end.state, end.number, end.run, end.fence, end.end_ms)
        report.hold(same, "record", f"{where} tells another end than journal entry {marker >> PLACE_BITS}: {RESTORE}")
    if entry.position >= indexed:
        for term in terms:
            found.terms.setdefault(term, []).append(entry.position)


def _check_counters(counters: dict[str, int], point: NamespacePoint, found: EndedTasks, report: Report) -> None:
    for counter, there in (("bytes", found.bytes), ("superseded", found.superseded)):
        said = counters.get(counter, 0)
        what = "records hold {0} bytes" if counter == "bytes" else "{0} index lines have no record"
        more = "; a record is gone, or one too many is there" if counter == "superseded" else ""
        report.hold(said == there, "counters", f"{what.format(there)}, and the counter says {said}{more}: {RESTORE}")
    slimmed = counters.get("slimmed", 0)
    report.hold(
        slimmed <= point.stop, "counters", f"results were dropped up to line {slimmed}, and the index ends at {point.stop}: {RESTORE}"
    )


async def _check_terms(reads: ShardReads, name: str, point: NamespacePoint, found: EndedTasks, report: Report) -> None:
    known: dict[str, int] = {}
    cursor: bytes | int = 0
    while cursor != b"0":
        cursor, flat = await reads.connection.call("ZSCAN", reads.keys.terms(name), cursor, "COUNT", _TERM_ENTRIES)
        known |= {term.decode(errors="replace"): int(float(score)) for term, score in zip(flat[::2], flat[1::2], strict=True)}
    for term in {*known, *found.terms}:
        runs = await _runs(reads, name, term, report)
        if runs is None:
            continue
        report.looked("term lists")
        if not runs or term not in known:
            report.wrong(
                "terms",
                f"the list of {term!r} has {len(runs)} entries, and {'is' if term in known else 'is not'} among the lists: {RESTORE}",
            )
        elif known[term] != runs[0][1]:
            report.wrong(
                "terms", f"the list of {term!r} begins with an entry up to {runs[0][1]}, and is filed under {known[term]}: {RESTORE}"
            )
        report.hold(
            all(before[1] < after[0] for before, after in pairwise(runs)),
            "terms",
            f"the list of {term!r} isn't in order",
        )
        report.hold(not runs or runs[-1][1] < point.stop, "terms", f"the list of {term!r} goes on behind the index: {RESTORE}")
        missing = [position for position in found.terms.get(term, ()) if not _within(position, runs)]
        for position in missing:
            report.wrong("terms", f"the ended task at line {position} isn't found by {term!r}: its entry in the list is missing; {RESTORE}")


async def _runs(reads: ShardReads, name: str, term: str, report: Report) -> list[tuple[int, int]] | None:
    """The first and the last position of each entry of a list."""
    runs: list[tuple[int, int]] = []
    while page := await reads.connection.call("LRANGE", reads.keys.term(name, term), len(runs), len(runs) + _TERM_ENTRIES - 1):
        for entry in page:
            first, plus, count = entry.partition(b"+")
            try:
                runs.append((int(first), int(first) + (int(count) if plus else 1) - 1))
            except ValueError:
                report.wrong("terms", f"the list of {term!r} has an entry {entry!r} that can't be read: {RESTORE}")
                return None
    return runs


def _within(position: int, runs: list[tuple[int, int]]) -> bool:
    low, high = 0, len(runs)
    while low < high:
        middle = (low + high) // 2
        if runs[middle][1] < position:
            low = middle + 1
        else:
            high = middle
    return low < len(runs) and runs[low][0] <= position


def _check_journal(name: str, replayed: Replayed, found: EndedTasks, report: Report, *, base: int, date_ms: int) -> None:
    """Whatever ended by the journal has a line, until it expires; and its record, until it expires or is purged."""
    ends = [(task_id, end) for (namespace, task_id), end in replayed.ends.items() if namespace == name]
    report.looked("ends in the journal", len(ends))
    for task_id, end in ends:
        has = found.current.get(task_id)
        if has == end.marker:
            continue
        if has is not None and has >> PLACE_BITS > replayed.sequence:
            continue  # it has ended again since
        _check_missing(task_id, end, has, found, report, base=base, date_ms=date_ms)
    for (namespace, task_id), sequence in replayed.redriven.items():
        if (
            namespace == name
            and (namespace, task_id) not in replayed.ends
            and found.current.get(task_id, sequence << PLACE_BITS) >> PLACE_BITS < sequence
        ):
            report.wrong("record", f"task {task_id} was redriven in journal entry {sequence}, and still has its record: {RESTORE}")


def _check_missing(task_id: str, end: End, has: int | None, found: EndedTasks, report: Report, *, base: int, date_ms: int) -> None:
    sequence = end.marker >> PLACE_BITS
    if has is not None:
        report.wrong("record", f"the record of task {task_id} isn't of its end in journal entry {sequence}: {RESTORE}")
    elif end.marker not in found.lines:
        if end.marker > found.first_marker and (found.lines or not base):  # else it has expired
            report.wrong("index", f"task {task_id} ended in journal entry {sequence}, and the index has no line of it: {RESTORE}")
    elif date_ms - end.end_ms < MIN_RETAINED_MS:
        report.wrong("record", f"task {task_id} ended in journal entry {sequence}, and its record is gone: {RESTORE}")
