"""Where the contract's tests keep a shard: in memory, on the embedded Valkey, on a redis-server of the system, and on several servers."""

import shutil
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from coordinator.journal.server_binary import find_server_binary
from tests.support.processes import Children
from tests.support.shard_backings import MemoryBacking, running_server
from tests.support.state_backings import MemoryStateBacking, ServerStateBacking, StateClock, StateWriter
from tests.support.topology_backings import SharedStores

SEVERAL_SERVERS = ("sentinel", "cluster")


@pytest.fixture(scope="session")
def shared_stores(tmp_path_factory):
    """Stores of several servers."""
    folder = tmp_path_factory.mktemp("stores")
    with Children(folder=folder) as children:
        yield SharedStores(children=children, folder=folder)


@pytest.fixture(params=["memory", "valkey", pytest.param("redis", marks=pytest.mark.redis), *SEVERAL_SERVERS])
async def backing(request, tmp_path, shared_stores):
    if request.param == "memory":
        yield MemoryBacking()
        return
    if request.param in SEVERAL_SERVERS:
        async with shared_stores.empty(request.param) as store:
            yield store
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


@pytest.fixture(params=["memory", "valkey", pytest.param("redis", marks=pytest.mark.redis), *SEVERAL_SERVERS])
async def state(request, tmp_path, shared_stores):
    """Shared state anywhere, at the test's time."""
    if request.param == "memory":
        yield MemoryStateBacking()
        return
    if request.param in SEVERAL_SERVERS:
        async with shared_stores.empty(request.param) as server, AsyncExitStack() as closing:
            yield ServerStateBacking(server=server, closing=closing, clock=StateClock())
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
