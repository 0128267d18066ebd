"""Connections that find the primary that they belong to as they connect, and break when they are told that it is another one."""

from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakSet

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import AskError, ClusterDownError, MasterDownError, NoPermissionError, ReadOnlyError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

Address = tuple[str, int]

_ELSEWHERE = (ReadOnlyError, AskError, ClusterDownError, MasterDownError)  # AskError is MovedError's base
_ELSEWHERE_CODES = ("READONLY", "MOVED", "ASK", "CLUSTERDOWN", "MASTERDOWN")


class _Breaking:
    """It breaks when its server says that it isn't the one to ask: the next call connects anew, to whatever is there by then."""

    async def send_packed_command(self, *arguments: Any, **options: Any) -> None:
        try:
            await super().send_packed_command(*arguments, **options)  # type: ignore[misc]
        except (RuntimeError, AttributeError) as error:  # uvloop's and redis-py's words for a connection that broke a moment ago
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise RedisConnectionError(f"the connection is broken: {error}") from error

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*arguments, **options)  # type: ignore[misc]
        except ResponseError as error:
            if isinstance(error, _ELSEWHERE) or str(error).startswith(_ELSEWHERE_CODES):
                await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise


class PlainConnection(_Breaking, Connection):
    """To one address, whatever a name resolves to."""


class PlainSSLConnection(_Breaking, SSLConnection):
    """Likewise, with TLS."""


class PlainUnixConnection(_Breaking, UnixDomainSocketConnection):
    """To a socket."""


PLAIN = {Connection: PlainConnection, SSLConnection: PlainSSLConnection, UnixDomainSocketConnection: PlainUnixConnection}
"""By redis-py's class for an address."""


class FindingConnection(_Breaking, Connection):
    """To a primary that has to be found.

    Args:
        way: which primary, for `find`.
        find: says where it is now.
        asks_role: whether the server is asked if it is a primary. One that has become a replica would refuse writes, and answer reads.
        connections: where it adds itself, for whoever breaks connections to what is no longer a primary.
        options: redis-py's.
    """

    def __init__(
        self,
        *,
        way: int,
        find: Callable[[int], Awaitable[Address]],
        asks_role: bool,
        connections: "WeakSet[FindingConnection]",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.way = way
        self._find = find
        self._asks_role = asks_role
        connections.add(self)

    async def _connect(self) -> None:
        self.host, self.port = await self._find(self.way)
        await super()._connect()  # type: ignore[no-untyped-call]

    async def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's
        """Once it is connected."""
        await super().on_connect_check_health(check_health=check_health)
        if self._asks_role:
            await self.send_command("ROLE", check_health=False)
            try:
                role = await self.read_response()
            except NoPermissionError:  # then the first write finds out
                return
            if role[0] != b"master":
                raise ReadOnlyError(f"{self.host}:{self.port} isn't a primary any more, or not yet")

    def abort(self) -> None:
        """Breaks it at once: whoever waits for an answer is told."""
        if self._writer is not None:
            self._writer.transport.abort()


class FindingSSLConnection(FindingConnection, SSLConnection):
    """Likewise, with TLS."""
