import asyncio

import grpc.aio
import pytest
from muster.v1 import task_pb2, task_pb2_grpc

from agent_node.cli.bench.load import UNARY_IN_FLIGHT, run_window, sequential_latencies, unary_rate
from agent_node.errors import TaskFailedError


class CountingClient:
    """A client whose tasks end a few turns of the loop later; every `bad`-th fails."""

    def __init__(self, *, bad=0):
        self.bad = bad
        self.submitted = 0
        self.open = 0
        self.most_open = 0

    async def submit(self, task_type, payload, **_options):
        self.submitted += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        client, number = self, self.submitted

        class Handle:
            async def result(self):
                for _ in range(number % 5):
                    await asyncio.sleep(0)
                client.open -= 1
                if client.bad and number % client.bad == 0:
                    raise TaskFailedError(f"t-{number}", "boom", kind="APPLICATION")

        return Handle()


@pytest.mark.parametrize("tasks,in_flight", [(1, 10), (1_000, 1), (1_003, 50)])
async def test_a_window_submits_each_task_once_and_is_never_exceeded(tasks, in_flight):
    client = CountingClient()
    outcome = await run_window(client, tasks=tasks, in_flight=in_flight, payload=b"")
    assert (outcome.submitted, outcome.completed, client.submitted) == (tasks, tasks, tasks)
    assert client.most_open == min(tasks, in_flight)
    assert outcome.tasks_per_s > 0


async def test_failed_tasks_are_counted_and_the_first_is_kept():
    outcome = await run_window(CountingClient(bad=10), tasks=100, in_flight=1, payload=b"")
    assert (outcome.submitted, outcome.completed) == (100, 90)
    assert outcome.first_error == "task t-10 failed: boom"


async def test_progress_is_told_now_and_then():
    steps = []
    await run_window(CountingClient(), tasks=450, in_flight=10, payload=b"", on_progress=steps.append)
    assert steps == [200, 200]


async def test_latencies_are_measured_one_task_at_a_time():
    client = CountingClient()
    assert len(await sequential_latencies(client, samples=20, payload=b"")) == 20
    assert client.most_open == 1


async def test_unary_calls_carry_one_task_each_and_at_most_a_hundred_are_in_flight():
    calls, in_flight, most = [], 0, 0

    class Tasks(task_pb2_grpc.TaskServiceServicer):
        async def SubmitTasks(self, request, context):
            nonlocal in_flight, most
            in_flight += 1
            most = max(most, in_flight)
            calls.append((dict(context.invocation_metadata())["muster-namespace"], [task.task_id for task in request.tasks]))
            await asyncio.sleep(0)
            in_flight -= 1
            return task_pb2.SubmitTasksResponse()

    server = grpc.aio.server()
    task_pb2_grpc.add_TaskServiceServicer_to_server(Tasks(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            ids = iter(range(10_000))
            rate = await unary_rate(channel, calls=250, warm_up_calls=30, payload=b"x", namespace="blue", mint_id=lambda: str(next(ids)))
    finally:
        await server.stop(None)
    assert rate > 0
    assert {namespace for namespace, _ in calls} == {"blue"}
    assert sorted(int(task_id) for _, [task_id] in calls) == [*range(280)]
    assert most <= UNARY_IN_FLIGHT
