"""Where the contract's tests keep a shard: in memory, on the embedded Valkey, and on a redis-server of the system."""

import shutil
from pathlib import Path

import pytest

from coordinator.journal.server_binary import find_server_binary
from tests.support.shard_backings import MemoryBacking, running_server


@pytest.fixture(params=["memory", "valkey", pytest.param("redis", marks=pytest.mark.redis)])
async def backing(request, tmp_path):
    if request.param == "memory":
        yield MemoryBacking()
        return
    binary = find_server_binary() if request.param == "valkey" else Path(shutil.which("redis-server"))
    async with running_server(binary=binary, directory=tmp_path / "store") as server:
        yield server


@pytest.fixture
async def owner(backing):
    store = backing.open()
    await store.claim()
    return store
