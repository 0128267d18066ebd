"""What operations on many tasks do to those who use the coordinator meanwhile.

python -m benchmarks.operations [--count 100000]

A coordinator with its embedded store holds so many tasks that nobody can run; an agent and a client move others, in windows. Beside each
whole operation: tasks/s of those, and the longest that the coordinator's event loop stood still. The first line is without any.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio
from muster.v1 import admin_pb2_grpc, bulk_pb2, common_pb2

from agent_node import Client
from agent_node.cli.bench.fleet import IDLE_TYPE, Children, end_orphans, plan_agents, running_agents, start_coordinator
from agent_node.cli.bench.load import run_window

IN_FLIGHT = 200
WINDOW = 500  # tasks
SUBMITTED_AT_ONCE = 1000
PAYLOAD = bytes(100)
EVERYTHING = f"task_type = {IDLE_TYPE}"


async def fill(client: Client, count: int) -> None:
    """Tasks that nobody can run."""
    for _ in range(0, count, SUBMITTED_AT_ONCE):
        async with asyncio.TaskGroup() as group:
            for _ in range(SUBMITTED_AT_ONCE):
                group.create_task(client.submit(IDLE_TYPE, PAYLOAD, labels={"team": "red"}))


async def whole(method: Callable[[Any], Awaitable[Any]], request: Any) -> tuple[int, int, float]:
    """An operation to its end. Answers how many tasks it changed, in how many calls, and the longest of these in seconds."""
    changed = calls = 0
    longest_s = 0.0
    while True:
        begin = time.perf_counter()
        progress = (await method(request)).progress
        longest_s = max(longest_s, time.perf_counter() - begin)
        changed, calls = changed + progress.changed, calls + 1
        if not progress.next_page_token:
            return changed, calls, longest_s
        request.selection.page_token = progress.next_page_token


async def beside(client: Client, what: str, operation: Awaitable[tuple[int, int, float]] | None) -> None:
    """Windows of other tasks for as long as an operation takes, and a line about it."""
    await client.coordinator()  # what was before isn't asked for
    begin = time.perf_counter()
    task = asyncio.ensure_future(operation) if operation is not None else None
    moved = 0
    while moved < 10 * WINDOW if task is None else not task.done():
        moved += (await run_window(client, tasks=WINDOW, in_flight=IN_FLIGHT, payload=PAYLOAD)).completed
    took_s = time.perf_counter() - begin
    stall_ms = (await client.coordinator()).worst_loop_stall.ToMicroseconds() / 1000
    changed, calls, longest_s = task.result() if task is not None else (0, 0, 0.0)
    print(
        f"{what:28} {changed:9,} {calls:6,} {1000 * longest_s:8.0f} ms {took_s:7.1f} s {moved / took_s:10,.0f} {stall_ms:8.1f} ms",
        flush=True,
    )


async def measure(count: int, scratch: Path) -> None:
    """All operations, one after the other."""
    async with Children() as children:
        coordinator = await start_coordinator(children, scratch, log=scratch / "coordinator.log")
        try:
            plans = plan_agents(agents=1, idle=0, capacity=IN_FLIGHT, address=coordinator.address, namespace="default", prefix="bench")
            async with (
                Client(coordinator.address, give_up_s=60.0) as client,
                grpc.aio.insecure_channel(coordinator.address) as channel,
                running_agents(plans, scratch),
            ):
                admin = admin_pb2_grpc.AdminServiceStub(channel)
                await run_window(client, tasks=5 * WINDOW, in_flight=IN_FLIGHT, payload=PAYLOAD)
                await fill(client, count)
                print(f"{'operation':28} {'changed':>9} {'calls':>6} {'longest':>11} {'took':>9} {'others/s':>10} {'stall':>11}")
                await beside(client, "none", None)
                for what, method, request in operations(admin):
                    await beside(client, what, whole(method, request))
        finally:
            end_orphans(coordinator.store_pids)


def operations(admin: Any) -> list[tuple[str, Callable[[Any], Awaitable[Any]], Any]]:
    """What is done, in an order in which each finds something to do."""

    def selection(dry_run: bool = False) -> bulk_pb2.TaskSelection:  # noqa: FBT001, FBT002
        return bulk_pb2.TaskSelection(filter=EVERYTHING, dry_run=dry_run)

    critical = common_pb2.PRIORITY_CRITICAL
    redrive = bulk_pb2.RedriveTasksRequest(selection=selection(), request_id="bench")
    return [
        (
            "reprioritise, dry run",
            admin.ReprioritiseTasks,
            bulk_pb2.ReprioritiseTasksRequest(selection=selection(dry_run=True), priority=critical),
        ),
        ("reprioritise", admin.ReprioritiseTasks, bulk_pb2.ReprioritiseTasksRequest(selection=selection(), priority=critical)),
        ("cancel", admin.CancelMatchingTasks, bulk_pb2.CancelMatchingTasksRequest(selection=selection(), reason="bench")),
        ("redrive, dry run", admin.RedriveTasks, bulk_pb2.RedriveTasksRequest(selection=selection(dry_run=True))),
        ("redrive", admin.RedriveTasks, redrive),
        ("cancel again", admin.CancelMatchingTasks, bulk_pb2.CancelMatchingTasksRequest(selection=selection(), reason="bench")),
        ("purge (all are too young)", admin.PurgeTasks, bulk_pb2.PurgeTasksRequest(selection=selection())),
    ]


def main() -> None:
    """Prints a line for each operation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="how many tasks each operation is for (default %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="muster-bench-", ignore_cleanup_errors=True) as scratch:
        asyncio.run(measure(options.count, Path(scratch)))


if __name__ == "__main__":
    main()
