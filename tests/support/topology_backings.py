"""Where a shard can lie in a contract test that is more than one server: under sentinels, and in a cluster. Started once, for all tests."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from coordinator.journal.finding import find_store
from coordinator.journal.redis_store import RedisShardStore
from coordinator.journal.topology import Topology
from tests.support.processes import Children
from tests.support.redis_servers import Clustered, Replicated, Server, clustered, replicated, until
from tests.support.shard_backings import KEYS, Backing

_PATIENT_S = 10.0
_SHORT_S = 0.2


class TopologyBacking(Backing):
    """On the primary that has the shard.

    Args:
        topology: of the store.
        server: that primary.
        closing: what closes what is opened.
    """

    def __init__(self, *, topology: Topology, server: Server, closing: AsyncExitStack) -> None:
        self._topology = topology
        self._server = server
        self._closing = closing
        self._nonces = count()

    def client(self) -> Redis:
        """A client of the primary."""
        return self._topology.client(KEYS.head)

    def open(self) -> RedisShardStore:
        return self._open(call_timeout_s=_PATIENT_S)

    def open_impatient(self) -> RedisShardStore:
        return self._open(call_timeout_s=_SHORT_S)

    def _open(self, *, call_timeout_s: float) -> RedisShardStore:
        store = RedisShardStore(
            pool=self._topology.pool(KEYS.head), keys=KEYS, new_nonce=lambda: f"nonce-{next(self._nonces)}", call_timeout_s=call_timeout_s
        )
        self._closing.push_async_callback(store.close)
        return store

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        self._server.kill()
        try:
            yield
        finally:
            await self._server.start()
            await self.until_serving()

    @asynccontextmanager
    async def lost_answers(self) -> AsyncIterator[None]:
        with self._server.stopped():
            yield

    async def until_serving(self) -> None:
        """Returns when the primary takes writes."""

        async def serves() -> bool:
            try:
                return bool(await self.client().set(KEYS.head + ":serves", "yes", px=1))
            except RedisError:
                return False

        await until(serves, message="the primary to take writes")


class SharedStores:
    """Stores of several servers, each started when it is first asked for. They end with the processes' parent.

    Args:
        children: starts the processes.
        folder: where they lie.
    """

    def __init__(self, *, children: Children, folder: Path) -> None:
        self._children = children
        self._folder = folder
        self._stores: dict[str, Replicated | Clustered] = {}
        self._started_by: list[contextlib.AbstractAsyncContextManager[Replicated | Clustered]] = []

    @asynccontextmanager
    async def empty(self, kind: str) -> AsyncIterator[TopologyBacking]:
        """A store without any keys: "sentinel" or "cluster". Its primaries stay what they are, however long one is away."""
        store = await self._started(kind)
        await store.until_formed()
        async with AsyncExitStack() as closing:
            topology = await find_store(store.url, connect_timeout_s=2.0, call_timeout_s=_PATIENT_S)
            closing.push_async_callback(topology.close)
            servers = store.servers if isinstance(store, Replicated) else store.primaries
            place = topology.place(KEYS.head)
            server = next(server for server in servers if place == ("127.0.0.1", server.port))
            backing = TopologyBacking(topology=topology, server=server, closing=closing)
            await backing.client().config_set("maxmemory", 0)
            await backing.client().flushall()
            yield backing

    async def _started(self, kind: str) -> Replicated | Clustered:
        if kind not in self._stores:
            folder = self._folder / kind
            starting: contextlib.AbstractAsyncContextManager[Replicated | Clustered]
            starting = (
                replicated(self._children, folder, down_after_ms=60_000)
                if kind == "sentinel"
                else clustered(self._children, folder, node_timeout_ms=60_000)
            )
            self._stores[kind] = await starting.__aenter__()
            self._started_by.append(starting)  # the processes' parent ends it: not whoever finds that nobody needs this any more
        return self._stores[kind]
