"""What the store's thread spends on commits: measured on a server of its own, with commits that a shard really makes.

They are packed before the clock runs, and sent over plain sockets, so that nothing but the server is measured. A commit of n tasks on one
connection takes a round trip, a flush, a commit's own cost and n tasks' costs; with n small and large that gives the cost of a task. The
same on several connections at once shares the flush: that gives the cost of a commit, and the flush is the rest.
"""

import asyncio
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any, cast

import hiredis

from benchmarks.scaling_model import COMMITS_PER_TASK, StoreCosts
from benchmarks.stages import Bench, ForgetfulStore
from coordinator.clock import BootClock
from coordinator.core.model import Settings
from coordinator.engine.shard import Shard
from coordinator.ids import Entropy
from coordinator.journal import codec
from coordinator.journal.embedded import EmbeddedServer
from coordinator.journal.memory_store import MemoryShard
from coordinator.journal.opening import Store, open_store
from coordinator.journal.redis_store import RedisShardStore
from coordinator.journal.scripts import APPEND
from coordinator.ports import Appended, EndedTask

APPLIED = b"APPLIED"
ROUNDS = 40
SMALL, LARGE = 8, 1000  # tasks a commit
CONNECTIONS = 8


def _packed(*command: Any) -> bytes:
    return cast("bytes", hiredis.pack_command(command))


class KeepingStore(ForgetfulStore):
    """Keeps the arguments of every append."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.kept: list[dict[str, Any]] = []

    async def append(self, *, ended: Sequence[EndedTask], **rest: Any) -> Appended:
        """See ShardStore."""
        self.kept.append({"ended": list(ended), **rest})
        return await super().append(ended=ended, **rest)


async def commits_of(batch: int, rounds: int) -> list[dict[str, Any]]:
    """The appends of a shard that moves `rounds` times `batch` tasks, two a round, behind those that set it up."""
    store = KeepingStore(shard=MemoryShard(), now_ms=lambda: 1_000)
    shard = Shard(number=0, store=store, codec=codec, settings=Settings(), clock=BootClock(), entropy=Entropy(), default_here=True)
    started = asyncio.Event()
    serving = asyncio.create_task(shard.run(started))
    await started.wait()
    bench = Bench(shard=shard, store=store, namespace=shard.namespaces["default"], agents=1)
    await bench.connect()
    for _ in range(rounds):
        await bench.round(batch)
    serving.cancel()
    return store.kept


class Packer:
    """Stands where a shard's connection does, and keeps what would be sent, packed."""

    def __init__(self) -> None:
        self.packed: list[bytes] = []

    async def run(self, script: Any, *, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Notes the call, and answers that it was done."""
        self.packed.append(_packed("EVALSHA", script.digest, len(keys), *keys, *arguments))
        return APPLIED, 0


async def packed_appends(store: Store, number: int, appends: Sequence[dict[str, Any]]) -> list[bytes]:
    """What a shard sends for these appends, once it has taken the shard."""
    shard = cast("RedisShardStore", store.shard(number))
    await shard.claim()
    connection, packer = shard._confirmed, Packer()  # noqa: SLF001 - what is sent can be had nowhere else
    shard._confirmed = packer  # type: ignore[assignment] # noqa: SLF001
    for append in appends:
        await shard.append(**append)
    shard._confirmed = connection  # noqa: SLF001
    return packer.packed


class Wire:
    """A connection that sends what is packed already, and waits for nothing else.

    Args:
        path: the server's socket.
    """

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._reader = hiredis.Reader()

    def send(self, packed: bytes) -> None:
        """Sends one command."""
        self._socket.sendall(packed)

    def answer(self, expected: bytes = APPLIED) -> None:
        """Waits for one reply, which must be this or begin with it. Raises RuntimeError for another."""
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(65536))
        if expected not in (reply, reply[0] if isinstance(reply, list) else None):
            raise RuntimeError(f"the store answered {reply!r}")

    def close(self) -> None:
        """Disconnects."""
        self._socket.close()


def _quartile(samples: Sequence[float]) -> float:
    return quantiles(samples, n=4)[0]


def _round_trips(wires: Sequence[Wire], appends: Sequence[Sequence[bytes]], *, unmeasured: int) -> float:
    """Sends the wires' first appends at once, then their second ones, and so on.

    Answers the time of a turn: the lower quartile, which a busy machine moves least.
    """
    turns = []
    for turn in zip(*appends, strict=True):
        begin = time.perf_counter()
        for wire, packed in zip(wires, turn, strict=True):
            wire.send(packed)
        for wire in wires:
            wire.answer()
        turns.append(time.perf_counter() - begin)
    measured = turns[unmeasured:]
    # The two commits of a task differ: each has its own.
    return sum(_quartile(measured[half::COMMITS_PER_TASK]) for half in range(COMMITS_PER_TASK)) / COMMITS_PER_TASK


async def measure_store(scratch: Path) -> StoreCosts:
    """Starts a server in `scratch`, measures, and ends it. Takes some seconds."""
    store = await open_store(data_dir=scratch, redis_url=None, shards=CONNECTIONS + 2)
    wires: list[Wire] = []
    try:
        server = cast("EmbeddedServer", store.server)
        wires += [Wire(server.socket) for _ in range(CONNECTIONS)]
        wires[0].send(_packed("SCRIPT", "LOAD", APPEND.source))
        wires[0].answer(APPEND.digest.encode())
        small, large = await commits_of(SMALL, ROUNDS), await commits_of(LARGE, ROUNDS)
        unmeasured = len(small) - COMMITS_PER_TASK * ROUNDS
        many = [await packed_appends(store, number, small) for number in range(CONNECTIONS)]
        one_small = [await packed_appends(store, CONNECTIONS, small)]
        one_large = [await packed_appends(store, CONNECTIONS + 1, large)]
        trips = []
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            wires[0].send(_packed("PING"))
            wires[0].answer(b"PONG")
            trips.append(time.perf_counter() - begin)
        trip_s = _quartile(trips)
        small_s = await asyncio.to_thread(_round_trips, wires[:1], one_small, unmeasured=unmeasured)
        large_s = await asyncio.to_thread(_round_trips, wires[:1], one_large, unmeasured=unmeasured)
        many_s = await asyncio.to_thread(_round_trips, wires, many, unmeasured=unmeasured)
    finally:
        for wire in wires:
            wire.close()
        await store.close()
    half_s = (large_s - small_s) / (LARGE - SMALL)
    commit_s = max(0.0, (many_s - small_s) / (CONNECTIONS - 1) - SMALL * half_s)
    flush_s = max(0.0, small_s - trip_s - commit_s - SMALL * half_s)
    return StoreCosts(task_s=COMMITS_PER_TASK * half_s, commit_s=commit_s, flush_s=flush_s)
