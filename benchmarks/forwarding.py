"""What it costs to go to a coordinator that doesn't own the namespace, beside going to the one that does.

python -m benchmarks.forwarding [--rounds 5]

Two coordinators over one store, whose writes are synced. Direct and forwarded take turns, and medians count: single calls, one after the
other (a read, and a submit that is durable when it answers); and a session with a window of tasks in flight, whose agent is connected to
the owner, and once more by way of the other coordinator like the session. All processes share this machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio
from muster.v1 import admin_pb2, admin_pb2_grpc, common_pb2, task_pb2, task_pb2_grpc

from agent_node import Client
from agent_node.cli.bench.fleet import Children, plan_agents, running_agents
from agent_node.cli.bench.load import run_window
from agent_node.ids import new_task_id
from coordinator.journal.server_binary import find_server_binary

CALLS = 200  # a round
TASKS = 4_000  # a round
IN_FLIGHT = 1_000
PAYLOAD = bytes(100)
OWNER_KEY = "muster-owner"
SERVING = re.compile(r" serving on (\S+)")
POLL_S, PATIENCE_S = 0.1, 30.0
SETTLED = 20  # looks at who owns the namespace that find the same

T = TypeVar("T")


@asynccontextmanager
async def two_coordinators(scratch: Path) -> AsyncIterator[tuple[str, str]]:
    """The addresses of the owner of the default namespace, and of the other one."""
    socket = scratch / "store.sock"
    store = [str(find_server_binary()), "--port", "0", "--unixsocket", str(socket), "--dir", str(scratch)]
    durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction"]
    async with Children() as children:
        await children.start([*store, *durable], log=scratch / "store.log")
        await until(socket.exists)
        addresses = []
        for number in (1, 2):
            log = scratch / f"coordinator-{number}.log"
            command = [sys.executable, "-m", "coordinator", "--redis-url", f"unix://{socket}", "--listen", "127.0.0.1:0"]
            await children.start(command, log=log)
            addresses.append((await until(partial(serving, log)))[1])
        owner = await settled_owner(addresses)
        yield owner, next(address for address in addresses if address != owner)


async def settled_owner(addresses: list[str]) -> str:
    """Which of two coordinators owns the default namespace, once that stays so."""
    last, seen = "", 0
    while seen < SETTLED:
        owners = {owner for address in addresses if (owner := await owner_by(address))}
        owner = owners.pop() if len(owners) == 1 else ""
        last, seen = owner, seen + 1 if owner and owner == last else 0
        await asyncio.sleep(POLL_S)
    return last


async def owner_by(address: str) -> str:
    """Where a coordinator sends calls; empty: it owns the namespace itself, or nobody does."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = admin_pb2_grpc.AdminServiceStub(channel).GetQueueStats(admin_pb2.GetQueueStatsRequest())
        return str(dict(await call.trailing_metadata() or ()).get(OWNER_KEY, ""))


def serving(log: Path) -> re.Match[str] | None:
    """The line that says where a coordinator serves."""
    return SERVING.search(log.read_text())


async def until(found: Callable[[], T | None]) -> T:
    """Asks until there is an answer."""
    async with asyncio.timeout(PATIENCE_S):
        while not (answer := found()):  # noqa: ASYNC110 - another process's doing
            await asyncio.sleep(POLL_S)
    return answer


async def latency(call: Callable[[], Awaitable[object]]) -> float:
    """The median time of a call, in seconds."""
    took = []
    for _ in range(CALLS):
        begin = time.perf_counter()
        await call()
        took.append(time.perf_counter() - begin)
    return statistics.median(took)


async def unary(owner: str, other: str, rounds: int) -> None:
    """A line for each kind of call."""
    async with grpc.aio.insecure_channel(owner) as direct, grpc.aio.insecure_channel(other) as forwarded:
        stubs = [task_pb2_grpc.TaskServiceStub(channel) for channel in (direct, forwarded)]
        known = new_task_id()

        async def submit(stub: Any, task_id: str = "") -> None:
            spec = common_pb2.TaskSpec(task_id=task_id or new_task_id(), task_type="nobody", payload=PAYLOAD)
            await stub.SubmitTasks(task_pb2.SubmitTasksRequest(tasks=[spec]))

        async def get(stub: Any) -> None:
            await stub.GetTask(task_pb2.GetTaskRequest(task_id=known))

        await submit(stubs[0], known)
        print(f"{'a call, one after the other':44} {'direct':>10} {'forwarded':>10} {'ratio':>7}")
        for what, call in (("a read (GetTask)", get), ("a durable write (SubmitTasks)", submit)):
            medians: tuple[list[float], list[float]] = ([], [])
            for _ in range(rounds):
                for stub, took in zip(stubs, medians, strict=True):
                    took.append(await latency(partial(call, stub)))
            first, second = (statistics.median(took) for took in medians)
            print(f"{what:44} {first * 1e6:7.0f} us {second * 1e6:7.0f} us {second / first:6.2f}x", flush=True)


async def session(owner: str, other: str, rounds: int, scratch: Path) -> None:
    """A line for each way of the agent."""
    print(f"{'a session, submit to result':44} {'direct':>10} {'forwarded':>10} {'ratio':>7}")
    for what, agents_at in (("its agent goes to the owner directly", owner), ("its agent is forwarded, too", other)):
        plans = plan_agents(agents=1, idle=0, capacity=IN_FLIGHT, address=agents_at, namespace="default", prefix="bench")
        rates: dict[str, list[float]] = {owner: [], other: []}
        async with running_agents(plans, scratch), Client(owner) as direct, Client(other) as forwarded:
            clients = {owner: direct, other: forwarded}
            for client in clients.values():
                await run_window(client, tasks=TASKS // 4, in_flight=IN_FLIGHT, payload=PAYLOAD)
            for _ in range(rounds):
                for address, client in clients.items():
                    rates[address].append((await run_window(client, tasks=TASKS, in_flight=IN_FLIGHT, payload=PAYLOAD)).tasks_per_s)
        first, second = (statistics.median(rates[address]) for address in (owner, other))
        print(f"{what:44} {first:8,.0f}/s {second:8,.0f}/s {second / first:6.0%}", flush=True)


async def measure(rounds: int, scratch: Path) -> None:
    """Everything."""
    async with two_coordinators(scratch) as (owner, other):
        await unary(owner, other, rounds)
        await session(owner, other, rounds, scratch)


def main() -> None:
    """Prints a table of single calls, and one of sessions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="muster-bench-", ignore_cleanup_errors=True) as scratch:
        asyncio.run(measure(options.rounds, Path(scratch)))


if __name__ == "__main__":
    main()
