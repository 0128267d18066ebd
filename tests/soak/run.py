"""One soak, from the first process to the last key: it runs, is disturbed and measured, drains, and what is left is looked at."""

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from agent_node import Client
from agent_node.errors import MusterError
from tests.e2e.deployment import Deployment, client_of, deployed
from tests.soak import census
from tests.soak.audit import Audit, Findings
from tests.soak.disturbances import CAPACITY, Fleet, disturb, plan
from tests.soak.flatness import MIN_GROWTH_BYTES, WARM_UP_SHARE
from tests.soak.samples import ProcessSample, StoreSample, keys_by_kind, sample_process, sample_store
from tests.support.eventually import eventually
from tests.support.processes import Child, Children

_TIMING = ("--lease", "3", "--session-grace", "3", "--log-level", "info")
_STEADY_AGENTS = ("steady-0", "steady-1")
_FOLLOW_S = 0.1
_CALM_S = 3.0  # before the load and after it, so that what is idle has settled, and a census been taken
_DRAIN_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is run. Durations in seconds, sizes in bytes.

    Attributes:
        seconds: how long the load lasts.
        rate: tasks a second, of all clients together.
        clients: processes that submit them.
        seed: of all that is drawn.
        retention_s: an ended task is held so long: a day, in the day's own measure.
        retention_count: so many ended tasks are held.
        snapshot_after: the journal's length that makes a snapshot due.
        disturbed: which part of the disturbances there are.
        leak: which process leaks on purpose, if one does.
    """

    seconds: float = 600.0
    rate: float = 2000.0
    clients: int = 2
    seed: int = 1
    retention_s: float = 60.0
    retention_count: int = 90_000
    snapshot_after: int = 4_000_000
    disturbed: float = 1.0
    leak: str | None = None


def leaked_bytes(planned: Plan) -> int:
    """What a process that leaks on purpose keeps of a task: 64 bytes, or as much as shows in a run that is short, or has few tasks."""
    tasks = planned.rate / planned.clients * planned.seconds * (1 - WARM_UP_SHARE)  # of one process, while its memory is looked at
    return max(64, round(5 * MIN_GROWTH_BYTES / tasks))


@dataclass
class Seen:
    """What a run has shown."""

    plan: Plan
    processes: dict[str, list[ProcessSample]] = field(default_factory=dict)  # of those that lived on, by name
    at_rest: dict[str, tuple[ProcessSample | None, ProcessSample | None]] = field(default_factory=dict)  # before the load, and after
    store: list[StoreSample] = field(default_factory=list)
    keys_before: Counter[str] = field(default_factory=Counter)
    keys_after: Counter[str] = field(default_factory=Counter)
    counts: dict[str, tuple[dict[str, int], dict[str, int]]] = field(default_factory=dict)  # of containers: before the load, and after
    live_after: int = -1
    retained_after: int = -1
    worst_stall_ms: float = 0.0
    happened: Counter[str] = field(default_factory=Counter)
    findings: Findings = field(default_factory=Findings)
    tallies: list[dict[str, Any]] = field(default_factory=list)
    submitted_in_time: int = 0
    problems: list[str] = field(default_factory=list)


async def soak(planned: Plan, *, folder: Path, children: Children, say: Callable[[str], None]) -> Seen:
    """Runs a soak. Its processes end with `children`.

    Args:
        planned: what to run.
        folder: an empty one, for all files.
        children: starts the processes.
        say: hears how far it is.
    """
    options = (*_TIMING, "--snapshot-after", str(planned.snapshot_after))
    options += ("--soak-retention-s", str(planned.retention_s), "--soak-retention-count", str(planned.retention_count))
    (folder / "census").mkdir()
    os.environ |= {"SOAK_CENSUS": str(folder / "census"), "SOAK_LEAK": planned.leak or "", "SOAK_LEAK_BYTES": str(leaked_bytes(planned))}
    async with (
        deployed(children, folder, *options, module="tests.soak.coordinator", agent="tests.soak.agents:agent") as deployment,
        client_of(deployment) as client,
    ):
        run = _Run(planned, folder=folder, children=children, deployment=deployment, client=client, say=say)
        try:
            return await run.whole()
        finally:
            run.close()


class _Run:
    def __init__(
        self, planned: Plan, *, folder: Path, children: Children, deployment: Deployment, client: Client, say: Callable[[str], None]
    ) -> None:
        self.seen = Seen(planned)
        self._plan = planned
        self._folder = folder
        self._children = children
        self._deployment = deployment
        self._client = client
        self._say = say
        self._rng = random.Random(planned.seed)
        env = {"SOAK_EXECUTIONS": str(deployment.executions)}
        self._agents = [deployment.start_agent(name, capacity=CAPACITY, env=env) for name in _STEADY_AGENTS]
        self._fleet = Fleet(deployment=deployment, env=env, rng=self._rng)
        ledgers = [folder / f"ledger-{number}" for number in range(planned.clients)]
        self._clients = [self._start_client(number, ledger) for number, ledger in enumerate(ledgers)]
        self._audit = Audit(ledgers=ledgers, executions=deployment.executions)
        self._store = Redis(unix_socket_path=str(deployment.store_socket), protocol=2)
        self._now_s = asyncio.get_running_loop().time

    def close(self) -> None:
        self._audit.close()

    def _start_client(self, number: int, ledger: Path) -> Child:
        ledger.touch()
        options = {
            "--address": self._deployment.address,
            "--name": f"client-{number}",
            "--ledger": str(ledger),
            "--rate": str(self._plan.rate / self._plan.clients),
            "--seed": str(self._plan.seed * 1000 + number),
        }
        command = [sys.executable, "-m", "tests.soak.clients", *(part for option in options.items() for part in option)]
        return self._children.start(command, name=f"client-{number}")

    def _lasting(self) -> dict[str, int]:
        """The processes that live on to the end, but the coordinator's for now, by name."""
        return {child.name: child.pid for child in (self._deployment.coordinator, *self._agents, *self._clients)}

    async def whole(self) -> Seen:
        seen, loop = self.seen, asyncio.get_running_loop()
        for child in self._clients:
            await child.wait_for_line("^ready", within_s=60.0)
        await self._deployment.agent_connected(self._client, *_STEADY_AGENTS)
        await asyncio.sleep(_CALM_S)
        before, counts_before = self._at_rest()
        seen.keys_before = await keys_by_kind(self._store)
        self._say("calm before: " + ", ".join(f"{key}: {value}" for key, value in seen.keys_before.items()))
        for child in self._clients:
            child.send(signal.SIGUSR2)
        beside = [asyncio.create_task(self._sample()), asyncio.create_task(self._follow())]
        planned = plan(self._plan.seconds, self._rng, share=self._plan.disturbed) if self._plan.disturbed else []
        disturbing = asyncio.create_task(disturb(self._fleet, planned, self._note))
        end_s = loop.time() + self._plan.seconds
        while loop.time() < end_s:
            await asyncio.wait([*beside, disturbing], timeout=min(10.0, max(0.0, end_s - loop.time())), return_when=asyncio.FIRST_EXCEPTION)
            for task in (*beside, disturbing):
                if task.done():
                    task.result()
            self._progress(end_s - loop.time())
        seen.submitted_in_time = self._audit.findings.taken
        await disturbing
        await self._drain()
        await self._expire(beside)
        after, counts_after = self._at_rest()
        seen.keys_after = await keys_by_kind(self._store)
        await self._compare_with_a_fresh_coordinator(before, counts_before)
        seen.at_rest = {name: (before.get(name), after.get(name)) for name in after}
        seen.counts = {name: (counts_before.get(name, {}), counts_after.get(name, {})) for name in counts_after}
        seen.findings = self._audit.finish()
        await self._store.aclose()
        return seen

    def _at_rest(self) -> tuple[dict[str, ProcessSample], dict[str, dict[str, int]]]:
        lasting = self._lasting()
        samples = {name: sample for name, pid in lasting.items() if (sample := sample_process(pid, self._now_s()))}
        counts = {name: census.last_of(self._folder / "census", _role_of(name), pid) for name, pid in lasting.items()}
        return samples, counts

    # --- while it runs ----------------------------------------------------------------------------------------------------------

    async def _sample(self) -> None:
        period_s = max(0.5, self._plan.seconds / 300)
        names: dict[str, int] = {}
        while True:
            now_s = self._now_s()
            for name, pid in {**self._lasting(), "store": self._deployment.store_pid}.items():
                sample = sample_process(pid, now_s)
                if names.get(name) != pid:  # restarted: what is looked at is the last one's life
                    names[name] = pid
                    self.seen.processes[name] = []
                    if name == "store":
                        self.seen.store.clear()
                if sample is not None:
                    self.seen.processes[name].append(sample)
            with suppress(RedisError, TimeoutError):
                async with asyncio.timeout(5):
                    self.seen.store.append(await sample_store(self._store, self._deployment.data_dir, now_s))
            await asyncio.sleep(period_s)

    async def _follow(self) -> None:
        while True:
            try:
                async with asyncio.timeout(10):
                    more = await self._audit.follow(self._store)
            except (RedisError, TimeoutError):
                more = False
                with suppress(OSError, ValueError, KeyError):
                    self._store = Redis(unix_socket_path=str(self._deployment.store_socket), protocol=2)
            await asyncio.sleep(0 if more else _FOLLOW_S)

    def _note(self, what: str) -> None:
        self.seen.happened[what] += 1
        self._say(f"  {what.replace('_', ' ')}")

    def _progress(self, left_s: float) -> None:
        findings, last = self._audit.findings, {name: samples[-1] for name, samples in self.seen.processes.items() if samples}
        rss = " ".join(f"{name} {sample.rss_bytes / 1e6:.0f}" for name, sample in last.items())
        self._say(f"{left_s:4.0f} s left: {findings.taken:,} taken, {findings.records:,} ended, {findings.fault_count} faults; MB: {rss}")

    # --- afterwards -------------------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        self._say("draining")
        for child in self._clients:
            child.send(signal.SIGUSR1)
        for child in self._clients:
            said = await child.wait_for_line(r"^drained (.*)$", within_s=_DRAIN_S)
            self.seen.tallies.append(json.loads(said[1]))

        async def nothing_lives() -> bool:
            stats = await self._client.queue_stats()
            self.seen.live_after = stats.pending + stats.running + stats.retrying
            return self.seen.live_after == 0

        with suppress(AssertionError, MusterError):
            await eventually(nothing_lives, within_s=_DRAIN_S, message="no live task")
        self.seen.worst_stall_ms = (await self._client.coordinator()).worst_loop_stall.ToMicroseconds() / 1000

    async def _expire(self, beside: list[asyncio.Task[None]]) -> None:
        self._say("waiting for what has ended to expire")
        await asyncio.sleep(_CALM_S)
        while under_way := [task for task in beside if not task.done()]:
            for task in under_way:
                task.cancel()  # again, if need be: under Python 3.11 a call of redis-py can swallow it
            await asyncio.wait(under_way, timeout=1.0)
        while await self._audit.follow(self._store):
            pass

        async def nothing_retained() -> bool:
            self.seen.retained_after = (await self._client.queue_stats()).retained
            return self.seen.retained_after == 0

        with suppress(AssertionError, MusterError):
            await eventually(nothing_retained, within_s=self._plan.retention_s + 15.0, message="nothing retained")
        await asyncio.sleep(_CALM_S)

    async def _compare_with_a_fresh_coordinator(self, before: dict[str, ProcessSample], counts: dict[str, dict[str, int]]) -> None:
        """The one that did the work must hold no more than one that has just started beside the same agents and clients."""
        await self._fleet.restart_coordinator()
        await self._deployment.agent_connected(self._client, *_STEADY_AGENTS)
        await asyncio.sleep(_CALM_S + 3.0)  # until agents that are gone are forgotten
        fresh, fresh_counts = self._at_rest()
        name = self._deployment.coordinator.name
        before[name], counts[name] = fresh[name], fresh_counts[name]


def _role_of(name: str) -> str:
    return "agent" if name.startswith("steady") else name.partition("-")[0]
