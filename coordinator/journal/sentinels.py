"""A primary with replicas under Sentinel. Owns the address of such a store, and what sentinels are asked."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from coordinator.journal.errors import StoreStartError
from coordinator.journal.finding_connections import Address
from coordinator.journal.topology import MovingPrimaries, ask_together, client_to_ask

_SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
_DEFAULT_PORT = 26379
_HOST = re.compile(r"(\[[^\]]+\]|[^:\[\]]+)(?::(\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """Where a store under Sentinel is.

    Attributes:
        sentinels: host and port of each.
        service: the name by which they know the primary.
        options: redis-py's, of connections to the primary.
        sentinel_options: redis-py's, of connections to the sentinels.
    """

    sentinels: tuple[Address, ...]
    service: str
    options: Mapping[str, Any]
    sentinel_options: Mapping[str, Any]


def is_sentinel_address(url: str) -> bool:
    """Whether an address names sentinels."""
    return url.partition("://")[0] in _SCHEMES


def read_sentinel_address(url: str) -> SentinelAddress:
    """Reads redis+sentinel://[user:password@]host:port,host:port/service[/db], or rediss+sentinel:// for TLS to servers and sentinels.

    Options follow as in redis-py's addresses; `sentinel_username` and `sentinel_password` are for the sentinels, which get no others.

    Raises:
        ValueError: it isn't one.
    """
    parts = urlsplit(url)
    credentials, at, places = parts.netloc.rpartition("@")
    service, _, database = parts.path.removeprefix("/").partition("/")
    if not service or (database and not database.isdecimal()):
        raise ValueError("the name of the service follows the sentinels, and a number of a database may follow it")
    query = dict(parse_qsl(parts.query))
    theirs = {name: query.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    rest = f"?{urlencode(query)}" if query else ""
    options = dict(parse_url(f"{_SCHEMES[parts.scheme]}://{credentials}{at}unused/{database}{rest}"))
    del options["host"]
    own = {name: value for name, value in options.items() if name not in ("username", "password", "db")}
    return SentinelAddress(
        sentinels=tuple(_place(place) for place in places.split(",")),
        service=unquote(service),
        options=options,
        sentinel_options=own | {name: value for name, value in theirs.items() if value is not None},
    )


def _place(text: str) -> Address:
    found = _HOST.fullmatch(text)
    port = int(found[2] or _DEFAULT_PORT) if found else 0
    if found is None or not 0 < port < 65536:
        raise ValueError(f"{text!r} is no sentinel's host:port")
    return found[1].strip("[]"), port


class Sentinels(MovingPrimaries):
    """A store under Sentinel. See `Topology`.

    Args:
        address: where it is.
        options: of connections to servers.
        call_timeout_s: as of MovingPrimaries.
    """

    asks_role = True

    def __init__(
        self, *, address: SentinelAddress, options: Mapping[str, Any], sentinel_options: Mapping[str, Any], call_timeout_s: float
    ) -> None:
        super().__init__(options=options, call_timeout_s=call_timeout_s)
        self._service = address.service
        self._sentinels = [client_to_ask({**sentinel_options, "host": host, "port": port}) for host, port in address.sentinels]
        self._primary: Address | None = None
        self._failures: list[Exception] = []

    async def start(self) -> None:
        """Looks for the first time.

        Raises:
            StoreStartError: no sentinel can or will tell where the primary is, and one sentence says why.
        """
        try:
            await self.look()
        except RedisError as error:
            causes = [*self._failures, *(failure.__cause__ for failure in self._failures)]
            if any(isinstance(cause, AuthenticationError) for cause in causes):
                raise StoreStartError("the sentinels refused the credentials: add ?sentinel_password=… to the store's address") from error
            if any(isinstance(cause, ResponseError) and "No such master" in str(cause) for cause in causes):
                raise StoreStartError(await self._unknown_service()) from error
            raise StoreStartError(f"the store can't be found: {error}") from error

    async def look(self) -> None:
        """See MovingPrimaries. The answer with the highest configuration epoch holds."""
        self._failures = []
        most = len(self._sentinels) // 2 + 1  # a minority may be cut off from the others, and know only what was before
        answers = await ask_together([self._ask(sentinel) for sentinel in self._sentinels], self._failures.append, enough=most)
        if not answers:
            why = self._failures[0] if self._failures else "they don't answer"
            raise RedisConnectionError(f"no sentinel says where the primary of {self._service!r} is: {why}")
        self._primary = max(answers, key=lambda answer: answer[0])[1]

    async def _ask(self, sentinel: Redis) -> tuple[int, Address]:
        async with sentinel.pipeline(transaction=False) as pipe:
            # While a failover is under way, the first answer is the new primary as soon as there is one; the second still names the old.
            pipe.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", self._service)
            pipe.execute_command("SENTINEL MASTER", self._service)
            address, facts = await pipe.execute()
        return int(facts["config-epoch"]), (address[0], int(address[1]))

    async def _unknown_service(self) -> str:
        known: set[str] = set()
        for sentinel in self._sentinels:
            try:
                masters = await sentinel.sentinel_masters()
            except RedisError:
                continue
            known |= set(masters) if isinstance(masters, dict) else {str(master["name"]) for master in masters}
        names = ", ".join(map(repr, sorted(known))) or "no service at all"
        return f"the sentinels know no service {self._service!r}: they know {names}"

    def way(self, key: str) -> int:  # noqa: ARG002 - one primary has all keys
        """See MovingPrimaries."""
        return 0

    def primary(self, way: int) -> Address:  # noqa: ARG002 - likewise
        """See MovingPrimaries."""
        if self._primary is None:
            raise RedisConnectionError(f"it isn't known where the primary of {self._service!r} is")
        return self._primary

    async def close_sources(self) -> None:
        """See MovingPrimaries."""
        for sentinel in self._sentinels:
            await sentinel.aclose(close_connection_pool=True)
