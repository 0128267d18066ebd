"""The load that the client side of a run makes: a window of tasks in flight, one task at a time, and unary submits."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent_node.cli.bench.fleet import TASK_TYPE
from agent_node.errors import MusterError

if TYPE_CHECKING:
    import grpc.aio
    from muster.v1 import task_pb2_grpc

    from agent_node.client.client import Client

CONTENT_TYPE = "application/octet-stream"
UNARY_IN_FLIGHT = 100
_PROGRESS_STEP = 200  # tasks between two looks at the progress bar: it shares the cores with what is measured


@dataclass(slots=True)
class WindowOutcome:
    """What became of the tasks of a window."""

    submitted: int = 0
    completed: int = 0
    elapsed_s: float = 0.0
    first_error: str = ""

    @property
    def tasks_per_s(self) -> float:
        """Completed tasks per second of wall-clock time."""
        return self.completed / self.elapsed_s if self.elapsed_s else 0.0


async def run_window(
    client: "Client", *, tasks: int, in_flight: int, payload: bytes, on_progress: Callable[[int], None] = lambda _count: None
) -> WindowOutcome:
    """Submits `tasks` tasks, keeping `in_flight` of them between submit and result, and awaits the result of each.

    `on_progress` hears how many more have ended, now and then. A task that fails is counted as not completed; the first error is kept.
    """
    outcome = WindowOutcome()
    ended = 0

    async def submit_and_await() -> None:
        nonlocal ended
        while outcome.submitted < tasks:
            outcome.submitted += 1
            try:
                handle = await client.submit(TASK_TYPE, payload, content_type=CONTENT_TYPE)
                await handle.result()
                outcome.completed += 1
            except MusterError as error:
                outcome.first_error = outcome.first_error or str(error)
            ended += 1
            if ended % _PROGRESS_STEP == 0:
                on_progress(_PROGRESS_STEP)

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(min(in_flight, tasks)):
            group.create_task(submit_and_await())
    outcome.elapsed_s = time.perf_counter() - begin
    return outcome


async def sequential_latencies(client: "Client", *, samples: int, payload: bytes) -> list[float]:
    """Seconds from submit to result of each of `samples` tasks, one after the other."""
    latencies: list[float] = []
    for _ in range(samples):
        begin = time.perf_counter()
        handle = await client.submit(TASK_TYPE, payload, content_type=CONTENT_TYPE)
        await handle.result()
        latencies.append(time.perf_counter() - begin)
    return latencies


async def unary_rate(
    channel: "grpc.aio.Channel", *, calls: int, payload: bytes, namespace: str, mint_id: Callable[[], str], warm_up_calls: int = 0
) -> float:
    """SubmitTasks calls per second, one task each, `UNARY_IN_FLIGHT` at a time, after `warm_up_calls` that don't count.

    This is what a simple client in any language does: results are not awaited. Raises MusterError for a call that
    fails, and for a task that is refused.
    """
    from muster.v1 import task_pb2_grpc

    stub = task_pb2_grpc.TaskServiceStub(channel)
    await _submit_one_by_one(stub, calls=warm_up_calls, payload=payload, namespace=namespace, mint_id=mint_id)
    begin = time.perf_counter()
    await _submit_one_by_one(stub, calls=calls, payload=payload, namespace=namespace, mint_id=mint_id)
    return calls / (time.perf_counter() - begin)


async def _submit_one_by_one(
    stub: "task_pb2_grpc.TaskServiceAsyncStub", *, calls: int, payload: bytes, namespace: str, mint_id: Callable[[], str]
) -> None:
    import grpc.aio
    from muster.v1 import common_pb2, task_pb2

    from agent_node.connection import from_refusal, from_rpc_error

    metadata = (("muster-namespace", namespace),)
    remaining = calls

    async def call() -> None:
        nonlocal remaining
        while remaining > 0:
            remaining -= 1
            task = common_pb2.TaskSpec(task_id=mint_id(), task_type=TASK_TYPE, payload=payload, content_type=CONTENT_TYPE)
            try:
                response = await stub.SubmitTasks(task_pb2.SubmitTasksRequest(tasks=[task]), metadata=metadata)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from None
            [submitted] = response.tasks
            if submitted.verdict != task_pb2.SUBMIT_VERDICT_ACCEPTED:
                raise from_refusal(submitted.refusal)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(UNARY_IN_FLIGHT, calls)):
            group.create_task(call())
