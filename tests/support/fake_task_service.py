"""A coordinator's client-facing side, scripted: real gRPC on a free port, no scheduling, no store.

A test says what becomes of submits and when results come; the fake keeps what it was sent.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from muster.v1 import common_pb2, task_pb2
from muster.v1.common_pb2 import Outcome, Refusal, Success, TaskSpec
from muster.v1.task_pb2 import (
    SessionRequest,
    SessionResponse,
    SessionWelcome,
    SubmitAck,
    SubmitBatch,
    SubmitException,
    TaskResult,
    WatchTasksRequest,
    WatchTasksResponse,
)
from muster.v1.task_pb2_grpc import TaskServiceServicer, add_TaskServiceServicer_to_server

Context = grpc.aio.ServicerContext[SessionRequest, SessionResponse]
WatchContext = grpc.aio.ServicerContext[WatchTasksRequest, WatchTasksResponse]


def completed(task_id: str, payload: bytes = b"done") -> TaskResult:
    """A result as a coordinator sends it for a task that succeeded at its first attempt."""
    return TaskResult(
        task_id=task_id,
        state=common_pb2.TASK_STATE_COMPLETED,
        outcome=Outcome(success=Success(payload=payload)),
        attempts=1,
        agent_name="agent-1",
    )


def refused(index: int, refusal: Refusal) -> SubmitException:
    """A verdict of REFUSED."""
    return SubmitException(index=index, verdict=task_pb2.SUBMIT_VERDICT_REFUSED, refusal=refusal)


@dataclass
class FakeSession:
    """One open session: what to send next, or how to end."""

    outgoing: "asyncio.Queue[SessionResponse | grpc.StatusCode]" = field(default_factory=asyncio.Queue)
    metadata: dict[str, str] = field(default_factory=dict)


class FakeTaskService(TaskServiceServicer):
    """The script and the record. Change the public attributes at any time.

    Attributes:
        answering: False keeps acknowledgements and results back.
        completing: False acknowledges submits and sends no results.
        judge: the exception for a task, or None; gets the task and its place in the batch.
        results: what attaching to an id answers; other ids are not known.
        refuse_with: sessions are refused with this code.
    """

    def __init__(self) -> None:
        self.answering = True
        self.completing = True
        self.judge: Callable[[int, TaskSpec], SubmitException | None] = lambda index, spec: None
        self.results: dict[str, TaskResult] = {}
        self.refuse_with: grpc.StatusCode | None = None
        self.batches: list[SubmitBatch] = []
        self.attached: list[list[str]] = []
        self.sessions: list[FakeSession] = []
        self.opened = 0
        self.watches: list[WatchTasksRequest] = []
        self.watch_script: list[list[WatchTasksResponse | grpc.StatusCode | None]] = []
        self.silent = 0  # watches that have come to a None of the script, and say nothing more

    @property
    def task_ids(self) -> list[str]:
        """The ids of all tasks it was sent, in order, with repetitions."""
        return [spec.task_id for batch in self.batches for spec in batch.tasks]

    async def break_sessions(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        """Ends every open session."""
        for session in self.sessions:
            await session.outgoing.put(code)

    async def send(self, response: SessionResponse) -> None:
        """Sends a message on the latest session."""
        await self.sessions[-1].outgoing.put(response)

    async def Session(  # the name in the proto
        self, request_iterator: AsyncIterator[SessionRequest], context: Context
    ) -> AsyncIterator[SessionResponse]:
        """Answers batches and attaches, until told to end."""
        self.opened += 1
        if self.refuse_with is not None:
            await context.abort(self.refuse_with, "refused by the script")
        session = FakeSession(metadata={key: str(value) for key, value in context.invocation_metadata() or ()})
        self.sessions.append(session)
        reading = asyncio.ensure_future(self._read(request_iterator, session))
        try:
            yield SessionResponse(welcome=SessionWelcome(session_id=str(self.opened), max_payload_bytes=1 << 20, max_batch_tasks=1_000))
            while True:
                item = await session.outgoing.get()
                if isinstance(item, SessionResponse):
                    yield item
                elif item is grpc.StatusCode.OK:
                    return
                else:
                    await context.abort(item, "ended by the script")
        finally:
            reading.cancel()
            self.sessions.remove(session)

    async def _read(self, requests: AsyncIterator[SessionRequest], session: FakeSession) -> None:
        async for request in requests:
            response = SessionResponse()
            if request.HasField("submit"):
                self.batches.append(request.submit)
                if self.answering:
                    self._answer(request.submit, response)
            if request.attach_task_ids:
                self.attached.append(list(request.attach_task_ids))
                for task_id in request.attach_task_ids if self.answering else ():
                    response.results.append(self.results.get(task_id) or _unknown(task_id))
            if response.submit_acks or response.results:
                await session.outgoing.put(response)

    def _answer(self, batch: SubmitBatch, response: SessionResponse) -> None:
        ack = SubmitAck(batch_id=batch.batch_id)
        for index, spec in enumerate(batch.tasks):
            exception = self.judge(index, spec)
            if exception is not None:
                ack.exceptions.append(exception)
            if self.completing and not batch.no_results and (exception is None or exception.verdict != task_pb2.SUBMIT_VERDICT_REFUSED):
                response.results.append(completed(spec.task_id, spec.payload))
        response.submit_acks.append(ack)

    async def WatchTasks(self, request: WatchTasksRequest, context: WatchContext) -> AsyncIterator[WatchTasksResponse]:
        """Plays the next part of `watch_script`: its responses, then its code; without one it ends well."""
        self.watches.append(request)
        for item in self.watch_script.pop(0):
            if isinstance(item, WatchTasksResponse):
                yield item
            elif item is not None:
                await context.abort(item, "ended by the script")
            else:
                self.silent += 1
                try:
                    await asyncio.Event().wait()
                finally:
                    self.silent -= 1


def _unknown(task_id: str) -> TaskResult:
    return TaskResult(
        task_id=task_id,
        refusal=Refusal(code=grpc.StatusCode.NOT_FOUND.value[0], reason="TASK_NOT_FOUND", message=f"no task {task_id}: check its id"),
    )


@asynccontextmanager
async def serving(service: FakeTaskService, *, port: int = 0) -> AsyncIterator[str]:
    """Serves on loopback, and gives the address."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    add_TaskServiceServicer_to_server(service, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        await server.stop(None)
