"""A store on a real server, with something of everything in it, for tests of operators' tools; and coordinators in this process on it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agent_node import Agent, Client, NonRetryableError
from coordinator.admin.access import OpenStore, Where
from coordinator.admin.checking import AskDigest, check
from coordinator.admin.export_file import ExportWriter
from coordinator.admin.exporting import ExportedShardFacts, export
from coordinator.admin.findings import Findings
from coordinator.admin.importing import Imported, import_file
from coordinator.engine.snapshots import SnapshotSettings
from coordinator.journal.layout import ShardKeys, shard_of
from coordinator.journal.topology import SingleServer
from coordinator.settings import CoordinatorSettings
from coordinator.wiring import Coordinator, coordinator
from tests.support.eventually import eventually
from tests.support.shard_backings import ServerBacking

SHARDS = 2
HERE = shard_of("default", shards=SHARDS)
"""The shard of the namespace "default"."""


def nothing(_what: str, _done: int, _total: int | None) -> None:
    """Shows no progress."""


@dataclass
class LiveStore:
    """A deployment on a server, and what is done to it."""

    server: ServerBacking
    key_prefix: str = "muster"

    @property
    def url(self) -> str:
        return f"unix://{self.server.socket}"

    @property
    def keys(self) -> ShardKeys:
        """Of the shard of the namespace "default"."""
        return ShardKeys(prefix=self.key_prefix, shard=HERE)

    def opened(self) -> OpenStore:
        """For tools."""
        return OpenStore(
            topology=SingleServer(self.server.client().connection_pool),
            where=Where(data_dir=None, redis_url=self.url, key_prefix=self.key_prefix),
        )

    def under(self, prefix: str) -> "LiveStore":
        """The same server, as another deployment's store."""
        return LiveStore(self.server, prefix)

    @asynccontextmanager
    async def coordinator(self, *, snapshot_after: int = 10**9, shards: int = SHARDS) -> AsyncIterator[Coordinator]:
        """A coordinator that serves it, until the block ends."""
        settings = CoordinatorSettings(
            listen="127.0.0.1:0",
            data_dir=None,
            redis_url=self.url,
            shards=shards,
            key_prefix=self.key_prefix,
            snapshots=SnapshotSettings(min_journal_bytes=snapshot_after),
            stop_grace_s=0.0,
        )
        async with coordinator(settings) as running:
            await eventually(lambda: all(shard.serving for shard in running.shards), message="all shards to be served")
            yield running

    async def export(self, path: Path, *, shards: Sequence[int] = (), max_elements: int | None = None) -> list[ExportedShardFacts]:
        """Writes a file."""
        more = {} if max_elements is None else {"max_elements": max_elements}
        with path.open("wb") as out:
            return await export(self.opened(), ExportWriter(out), shards=shards, progress=nothing, **more)

    async def import_from(self, path: Path, *, shards: Sequence[int] = (), discard_unfinished: bool = False) -> Imported:
        """Brings a file in."""
        with path.open("rb") as file:
            return await import_file(
                self.opened(), file, shards=shards, new_incarnation=lambda: "anew", progress=nothing, discard_unfinished=discard_unfinished
            )

    async def check(self, *, shards: Sequence[int] = (), live: AskDigest | None = None) -> Findings:
        """Checks it."""
        return await check(self.opened(), shards=shards, live=live, release=version("muster-agents"), progress=nothing)


@asynccontextmanager
async def fleet(running: Coordinator, *, capacity: int = 50) -> AsyncIterator[Client]:
    """A client, and an agent that does as a task's type says: `answers`, `fails`, `hangs`."""
    address = f"127.0.0.1:{running.port}"
    agent = Agent(name="ann", address=address, capacity=capacity, drain_deadline_s=0.0)

    @agent.handler("answers")
    async def answers(ctx: Any) -> bytes:
        return bytes(ctx.payload)

    @agent.handler("fails")
    async def fails(_ctx: Any) -> bytes:
        raise NonRetryableError("as asked")

    @agent.handler("hangs")
    async def hangs(_ctx: Any) -> bytes:
        await asyncio.Event().wait()
        return b""

    serving = asyncio.create_task(agent.serve(), name="agent")
    try:
        async with Client(address) as client:
            yield client
    finally:
        agent.stop()
        with contextlib.suppress(asyncio.CancelledError):
            await serving


async def fill(client: Client, *, tasks: int = 10) -> None:
    """Something of everything: what completed, failed, was cancelled, redriven, waits and runs; keys that end, and a past."""
    for number in range(tasks):
        handle = await client.submit("answers", f"{number}".encode(), task_id=f"done-{number}", labels={"team": "red"})
        await handle.result()
    for number in range(4):
        handle = await client.submit("fails", task_id=f"failed-{number}", labels={"team": "blue"}, parent_task_id="done-0")
        await asyncio.gather(handle.result(), return_exceptions=True)
    for number in range(4):
        await client.submit("nobody-can", b"waits", task_id=f"waits-{number}")
    await client.cancel(["waits-3"], "not needed")
    await client.redrive(["failed-0", "waits-3"], request_id="once")
    await client.submit("hangs", task_id="runs")

    ended_again: Any = lambda: _has_ended_in(client, "failed-0", run=2)  # noqa: E731 - mypy finds no type for a predicate that is async
    await eventually(ended_again, message="what was redriven has ended again")
    state = client.state
    await state.put("plain", "value")
    await state.put("plain", "another value")
    await state.put("large", "x" * 10_000)
    await state.put("ends", "soon enough", ttl_s=600.0)
    await state.put("gone", "x")
    await state.delete("gone")


async def _has_ended_in(client: Client, task_id: str, *, run: int) -> bool:
    task = await client.get(task_id)
    return task.run == run and bool(task.end_time.seconds)
