"""Opens the store that a coordinator was told to use: its own in a data directory, or a server by its address."""

import asyncio
import shutil
from pathlib import Path
from urllib.parse import quote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError

from coordinator.journal.deployment import Deployment, open_deployment
from coordinator.journal.embedded import EmbeddedServer
from coordinator.journal.errors import StoreStartError
from coordinator.journal.ids import new_nonce
from coordinator.journal.layout import ShardKeys, check_prefix
from coordinator.journal.redis_errors import as_store_errors
from coordinator.journal.redis_store import RedisShardStore
from coordinator.journal.server_binary import find_server_binary
from coordinator.journal.server_process import Launch
from coordinator.journal.startup_checks import StoreReport, check_store
from coordinator.ports import ShardStore, StoreFullness
from coordinator.state.layout import StateKeys
from coordinator.state.ports import StateStore
from coordinator.state.redis_store import RedisStateStore

_SHARED_CONNECTIONS = 4  # for what concerns no shard; each shard has its own


class Store:
    """An open store: its shards, and what is known of it. Made by `open_store`."""

    def __init__(
        self,
        *,
        client: Redis,
        report: StoreReport,
        deployment: Deployment,
        key_prefix: str,
        server: EmbeddedServer | None,
        call_timeout_s: float,
    ) -> None:
        self._client = client
        self._report = report
        self._deployment = deployment
        self._server = server
        self._call_timeout_s = call_timeout_s
        self._shards = tuple(
            RedisShardStore(
                pool=client.connection_pool,
                keys=ShardKeys(prefix=key_prefix, shard=number),
                new_nonce=new_nonce,
                call_timeout_s=call_timeout_s,
            )
            for number in range(deployment.shards)
        )
        self._states = tuple(
            RedisStateStore(
                pool=client.connection_pool,
                keys=StateKeys(shard=ShardKeys(prefix=key_prefix, shard=number)),
                token=shard.token,
                call_timeout_s=call_timeout_s,
            )
            for number, shard in enumerate(self._shards)
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

    def shard(self, number: int) -> ShardStore:
        """One shard, from 0: always the same object."""
        return self._shards[number]

    def state(self, number: int) -> StateStore:
        """The shared state of one shard, likewise. It is written under the shard's claim."""
        return self._states[number]

    async def fullness(self) -> StoreFullness:
        """How full it is. Raises StoreOutage; and StoreCorrupt when it isn't shown."""
        with as_store_errors():
            async with asyncio.timeout(self._call_timeout_s):
                info = await self._client.info("memory")
        return StoreFullness(
            used_bytes=int(info["used_memory"]) - int(info.get("mem_not_counted_for_evict", 0)),
            limit_bytes=int(info.get("maxmemory", 0)),
            free_disk_bytes=shutil.disk_usage(self._server.directory).free if self._server is not None else None,
        )

    async def close(self) -> None:
        """Closes the connections, and ends the server that was brought along: what it holds is on disk."""
        try:
            for shard in self._shards:
                await shard.close()
            for state in self._states:
                await state.close()
            await self._client.aclose(close_connection_pool=True)
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
    connect_timeout_s: float = 2.0,
    call_timeout_s: float = 10.0,
) -> Store:
    """Opens a store, and checks that it is fit to be one.

    Args:
        data_dir: where to run a server of our own. Exactly one of this and `redis_url` is given.
        redis_url: a running one: redis://, rediss:// or unix://.
        shards: how many; the store remembers it.
        key_prefix: what all its keys begin with.
        memory_limit_bytes: of a server of our own; 0 is no limit.
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
    place = f"in {data_dir}" if server is not None else f"at {_without_secrets(url)}"
    client = None
    try:
        client = _connect(url, connect_timeout_s=connect_timeout_s, call_timeout_s=call_timeout_s)
        async with asyncio.timeout(call_timeout_s):
            report = await check_store(client)
            deployment = await open_deployment(client, prefix=key_prefix, shards=shards)
    except BaseException as error:
        if client is not None:
            await client.aclose(close_connection_pool=True)
        if server is not None:
            await server.close()
        if isinstance(error, AuthenticationError) or isinstance(error.__cause__, AuthenticationError):
            raise StoreStartError(f"the store {place} refused the credentials: give user and password in its address") from error
        if isinstance(error, RedisError | OSError):
            raise StoreStartError(f"the store {place} can't be used: {error}") from error
        raise
    return Store(client=client, report=report, deployment=deployment, key_prefix=key_prefix, server=server, call_timeout_s=call_timeout_s)


def _connect(url: str, *, connect_timeout_s: float, call_timeout_s: float) -> Redis:
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_SHARED_CONNECTIONS,
            timeout=call_timeout_s,
            socket_connect_timeout=connect_timeout_s,
            socket_timeout=None,  # see OrderedConnection: calls are timed by who makes them
        )
        # Options in the address win over arguments, but not over these: redis-py's own retries would hide an outage for seconds.
        pool.connection_kwargs |= {"retry": Retry(NoBackoff(), 0), "decode_responses": False, "protocol": 2}
        pool.make_connection()  # type: ignore[no-untyped-call] # it would complain of options only when it is first used
    except (TypeError, ValueError) as error:
        raise StoreStartError(
            f"the store's address {_without_secrets(url)} can't be read ({error}): give redis://host:port/db, rediss:// or unix:///path"
        ) from error
    return Redis(connection_pool=pool)


def _without_secrets(url: str) -> str:
    """The address without user, password and options, for people."""
    try:
        parts = urlsplit(url)
        place = parts.hostname or ""
        if parts.port is not None:
            place += f":{parts.port}"
    except ValueError:
        return "given"
    return f"{parts.scheme}://{place}{parts.path}" if parts.scheme else "given"
