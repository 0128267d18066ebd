"""A disk that fills up, where one can be made: submits stop in time, and a store that it has ended comes back (G7)."""

import asyncio
import logging
import subprocess

import pytest

from agent_node import Client
from agent_node.errors import LimitError
from coordinator.engine import room
from coordinator.settings import CoordinatorSettings
from coordinator.wiring import coordinator
from tests.support.eventually import eventually

DISK_BYTES = 64 * 1024 * 1024


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], check=False, capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small file system needs root: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def settings_for(folder):
    return CoordinatorSettings(listen="127.0.0.1:0", data_dir=folder / "data", shards=1, stop_grace_s=0.0)


async def test_submits_stop_below_512_mib(small_disk):
    async with coordinator(settings_for(small_disk)) as running, Client(f"127.0.0.1:{running.port}") as client:

        async def refused():
            try:
                await client.submit("work", b"")
            except LimitError as error:
                return error
            return None

        refusal = await eventually(refused, message="the disk to be seen")
        assert refusal.metadata["limit"] == "free_disk"
        assert "bytes free" in str(refusal)


async def test_a_full_disk_is_an_outage_that_ends_when_there_is_space(small_disk, monkeypatch, caplog):
    caplog.set_level(logging.CRITICAL, logger="coordinator")
    monkeypatch.setattr(room, "MIN_FREE_DISK_BYTES", 0)
    async with coordinator(settings_for(small_disk)) as running, Client(f"127.0.0.1:{running.port}") as client:
        await client.submit("work", b"before", task_id="before")
        ballast = small_disk / "ballast"
        with pytest.raises(OSError, match="No space left"):
            ballast.write_bytes(bytes(DISK_BYTES))
        writing = asyncio.create_task(client.submit("work", b"x" * 100_000, task_id="during"))
        await eventually(lambda: running.shards[0].outage_since_s is not None, message="the outage")
        ballast.unlink()
        async with asyncio.timeout(30):
            await writing
        assert {(await client.get(one)).task_id for one in ("before", "during")} == {"before", "during"}
