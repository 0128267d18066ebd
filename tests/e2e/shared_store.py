"""Coordinators that share one Redis, each a process of its own, and what the store says of who owns what."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from redis.asyncio import Redis

from coordinator.journal.layout import ShardKeys
from coordinator.journal.server_binary import find_server_binary
from tests.e2e.deployment import START_S, Deployment, serving_port
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.processes import Child, Children


class SharedStore:
    """A Redis that no coordinator started."""

    def __init__(self, *, children: Children, folder: Path) -> None:
        folder = folder if len(os.fsencode(folder)) < 80 else Path("/tmp")
        self.socket = folder / "shared.sock"
        flags = ["--port", "0", "--unixsocket", str(self.socket), "--dir", str(folder), "--appendonly", "yes", "--appendfsync", "always"]
        self._child = children.start([str(find_server_binary()), *flags, "--save", "", "--maxmemory-policy", "noeviction"], name="redis")

    @property
    def options(self) -> tuple[str, ...]:
        return ("--redis-url", f"unix://{self.socket}")

    async def until_ready(self) -> None:
        async def ready() -> bool:
            if not self.socket.exists():
                return False
            client = Redis(unix_socket_path=str(self.socket))
            try:
                return bool(await client.ping())
            finally:
                await client.aclose()

        await eventually(ready, within_s=START_S, message="the shared store to answer")


class Coordinators:
    """Several coordinators over one store, by name.

    Args:
        deployment: starts them.
        store: what they share.
        shards: how many.
        options: of each.
    """

    def __init__(self, *, deployment: Deployment, store: SharedStore, shards: int = 4, options: Sequence[str] = ()) -> None:
        self.deployment = deployment
        self.store = store
        self.shards = shards
        self.running: dict[str, Child] = {}
        self.ports: dict[str, int] = {}
        self.redis = Redis(unix_socket_path=str(store.socket), decode_responses=False)
        self._options = options

    def spawn(self, name: str, *options: str) -> Child:
        """Starts one, on the port that it had if it had one."""
        self.ports.setdefault(name, free_port())
        words = ("--shards", str(self.shards), "--coordinator-id", name, "--log-level", "info")
        child = self.deployment.spawn_coordinator(*self.store.options, *words, *self._options, *options, port=self.ports[name])
        self.running[name] = child
        return child

    async def start(self, *names: str) -> None:
        """Starts these, one after the other, each when the one before serves."""
        for name in names:
            self.ports[name] = await serving_port(self.spawn(name))

    def address(self, name: str) -> str:
        """Where one serves."""
        return f"127.0.0.1:{self.ports[name]}"

    async def head(self, shard: int) -> dict[str, str]:
        """What the store says of a shard."""
        fields = await self.redis.hgetall(ShardKeys(prefix="muster", shard=shard).head)
        return {name.decode(): value.decode(errors="replace") for name, value in fields.items()}

    async def owners(self) -> list[str]:
        """Who owns each shard; empty where nobody does."""
        heads = await asyncio.gather(*(self.head(shard) for shard in range(self.shards)))
        return [head.get("owner", "") for head in heads]

    async def until_even(self, *names: str) -> list[str]:
        """Returns the owners, once each of these has its share."""

        async def even() -> list[str] | None:
            owners = await self.owners()
            loads = [owners.count(name) for name in names]
            return owners if sum(loads) == self.shards and max(loads) - min(loads) <= 1 else None

        found = await eventually(even, within_s=START_S, message=f"{names} to share the shards")
        assert found is not None
        return found
