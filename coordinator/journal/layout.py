"""Where everything lies in Redis, and in which format. Owns every key name and the bytes of the index of ended tasks; does no I/O.

With the key prefix `muster`, shard 3 is

    muster:{s3}:head                       hash    token, epoch, sequence, nonce: who owns the shard, and its last commit; owner and
                                                   address, the coordinator's; lease_ms and lease_until (by the store's time), if others
                                                   may come; offered_to and offered_until, once it was given up for one of them; and of the
                                                   snapshot snapshot_key (a or b), snapshot_sequence, snapshot_nonce, snapshot_pieces,
                                                   snapshot_bytes, and unfinished (sequence and nonce of one that is being written)
    muster:{s3}:journal                    stream  one entry per commit, id `<sequence>-0`, one field `c` with the commit's bytes; those
                                                   up to snapshot_sequence are removed bit by bit
    muster:{s3}:snapshot:a, :b             list    the pieces of the current snapshot in the one, of one that is being written in the other
    muster:{s3}:task:<namespace>:<id>      string  an ended task: 8 bytes of marker, then its record
    muster:{s3}:ended:<namespace>          list    one line per ended task, the oldest first
    muster:{s3}:counters:<namespace>       hash    base: lines ever removed from the list's left; bytes: the size of all records held;
                                                   slimmed: lines ever gone over, from the left, whose results were dropped;
                                                   superseded: lines in the list whose record isn't there any more; indexed: the
                                                   position from which on every line is in the lists of its terms
    muster:{s3}:term:<namespace>:<term>    list    the positions of the lines whose tasks are found by this term, in order: `7`, or `7+3`
                                                   for 7, 8 and 9
    muster:{s3}:terms:<namespace>          zset    the terms whose lists aren't empty, each with the last position of its list's first entry
    muster:{s3}:state:<namespace>:…                shared state: `coordinator/state/layout.py` has what follows, and a version of its own

and beside the shards there are `muster:{cluster}:members`, a hash that holds, by coordinator id, until when
the coordinator lives (by the store's time) and what it says of itself as JSON, and `muster:deployment`, a hash with `format_version`,
`shards`, and `peer_secret`; and `importing` (numbers of shards) while an import writes them.

All keys of a shard share the hash tag `{s3}`, so a Redis Cluster keeps them on one node and one script may touch them all. A task's
id comes last in its key, and namespaces have no colon, so no two tasks share a key, whatever is in an id.

A **position** numbers the lines of a namespace, from 0, and is never used again: the list's first line has `base`. **Terms** are what
tasks are searched by (`coordinator/search_terms.py` has them). What is written of a commit for a term is usually one entry, however many
tasks: those that end together are often of one kind. Lines leave from the left, and entries too: an entry is dead when its last position
is below `base`. The set of terms tells which lists begin with a dead one, so that they are found bit by bit. Version 1 had no terms: of
what was written then, no line is in the lists, and `indexed` tells.

A **marker** numbers ended tasks over the life of a shard: the commit's sequence and the place in the commit. It stands before the
record and in the index line, and tells the line of a task's last end from lines of earlier ones. A task that is redriven loses its record
with the commit that begins its next run, and gets another when that ends; a task that is purged loses it for good. The line stays where
it is, since lines are found by their place, until those before it have gone: it is *superseded*, counts for nothing, and leaves the record
of a later run alone.
"""

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from coordinator.ports import EndedEntry, EndedTask

FORMAT_VERSION = 2
"""Of everything in this module. A store with a higher one is refused, and one with a lower one becomes one of this version."""

JOURNAL_FIELD = b"c"
"""The one field of a journal entry."""

MARKER_BYTES = 8
"""What stands before a record."""

_LINE = struct.Struct(">8sQI")  # marker, end in milliseconds, size of the record; the task's id follows in UTF-8
PLACE_BITS = 20
"""Of a marker: a commit ends fewer than a million tasks."""


def shard_of(namespace: str, *, shards: int) -> int:
    """The shard a namespace lives in: CRC-32 (as in zlib) of its UTF-8 name, modulo the number of shards. Never to change."""
    return zlib.crc32(namespace.encode()) % shards


@dataclass(frozen=True, slots=True)
class ShardKeys:
    """The names of one shard's keys.

    Args:
        prefix: what all keys of a deployment begin with, without braces.
        shard: the shard's number, from 0.
    """

    prefix: str
    shard: int

    def __post_init__(self) -> None:
        check_prefix(self.prefix)

    @property
    def _tag(self) -> str:
        return f"{self.prefix}:{{s{self.shard}}}"

    @property
    def head(self) -> str:
        """Who owns the shard, and its last commit."""
        return f"{self._tag}:head"

    @property
    def journal(self) -> str:
        """The commits."""
        return f"{self._tag}:journal"

    @property
    def snapshots(self) -> tuple[str, str]:
        """The two places for snapshots: they take turns."""
        return f"{self._tag}:snapshot:a", f"{self._tag}:snapshot:b"

    def tasks(self, namespace: str) -> str:
        """What the keys of a namespace's records begin with: the task's id follows."""
        return f"{self._tag}:task:{namespace}:"

    def ended(self, namespace: str) -> str:
        """The index of a namespace's ended tasks."""
        return f"{self._tag}:ended:{namespace}"

    def counters(self, namespace: str) -> str:
        """What was removed from the index, and the size of what it still lists."""
        return f"{self._tag}:counters:{namespace}"

    def term(self, namespace: str, term: str) -> str:
        """The list of a namespace's ended tasks that are found by a term."""
        return f"{self._tag}:term:{namespace}:{term}"

    def terms(self, namespace: str) -> str:
        """The terms of a namespace that have a list."""
        return f"{self._tag}:terms:{namespace}"

    def state(self, namespace: str) -> str:
        """What the keys of a namespace's shared state begin with."""
        return f"{self._tag}:state:{namespace}:"


def deployment_key(prefix: str) -> str:
    """The key of the deployment's record."""
    check_prefix(prefix)
    return f"{prefix}:deployment"


def members_key(prefix: str) -> str:
    """The key of the register of coordinators."""
    check_prefix(prefix)
    return f"{prefix}:{{cluster}}:members"


def nudge_channel(prefix: str) -> str:
    """The channel on which coordinators wake each other."""
    check_prefix(prefix)
    return f"{prefix}:cluster"


def check_prefix(prefix: str) -> None:
    """Raises ValueError for a key prefix that is empty, or would break the hash tags."""
    if not prefix or "{" in prefix or "}" in prefix:
        raise ValueError(f"the key prefix {prefix!r} must not be empty or contain braces")


def marker(sequence: int, place: int) -> bytes:
    """The marker of the task that ended in commit `sequence` at `place`, counted from 0."""
    return (sequence << PLACE_BITS | place).to_bytes(MARKER_BYTES)


@dataclass(frozen=True, slots=True)
class PackedTasks:
    """Tasks of one namespace that ended in one commit, as they are stored. The lists have one element for each task.

    Attributes:
        keys: of the records.
        lines: of the index.
        values: the records, each behind its marker.
        record_bytes: the size of all records.
        runs: for each term, which of the tasks have it: `0+7,9+1` are the first seven and the tenth.
    """

    keys: list[str]
    lines: list[bytes]
    values: list[bytes]
    record_bytes: int
    runs: dict[str, str]


def pack_tasks(tasks: Iterable[tuple[int, EndedTask]], *, sequence: int, prefix: str) -> PackedTasks:
    """Packs tasks of one namespace, each given with its place in commit `sequence`. `prefix` is what the keys of its records begin with."""
    # The one loop of an append over its tasks: 0.3 us a task written out like this; a function for each part would triple it.
    keys: list[str] = []
    lines: list[bytes] = []
    values: list[bytes] = []
    record_bytes = 0
    first = sequence << PLACE_BITS
    pack = _LINE.pack
    known: tuple[str, ...] = ()
    kinds: list[tuple[int, tuple[str, ...]]] = []  # from which task on, which terms: most have the same as the one before
    for place, task in tasks:
        record, task_id, size = task.record, task.task_id, len(task.record)
        task_marker = (first | place).to_bytes(MARKER_BYTES)
        keys.append(prefix + task_id)
        lines.append(pack(task_marker, task.end_ms, size) + task_id.encode())
        values.append(task_marker + record)
        record_bytes += size
        if task.terms is not known:
            known = task.terms
            kinds.append((len(keys) - 1, known))
    return PackedTasks(keys=keys, lines=lines, values=values, record_bytes=record_bytes, runs=_runs(kinds, len(keys)))


def _runs(kinds: Sequence[tuple[int, tuple[str, ...]]], stop: int) -> dict[str, str]:
    runs: dict[str, list[list[int]]] = {}
    for index, (first, terms) in enumerate(kinds):
        count = (kinds[index + 1][0] if index + 1 < len(kinds) else stop) - first
        for term in terms:
            known = runs.setdefault(term, [])
            if known and sum(known[-1]) == first:
                known[-1][1] += count
            else:
                known.append([first, count])
    return {term: ",".join(f"{first}+{count}" for first, count in known) for term, known in runs.items()}


def index_line(task_marker: bytes, task_id: str, *, end_ms: int, record_bytes: int) -> bytes:
    """A line of the index."""
    return _LINE.pack(task_marker, end_ms, record_bytes) + task_id.encode()


def resized_line(line: bytes, *, record_bytes: int) -> bytes:
    """The line once its record has another size."""
    task_marker, end_ms, _ = _LINE.unpack_from(line)
    return _LINE.pack(task_marker, end_ms, record_bytes) + line[_LINE.size :]


def unpack_line(line: bytes, *, position: int) -> EndedEntry:
    """What a line of the index says. Raises struct.error or UnicodeDecodeError when it isn't one."""
    _, end_ms, record_bytes = _LINE.unpack_from(line)
    return EndedEntry(position=position, task_id=line[_LINE.size :].decode(), end_ms=end_ms, record_bytes=record_bytes)


def marker_of_line(line: bytes) -> bytes:
    """The marker that a line of the index begins with."""
    return line[:MARKER_BYTES]
