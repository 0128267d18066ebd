"""Finds out what kind of store an address means, and makes its topology."""

from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.exceptions import ResponseError

from coordinator.journal.cluster_nodes import ClusterNodes
from coordinator.journal.errors import StoreStartError
from coordinator.journal.finding_connections import PLAIN
from coordinator.journal.sentinels import Sentinels, is_sentinel_address, read_sentinel_address
from coordinator.journal.topology import SHARED_CONNECTIONS, SingleServer, Topology, client_to_ask, connection_options


async def find_store(url: str, *, connect_timeout_s: float, call_timeout_s: float) -> Topology:
    """What the store is.

    Args:
        url: its address.
        connect_timeout_s: how long a connection may take.
        call_timeout_s: how long a call may wait for one.

    Raises:
        StoreStartError: the address can't be read, or what is there can't be a store.
        redis.exceptions.RedisError: nobody answers.
    """
    found: Sentinels | ClusterNodes
    if is_sentinel_address(url):
        try:
            address = read_sentinel_address(url)
            found = Sentinels(
                address=address,
                options=connection_options(address.options, connect_timeout_s=connect_timeout_s),
                sentinel_options=connection_options(address.sentinel_options, connect_timeout_s=connect_timeout_s),
                call_timeout_s=call_timeout_s,
            )
            found.pool("").make_connection()  # type: ignore[no-untyped-call] # it would complain of options only when it is first used
        except (TypeError, ValueError) as error:
            raise StoreStartError(
                f"the store's address {without_secrets(url)} can't be read ({error}): give redis+sentinel://host:port,host:port/service"
            ) from error
    else:
        options = _read_address(url, connect_timeout_s=connect_timeout_s)
        probe = client_to_ask({**options, "db": 0})  # a cluster would refuse another number
        try:
            is_cluster = await _is_cluster(probe)
        except BaseException:
            await probe.aclose(close_connection_pool=True)
            raise
        if not is_cluster:
            await probe.aclose(close_connection_pool=True)
            return SingleServer(BlockingConnectionPool(**options, max_connections=SHARED_CONNECTIONS, timeout=call_timeout_s))
        if options.get("db"):
            await probe.aclose(close_connection_pool=True)
            raise StoreStartError(
                f"the store is a Redis Cluster, which has no database {options['db']}: leave the number out of its address"
            )
        nodes = {name: value for name, value in options.items() if name not in ("host", "port", "path", "connection_class")}
        nodes["connection_class"] = SSLConnection if options["connection_class"] is PLAIN[SSLConnection] else Connection
        found = ClusterNodes(seed=probe, options=nodes, call_timeout_s=call_timeout_s)
    try:
        await found.start()
    except BaseException:
        await found.close()
        raise
    found.follow()
    return found


def _read_address(url: str, *, connect_timeout_s: float) -> dict[str, Any]:
    """The options of connections to a server. Raises StoreStartError."""
    try:
        options = connection_options(parse_url(url), connect_timeout_s=connect_timeout_s)
        options["connection_class"] = PLAIN[options.get("connection_class", Connection)]
        ConnectionPool(**options).make_connection()  # type: ignore[no-untyped-call] # it would complain of options only when it is first used
    except (TypeError, ValueError) as error:
        raise StoreStartError(
            f"the store's address {without_secrets(url)} can't be read ({error}): "
            "give redis://host:port/db, rediss://, unix:///path or redis+sentinel://host:port,host:port/service"
        ) from error
    return options


async def _is_cluster(probe: Redis) -> bool:
    try:
        return str((await probe.info("cluster")).get("cluster_enabled", "0")) == "1"
    except ResponseError:  # it denies INFO
        return False


def without_secrets(url: str) -> str:
    """The address without user, password and options, for people."""
    try:
        parts = urlsplit(url)
        place = parts.hostname or ""
        if parts.port is not None:
            place += f":{parts.port}"
    except ValueError:
        return "given"
    return f"{parts.scheme}://{place}{parts.path}" if parts.scheme else "given"
