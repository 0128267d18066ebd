"""What any release has recorded replays for ever, to the very state that it stood for."""

import asyncio
import json
from collections import Counter

import pytest
from google.protobuf.message import Message
from muster.v1 import event_pb2

from coordinator.engine.recovery import recover
from coordinator.journal import codec
from coordinator.journal.memory_store import MemoryShard, MemoryShardStore
from tests.replay.record import record
from tests.replay.recordings import FOLDER, Recording, record_said, said

KINDS = (event_pb2.Commit, event_pb2.SnapshotChunk, event_pb2.TaskRecord)
NO_WEBHOOKS = {"pending": [], "given_up": [], "next_delivery": 1}
NAMES = sorted(folder.name for folder in FOLDER.iterdir())


@pytest.fixture(params=NAMES)
def recording(request):
    return Recording.read(FOLDER / request.param)


def recovered(journal, snapshot=None):
    """What a coordinator makes of it: `journal` by sequence, `snapshot` with its own."""

    async def main():
        shard = MemoryShard(journal=dict(journal), sequence=max(journal), commit_nonce="n")
        store = MemoryShardStore(shard=shard, now_ms=lambda: 1)
        if snapshot is not None:
            await store.claim()
            sequence, pieces = snapshot
            for place, piece in enumerate(pieces):
                assert await store.write_snapshot(sequence=sequence, nonce="n", place=place, piece=piece)
            assert await store.finish_snapshot(sequence=sequence, nonce="n", pieces=len(pieces), size_bytes=sum(map(len, pieces)))
            assert await store.trim_journal(limit=10**6) == sequence
        return await recover(store, codec, await store.claim())

    return asyncio.run(main())


def assert_it_says(found, expected):
    """`found` may know more fields than the release that recorded `expected`."""
    assert found.states.keys() == expected.keys()
    for name, (state, _) in found.states.items():
        says = json.loads(json.dumps(said(state)))
        assert says["next_number"] == expected[name]["next_number"]
        policies = expected[name].get("policies", {})
        assert says["policies"].keys() == policies.keys()
        for policy, fields in policies.items():
            assert {field: says["policies"][policy]["policy"][field] for field in fields["policy"]} == fields["policy"], policy
            assert says["policies"][policy]["set_ms"] == fields["set_ms"]
        assert says["webhooks"] == expected[name].get("webhooks", NO_WEBHOOKS)
        assert says["rates"] == expected[name].get("rates", [])
        assert says["tasks"].keys() == expected[name]["tasks"].keys()
        for task_id, fields in expected[name]["tasks"].items():
            found_fields = {field: says["tasks"][task_id][field] for field in fields}
            scheduling = "spec.scheduling"
            if scheduling in fields:  # a list, which later releases make longer
                found_fields[scheduling] = found_fields[scheduling][: len(fields[scheduling])]
            assert known_of(found_fields, fields) == fields, task_id


def known_of(found, expected):
    """What of `found` the release that recorded `expected` knew."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return {field: known_of(found[field], value) for field, value in expected.items()}
    if isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        return [known_of(one, other) for one, other in zip(found, expected, strict=True)]
    return found


def test_the_journal_replays(recording):
    journal = dict(enumerate(recording.journal, 1))
    assert_it_says(recovered(journal), recording.expected["namespaces"])


def test_the_snapshot_and_the_journal_behind_it_replay(recording):
    journal, sequence = dict(enumerate(recording.journal, 1)), recording.expected["snapshot_sequence"]
    assert 1 < sequence < len(journal)
    assert_it_says(recovered(journal, (sequence, recording.snapshot)), recording.expected["namespaces"])


def test_the_records_are_read(recording):
    for blob, expected in zip(recording.records, recording.expected["records"], strict=True):
        found = record_said(blob)
        assert {field: found[field] for field in expected} == expected


def test_a_recording_is_as_it_was_made(recording, tmp_path):
    recording.write(tmp_path / "again")
    assert Recording.read(tmp_path / "again") == recording


def test_whatever_can_be_written_was_recorded():
    """Fails when a journal, a snapshot or a record can hold something new."""
    seen = Counter()
    for name in NAMES:
        recording = Recording.read(FOLDER / name)
        for kind, blobs in zip(KINDS, (recording.journal, recording.snapshot, recording.records), strict=True):
            for blob in blobs:
                count(kind.FromString(blob), seen)
    wanted = set()
    for kind in KINDS:
        want(kind.DESCRIPTOR, wanted)
    missing = sorted(wanted - seen.keys())
    assert not missing, f"never recorded: {missing}; extend tests/replay/record.py and run: python -m tests.replay.record NAME"


def test_the_script_still_runs():
    assert record().journal


def count(message: Message, seen: Counter) -> None:
    for field, value in message.ListFields():
        seen[field.full_name] += 1
        if field.message_type and field.message_type.GetOptions().map_entry:
            seen.update(inner.full_name for inner in field.message_type.fields)
            continue
        for inner in (value if field.is_repeated else [value]) if field.message_type else ():
            count(inner, seen)


def want(descriptor, wanted):
    for field in descriptor.fields:
        if field.full_name not in wanted:
            wanted.add(field.full_name)
            if field.message_type and field.message_type.file.package == "muster.v1":
                want(field.message_type, wanted)
