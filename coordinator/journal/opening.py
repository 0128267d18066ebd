"""Opens the store that a coordinator was told to use: its own in a data directory, or one by its address."""

import asyncio
import shutil
from pathlib import Path
from urllib.parse import quote

from redis.exceptions import AuthenticationError, RedisError

from coordinator.cluster.ports import MemberRegistry
from coordinator.journal.deployment import Deployment, open_deployment
from coordinator.journal.embedded import EmbeddedServer
from coordinator.journal.errors import StoreStartError
from coordinator.journal.finding import find_store, without_secrets
from coordinator.journal.ids import new_nonce
from coordinator.journal.layout import ShardKeys, check_prefix, deployment_key, members_key
from coordinator.journal.redis_errors import as_store_errors
from coordinator.journal.redis_registry import RedisMemberRegistry
from coordinator.journal.redis_store import RedisShardStore
from coordinator.journal.replica_checks import check_replicas
from coordinator.journal.replica_wait import ReplicaWait
from coordinator.journal.server_binary import find_server_binary
from coordinator.journal.server_process import Launch
from coordinator.journal.startup_checks import StoreReport, check_store, weakest
from coordinator.journal.topology import Topology, each_primary
from coordinator.ports import ShardStore, StoreFullness
from coordinator.state.layout import StateKeys
from coordinator.state.ports import StateStore
from coordinator.state.redis_store import RedisStateStore


class Store:
    """An open store: its shards, and what is known of it. Made by `open_store`."""

    def __init__(
        self,
        *,
        topology: Topology,
        report: StoreReport,
        deployment: Deployment,
        key_prefix: str,
        server: EmbeddedServer | None,
        call_timeout_s: float,
        wait: ReplicaWait | None,
    ) -> None:
        self._topology = topology
        self._report = report
        self._deployment = deployment
        self._server = server
        self._key_prefix = key_prefix
        self._call_timeout_s = call_timeout_s
        keys = [ShardKeys(prefix=key_prefix, shard=number) for number in range(deployment.shards)]
        self._heads = [shard.head for shard in keys]
        self._shards = tuple(
            RedisShardStore(pool=topology.pool(shard.head), keys=shard, new_nonce=new_nonce, call_timeout_s=call_timeout_s, wait=wait)
            for shard in keys
        )
        self._states = tuple(
            RedisStateStore(
                pool=topology.pool(shard.head), keys=StateKeys(shard=shard), token=store.token, call_timeout_s=call_timeout_s, wait=wait
            )
            for shard, store in zip(keys, self._shards, strict=True)
        )

    @property
    def report(self) -> StoreReport:
        """What the store is and can promise, as found when it was opened."""
        return self._report

    @property
    def server(self) -> EmbeddedServer | None:
        """The server that was brought along, if it was."""
        return self._server

    @property
    def peer_secret(self) -> bytes:
        """What the coordinators that share it know each other by."""
        return self._deployment.peer_secret

    def registry(self, *, call_timeout_s: float) -> MemberRegistry | None:
        """Who else uses it; None for a store of our own, which nobody else can."""
        if self._server is not None:
            return None
        return RedisMemberRegistry(
            pool=self._topology.pool(members_key(self._key_prefix)), key_prefix=self._key_prefix, call_timeout_s=call_timeout_s
        )

    @property
    def topology(self) -> Topology:
        """Where its servers are. `topology.pool(key)` makes connections for what lies beside the shards, a pool for each key."""
        return self._topology

    def shard(self, number: int) -> ShardStore:
        """One shard, from 0: always the same object."""
        return self._shards[number]

    def state(self, number: int) -> StateStore:
        """The shared state of one shard, likewise. It is written under the shard's claim."""
        return self._states[number]

    async def fullness(self) -> StoreFullness:
        """How full it is: of several primaries, the one with the least room. Raises StoreOutage; and StoreCorrupt when it isn't shown."""
        with as_store_errors():
            async with asyncio.timeout(self._call_timeout_s):
                infos = [await client.info("memory") for client, _ in each_primary(self._topology, self._heads)]
        disk = shutil.disk_usage(self._server.directory).free if self._server is not None else None
        found = [
            StoreFullness(
                used_bytes=int(info["used_memory"]) - int(info.get("mem_not_counted_for_evict", 0)),
                limit_bytes=int(info.get("maxmemory", 0)),
                free_disk_bytes=disk,
            )
            for info in infos
        ]
        return max(found, key=lambda memory: memory.used_bytes / memory.limit_bytes if memory.limit_bytes else 0.0)

    async def close(self) -> None:
        """Closes the connections, and ends the server that was brought along: what it holds is on disk."""
        try:
            for shard in self._shards:
                await shard.close()
            for state in self._states:
                await state.close()
            await self._topology.close()
        finally:
            if self._server is not None:
                await self._server.close()


async def open_store(
    *,
    data_dir: Path | None,
    redis_url: str | None,
    shards: int,
    key_prefix: str = "muster",
    memory_limit_bytes: int = 0,
    wait_replicas: int = 0,
    connect_timeout_s: float = 2.0,
    call_timeout_s: float = 10.0,
) -> Store:
    """Opens a store, and checks that it is fit to be one.

    Args:
        data_dir: where to run a server of our own. Exactly one of this and `redis_url` is given.
        redis_url: a running one: redis://, rediss://, unix:// or redis+sentinel://.
        shards: how many; the store remembers it.
        key_prefix: what all its keys begin with.
        memory_limit_bytes: of a server of our own; 0 is no limit.
        wait_replicas: how many replicas have a write before it is acknowledged or shown; 0 waits for none.
        connect_timeout_s: how long a connection may take.
        call_timeout_s: how long an answer may take. A write that takes longer has an unknown fate, and is repeated.

    Raises:
        StoreStartError: it can't be used, and one sentence says why.
        ValueError: not exactly one store is given, or `key_prefix` or `shards` can't be.
    """
    if (data_dir is None) == (redis_url is None):
        raise ValueError("give either a data directory or the address of a store")
    if shards < 1:
        raise ValueError("there must be at least one shard")
    check_prefix(key_prefix)
    server = None
    if data_dir is not None:
        launch = Launch(binary=find_server_binary(), memory_limit_bytes=memory_limit_bytes)
        server = await EmbeddedServer.start(data_dir=data_dir, launch=launch)
    url = f"unix://{quote(str(server.socket))}" if server is not None else str(redis_url)
    place = f"in {data_dir}" if server is not None else f"at {without_secrets(url)}"
    topology = None
    try:
        async with asyncio.timeout(call_timeout_s):
            topology = await find_store(url, connect_timeout_s=connect_timeout_s, call_timeout_s=call_timeout_s)
            heads = [ShardKeys(prefix=key_prefix, shard=number).head for number in range(shards)]
            primaries = each_primary(topology, heads)
            report = weakest([await check_store(client) for client, _ in primaries])
            key = deployment_key(key_prefix)
            deployment = await open_deployment(topology.client(key), prefix=key_prefix, shards=shards)
            wait = None
            if wait_replicas:
                probes = [(client, f"{head}:probe") for client, head in primaries]
                wait, report = await check_replicas(probes, report, replicas=wait_replicas, call_timeout_s=call_timeout_s)
    except BaseException as error:
        if topology is not None:
            await topology.close()
        if server is not None:
            await server.close()
        if isinstance(error, AuthenticationError) or isinstance(error.__cause__, AuthenticationError):
            raise StoreStartError(f"the store {place} refused the credentials: give user and password in its address") from error
        if isinstance(error, RedisError | OSError):
            raise StoreStartError(f"the store {place} can't be used: {error}") from error
        raise
    return Store(
        topology=topology,
        report=report,
        deployment=deployment,
        key_prefix=key_prefix,
        server=server,
        call_timeout_s=call_timeout_s,
        wait=wait,
    )
