"""Where a store's primaries are, and connections that find theirs.

A store is one server, a primary under sentinels, or a cluster of primaries that share the slots of keys. Whatever it is, its primaries may
change at any time. A connection asks for its primary's address as it connects, and breaks when it is told off, so that it asks again; and
the topology breaks it when the primary has moved while the old one says nothing, or goes on as if it were still one.
"""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from coordinator.journal.finding_connections import Address, FindingConnection, FindingSSLConnection

log = logging.getLogger(__name__)

T = TypeVar("T")

SHARED_CONNECTIONS = 4  # of a client; each shard has connections of its own beside
ASK_S = 1.0  # how long a sentinel or a node may take to say where a primary is
LOOK_EVERY_S = 1.0  # how soon it shows that a primary has moved, if its connections don't


class Topology(Protocol):
    """The store as a whole."""

    def pool(self, key: str) -> ConnectionPool:
        """Makes connections to the primary that has `key`, and to whichever has it later. One pool for all keys with the same way."""

    def client(self, key: str) -> Redis:
        """For calls about `key`, or about keys with the same hash tag; and for messages on any channel, which reach everybody anywhere.

        What lies beside the shards asks for a client by the key that it is about to use, and for another one for another key: on a cluster
        these are two primaries, and a script or a transaction can't span them.
        """

    def place(self, key: str) -> Address | None:
        """The primary that had `key` when somebody last looked: keys with one place have one server. None: the only one."""

    async def close(self) -> None:
        """Closes the clients' connections."""


class SingleServer:
    """A store that is one server, at an address of its own. See `Topology`.

    Args:
        pool: makes connections to it.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self._client = Redis(connection_pool=pool)

    def pool(self, key: str) -> ConnectionPool:  # noqa: ARG002 - it has all keys
        """See Topology."""
        return self._client.connection_pool

    def client(self, key: str) -> Redis:  # noqa: ARG002 - likewise
        """See Topology."""
        return self._client

    def place(self, key: str) -> Address | None:  # noqa: ARG002 - likewise
        """See Topology."""
        return None

    async def close(self) -> None:
        """See Topology."""
        await self._client.aclose(close_connection_pool=True)


class MovingPrimaries(ABC):
    """A store whose primaries move: what sentinels and clusters have in common. See `Topology`.

    Args:
        options: of connections, as redis-py has them, without an address.
        call_timeout_s: how long a client's call may wait for a connection.
    """

    asks_role = False  # a connection asks its server whether it is a primary: it would not say so when it is read from

    def __init__(self, *, options: Mapping[str, Any], call_timeout_s: float) -> None:
        self._options = dict(options)
        self._tls = self._options.pop("connection_class", None) is SSLConnection
        self._call_timeout_s = call_timeout_s
        self._clients: dict[int, Redis] = {}
        self._connections: WeakSet[FindingConnection] = WeakSet()
        self._looking: asyncio.Task[None] | None = None
        self._follower: asyncio.Task[None] | None = None

    @abstractmethod
    def way(self, key: str) -> int:
        """A number for the way to a key: those with the same number have the same primary."""

    @abstractmethod
    def primary(self, way: int) -> Address:
        """Where the last look has found a way's primary. Raises redis-py's ConnectionError when it has found none."""

    @abstractmethod
    async def look(self) -> None:
        """Looks where the primaries are. Raises RedisError when nobody says."""

    @abstractmethod
    async def close_sources(self) -> None:
        """Closes the connections to whom it asks."""

    def follow(self) -> None:
        """From now on it notices by itself that a primary has moved."""
        self._follower = asyncio.get_running_loop().create_task(self._follow(), name="store topology")

    def pool(self, key: str) -> ConnectionPool:
        """See Topology."""
        return self.client(key).connection_pool

    def client(self, key: str) -> Redis:
        """See Topology."""
        way = self.way(key)
        client = self._clients.get(way)
        if client is None:
            pool = BlockingConnectionPool(
                connection_class=FindingSSLConnection if self._tls else FindingConnection,
                max_connections=SHARED_CONNECTIONS,
                timeout=self._call_timeout_s,
                way=way,
                find=self._find,
                asks_role=self.asks_role,
                connections=self._connections,
                **self._options,
            )
            client = self._clients[way] = Redis(connection_pool=pool)
        return client

    def place(self, key: str) -> Address | None:
        """See Topology."""
        return self.primary(self.way(key))

    async def close(self) -> None:
        """See Topology."""
        for task in (self._follower, self._looking):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, RedisError):
                    await task
        for client in self._clients.values():
            await client.aclose(close_connection_pool=True)
        await self.close_sources()

    async def _find(self, way: int) -> Address:
        """Looks, together with whoever else needs to know."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self.look(), name="store look")
        await asyncio.shield(self._looking)
        return self.primary(way)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            with contextlib.suppress(RedisError):
                await self.look()
                self._break_stale()

    def _break_stale(self) -> None:
        """Breaks the connections to what is no longer their primary: it may hang, or not know of it yet."""
        moves: set[tuple[Address, Address]] = set()
        for connection in list(self._connections):
            if not connection.is_connected:
                continue
            before = (connection.host, connection.port)
            with contextlib.suppress(RedisError):  # nobody has the key at the moment: nowhere to go
                now = self.primary(connection.way)
                if now != before:
                    moves.add((before, now))
                    connection.abort()
        for before, now in moves:
            log.warning("store.moved from=%s:%d to=%s:%d", *before, *now)


def each_primary(topology: Topology, keys: Sequence[str]) -> list[tuple[Redis, str]]:
    """A client of each server that has some of these keys, and one of them. Raises redis-py's ConnectionError when nobody has one."""
    return [(topology.client(key), key) for key in {topology.place(key): key for key in keys}.values()]


def connection_options(options: Mapping[str, Any], *, connect_timeout_s: float) -> dict[str, Any]:
    """What all connections to a store have in common, over what its address says: redis-py's retries would hide an outage for seconds.

    They have no time-out of their own but for connecting: calls are timed by who makes them (see OrderedConnection).
    """
    timeouts = {"socket_connect_timeout": connect_timeout_s, "socket_timeout": None}
    own = {name: value for name, value in options.items() if name not in ("max_connections", "timeout")}  # which are a pool's
    return timeouts | own | {"retry": Retry(NoBackoff(), 0), "decode_responses": False, "protocol": 2}


def client_to_ask(options: Mapping[str, Any]) -> Redis:
    """A client of one sentinel or node, by which it is asked where primaries are. It answers text, and within a second."""
    own = {"socket_timeout": ASK_S, "socket_connect_timeout": ASK_S, "decode_responses": True}
    return Redis(connection_pool=ConnectionPool(**{**options, **own}))


async def ask_together(asks: Sequence[Coroutine[Any, Any, T]], failed: Callable[[Exception], None], *, enough: int) -> list[T]:
    """What they say who are asked: the first `enough`, or all who say something within a second. `failed` is told of the others."""
    answers: list[T] = []
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(ask) for ask in asks]
    try:
        for next_done in asyncio.as_completed(tasks, timeout=ASK_S):
            try:
                answers.append(await next_done)
            except TimeoutError:
                break
            except (RedisError, OSError, RuntimeError, AttributeError) as error:  # the last two are of connections that break meanwhile
                failed(error)
            if len(answers) >= enough:
                break
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return answers
