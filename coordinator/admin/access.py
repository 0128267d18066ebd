"""How a tool comes to a store: a server by its address, or that of a data directory, whether a coordinator runs there or not."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError

from coordinator.admin.errors import ToolError, ToolRefused
from coordinator.journal.data_directory import DataDirectory
from coordinator.journal.deployment import Deployment, read_deployment
from coordinator.journal.embedded import EmbeddedServer
from coordinator.journal.errors import StoreStartError
from coordinator.journal.finding import find_store, without_secrets
from coordinator.journal.layout import ShardKeys, check_prefix, deployment_key
from coordinator.journal.ordered_connection import OrderedConnection
from coordinator.journal.server_binary import default_store_memory, find_server_binary
from coordinator.journal.server_process import Launch
from coordinator.journal.topology import Topology, each_primary

CALL_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Where:
    """Which store: one of `data_dir` and `redis_url` is given."""

    data_dir: Path | None
    redis_url: str | None
    key_prefix: str = "muster"

    def __str__(self) -> str:
        return f"in {self.data_dir}" if self.data_dir is not None else f"at {without_secrets(str(self.redis_url))}"


class OpenStore:
    """An open store. Made by `open_for_reading` and `open_for_import`."""

    def __init__(self, *, topology: Topology, where: Where) -> None:
        self._topology = topology
        self.where = where

    def keys(self, shard: int) -> ShardKeys:
        """The names of a shard's keys."""
        return ShardKeys(prefix=self.where.key_prefix, shard=shard)

    def client(self, shard: int) -> Redis:
        """Of the server that has a shard."""
        return self._topology.client(self.keys(shard).head)

    def deployment_client(self) -> Redis:
        """Of the server that has the deployment's record."""
        return self._topology.client(deployment_key(self.where.key_prefix))

    def servers(self, shards: Sequence[int]) -> list[Redis]:
        """Of all servers that have one of these shards."""
        return [client for client, _ in each_primary(self._topology, [self.keys(number).head for number in shards])]

    @asynccontextmanager
    async def connection(self, shard: int) -> AsyncIterator[OrderedConnection]:
        """A connection of its own to the server that has a shard."""
        connection = OrderedConnection(pool=self._topology.pool(self.keys(shard).head), call_timeout_s=CALL_TIMEOUT_S)
        try:
            yield connection
        finally:
            await connection.close()

    async def deployment(self) -> Deployment:
        """What the store was made for.

        Raises:
            ToolError: it holds no deployment, or one of a newer release.
        """
        found = await self.find_deployment()
        if found is None:
            raise ToolRefused(f"the store {self.where} holds no deployment under the key prefix {self.where.key_prefix!r}")
        return found

    async def find_deployment(self) -> Deployment | None:
        """Likewise, and None when it holds none."""
        try:
            return await read_deployment(self.deployment_client(), prefix=self.where.key_prefix)
        except StoreStartError as error:
            raise ToolRefused(str(error).replace("upgrade this coordinator", "use the newer release's command line")) from error


@asynccontextmanager
async def open_for_reading(where: Where) -> AsyncIterator[OpenStore]:
    """Opens a store that may be in use. Of a data directory whose coordinator runs, its server is asked; else one is run for as long.

    Raises:
        ToolError: it can't be opened, in a sentence.
    """
    _check(where)
    if where.data_dir is None:
        async with _opened(str(where.redis_url), where) as store:
            yield store
        return
    if not (where.data_dir / "appendonlydir").is_dir():
        raise ToolRefused(f"there is no store in {where.data_dir}: give the data directory of a coordinator that has run")
    async with _embedded(where.data_dir) as url, _opened(url, where) as store:
        yield store


@asynccontextmanager
async def open_for_import(where: Where) -> AsyncIterator[OpenStore]:
    """Opens a store to write to. A data directory must not be in use, and is made if it isn't there.

    Raises:
        ToolError: it can't be opened, in a sentence.
    """
    _check(where)
    if where.data_dir is None:
        async with _opened(str(where.redis_url), where) as store:
            yield store
        return
    async with _own_server(where.data_dir) as url, _opened(url, where) as store:
        yield store


def _check(where: Where) -> None:
    if (where.data_dir is None) == (where.redis_url is None):
        raise ToolError("name the store: --data-dir DIR of a coordinator, or --redis-url URL")
    try:
        check_prefix(where.key_prefix)
    except ValueError as error:
        raise ToolError(f"--key-prefix: {error}") from None


@asynccontextmanager
async def _embedded(data_dir: Path) -> AsyncIterator[str]:
    socket = _socket_in_use(data_dir)
    if socket is not None:
        yield f"unix://{quote(str(socket))}"
        return
    async with _own_server(data_dir) as url:
        yield url


def _socket_in_use(data_dir: Path) -> Path | None:
    """Where the server of a directory listens that a coordinator uses now; None when none does."""
    try:
        data = DataDirectory(path=data_dir)
    except StoreStartError:
        record = DataDirectory.record_of(data_dir)
        if record is None:
            raise ToolError(f"the data directory {data_dir} is in use, and doesn't say by which server: try again") from None
        return record.socket
    data.close()
    return None


@asynccontextmanager
async def _own_server(data_dir: Path) -> AsyncIterator[str]:
    try:
        launch = Launch(binary=find_server_binary(), memory_limit_bytes=default_store_memory())
        server = await EmbeddedServer.start(data_dir=data_dir, launch=launch)
    except StoreStartError as error:
        raise ToolError(str(error)) from error
    try:
        yield f"unix://{quote(str(server.socket))}"
    finally:
        await server.close()


@asynccontextmanager
async def _opened(url: str, where: Where) -> AsyncIterator[OpenStore]:
    topology: Topology | None = None
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            topology = await find_store(url, connect_timeout_s=CONNECT_TIMEOUT_S, call_timeout_s=CALL_TIMEOUT_S)
            await topology.client(deployment_key(where.key_prefix)).ping()
        yield OpenStore(topology=topology, where=where)
    except StoreStartError as error:
        raise ToolError(str(error)) from error
    except AuthenticationError as error:
        raise ToolError(f"the store {where} refused the credentials: give user and password in its address") from error
    except (RedisError, OSError, TimeoutError) as error:
        if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
            raise  # of our own file, such as a full disk
        raise ToolError(f"the store {where} can't be used: {str(error) or 'it gave no answer in time'}") from error
    finally:
        if topology is not None:
            await topology.close()
