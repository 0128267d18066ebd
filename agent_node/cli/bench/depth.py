"""What many queued tasks cost: the rate of dispatch beside them, memory, snapshots, and the way back after a crash.

The queued tasks are of the type that the agent runs, at the lowest priority, so that they stay while those that are measured go by.
"""

import asyncio
import gc
import os
import re
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agent_node.cli.bench.fleet import (
    TASK_TYPE,
    Children,
    CoordinatorProcess,
    agent_prefix,
    end_orphans,
    plan_agents,
    running_agents,
    start_coordinator,
)
from agent_node.cli.bench.load import CONTENT_TYPE, run_window
from agent_node.cli.bench.measures import process_table
from agent_node.cli.exits import CommandFailure, ExitCode
from agent_node.cli.payloads import Json
from agent_node.client.client import Client
from agent_node.client.tasks import Priority, TaskRequest
from agent_node.errors import MusterError

if TYPE_CHECKING:
    from rich.table import Table

    from agent_node.cli.terminal import Bar

SHALLOW = 1_000
CAPACITY = 1_000
IN_FLIGHT = 2 * CAPACITY  # as many wait at a normal priority as run: the agent takes hardly any other
WINDOW_TASKS = 40_000
WARM_UP_TASKS = 5_000
BATCH = 2_000
NO_SNAPSHOT = ("--snapshot-after", str(2**60))
SNAPSHOT_NOW = ("--snapshot-after", "1", "--log-level", "info")
_TAKEN = re.compile(r"snapshot\.taken")
_POLL_S = 0.02
_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthReport:
    """What a run found. The keys of `record` are an interface: they keep their names."""

    queued: int
    payload_bytes: int
    rate_at_1000: float
    rate_at_depth: float
    rss_bytes_per_task: float
    replay_s: float
    snapshot_s: float
    worst_stall_ms: float
    recovered: int
    recovery_s: float

    def record(self) -> "dict[str, Json]":
        """The object that --json prints."""
        return {
            "queued": self.queued,
            "payload_bytes": self.payload_bytes,
            "rate_at_1000": round(self.rate_at_1000, 1),
            "rate_at_depth": round(self.rate_at_depth, 1),
            "rss_bytes_per_task": round(self.rss_bytes_per_task, 1),
            "replay_s": round(self.replay_s, 3),
            "snapshot_s": round(self.snapshot_s, 3),
            "worst_stall_ms": round(self.worst_stall_ms, 1),
            "recovered": self.recovered,
            "recovery_s": round(self.recovery_s, 3),
        }

    def table(self) -> "Table":
        """The same for a person."""
        from rich.table import Table
        from rich.text import Text

        facts = Table(box=None, show_header=False, pad_edge=False)
        facts.add_column(style="dim", no_wrap=True)
        facts.add_column(justify="right", no_wrap=True)
        facts.add_column(style="dim", overflow="fold")
        share = 100 * self.rate_at_depth / self.rate_at_1000 if self.rate_at_1000 else 0.0
        facts.add_row("tasks/s", f"{self.rate_at_1000:,.0f}", f"with {SHALLOW:,} queued")
        facts.add_row("tasks/s", Text(f"{self.rate_at_depth:,.0f}", "bold green"), f"with {self.queued:,} queued: {share:.0f} %")
        facts.add_row("memory a task", f"{self.rss_bytes_per_task:,.0f} B", f"of the coordinator, with a payload of {self.payload_bytes} B")
        facts.add_row("replay", f"{self.replay_s:.2f} s", "from a start without a snapshot until all tasks were known")
        facts.add_row("snapshot", f"{self.snapshot_s:.2f} s", "while tasks were submitted")
        facts.add_row("worst stall", f"{self.worst_stall_ms:.0f} ms", "of the coordinator's event loop meanwhile")
        all_there = self.recovered == self.queued
        facts.add_row("recovered", Text(f"{self.recovered:,}", "" if all_there else "bold red"), f"of {self.queued:,} queued")
        facts.add_row("recovery", f"{self.recovery_s:.2f} s", "from a start with the snapshot until all tasks were known")
        return facts


async def measure_depth(*, tasks: int, payload_bytes: int, bar: "Bar") -> DepthReport:
    """One whole run. Raises CommandFailure when a process doesn't come up, and MusterError when the coordinator can't be used."""
    gc.disable()  # a million submitted tasks pass through this process: its own pauses are not what is measured
    with tempfile.TemporaryDirectory(prefix="muster-bench-", ignore_cleanup_errors=True) as scratch:
        run = _Run(scratch=Path(scratch), payload=bytes(payload_bytes), bar=bar)
        try:
            return await run.measure(tasks)
        finally:
            end_orphans(run.store_pids)


@dataclass
class _Run:
    scratch: Path
    payload: bytes
    bar: "Bar"
    store_pids: tuple[int, ...] = ()
    _starts: int = 0
    _agents: int = 0
    _logs: list[Path] = field(default_factory=list)

    async def measure(self, tasks: int) -> DepthReport:
        async with self._coordinator(*NO_SNAPSHOT) as (coordinator, client):
            rate_at_1000 = await self._rate(client, coordinator, f"with {SHALLOW:,} queued")
            before_bytes = _rss_bytes(coordinator)
            await self._queue(client, tasks)
            rss_bytes_per_task = (_rss_bytes(coordinator) - before_bytes) / tasks
            rate_at_depth = await self._rate(client, coordinator, f"with {tasks:,} queued")
            await self._queue(client, tasks - await _known(client))
            queued = await _known(client)
            os.kill(coordinator.pid, signal.SIGKILL)
        self.bar.show(description="replaying", total=None)
        begin = time.perf_counter()
        async with self._coordinator(*SNAPSHOT_NOW) as (coordinator, client):
            await self._until_known(client, queued)
            replay_s = time.perf_counter() - begin
            await client.coordinator()  # what the start did to the loop isn't asked for
            self.bar.show(description="taking a snapshot", total=None)
            begin = time.perf_counter()
            queued += await self._submit_until_snapshot(client)
            snapshot_s = time.perf_counter() - begin
            worst_stall = (await client.coordinator()).worst_loop_stall
            os.kill(coordinator.pid, signal.SIGKILL)
        self.bar.show(description="recovering", total=None)
        begin = time.perf_counter()
        async with self._coordinator(*NO_SNAPSHOT) as (coordinator, client):
            recovered = await self._until_known(client, queued)
            recovery_s = time.perf_counter() - begin
        return DepthReport(
            queued=queued,
            payload_bytes=len(self.payload),
            rate_at_1000=rate_at_1000,
            rate_at_depth=rate_at_depth,
            rss_bytes_per_task=rss_bytes_per_task,
            replay_s=replay_s,
            snapshot_s=snapshot_s,
            worst_stall_ms=worst_stall.ToMicroseconds() / 1000,
            recovered=recovered,
            recovery_s=recovery_s,
        )

    @asynccontextmanager
    async def _coordinator(self, *options: str) -> AsyncIterator[tuple[CoordinatorProcess, Client]]:
        """The next coordinator on the same data."""
        self._starts += 1
        log = self.scratch / f"coordinator-{self._starts}.log"
        self._logs.append(log)
        async with AsyncExitStack() as stack:
            children = await stack.enter_async_context(Children())
            coordinator = await start_coordinator(children, self.scratch, log=log, options=options)
            self.store_pids = self.store_pids or coordinator.store_pids  # later ones adopt it
            client = await stack.enter_async_context(Client(coordinator.address, give_up_s=30.0))
            yield coordinator, client

    async def _rate(self, client: Client, coordinator: CoordinatorProcess, what: str) -> float:
        """Tasks per second that an agent takes and answers. It connects when the first of them wait, and ends with them."""
        self.bar.show(description=what, total=WARM_UP_TASKS + WINDOW_TASKS, completed=0)
        self._agents += 1
        plans = plan_agents(
            agents=1, idle=0, capacity=CAPACITY, address=coordinator.address, namespace="default", prefix=f"{agent_prefix()}-{self._agents}"
        )
        warm_up = asyncio.create_task(self._window(client, WARM_UP_TASKS))
        async with running_agents(plans, self.scratch) as agents:
            while not warm_up.done():
                agents.raise_if_ended()
                await asyncio.wait([warm_up], timeout=_POLL_S)
            await warm_up
            return await self._window(client, WINDOW_TASKS)

    async def _window(self, client: Client, tasks: int) -> float:
        before = (await client.queue_stats()).completed_total
        outcome = await run_window(client, tasks=tasks, in_flight=IN_FLIGHT, payload=self.payload, on_progress=self.bar.advance)
        completed = (await client.queue_stats()).completed_total - before  # where the agent had a free slot, it took a queued one
        if outcome.first_error:
            raise CommandFailure(f"a task failed: {outcome.first_error}", ExitCode.NEGATIVE)
        return completed / outcome.elapsed_s

    async def _queue(self, client: Client, tasks: int) -> None:
        self.bar.show(description="queueing", total=tasks, completed=0)
        for start in range(0, tasks, BATCH):
            await self._submit(client, min(BATCH, tasks - start))
            self.bar.advance(BATCH)

    async def _submit(self, client: Client, count: int) -> None:
        request = TaskRequest(TASK_TYPE, self.payload, content_type=CONTENT_TYPE, priority=Priority.LOW, want_result=False)
        for answer in await client.submit_many([request] * count):
            if isinstance(answer, MusterError):
                raise answer

    async def _submit_until_snapshot(self, client: Client) -> int:
        """Submits tasks as long as a snapshot is being taken: the first one begins it. Answers how many."""
        submitted = 0
        log = self._logs[-1]
        async with asyncio.timeout(_TIMEOUT_S):
            while not _TAKEN.search(log.read_text(errors="replace")):
                await self._submit(client, BATCH // 10)
                submitted += BATCH // 10
                await asyncio.sleep(_POLL_S)
        return submitted

    async def _until_known(self, client: Client, expected: int) -> int:
        async with asyncio.timeout(_TIMEOUT_S):
            known = await _known(client)
            while known < expected:
                await asyncio.sleep(_POLL_S)
                known = await _known(client)
        return known


async def _known(client: Client) -> int:
    stats = await client.queue_stats()
    return int(stats.pending + stats.running + stats.retrying)


def _rss_bytes(coordinator: CoordinatorProcess) -> float:
    return process_table()[coordinator.pid].rss_mb * 1e6
