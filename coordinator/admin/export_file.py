"""The file of an export, as bytes: `muster/v1/export.proto` has the format. It knows nothing of stores.

A file is trusted only as a whole: `check_file` goes over all of it before anything is done with any of it.
"""

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Protocol, cast

from google.protobuf.message import DecodeError
from muster.v1 import export_pb2

from coordinator.admin.errors import BadExport

MAGIC = b"MUSTER-EXPORT 1\n"
"""How a file begins. The number is the format's version."""

MAX_RECORD_BYTES = 64 * 1024 * 1024  # a commit has at most 16 MiB, or one task's record more
_FAMILY = MAGIC[:14]
_LENGTH_BYTES = 4
_GZIP = b"\x1f\x8b"

Record = export_pb2.ExportRecord


class Writable(Protocol):
    """A file to write to."""

    def write(self, blob: bytes, /) -> object:
        """Appends bytes."""

    def flush(self) -> object:
        """Hands over what was written."""


class Readable(Protocol):
    """A file to read from."""

    def read(self, count: int, /) -> bytes:
        """The next bytes, fewer at the end."""


class ExportWriter:
    """Writes a file, record by record. Without `close` it is no export.

    Args:
        out: where to: bytes are written, and nothing is closed.
    """

    def __init__(self, out: Writable) -> None:
        self._out = out
        self._crc = 0
        self._trailer = export_pb2.ExportTrailer()
        self._write(MAGIC)

    @property
    def size_bytes(self) -> int:
        """About how much has been written."""
        return self._trailer.bytes

    def add(self, record: Record) -> None:
        """Appends a record."""
        blob = record.SerializeToString()
        self._trailer.records += 1
        self._trailer.bytes += len(blob)
        self._frame(blob)

    def close(self) -> None:
        """Ends the file, which is whole from now on."""
        self._trailer.records += 1
        self._frame(Record(trailer=self._trailer).SerializeToString())
        self._out.write(self._crc.to_bytes(_LENGTH_BYTES))
        self._out.flush()

    def _frame(self, blob: bytes) -> None:
        if len(blob) > MAX_RECORD_BYTES:
            raise BadExport(f"a record of {len(blob)} bytes is larger than an export can hold: this is a bug")
        self._write(len(blob).to_bytes(_LENGTH_BYTES))
        self._write(blob)

    def _write(self, blob: bytes) -> None:
        self._crc = zlib.crc32(blob, self._crc)
        self._out.write(blob)


def read_records(file: Readable) -> Iterator[Record]:
    """The records of a file in their order, the trailer last. The file is read from where it stands, to its end.

    Raises:
        BadExport: it isn't an export, or is damaged or cut short. Records may have come before: only after the last one is it certain.
    """
    source = _Source(file)
    source.take_magic()
    records = size_bytes = 0
    while True:
        length = int.from_bytes(source.take(_LENGTH_BYTES))
        if length > MAX_RECORD_BYTES:
            raise BadExport(f"the export is damaged: record {records + 1} claims {length} bytes; take another copy of the file")
        blob = source.take(length)
        try:
            record = Record.FromString(blob)
        except DecodeError:
            raise BadExport(f"the export is damaged: record {records + 1} can't be read; take another copy of the file") from None
        records += 1
        if record.WhichOneof("record") != "trailer":
            size_bytes += length
            yield record
            continue
        crc = source.crc
        if int.from_bytes(source.take(_LENGTH_BYTES)) != crc:
            raise BadExport("the export is damaged: its checksum doesn't match; take another copy of the file")
        if (record.trailer.records, record.trailer.bytes) != (records, size_bytes) or source.has_more():
            raise BadExport("the export is damaged: it isn't as long as it says; take another copy of the file")
        yield record
        return


class _Source:
    """Bytes of a file, with the checksum of all that were taken."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self.crc = 0

    def take_magic(self) -> None:
        """What every file begins with."""
        begin = self._read(len(MAGIC))
        if not begin or not MAGIC.startswith(begin[: len(_FAMILY)]):
            raise BadExport("the file is no export of Muster's: give one that `muster admin export` wrote")
        if len(begin) == len(MAGIC) and begin != MAGIC:
            raise BadExport("the export was written by a newer release of Muster: import it with that one, or a later one")
        self.crc = zlib.crc32(self._whole(begin, len(MAGIC)))

    def take(self, count: int) -> bytes:
        """The next bytes, exactly so many."""
        blob = self._whole(self._read(count), count)
        self.crc = zlib.crc32(blob, self.crc)
        return blob

    def _whole(self, blob: bytes, count: int) -> bytes:
        if len(blob) < count:
            raise BadExport("the export is cut short: it has no end; take another copy of the file")
        return blob

    def has_more(self) -> bool:
        """Whether something is left."""
        return bool(self._read(1))

    def _read(self, count: int) -> bytes:
        try:
            return self._file.read(count)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise BadExport(f"the export can't be unpacked ({error}): take another copy of the file") from error


def unpacked(file: IO[bytes]) -> Readable:
    """A file that can be read from its beginning again, unpacked if gzip packed it."""
    begin = file.read(len(_GZIP))
    file.seek(0)
    return gzip.GzipFile(fileobj=file, mode="rb") if begin == _GZIP else file


@contextlib.contextmanager
def packing(out: Writable, *, name: str) -> Iterator[Writable]:
    """Where to write to: `out`, or what packs by gzip into it when `name` ends in .gz."""
    if not name.endswith(".gz"):
        yield out
        return
    with gzip.GzipFile(fileobj=cast("IO[bytes]", out), mode="wb", compresslevel=6, mtime=0) as packed:
        yield packed


@dataclass(slots=True)
class ShardSummary:
    """What a file says of a shard at its end, and how much of it there is."""

    end: export_pb2.ExportedShardEnd
    ended: int = 0
    state_entries: int = 0


@dataclass(slots=True)
class Contents:
    """What a whole file holds."""

    header: export_pb2.ExportHeader
    shards: dict[int, ShardSummary] = field(default_factory=dict)
    records: int = 0
    bytes: int = 0


def check_file(file: Readable) -> Contents:
    """Goes over a file, and says what is in it.

    Raises:
        BadExport: it isn't a whole export that this release can read.
    """
    contents: Contents | None = None
    current: _ShardCheck | None = None
    for record in read_records(file):
        kind = record.WhichOneof("record")
        if contents is None:
            if kind != "header":
                raise _wrong("it has no header")
            contents = Contents(record.header)
        elif kind == "shard" and (current is None or current.shard == record.shard.shard):
            current = _ShardCheck(record.shard)
        elif kind == "shard_end" and current is not None:
            contents.shards[record.shard_end.shard] = current.finish(record.shard_end)
            current = None
        elif kind == "trailer" and current is None:
            contents.records, contents.bytes = record.trailer.records, record.trailer.bytes
        elif kind is None:
            raise BadExport("the export holds something that this release doesn't know: import it with the release that wrote it")
        elif current is None:
            raise _wrong(f"there is a {kind} outside of a shard")
        else:
            current.take(record)
    assert contents is not None  # noqa: S101 - read_records ends with a trailer
    if list(contents.shards) != list(contents.header.exported_shards):
        raise _wrong("its shards aren't those that its header names")
    return contents


class _ShardCheck:
    def __init__(self, begin: export_pb2.ExportedShard) -> None:
        self.shard = begin.shard
        self._begin = begin
        self._sequence = begin.snapshot_sequence
        self._pieces = 0
        self._piece_bytes = 0
        self._ended = 0
        self._entries = 0

    def take(self, record: Record) -> None:
        match record.WhichOneof("record"):
            case "snapshot_piece":
                self._pieces += 1
                self._piece_bytes += len(record.snapshot_piece)
            case "commit":
                if record.commit.sequence != self._sequence + 1:
                    raise _wrong(f"entry {record.commit.sequence} of its journal follows {self._sequence}")
                self._sequence += 1
            case "ended":
                ended = record.ended
                if not len(ended.task_ids) == len(ended.markers) == len(ended.end_ms) == len(ended.records):
                    raise _wrong("the columns of ended tasks differ in length")
                self._ended += len(ended.task_ids)
            case "state":
                if len(record.state.names) != len(record.state.values):
                    raise _wrong("the columns of shared state differ in length")
                self._entries += len(record.state.names) if record.state.part == "entries" else 0
            case "redrive" | "dropped_namespace":
                pass
            case _:
                raise _wrong("a shard doesn't end before the next begins")

    def finish(self, end: export_pb2.ExportedShardEnd) -> ShardSummary:
        if end.shard != self._begin.shard:
            raise _wrong(f"shard {self._begin.shard} ends as shard {end.shard}")
        if end.sequence != self._sequence or end.commits != end.sequence - self._begin.snapshot_sequence:
            raise _wrong(f"the journal of shard {end.shard} ends at {self._sequence} instead of {end.sequence}")
        if (end.snapshot_pieces, end.snapshot_bytes) != (self._pieces, self._piece_bytes):
            raise _wrong(f"the snapshot of shard {end.shard} isn't whole")
        return ShardSummary(end, self._ended, self._entries)


def _wrong(problem: str) -> BadExport:
    return BadExport(f"the export can't be used: {problem}; export again")
