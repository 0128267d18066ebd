"""One run: the processes start, clients begin, faults happen as planned, everything settles, and the checker reads what is left."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent_node import Client, MusterError
from tests.chaos.checker import check
from tests.chaos.cluster import Cluster
from tests.chaos.evidence import Evidence, Handled
from tests.chaos.faults import Faults, do
from tests.chaos.load import SLOW, Load
from tests.chaos.schedule import Fault, Setting, schedule
from tests.chaos.store_reader import read_store
from tests.chaos.violations import Violation
from tests.support.eventually import eventually
from tests.support.processes import Children

SETTLED_WITHIN_S = 90.0  # after the last fault, everything that was begun has ended
FIRST_TASKS = 50  # are through before anything goes wrong
_SAY_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Work:
    """What there is to do.

    Args:
        slow: the share of tasks that take seconds.
        agent_options: of those who do it.
    """

    slow: float = SLOW
    agent_options: Sequence[str] = ()


USUAL = Work()


@dataclass
class Outcome:
    """What a run came to."""

    seed: int
    seconds: float
    faults: list[Fault] = field(default_factory=list)
    failover_s: list[float] = field(default_factory=list)
    beside_others_s: list[float] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    seen: Evidence = field(default_factory=Evidence)
    skipped: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    tracebacks: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    unavailable: int = 0  # reads and cancels of tasks that were answered UNAVAILABLE


@asynccontextmanager
async def running(cluster: Cluster, seen: Evidence, *, seed: int, work: "Work", say: Callable[[str], None]) -> AsyncIterator[list[Load]]:
    """Clients are at work during the block; when it has ended, they come to their end, too."""
    now_s = asyncio.get_running_loop().time
    async with Client(cluster.address, connect_timeout_s=60.0) as client:
        for namespace in cluster.namespaces:
            await client.create_namespace(namespace)
    cluster.start_agents(*work.agent_options)
    seen.capacity = cluster.capacity
    stop = asyncio.Event()
    loads = [
        Load(
            namespace,
            address=cluster.address_from(number),
            seen=seen,
            rng=random.Random(f"{seed} {namespace}"),
            now_s=now_s,
            slow=work.slow,
        )
        for number, namespace in enumerate(cluster.namespaces)
    ]
    async with asyncio.TaskGroup() as group:
        work = [group.create_task(load.run(stop)) for load in loads]
        await eventually(lambda: len(seen.told) >= FIRST_TASKS, within_s=60.0, message="the first tasks to be through")
        yield loads
        say("settling")
        stop.set()
        _, late = await asyncio.wait(work, timeout=SETTLED_WITHIN_S)
        if late:
            told = {one.task for one in seen.told}
            open_tasks = [one.task for one in seen.acknowledged if one.task not in told]
            raise AssertionError(
                f"{len(late)} clients hadn't come to an end {SETTLED_WITHIN_S:.0f} s after the last fault; open: {open_tasks[:20]}"
            )


async def chaos(
    *,
    seed: int,
    seconds: float,
    setting: Setting,
    folder: Path,
    children: Children,
    say: Callable[[str], None],
    planned: list[Fault] | None = None,
    work: Work = USUAL,
    without: Sequence[str] = (),
    options: Sequence[str] = (),
) -> Outcome:
    """A run with the faults that the seed gives.

    Args:
        seed: of the faults and of what clients do.
        seconds: from the beginning of the faults to their end.
        setting: what processes there are.
        folder: for all files, an empty one.
        children: starts the processes.
        say: hears how far it is.
        planned: other faults than those.
        work: what there is to do, and who does it.
        without: the guards that the coordinators lack.
        options: of the coordinators.
    """
    outcome = Outcome(seed, seconds)
    planned = schedule(seed, seconds=seconds, setting=setting) if planned is None else planned
    say(f"seed {seed}: {len(planned)} faults in {seconds:.0f} s\n" + "\n".join(f"  {fault}" for fault in planned))
    now_s = asyncio.get_running_loop().time
    async with Cluster(setting, children=children, folder=folder, without=without, options=options) as cluster:
        faults = Faults(cluster, now_s)
        async with AsyncExitStack() as stack:
            loads = await stack.enter_async_context(running(cluster, outcome.seen, seed=seed, work=work, say=say))
            progress = asyncio.create_task(_progress(outcome.seen, say))
            try:
                outcome.faults = await do(faults, planned, now_s=now_s, say=say)
            finally:
                progress.cancel()
            cluster.proxies.heal_all()
            await cluster.settled_store()
        outcome.refused = [f"{load.namespace}: {error}" for load in loads for error in load.refused]
        outcome.unavailable = sum(load.unavailable for load in loads)
        await collect(cluster, outcome.seen)
        outcome.failover_s, outcome.beside_others_s, outcome.skipped = faults.failover_s, faults.beside_others_s, faults.skipped
        outcome.unexpected, outcome.tracebacks = cluster.unexpected(), cluster.tracebacks()
    outcome.acknowledged = len({one.task for one in outcome.seen.acknowledged}) + sum(
        not operation.is_open for operations in outcome.seen.operations.values() for operation in operations
    )
    say("checking")
    outcome.violations = await asyncio.to_thread(check, outcome.seen)
    return outcome


async def collect(cluster: Cluster, seen: Evidence) -> None:
    """Adds what agents wrote down and what lies in the store, once everything that was begun has ended."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(cluster.address, namespace=name)) for name in cluster.namespaces]

        async def all_ended() -> bool:
            try:
                stats = [await client.queue_stats() for client in clients]
            except MusterError:
                return False
            return not any(each.pending + each.running + each.retrying for each in stats)

        await eventually(all_ended, within_s=SETTLED_WITHIN_S, message="every task to end")
    for name in cluster.agents:
        for line in cluster.notes(name).read_text().splitlines():
            seen.handled.append(Handled(*json.loads(line)))
    await read_store((await cluster.primary()).client(socket_timeout=30), seen, namespaces=cluster.namespaces)


async def _progress(seen: Evidence, say: Callable[[str], None]) -> None:
    while True:
        operations = sum(map(len, seen.operations.values()))
        say(f"  {len(seen.acknowledged):,} tasks acknowledged, {len(seen.told):,} ended, {operations:,} operations on state")
        await asyncio.sleep(_SAY_EVERY_S)
