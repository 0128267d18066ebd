"""An export that was recorded is read for ever. A new version, or something new in it, gets a recording beside the old ones."""

from pathlib import Path

import pytest
from muster.v1 import common_pb2

from coordinator.admin.export_file import MAGIC, check_file
from tests.support.admin_stores import fleet

RECORDED = sorted((Path(__file__).parent / "recorded").glob("export-*.bin"))


def test_there_is_a_recording_of_every_version():
    assert [path.name for path in RECORDED] == [f"export-{number}.bin" for number in range(1, int(MAGIC.split()[1]) + 1)]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
async def test_what_was_recorded_is_imported(valkey, path):
    with path.open("rb") as file:
        contents = check_file(file)
    assert contents.header.shards == 2
    await valkey.import_from(path)
    assert not (await valkey.check()).violations
    async with valkey.coordinator() as running, fleet(running) as client:
        assert (await client.get("done-2")).state == common_pb2.TASK_STATE_COMPLETED
        assert (await client.get("failed-0")).run == 2
        assert (await client.get("waits-3")).run == 2
        assert (await client.get("runs")).state == common_pb2.TASK_STATE_RUNNING
        entry = await client.state.get("plain")
        assert entry is not None
        assert entry.value == b"another value"
        (lock,) = await client.state.locks()
        assert lock.name == "held"
