"""Where a shard can lie in a contract test, with the ways to take it away and to give it back."""

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from coordinator.journal.data_directory import DataDirectory
from coordinator.journal.layout import ShardKeys
from coordinator.journal.memory_store import Fault, MemoryShard, MemoryShardStore, StoreCall
from coordinator.journal.redis_store import RedisShardStore
from coordinator.journal.server_process import Launch, spawn, stop, wait_until_serving
from coordinator.ports import ShardStore

KEYS = ShardKeys(prefix="muster", shard=3)
_PATIENT_S = 10.0
_SHORT_S = 0.2


class Backing(ABC):
    """One shard's data, whoever uses it."""

    @abstractmethod
    def open(self) -> ShardStore:
        """Another coordinator's way to the shard."""

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        """Meanwhile nothing reaches the data. It is as it was afterwards."""
        yield

    @asynccontextmanager
    async def lost_answers(self) -> AsyncIterator[None]:
        """Meanwhile calls of stores from `open_impatient` get no answer; what they ask for is done, at the latest afterwards."""
        yield

    @abstractmethod
    def open_impatient(self) -> ShardStore:
        """As `open`, but it gives up soon."""


class MemoryBacking(Backing):
    """In this process."""

    def __init__(self) -> None:
        self._shard = MemoryShard()
        self._now_ms = count(1_800_000_000_000)
        self._fault = Fault.NONE

    def open(self) -> ShardStore:
        return MemoryShardStore(shard=self._shard, now_ms=lambda: next(self._now_ms), fault=self._next_fault)

    def open_impatient(self) -> ShardStore:
        return self.open()

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        self._fault = Fault.BEFORE
        yield
        self._fault = Fault.NONE

    @asynccontextmanager
    async def lost_answers(self) -> AsyncIterator[None]:
        self._fault = Fault.AFTER
        yield
        self._fault = Fault.NONE

    async def _next_fault(self, call: StoreCall) -> Fault:
        return self._fault


class ServerBacking(Backing):
    """On a real server, which nobody restarts but the test. Made by `running_server`."""

    def __init__(self, *, data: DataDirectory, launch: Launch, closing: AsyncExitStack) -> None:
        self._data = data
        self._launch = launch
        self._closing = closing
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = Path()
        self._nonces = count()

    async def start(self) -> None:
        """Starts the server, with the data that is there."""
        self._process, record = spawn(data=self._data, launch=self._launch)
        self.socket = record.socket
        await wait_until_serving(process=self._process, data=self._data, record=record, within_s=_PATIENT_S)

    async def stop(self) -> None:
        """Ends the server cleanly."""
        record = self._data.read_record()
        if record is not None:
            await stop(data=self._data, record=record, within_s=_PATIENT_S)
        if self._process is not None:
            self._process.wait()

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def client(self) -> Redis:
        """A client of the server."""
        client = Redis(unix_socket_path=str(self.socket), retry=Retry(NoBackoff(), 0), socket_timeout=None, protocol=2)
        self._closing.push_async_callback(client.aclose)
        return client

    def open(self) -> RedisShardStore:
        return self._open(call_timeout_s=_PATIENT_S)

    def open_impatient(self) -> RedisShardStore:
        return self._open(call_timeout_s=_SHORT_S)

    def _open(self, *, call_timeout_s: float) -> RedisShardStore:
        store = RedisShardStore(
            pool=self.client().connection_pool, keys=KEYS, new_nonce=lambda: f"nonce-{next(self._nonces)}", call_timeout_s=call_timeout_s
        )
        self._closing.push_async_callback(store.close)
        return store

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        self.kill()
        yield
        await self.start()

    @asynccontextmanager
    async def lost_answers(self) -> AsyncIterator[None]:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)


@asynccontextmanager
async def running_server(*, binary: Path, directory: Path) -> AsyncIterator[ServerBacking]:
    """A server of its own in `directory`, ended with the block."""
    data = DataDirectory(path=directory)
    async with AsyncExitStack() as closing:
        backing = ServerBacking(data=data, launch=Launch(binary=binary), closing=closing)
        closing.callback(data.close)
        closing.push_async_callback(backing.stop)
        await backing.start()
        yield backing


async def first_of(store: ShardStore) -> int:
    """The oldest entry that a shard's journal still holds; 0 when it is empty."""
    page = await store.read(after=0, limit=1)
    return page[0][0] if page else 0
