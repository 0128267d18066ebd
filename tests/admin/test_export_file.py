"""The file of an export: what was written is read back, and whatever isn't just that is refused before anything is done with it."""

import gzip
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from muster.v1 import export_pb2

from coordinator.admin.errors import BadExport
from coordinator.admin.export_file import MAGIC, ExportWriter, Record, check_file, packing, read_records, unpacked


def small_export():
    """Every kind of record, in a file."""
    records = [
        Record(header=export_pb2.ExportHeader(layout_version=2, state_version=1, shards=2, exported_shards=[0, 1], release="1")),
        Record(shard=export_pb2.ExportedShard(shard=0, snapshot_sequence=7)),
        Record(snapshot_piece=b"piece"),
        Record(commit=export_pb2.ExportedCommit(sequence=8, commit=b"commit")),
        Record(ended=export_pb2.ExportedTasks(namespace="n", task_ids=["a"], markers=[8 << 20], end_ms=[5], records=[b"r"])),
        Record(redrive=export_pb2.ExportedRedrive(namespace="n", task_id="a", sequence=9)),
        Record(dropped_namespace="n"),
        Record(state=export_pb2.ExportedState(namespace="n", part="entries", names=[b"k"], values=[b"v"])),
        Record(shard_end=export_pb2.ExportedShardEnd(shard=0, sequence=8, snapshot_pieces=1, snapshot_bytes=5, commits=1)),
        Record(shard=export_pb2.ExportedShard(shard=1)),
        Record(shard_end=export_pb2.ExportedShardEnd(shard=1)),
    ]
    return records, written(records)


def written(records, *, name="x"):
    out = io.BytesIO()
    with packing(out, name=name) as packed:
        writer = ExportWriter(packed)
        for record in records:
            writer.add(record)
        writer.close()
    return out.getvalue()


RECORDS, SMALL = small_export()


def test_a_file_is_these_bytes():
    """The format is what others read: it never changes for a version."""
    blob = written([Record(header=export_pb2.ExportHeader(shards=1))])
    assert blob.hex() == (MAGIC + bytes.fromhex("000000040a02180100000006520408021004630ec2b4")).hex()


@given(st.lists(st.binary(max_size=2000), max_size=20), st.sampled_from(["x", "x.gz"]))
def test_what_was_written_is_read(pieces, name):
    records = [Record(snapshot_piece=piece) for piece in pieces]
    file = io.BytesIO(written(records, name=name))
    *found, trailer = read_records(unpacked(file))
    assert found == records
    assert trailer.trailer.records == len(records) + 1


def test_what_is_in_it_is_said():
    contents = check_file(io.BytesIO(SMALL))
    assert list(contents.shards) == [0, 1]
    assert (contents.shards[0].ended, contents.shards[0].state_entries, contents.records) == (1, 1, len(RECORDS) + 1)


@given(st.integers(min_value=0, max_value=len(SMALL) - 1))
def test_a_file_cut_short_anywhere_is_refused(length):
    with pytest.raises(BadExport):
        check_file(io.BytesIO(SMALL[:length]))


@given(st.integers(min_value=0, max_value=len(SMALL) - 1), st.integers(min_value=1, max_value=255))
def test_a_file_with_any_byte_changed_is_refused(place, change):
    blob = bytearray(SMALL)
    blob[place] ^= change
    with pytest.raises(BadExport):
        check_file(io.BytesIO(bytes(blob)))


@given(st.binary(min_size=1, max_size=40))
def test_a_file_that_goes_on_is_refused(more):
    with pytest.raises(BadExport, match="isn't as long as it says"):
        check_file(io.BytesIO(SMALL + more))


PACKED = written(RECORDS, name="x.gz")


@given(st.integers(min_value=1, max_value=len(PACKED) - 1))
def test_a_packed_file_cut_short_anywhere_is_refused(length):
    with pytest.raises(BadExport):
        check_file(unpacked(io.BytesIO(PACKED[:length])))


def test_something_else_is_no_export():
    with pytest.raises(BadExport, match="no export of Muster's"):
        check_file(io.BytesIO(b""))
    with pytest.raises(BadExport, match="no export of Muster's"):
        check_file(unpacked(io.BytesIO(gzip.compress(b"something else"))))


def test_a_newer_format_is_told_from_damage():
    with pytest.raises(BadExport, match="newer release"):
        check_file(io.BytesIO(SMALL.replace(MAGIC, b"MUSTER-EXPORT 2\n")))


@pytest.mark.parametrize(
    "change,problem",
    [
        (lambda records: records[1:], "no header"),
        (lambda records: records[:3] + records[4:], "journal of shard 0 ends at 7"),
        (lambda records: records[:2] + records[3:], "snapshot of shard 0 isn't whole"),
        (lambda records: records[:-2], "shards aren't those"),
        (lambda records: records[:1] + records[2:], "outside of a shard"),
        (lambda records: records[:-1], "doesn.t end before"),
        (lambda records: [*records[:1], Record(), *records[1:]], "doesn't know"),
        (lambda records: [*records[:4], *records[3:]], "entry 8 of its journal follows 8"),
    ],
)
def test_records_that_make_no_shard_are_refused(change, problem):
    with pytest.raises(BadExport, match=problem):
        check_file(io.BytesIO(written(change(RECORDS))))


def test_a_shard_may_begin_again():
    contents = check_file(io.BytesIO(written([*RECORDS[:3], *RECORDS[1:]])))
    assert contents.shards[0].end.sequence == 8
