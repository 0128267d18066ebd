"""Where the tests of operators' tools keep a store: on real servers."""

import shutil
from pathlib import Path

import pytest

from coordinator.journal.server_binary import find_server_binary
from tests.support.admin_stores import LiveStore
from tests.support.shard_backings import running_server


@pytest.fixture(params=["valkey", pytest.param("redis", marks=pytest.mark.redis)])
async def store(request, tmp_path):
    """On either server."""
    binary = find_server_binary() if request.param == "valkey" else Path(shutil.which("redis-server"))
    async with running_server(binary=binary, directory=tmp_path / "store") as server:
        yield LiveStore(server)


@pytest.fixture
async def valkey(tmp_path):
    """On the one that we bring along."""
    async with running_server(binary=find_server_binary(), directory=tmp_path / "store") as server:
        yield LiveStore(server)
