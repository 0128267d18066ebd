"""What stored data depends on: none of these values may ever change for a format version."""

import struct

import pytest

from coordinator.journal.layout import (
    FORMAT_VERSION,
    ShardKeys,
    deployment_key,
    marker_of_line,
    pack_tasks,
    resized_line,
    shard_of,
    unpack_line,
)
from coordinator.ports import EndedEntry, EndedTask


def test_the_format_has_its_number():
    assert FORMAT_VERSION == 2


@pytest.mark.parametrize(
    "namespace,shards,shard",
    [("default", 16, 15), ("default", 1, 0), ("team-a", 16, 13), ("größe", 16, 9), ("default", 7, 1)],
)
def test_a_namespace_stays_in_its_shard(namespace, shards, shard):
    assert shard_of(namespace, shards=shards) == shard


def test_namespaces_spread_over_all_shards():
    assert {shard_of(f"tenant-{i}", shards=16) for i in range(300)} == set(range(16))


def test_the_keys_of_a_shard_share_its_hash_tag():
    keys = ShardKeys(prefix="muster", shard=3)
    assert keys.head == "muster:{s3}:head"
    assert keys.journal == "muster:{s3}:journal"
    assert keys.snapshots == ("muster:{s3}:snapshot:a", "muster:{s3}:snapshot:b")
    assert keys.tasks("default") == "muster:{s3}:task:default:"
    assert keys.ended("default") == "muster:{s3}:ended:default"
    assert keys.counters("default") == "muster:{s3}:counters:default"
    assert deployment_key("muster") == "muster:deployment"


@pytest.mark.parametrize("prefix", ["", "{a}", "a}"])
def test_a_prefix_with_a_hash_tag_of_its_own_is_refused(prefix):
    with pytest.raises(ValueError, match="braces"):
        ShardKeys(prefix=prefix, shard=0)
    with pytest.raises(ValueError, match="braces"):
        deployment_key(prefix)


def test_an_ended_task_is_stored_as_these_bytes():
    packed = pack_tasks([(1, EndedTask("default", "ü", b"record", 1_800_000_000_000))], sequence=5, prefix="p:")
    assert packed.keys == ["p:ü"]
    assert packed.values == [bytes.fromhex("0000000000500001") + b"record"]
    assert packed.lines == [bytes.fromhex("0000000000500001000001a3185c500000000006") + "ü".encode()]
    assert packed.record_bytes == 6


def test_a_line_says_what_was_packed():
    packed = pack_tasks([(0, EndedTask("default", "task", b"four", 12))], sequence=1, prefix="p:")
    assert unpack_line(packed.lines[0], position=9) == EndedEntry(position=9, task_id="task", end_ms=12, record_bytes=4)
    assert packed.values[0].startswith(marker_of_line(packed.lines[0]))


def test_a_line_can_tell_another_size():
    packed = pack_tasks([(0, EndedTask("default", "task", b"four", 12))], sequence=1, prefix="p:")
    line = resized_line(packed.lines[0], record_bytes=2)
    assert unpack_line(line, position=9) == EndedEntry(position=9, task_id="task", end_ms=12, record_bytes=2)
    assert marker_of_line(line) == marker_of_line(packed.lines[0])


def test_markers_differ_between_the_places_and_the_commits():
    tasks = [(place, EndedTask("default", "t", b"", 0)) for place in (0, 1, 2**20 - 1)]
    lines = [line for sequence in (1, 2) for line in pack_tasks(tasks, sequence=sequence, prefix="").lines]
    assert len({marker_of_line(line) for line in lines}) == 6


@pytest.mark.parametrize("line", [b"", b"short", b"x" * 20 + b"\xff"])
def test_what_is_no_line_is_not_read_as_one(line):
    with pytest.raises((struct.error, UnicodeDecodeError)):
        unpack_line(line, position=0)
