"""Two coordinators in the test's own process, each with a store of its own, so that it shows whose answer came."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc.aio

from agent_node import clock
from coordinator.cluster.directory import Directory, Owner
from coordinator.engine.shard import Shard
from coordinator.journal.layout import shard_of
from coordinator.journal.memory_store import MemoryShard, MemoryShardStore
from coordinator.settings import CoordinatorSettings
from coordinator.state.memory_store import MemoryState, MemoryStateStore
from coordinator.wiring import serve
from tests.support.hosted import Faults, Hosted

SHARDS = 2
SECRET = b"the deployment's secret"
HOME = shard_of("default", shards=SHARDS)
OTHER = 1 - HOME
NAMES = {shard: next(name for name in ("one", "two", "red", "blue") if shard_of(name, shards=SHARDS) == shard) for shard in range(SHARDS)}
"""The name of a namespace for each shard."""


class Side(Hosted):
    """One of the two."""

    name = ""

    @property
    def address(self) -> str:
        """Where it serves."""
        return f"127.0.0.1:{self.port}"

    @property
    def directory(self) -> Directory:
        """Who it thinks owns what."""
        return self.running.directory

    @property
    def shard(self) -> Shard:
        """The default namespace's."""
        return self.running.shards[HOME]

    def owner(self, epoch: int = 1) -> Owner:
        """It, as an owner."""
        return Owner(coordinator_id=self.name, address=self.address, epoch=epoch)


@dataclass
class Pair:
    """Two coordinators: `front`, which owns nothing, and `back`, which owns everything, as long as nothing else is said."""

    front: Side
    back: Side

    def move(self, shard: int, to: Owner | None, *, front: bool = True, back: bool = True) -> None:
        """A shard has another owner, as far as either knows."""
        for side, knows in ((self.front, front), (self.back, back)):
            if knows:
                side.directory.set_owner(shard, to)


@asynccontextmanager
async def side(name: str, *, secret: bytes = SECRET) -> AsyncIterator[Side]:
    """One coordinator whose directory is empty, until the block ends."""
    faults = Faults()
    stores = [MemoryShardStore(shard=MemoryShard(), now_ms=clock.wall_ms, fault=faults) for _ in range(SHARDS)]
    states = [MemoryStateStore(state=MemoryState(), owns=store.owns, now_ms=clock.wall_ms, fault=faults.of_state) for store in stores]
    settings = CoordinatorSettings(listen="127.0.0.1:0", shards=SHARDS, stop_grace_s=0.0)
    directory = Directory(me=name, shards=SHARDS)
    async with (
        serve(settings, stores, states, ("memory", "nothing survives"), peer_secret=secret, directory=directory) as running,
        grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel,
        AsyncExitStack() as closing,
    ):
        served = Side(running=running, faults=faults, channel=channel, closing=closing)
        served.name = name
        yield served


@asynccontextmanager
async def paired() -> AsyncIterator[Pair]:
    """Both, until the block ends."""
    async with side("back") as back, side("front") as front:
        pair = Pair(front, back)
        for shard in range(SHARDS):
            pair.move(shard, back.owner())
        yield pair
