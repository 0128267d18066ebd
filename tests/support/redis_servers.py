"""Stores of more than one server: a primary with replicas under sentinels, and a cluster. Quick to notice that a server is gone.

Every server is a child of the test, on a loopback port and in a folder of its own, so it can be killed, stopped and started again.
"""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from coordinator.journal.server_binary import find_server_binary
from tests.support.eventually import eventually
from tests.support.ports import free_port, lasting_port
from tests.support.processes import Child, Children

T = TypeVar("T")

SERVICE = "muster"
Front = Callable[[str, int], int]
SLOTS = 16384
DOWN_AFTER_MS = 500
_FORMED_S = 30.0
_ASK_S = 2.0
# What sentinels do every second or ten, they do more often; and a machine that is busy doesn't blind them for half a minute.
_HASTE = {
    "INFO-PERIOD": 300,
    "PUBLISH-PERIOD": 200,
    "ASK-PERIOD": 100,
    "TILT-TRIGGER": 10_000,
    "TILT-PERIOD": 500,
    "ELECTION-TIMEOUT": 2_000,
}


def binary_of(kind: str) -> Path:
    """The server's binary: "valkey" is the embedded one, "redis" is on PATH."""
    return find_server_binary() if kind == "valkey" else Path(shutil.which("redis-server") or "redis-server")


class Server:
    """One server process, whatever its part.

    Args:
        front: told its name and port, answers the port at which all others reach it; by default that is its own.

    Attributes:
        name: for logs.
        port: on 127.0.0.1, the same over restarts.
        reached_at: the port that others are told.
        directory: its data, and its configuration.
        child: the process that runs now, or ran last.
    """

    def __init__(
        self,
        *,
        name: str,
        binary: Path,
        directory: Path,
        children: Children,
        settings: Mapping[str, Any],
        mode: str = "",
        front: Front | None = None,
    ) -> None:
        directory.mkdir(parents=True)
        self.name = name
        self.port = self.reached_at = lasting_port()
        self.directory = directory
        self.child: Child
        self._children = children
        self.cluster_port = free_port()  # of a node of a cluster
        self._mode = [mode] if mode else []
        self._binary = binary
        self._config = directory / "server.conf"
        lines = {"port": self.port, "bind": "127.0.0.1", "dir": directory, "save": '""', **settings}
        if front is not None:
            self.reached_at = front(name, self.port)
            announce = "sentinel announce" if mode else "replica-announce"
            lines |= {f"{announce}-ip": "127.0.0.1", f"{announce}-port": self.reached_at}
        if "cluster-enabled" in settings:
            lines["cluster-port"] = self.cluster_port
        self._config.write_text("".join(f"{word} {value}\n" for word, value in lines.items()))
        self._clients: list[Redis] = []

    async def start(self) -> None:
        """Starts it, with the data and the part that it had when it ended."""
        # A file that grows beyond its limit is an error of its disk, not the end of the process.
        command = ["/bin/sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh", str(self._binary), str(self._config), *self._mode]
        self.child = self._children.start(command, name=self.name)
        await self.child.wait_for_port(self.port)

    def kill(self) -> None:
        """kill -9."""
        self.child.kill()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Meanwhile it does nothing, and no connection to it breaks."""
        self.child.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.child.send(signal.SIGCONT)

    def client(self, **settings: Any) -> Redis:
        """A client of this very server, closed with the test. It retries nothing, and gives up after some seconds."""
        client = self._client(**settings)
        self._clients.append(client)
        return client

    def _client(self, **settings: Any) -> Redis:
        settings = {"socket_timeout": _ASK_S, "retry": Retry(NoBackoff(), 0), "protocol": 2, **settings}
        return Redis(host="127.0.0.1", port=self.port, **settings)

    async def ask(self, *words: str | int) -> Any:
        """The answer to one command, as the protocol has it; None when there is none in two seconds."""
        client = self._client()
        try:
            async with asyncio.timeout(_ASK_S):
                return await client.execute_command(*words)  # type: ignore[no-untyped-call]
        except (RedisError, OSError, TimeoutError):
            return None
        finally:
            await client.aclose()

    async def info(self, section: str = "replication") -> dict[str, Any]:
        """A section of INFO; empty when it doesn't answer."""
        return await self.ask("INFO", section) or {}

    async def close(self) -> None:
        """Closes the clients."""
        for client in self._clients:
            await client.aclose()
        self._clients.clear()


class Replicated:
    """A primary, its replicas, and the sentinels that look after them. Made by `replicated`.

    Attributes:
        servers: the primary to begin with, then the replicas.
        sentinels: a majority of them decides.
    """

    def __init__(self, *, servers: list[Server], sentinels: list[Server]) -> None:
        self.servers = servers
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        """The address for `--redis-url`."""
        if not self.sentinels:
            return f"redis://127.0.0.1:{self.servers[0].reached_at}"
        return f"redis+sentinel://{','.join(f'127.0.0.1:{sentinel.reached_at}' for sentinel in self.sentinels)}/{SERVICE}"

    async def primary(self) -> Server:
        """Who is the primary now, as most sentinels have it; without any, the first."""
        if not self.sentinels:
            return self.servers[0]
        answers = await asyncio.gather(*(each.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE) for each in self.sentinels))
        votes = [int(answer[1]) for answer in answers if answer]
        port = max(set(votes), key=votes.count)
        return next(server for server in self.servers if server.reached_at == port)

    async def until_formed(self) -> None:
        """Returns when every sentinel knows all others and all replicas, and every running replica follows the primary."""

        async def formed() -> bool:
            primary = await self.primary()
            for sentinel in self.sentinels:
                words = await sentinel.ask("SENTINEL", "MASTER", SERVICE) or []
                facts = dict(zip(words[::2], words[1::2], strict=True))
                if int(facts.get(b"num-other-sentinels", 0)) < len(self.sentinels) - 1:
                    return False
                if int(facts.get(b"num-slaves", 0)) < len(self.servers) - 1:
                    return False
            replicas = [server for server in self.servers if server is not primary and server.child.exit_code is None]
            infos = [await replica.info() for replica in replicas]
            return all(info.get("master_link_status") == "up" and info["master_port"] == primary.reached_at for info in infos)

        await until(formed, message="the sentinels to know everybody, and the replicas to follow")

    async def until_replicated(self) -> None:
        """Returns when every running replica has what the primary has written by now."""
        primary = await self.primary()
        written = (await primary.info())["master_repl_offset"]

        async def replicated() -> bool:
            replicas = [server for server in self.servers if server is not primary and server.child.exit_code is None]
            return all([(await replica.info()).get("slave_repl_offset", 0) >= written for replica in replicas])

        await until(replicated, message="the replicas to have everything")

    async def promoted(self, *, instead_of: Server, within_s: float = 20.0) -> Server:
        """Returns the new primary once most sentinels have another one than this, and it says so itself."""

        found = await until(lambda: self._other_than(instead_of), within_s=within_s, message=f"another primary than {instead_of.name}")
        assert isinstance(found, Server)
        return found

    async def fail_over(self) -> Server:
        """SENTINEL FAILOVER: the primary is well, and another one takes its place. Returns the new one."""
        before = await self.primary()
        loop = asyncio.get_running_loop()
        ask_again_s = loop.time()

        async def done() -> Server | None:
            nonlocal ask_again_s
            if loop.time() >= ask_again_s:  # it is refused while another one is going on, and given up on a machine that is busy
                ask_again_s = loop.time() + 3.0
                await self.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE)
            return await self._other_than(before)

        found = await until(done, message=f"another primary than {before.name}")
        assert isinstance(found, Server)
        return found

    async def _other_than(self, server: Server) -> Server | None:
        primary = await self.primary()
        if primary is server or (await primary.info()).get("role") != "master":
            return None
        return primary


@asynccontextmanager
async def replicated(
    children: Children,
    folder: Path,
    *,
    kind: str = "valkey",
    replicas: int = 1,
    sentinels: int = 3,
    down_after_ms: int = DOWN_AFTER_MS,
    settings: Mapping[str, Any] | None = None,
    sentinel_settings: Mapping[str, Any] | None = None,
    front: Front | None = None,
) -> AsyncIterator[Replicated]:
    """A primary with replicas under sentinels, which promote a replica about a second after the primary is gone.

    Args:
        children: starts the processes, and ends them with the test.
        folder: where everything lies.
        kind: "valkey" or "redis".
        replicas: how many.
        sentinels: how many; more than half must agree. Without any, the first server stays the primary.
        down_after_ms: how long a server says nothing until it is taken for gone.
        settings: of the servers, beside `appendonly yes` with `appendfsync always`.
        sentinel_settings: of the sentinels.
        front: as of Server, for every one of them.
    """
    binary = binary_of(kind)
    quick = {"appendonly": "yes", "appendfsync": "always", "repl-diskless-sync-delay": 0, "repl-ping-replica-period": 1, **(settings or {})}
    servers: list[Server] = []
    for number in range(1 + replicas):
        following = {"replicaof": f"127.0.0.1 {servers[0].reached_at}"} if servers else {}
        name = f"replica-{number}" if servers else "primary"
        servers.append(
            Server(name=name, binary=binary, directory=folder / name, children=children, settings={**quick, **following}, front=front)
        )
    watched = {
        "sentinel monitor": f"{SERVICE} 127.0.0.1 {servers[0].reached_at} {sentinels // 2 + 1}",
        "sentinel down-after-milliseconds": f"{SERVICE} {down_after_ms}",
        "sentinel failover-timeout": f"{SERVICE} 3000",
        **(sentinel_settings or {}),
    }
    if password := (settings or {}).get("requirepass"):
        watched["sentinel auth-pass"] = f"{SERVICE} {password}"
    watchers = [
        Server(
            name=f"sentinel-{n}", binary=binary, directory=folder / f"sentinel-{n}", children=children, settings=watched, mode="--sentinel"
        )
        for n in range(sentinels)
    ]
    store = Replicated(servers=servers, sentinels=watchers)
    try:
        await asyncio.gather(*(server.start() for server in [*servers, *watchers]))
        for sentinel in watchers:
            await sentinel.client(password=(sentinel_settings or {}).get("requirepass")).execute_command(
                "SENTINEL", "DEBUG", *(word for pair in _HASTE.items() for word in pair)
            )  # type: ignore[no-untyped-call]
        if not sentinel_settings and not password:
            await store.until_formed()
        for sentinel in watchers:
            await sentinel.close()
        yield store
    finally:
        for server in [*servers, *watchers]:
            await server.close()


class Clustered:
    """A Redis Cluster, whose slots lie evenly on its primaries. Made by `clustered`.

    Attributes:
        primaries: those to begin with, in the order of their slots.
        replicas: one of each primary, in the same order; or none.
    """

    def __init__(self, *, primaries: list[Server], replicas: list[Server]) -> None:
        self.primaries = primaries
        self.replicas = replicas

    @property
    def url(self) -> str:
        """The address for `--redis-url`: one node's."""
        return f"redis://127.0.0.1:{self.primaries[0].port}"

    async def until_formed(self, *, nodes: int = 0) -> None:
        """Returns when every running node sees all slots served, and knows so many nodes; all, unless it is said."""
        nodes = nodes or len(self.primaries) + len(self.replicas)

        async def formed() -> bool:
            running = [node for node in [*self.primaries, *self.replicas] if node.child.exit_code is None]
            infos = [_cluster_info(await node.ask("CLUSTER", "INFO")) for node in running]
            return all(
                info.get("cluster_state") == "ok"
                and info.get("cluster_slots_ok") == str(SLOTS)
                and int(info.get("cluster_known_nodes", 0)) >= nodes
                for info in infos
            )

        await until(formed, message="the nodes to know each other")


@asynccontextmanager
async def clustered(
    children: Children,
    folder: Path,
    *,
    kind: str = "valkey",
    primaries: int = 3,
    with_replicas: bool = False,
    node_timeout_ms: int = 2 * DOWN_AFTER_MS,
    settings: Mapping[str, Any] | None = None,
) -> AsyncIterator[Clustered]:
    """A cluster, which promotes a replica about a second after its primary is gone.

    Args:
        children: starts the processes, and ends them with the test.
        folder: where everything lies.
        kind: "valkey" or "redis".
        primaries: how many.
        with_replicas: each primary has one.
        node_timeout_ms: how long a node says nothing until it is taken for gone.
        settings: of the servers, beside `appendonly yes` with `appendfsync always`.
    """
    binary = binary_of(kind)
    nodes: list[Server] = []
    for number in range(primaries * (2 if with_replicas else 1)):
        own = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": node_timeout_ms,
            "appendonly": "yes",
            "appendfsync": "always",
            "repl-diskless-sync-delay": 0,
            **(settings or {}),
        }
        nodes.append(Server(name=f"node-{number}", binary=binary, directory=folder / f"node-{number}", children=children, settings=own))
    store = Clustered(primaries=nodes[:primaries], replicas=nodes[primaries:])
    try:
        await asyncio.gather(*(node.start() for node in nodes))
        for number, node in enumerate(store.primaries):
            first, stop = SLOTS * number // primaries, SLOTS * (number + 1) // primaries
            await node.client().execute_command("CLUSTER", "ADDSLOTSRANGE", first, stop - 1)  # type: ignore[no-untyped-call]
        for epoch, node in enumerate(nodes[1:], 2):
            await node.client().execute_command("CLUSTER", "SET-CONFIG-EPOCH", epoch)  # type: ignore[no-untyped-call]
            await nodes[0].client().execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, node.cluster_port)  # type: ignore[no-untyped-call]
        await store.until_formed()
        for primary, replica in zip(store.primaries, store.replicas, strict=False):
            await _follow(primary, replica)
        for node in nodes:
            await node.close()
        yield store
    finally:
        for node in nodes:
            await node.close()


async def _follow(primary: Server, replica: Server) -> None:
    name = (await primary.ask("CLUSTER", "MYID")).decode()
    await replica.client().execute_command("CLUSTER", "REPLICATE", name)  # type: ignore[no-untyped-call]

    async def following() -> bool:
        return (await replica.info()).get("master_link_status") == "up"

    await until(following, message=f"{replica.name} to follow {primary.name}")


def _cluster_info(answer: bytes | None) -> dict[str, str]:
    lines = (answer or b"").decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


async def until(asked: Callable[[], Awaitable[T]], *, within_s: float = _FORMED_S, message: str) -> T:
    """As `eventually`, of an answer that is awaited, and with more patience."""
    return await eventually(asked, within_s=within_s, message=message)
