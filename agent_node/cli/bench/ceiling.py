"""The ceiling: what a bare grpc.aio bidirectional stream moves between two processes on this machine.

One process is the client, the other the server; there is no store, no queue and no agent. The client writes messages of 100
tasks, each with an id, a type, a content type and the payload, and keeps `WINDOW` of them in flight; the server answers each message with
one of 100 results. Each message is serialized when it is written and parsed when it is read, on both sides, and nothing else is done
with it: messages are built once. So the figure is the cost of gRPC and of protobuf's own C code, and no system that has to
look at its tasks can reach it.

Run as a program, this module is the server: it prints its port and ends when its standard input does.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from statistics import median

import grpc.aio
from google.protobuf.message import Message
from muster.v1 import common_pb2, task_pb2

from agent_node.cli.bench.loop import loop_factory

TASKS_PER_MESSAGE = 100
WINDOW = 8  # messages in flight: the pipe never runs dry, and nothing queues for long
PING_PONGS = 500
WARM_UP_MESSAGES = 50
_SERVICE, _METHOD = "muster.bench.Ceiling", "Stream"
_LISTEN = "127.0.0.1:0"
_START_TIMEOUT_S = 20.0
_END_TIMEOUT_S = 5.0

Session = grpc.aio.StreamStreamCall[Message, task_pb2.SessionResponse]
Context = grpc.aio.ServicerContext[task_pb2.SessionRequest, task_pb2.SessionResponse]


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What the bare stream reached: tasks per second, and the median round trip of a message with one task."""

    tasks_per_s: float
    latency_ms: float


def task_id_at(index: int) -> str:
    """An id of the length that real ones have."""
    return f"0190a000-0000-7000-8000-{index:012x}"


def request_of(count: int, payload: bytes) -> task_pb2.SessionRequest:
    """A message that submits `count` tasks."""
    tasks = [
        common_pb2.TaskSpec(task_id=task_id_at(index), task_type="bench.noop", payload=payload, content_type="application/octet-stream")
        for index in range(count)
    ]
    return task_pb2.SessionRequest(submit=task_pb2.SubmitBatch(batch_id=1, tasks=tasks))


def response_of(count: int) -> task_pb2.SessionResponse:
    """A message that reports `count` tasks as completed, with an empty result."""
    done = common_pb2.Outcome(success=common_pb2.Success())
    state = task_pb2.TaskResult(state=common_pb2.TASK_STATE_COMPLETED, outcome=done, attempts=1, agent_name="ceiling")
    response = task_pb2.SessionResponse()
    for index in range(count):
        result = response.results.add()
        result.CopyFrom(state)
        result.task_id = task_id_at(index)
    return response


async def answer(requests: AsyncIterator[task_pb2.SessionRequest], context: Context) -> None:
    """The server's side of a stream: each message is answered with as many results as it submits tasks."""
    answers: dict[int, task_pb2.SessionResponse] = {}
    async for request in requests:
        count = len(request.submit.tasks)
        if count not in answers:
            answers[count] = response_of(count)
        await context.write(answers[count])


async def serve_until_stdin_ends() -> None:
    """Serves on a free loopback port, prints it, and stops at the end of standard input: when the parent closes it, or is gone."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handler = grpc.stream_stream_rpc_method_handler(
        answer,
        request_deserializer=task_pb2.SessionRequest.FromString,
        response_serializer=task_pb2.SessionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),))
    port = server.add_insecure_port(_LISTEN)
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


@asynccontextmanager
async def ceiling_session() -> AsyncIterator[Session]:
    """A stream to a fresh server process, which ends with the context. Raises RuntimeError when the process doesn't start."""
    async with AsyncExitStack() as stack:
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us: the server ends when we close its input
        )
        stack.push_async_callback(_end, server)
        line = b""
        if server.stdout is not None:
            with suppress(TimeoutError):
                line = await asyncio.wait_for(server.stdout.readline(), _START_TIMEOUT_S)
        if not line.strip().isdigit():
            raise RuntimeError("the ceiling's server process did not start")
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{int(line)}"))
        stream = channel.stream_stream(
            f"/{_SERVICE}/{_METHOD}",
            request_serializer=task_pb2.SessionRequest.SerializeToString,
            response_deserializer=task_pb2.SessionResponse.FromString,
        )
        session = stream()
        stack.callback(session.cancel)
        yield session
        await session.done_writing()
        await session.read()  # the server's end of the stream


async def _end(server: asyncio.subprocess.Process) -> None:
    if server.stdin is not None:
        server.stdin.close()
    try:
        await asyncio.wait_for(server.wait(), _END_TIMEOUT_S)
    except TimeoutError:
        server.kill()
        await server.wait()


async def stream_messages(session: Session, request: task_pb2.SessionRequest, messages: int) -> None:
    """Writes `request` `messages` times with `WINDOW` in flight, and reads every answer."""
    room = asyncio.Semaphore(WINDOW)

    async def write_all() -> None:
        for _ in range(messages):
            await room.acquire()
            await session.write(request)

    async with asyncio.TaskGroup() as group:
        group.create_task(write_all())
        for _ in range(messages):
            await session.read()
            room.release()


async def ping_pong(session: Session, request: task_pb2.SessionRequest, rounds: int) -> list[float]:
    """Seconds of each of `rounds` round trips, one message at a time."""
    samples: list[float] = []
    for _ in range(rounds):
        begin = time.perf_counter()
        await session.write(request)
        await session.read()
        samples.append(time.perf_counter() - begin)
    return samples


async def measure_ceiling(*, tasks: int, payload_bytes: int) -> Ceiling:
    """One measurement over at least `tasks` tasks of `payload_bytes` each, and `PING_PONGS` round trips."""
    payload = bytes(payload_bytes)
    batch, single = request_of(TASKS_PER_MESSAGE, payload), request_of(1, payload)
    messages = max(1, tasks // TASKS_PER_MESSAGE)
    async with ceiling_session() as session:
        await stream_messages(session, batch, WARM_UP_MESSAGES)
        begin = time.perf_counter()
        await stream_messages(session, batch, messages)
        elapsed_s = time.perf_counter() - begin
        await ping_pong(session, single, WARM_UP_MESSAGES)
        samples = await ping_pong(session, single, PING_PONGS)
    return Ceiling(messages * TASKS_PER_MESSAGE / elapsed_s, median(samples) * 1000)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve_until_stdin_ends())
