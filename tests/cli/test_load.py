import asyncio
from contextlib import asynccontextmanager
from itertools import count

import grpc.aio
import pytest
from muster.v1 import common_pb2, task_pb2, task_pb2_grpc

from agent_node.cli.bench.load import UNARY_IN_FLIGHT, run_window, sequential_latencies, unary_rate
from agent_node.errors import LimitError, TaskFailedError


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


class UnaryTasks(task_pb2_grpc.TaskServiceServicer):
    """Takes every task but the one whose id is `refused`, and notes what arrives."""

    def __init__(self, refused=""):
        self.refused = refused
        self.namespaces = set()
        self.batches = []
        self.in_flight = 0
        self.most_in_flight = 0

    async def SubmitTasks(self, request, context):
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.namespaces.add(dict(context.invocation_metadata())["muster-namespace"])
        self.batches.append([task.task_id for task in request.tasks])
        await asyncio.sleep(0)
        self.in_flight -= 1
        answer = task_pb2.SubmittedTask(verdict="SUBMIT_VERDICT_ACCEPTED")
        if request.tasks[0].task_id == self.refused:
            refusal = common_pb2.Refusal(code=8, reason="QUEUE_FULL", message="the queue is full")
            answer = task_pb2.SubmittedTask(verdict="SUBMIT_VERDICT_REFUSED", refusal=refusal)
        return task_pb2.SubmitTasksResponse(tasks=[answer])


@asynccontextmanager
async def serving(servicer):
    server = grpc.aio.server()
    task_pb2_grpc.add_TaskServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


def counting_ids():
    ids = count()
    return lambda: str(next(ids))


async def test_unary_calls_carry_one_task_each_and_at_most_a_hundred_are_in_flight():
    tasks = UnaryTasks()
    async with serving(tasks) as channel:
        rate = await unary_rate(channel, calls=250, warm_up_calls=30, payload=b"x", namespace="blue", mint_id=counting_ids())
    assert rate > 0
    assert tasks.namespaces == {"blue"}
    assert sorted(int(task_id) for [task_id] in tasks.batches) == [*range(280)]
    assert tasks.most_in_flight <= UNARY_IN_FLIGHT


async def test_a_refused_task_is_not_counted_as_submitted():
    async with serving(UnaryTasks(refused="7")) as channel:
        with pytest.raises(ExceptionGroup) as raised:
            await unary_rate(channel, calls=20, payload=b"x", namespace="blue", mint_id=counting_ids())
    assert isinstance(raised.value.exceptions[0], LimitError)
