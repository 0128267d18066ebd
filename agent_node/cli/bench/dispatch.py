"""The run itself: what is started, what is measured in which order, and what is ended.

The ceiling is measured before the fleet starts and again after it has ended, on an otherwise idle machine, and its median counts: a
machine that gets slower or faster during the run moves both figures.
"""

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import grpc.aio
from muster.v1 import agent_pb2

from agent_node.cli.bench.ceiling import Ceiling, measure_ceiling
from agent_node.cli.bench.fleet import (
    TASK_TYPE,
    AgentProcesses,
    CoordinatorProcess,
    agent_prefix,
    plan_agents,
    running_agents,
    running_coordinator,
)
from agent_node.cli.bench.load import WindowOutcome, run_window, sequential_latencies, unary_rate
from agent_node.cli.bench.measures import GroupUsage, process_table, usage_by_role
from agent_node.cli.bench.profiled import profiled_here
from agent_node.cli.bench.report import DispatchOptions, DispatchReport, StoreFacts, used_between
from agent_node.cli.exits import CommandFailure, ExitCode
from agent_node.client.client import Client
from agent_node.ids import new_task_id

if TYPE_CHECKING:
    from agent_node.cli.terminal import Bar

CEILING_ROUNDS_BEFORE = 2
CEILING_ROUNDS_AFTER = 3
CEILING_TASKS = 200_000
WARM_UP_TASKS = 2_000
WARM_UP_LATENCIES = 50
LATENCY_SAMPLES = 500
WARM_UP_UNARY_CALLS = 200
UNARY_CALLS = 2_000
_GIVE_UP_S = 30.0  # a coordinator that is gone for longer ends the run
_POLL_S = 0.05
_CONNECT_TIMEOUT_S = 120.0
_SETTLE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Where a run takes place: `address` names a coordinator that is there, None asks for one of our own; `profile` is for statistics."""

    address: str | None
    namespace: str
    profile: Path | None = None


async def measure_dispatch(options: DispatchOptions, surroundings: Surroundings, bar: "Bar") -> DispatchReport:
    """One whole run. Raises CommandFailure when its processes don't come up, and MusterError when the coordinator can't be used."""
    bar.show(description="ceiling")
    ceilings = [await _ceiling(options) for _ in range(CEILING_ROUNDS_BEFORE)]
    async with AsyncExitStack() as stack:
        fleet = await _start_fleet(options, surroundings, stack, bar)
        findings = await _measure(fleet, options, surroundings, bar)
    bar.show(description="ceiling")
    ceilings += [await _ceiling(options) for _ in range(CEILING_ROUNDS_AFTER)]
    return DispatchReport(
        options=options,
        tasks_per_s=findings.window.tasks_per_s,
        submitted=findings.window.submitted,
        completed=findings.window.completed,
        first_error=findings.window.first_error,
        latencies_s=findings.latencies_s,
        unary_tasks_per_s=findings.unary_tasks_per_s,
        cpu_s=used_between(findings.before, findings.after),
        rss_mb={role: usage.rss_mb for role, usage in findings.after.items()},
        ceiling_tasks_per_s=median(ceiling.tasks_per_s for ceiling in ceilings),
        ceiling_latency_ms=median(ceiling.latency_ms for ceiling in ceilings),
        coordinator=fleet.facts,
        start_s=fleet.coordinator.start_s if fleet.coordinator else None,
    )


async def _ceiling(options: DispatchOptions) -> Ceiling:
    return await measure_ceiling(tasks=CEILING_TASKS, payload_bytes=options.payload_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fleet:
    """What stands when the measuring begins."""

    client: Client
    channel: grpc.aio.Channel
    coordinator: CoordinatorProcess | None  # None: somebody else's
    agents: AgentProcesses
    facts: StoreFacts

    def usage(self) -> Mapping[str, GroupUsage]:
        """What each role's processes have used so far."""
        roles: dict[str, Sequence[int]] = {
            "client": [os.getpid()],
            "agents": self.agents.working_pids,
            "idle_agents": self.agents.idle_pids,
        }
        if self.coordinator:
            roles |= {"coordinator": [self.coordinator.pid], "store": self.coordinator.store_pids}
        return usage_by_role(roles, process_table())


async def _start_fleet(options: DispatchOptions, surroundings: Surroundings, stack: AsyncExitStack, bar: "Bar") -> _Fleet:
    """Starts what isn't there yet, and waits until every agent is connected. What it starts ends with `stack`."""
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="muster-bench-", ignore_cleanup_errors=True)))
    coordinator: CoordinatorProcess | None = None
    address = surroundings.address
    if address is None:
        bar.show(description="starting a coordinator")
        coordinator = await stack.enter_async_context(running_coordinator(scratch, profile=surroundings.profile))
        address = coordinator.address
    client = await stack.enter_async_context(Client(address, namespace=surroundings.namespace, give_up_s=_GIVE_UP_S))
    about = await client.coordinator()  # before the agents start: an address where nobody listens is said at once
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(client.target.addresses[0]))
    plans = plan_agents(
        agents=options.agents,
        idle=max(0, options.connected - options.agents),
        capacity=options.capacity,
        address=address,
        namespace=surroundings.namespace,
        prefix=agent_prefix(),
    )
    agents = await stack.enter_async_context(running_agents(plans, scratch, profile=surroundings.profile))
    await _wait_for_agents(client, agents, bar)
    facts = StoreFacts(version=about.version, store=about.store, durability=about.durability)
    return _Fleet(client=client, channel=channel, coordinator=coordinator, agents=agents, facts=facts)


async def _wait_for_agents(client: Client, agents: AgentProcesses, bar: "Bar") -> None:
    expected = len(agents.agent_names)
    bar.show(description="connecting agents", total=expected, completed=0)

    async def all_connected() -> bool:
        agents.raise_if_ended()
        known = await client.agents()
        connected = sum(agent.state == agent_pb2.AGENT_STATE_CONNECTED and agent.agent_name in agents.agent_names for agent in known)
        bar.show(completed=connected)
        return connected == expected

    await _until(all_connected, within_s=_CONNECT_TIMEOUT_S, otherwise=f"the {expected} agents did not all connect")


async def _wait_until_idle(client: Client) -> None:
    async def nothing_left() -> bool:
        stats = await client.queue_stats()
        return not any(queue.task_type == TASK_TYPE and queue.ready + queue.delayed + queue.running for queue in stats.queues)

    await _until(nothing_left, within_s=_SETTLE_TIMEOUT_S, otherwise="the tasks of the unary submits did not all end")


async def _until(predicate: Callable[[], Awaitable[bool]], *, within_s: float, otherwise: str) -> None:
    """Polls until the predicate holds. Raises CommandFailure with the sentence `otherwise` when it doesn't in time."""
    try:
        async with asyncio.timeout(within_s):
            while not await predicate():  # noqa: ASYNC110  # it changes in another process
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise CommandFailure(f"{otherwise} within {within_s:.0f} s.", ExitCode.UNAVAILABLE) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Findings:
    window: WindowOutcome
    latencies_s: Sequence[float]
    unary_tasks_per_s: float
    before: Mapping[str, GroupUsage]  # at the window's start
    after: Mapping[str, GroupUsage]  # at its end


async def _measure(fleet: _Fleet, options: DispatchOptions, surroundings: Surroundings, bar: "Bar") -> _Findings:
    payload = bytes(options.payload_bytes)
    bar.show(description="warming up", total=WARM_UP_TASKS, completed=0)
    await run_window(fleet.client, tasks=WARM_UP_TASKS, in_flight=options.in_flight, payload=payload, on_progress=bar.advance)
    bar.show(description="tasks", total=options.tasks, completed=0)
    before = fleet.usage()
    with profiled_here(surroundings.profile / "client.pstats" if surroundings.profile else None):
        window = await run_window(fleet.client, tasks=options.tasks, in_flight=options.in_flight, payload=payload, on_progress=bar.advance)
    after = fleet.usage()
    bar.show(description="one at a time", total=LATENCY_SAMPLES, completed=0)
    await sequential_latencies(fleet.client, samples=WARM_UP_LATENCIES, payload=payload)
    latencies_s = await sequential_latencies(fleet.client, samples=LATENCY_SAMPLES, payload=payload)
    bar.show(description="unary submits", total=UNARY_CALLS, completed=0)
    rate = await unary_rate(
        fleet.channel,
        calls=UNARY_CALLS,
        warm_up_calls=WARM_UP_UNARY_CALLS,
        payload=payload,
        namespace=surroundings.namespace,
        mint_id=new_task_id,
    )
    await _wait_until_idle(fleet.client)
    return _Findings(window=window, latencies_s=latencies_s, unary_tasks_per_s=rate, before=before, after=after)
