"""Where the contract's tests keep a shard: in memory, on the embedded Valkey, and on a redis-server of the system."""

import shutil
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from coordinator.journal.server_binary import find_server_binary
from tests.support.shard_backings import MemoryBacking, running_server
from tests.support.state_backings import MemoryStateBacking, ServerStateBacking, StateClock, StateWriter


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


@pytest.fixture(params=["valkey", pytest.param("redis", marks=pytest.mark.redis)])
async def server_state(request, tmp_path):
    """Shared state on a server, at the test's time."""
    async with _running_state(request.param, tmp_path) as backing:
        yield backing


@pytest.fixture(params=["memory", "valkey", pytest.param("redis", marks=pytest.mark.redis)])
async def state(request, tmp_path):
    """Shared state anywhere, at the test's time."""
    if request.param == "memory":
        yield MemoryStateBacking()
        return
    async with _running_state(request.param, tmp_path) as backing:
        yield backing


@pytest.fixture
async def writer(state):
    """The owner's writes, anywhere."""
    return StateWriter(store=await state.open(), clock=state.clock)


@pytest.fixture
async def server_writer(server_state):
    """The owner's writes, on a server."""
    return StateWriter(store=await server_state.open(), clock=server_state.clock)


@asynccontextmanager
async def _running_state(kind, directory):
    binary = find_server_binary() if kind == "valkey" else Path(shutil.which("redis-server"))
    async with running_server(binary=binary, directory=directory / "store") as server, AsyncExitStack() as closing:
        yield ServerStateBacking(server=server, closing=closing, clock=StateClock())
