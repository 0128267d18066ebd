"""Whether keys get what their weights say, and how long the least urgent tasks wait where more urgent ones never end.

Each of the three runs has a coordinator of its own. Agents and client are in this process: it is the order that is measured, not the rate.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_node.agent import Agent
from agent_node.cli.bench.fleet import TASK_TYPE, Children, agent_prefix, start_coordinator
from agent_node.cli.payloads import Json
from agent_node.client.client import Client
from agent_node.client.scheduling import Scheduling
from agent_node.client.tasks import Priority, TaskRequest
from agent_node.context import Context
from agent_node.errors import MusterError

if TYPE_CHECKING:
    from rich.table import Table

    from agent_node.cli.terminal import Bar

WEIGHTS = {"one": 1.0, "two": 2.0, "three": 3.0, "four": 4.0}
COSTS = {"one": 1.0, "two": 4.0, "three": 0.5, "four": 2.0}  # what a task of each key really costs; submitted as 1, and corrected
SPARE = 1.5  # times what a key should get is queued, so that all keys have something to the end
CAPACITY = 50  # of the agent, in the runs for shares
BATCH = 2_000
SLOTS, SERVICE_S = 4, 0.04  # of the agent in the run for ageing: it serves SLOTS / SERVICE_S tasks a second
OVERLOAD = 1.15  # urgent tasks arrive at this multiple of it
SLOW_EVERY = 10  # of so many arrivals one more is of the least urgent
PERIODS_TO_CRITICAL = 3  # from LOW
PERIODS_OF_LOAD = 2 * PERIODS_TO_CRITICAL
_TIMEOUT_S = 600.0
AGE_SLOTS, MAX_SLOT_S = 16, 0.25  # how coarsely the coordinator looks at ages: a sixteenth of the period, or this


@dataclass(frozen=True, slots=True, kw_only=True)
class FairnessReport:
    """What a run found. The keys of `record` are an interface: they keep their names."""

    tasks: int
    task_share_error: float
    cost_share_error: float
    ageing_period_s: float
    ageing_worst_wait_s: float
    expected_wait_s: float

    @property
    def share_error(self) -> float:
        """The larger one."""
        return max(self.task_share_error, self.cost_share_error)

    def record(self) -> "dict[str, Json]":
        """The object that --json prints."""
        return {
            "tasks": self.tasks,
            "share_error": round(self.share_error, 4),
            "task_share_error": round(self.task_share_error, 4),
            "cost_share_error": round(self.cost_share_error, 4),
            "ageing_period_s": self.ageing_period_s,
            "ageing_worst_wait_s": round(self.ageing_worst_wait_s, 3),
            "expected_wait_s": round(self.expected_wait_s, 3),
        }

    def table(self) -> "Table":
        """The same for a person."""
        from rich.table import Table

        weights = ":".join(f"{weight:g}" for weight in WEIGHTS.values())
        facts = Table(box=None, show_header=False, pad_edge=False)
        facts.add_column(style="dim", no_wrap=True)
        facts.add_column(justify="right", no_wrap=True)
        facts.add_column(style="dim", overflow="fold")
        facts.add_row(
            "shares by tasks", f"{100 * self.task_share_error:.2f} %", f"off the weights {weights} at most, over {self.tasks:,} tasks"
        )
        facts.add_row("shares by cost", f"{100 * self.cost_share_error:.2f} %", "likewise, where costs are known at the end only")
        facts.add_row(
            "worst wait", f"{self.ageing_worst_wait_s:.2f} s", f"of LOW tasks under HIGH ones at {OVERLOAD:g} times what is served"
        )
        facts.add_row("expected", f"{self.expected_wait_s:.2f} s", f"with an ageing period of {self.ageing_period_s:g} s")
        return facts


async def measure_fairness(*, tasks: int, ageing_period_s: float, bar: "Bar") -> FairnessReport:
    """All three runs. Raises CommandFailure when a coordinator doesn't come up, and MusterError when it can't be used."""
    return FairnessReport(
        tasks=tasks,
        task_share_error=await _share_error("tasks", dict.fromkeys(WEIGHTS, 1.0), tasks, bar),
        cost_share_error=await _share_error("cost", COSTS, tasks, bar),
        ageing_period_s=ageing_period_s,
        expected_wait_s=expected_wait_s(ageing_period_s),
        ageing_worst_wait_s=await _worst_wait_s(ageing_period_s, bar),
    )


def expected_wait_s(ageing_period_s: float) -> float:
    """The longest wait of a LOW task, from G4's rule and the rates alone.

    It is behind every HIGH task until it counts as CRITICAL itself, and then behind those of the tasks submitted before it that still wait.
    Those are at most what has piled up when the load ends, and served in less time than it takes to age if the overload is small. Beyond
    that comes how coarsely ages are looked at, and one service.
    """
    aged_s = PERIODS_TO_CRITICAL * ageing_period_s
    piled_up_s = (OVERLOAD * (1 + 1 / SLOW_EVERY) - 1) * PERIODS_OF_LOAD * ageing_period_s
    return max(aged_s, piled_up_s) + min(ageing_period_s / AGE_SLOTS, MAX_SLOT_S) + SERVICE_S


def share_error(served: Mapping[str, float]) -> float:
    """How far the shares of what was served are off the weights at most, as a part of what each should be."""
    total, weights = sum(served.values()), sum(WEIGHTS.values())
    return max(abs(served[key] / total / (weight / weights) - 1) for key, weight in WEIGHTS.items())


async def _share_error(share_by: str, costs: Mapping[str, float], tasks: int, bar: "Bar") -> float:
    bar.show(description=f"shares by {share_by}", total=tasks, completed=0)
    weights = [option for key, weight in WEIGHTS.items() for option in ("--weight", f"{key}={weight:g}")]
    served: dict[str, float] = dict.fromkeys(WEIGHTS, 0.0)
    count = 0
    enough = asyncio.Event()

    async def work(context: Context) -> None:
        nonlocal count
        if count < tasks:
            key = context.payload.decode()
            served[key] += costs[key]
            count += 1
            if count == tasks:
                enough.set()
        if share_by == "cost":
            context.report_cost(costs[context.payload.decode()])

    async with _coordinator("--ageing-period", "0", "--share-by", share_by, *weights) as client:
        per_cost = tasks / sum(weight / costs[key] for key, weight in WEIGHTS.items())
        for key, weight in WEIGHTS.items():
            request = TaskRequest(TASK_TYPE, key, scheduling=Scheduling(fairness_key=key), want_result=False)
            await _submit(client, request, round(SPARE * per_cost * weight / costs[key]))
        async with _serving(client, CAPACITY, work):
            await asyncio.wait_for(enough.wait(), _TIMEOUT_S)
    return share_error(served)


async def _worst_wait_s(ageing_period_s: float, bar: "Bar") -> float:
    load_s = PERIODS_OF_LOAD * ageing_period_s
    arrivals = round(OVERLOAD * SLOTS / SERVICE_S * load_s)
    bar.show(description="ageing", total=arrivals, completed=0)
    submitted_s: dict[str, float] = {}
    waits_s: list[float] = []
    ended = asyncio.Event()

    async def work(context: Context) -> None:
        began_s = submitted_s.pop(context.task_id, None)
        if began_s is not None:
            waits_s.append(time.perf_counter() - began_s)
            if len(waits_s) == arrivals // SLOW_EVERY:
                ended.set()
        await asyncio.sleep(SERVICE_S)

    async def submit(client: Client, priority: Priority, task_id: str | None = None) -> None:
        await client.submit(TASK_TYPE, task_id=task_id, priority=priority, want_result=False)

    async with _coordinator("--ageing-period", f"{ageing_period_s:g}") as client, _serving(client, SLOTS, work):
        begin = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(1, arrivals + 1):
                await asyncio.sleep(max(0.0, begin + number * load_s / arrivals - time.perf_counter()))
                group.create_task(submit(client, Priority.HIGH))
                if number % SLOW_EVERY == 0:
                    task_id = f"slow-{number}"
                    submitted_s[task_id] = time.perf_counter()
                    group.create_task(submit(client, Priority.LOW, task_id))
                bar.advance(1)
        await asyncio.wait_for(ended.wait(), _TIMEOUT_S)
    return max(waits_s)


async def _submit(client: Client, request: TaskRequest, count: int) -> None:
    for start in range(0, count, BATCH):
        for answer in await client.submit_many([request] * min(BATCH, count - start)):
            if isinstance(answer, MusterError):
                raise answer


@asynccontextmanager
async def _coordinator(*options: str) -> AsyncIterator[Client]:
    """A coordinator with nothing in it, and a client of it."""
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="muster-bench-", ignore_cleanup_errors=True)))
        children = await stack.enter_async_context(Children())
        coordinator = await start_coordinator(children, scratch, log=scratch / "coordinator.log", options=options)
        yield await stack.enter_async_context(Client(coordinator.address, give_up_s=30.0))


@asynccontextmanager
async def _serving(client: Client, capacity: int, work: Callable[[Context], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """An agent that works in this process as long as the context lasts."""
    agent = Agent(agent_prefix(), address=client.target.address, capacity=capacity)
    agent.handler(TASK_TYPE)(work)
    serving = asyncio.create_task(agent.serve())
    try:
        yield
    finally:
        agent.stop()
        await serving
