"""A coordinator that does what a test tells it, over a real gRPC stream, in a thread of its own.

It plays the protocol's part that every test needs (Welcome, verdicts, acknowledgements) and records all that agents say.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Self

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from muster.v1 import agent_pb2 as pb
from muster.v1.agent_pb2_grpc import AgentServiceServicer, add_AgentServiceServicer_to_server
from muster.v1.common_pb2 import TaskSpec


@dataclass
class FakeStream:
    """One agent's stream, as the coordinator has it."""

    hello: pb.Hello
    outbox: "asyncio.Queue[pb.ConnectResponse | Exception | None]"
    received: list[pb.ConnectRequest] = field(default_factory=list)
    closed: bool = False


@dataclass
class Script:
    """How the fake behaves. Change it at any time."""

    renew_period_s: float = 0.05
    max_payload_bytes: int = 1024 * 1024
    max_checkpoint_bytes: int = 256 * 1024
    max_chunk_bytes: int = 1024 * 1024
    answer_renews: bool = True
    answer_results: bool = True
    answer_checkpoints: bool = True
    welcome: bool = True
    owner_address: str = ""
    reconcile: Callable[[pb.InFlightAttempt], int] = lambda attempt: pb.RECONCILE_VERDICT_KEEP
    refuse: tuple[grpc.StatusCode, str, str] | None = None  # code, reason, message


class _Refused(Exception):
    def __init__(self, code: grpc.StatusCode, reason: str, message: str, owner: str) -> None:
        self.code, self.reason, self.message, self.owner = code, reason, message, owner


class FakeCoordinator(AgentServiceServicer):
    """Use as `with FakeCoordinator() as coordinator:`; `address` is where agents connect."""

    def __init__(self) -> None:
        self.script = Script()
        self.streams: list[FakeStream] = []
        self.results: list[pb.AttemptResult] = []
        self.renews: list[pb.Renew] = []
        self.address = ""
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()), name="fake-coordinator", daemon=True)
        self._started: Future[None] = Future()
        self._last_batch = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.result(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)
        self._loop.close()

    # what a test reads

    @property
    def said(self) -> list[pb.ConnectRequest]:
        """Every message after Hello, over all streams."""
        return [message for stream in self.streams for message in stream.received]

    @property
    def stream(self) -> FakeStream:
        """The newest stream."""
        return self.streams[-1]

    def outcome_of(self, task_id: str) -> str | None:
        """How a task's last result ended: a name of Outcome's oneof."""
        for result in reversed(self.results):
            if result.task_id == task_id:
                return result.outcome.WhichOneof("result")
        return None

    # what a test does; from any thread

    def assign(self, *specs: TaskSpec, fence: int = 1, attempt: int = 1, checkpoint: bytes = b"") -> None:
        """Sends these in one batch."""
        self._last_batch += 1
        batch = pb.AssignBatch(batch_id=self._last_batch)
        for spec in specs:
            batch.assignments.add(task=spec, attempt=attempt, fence=fence, run=1, checkpoint=checkpoint)
        self.send(pb.ConnectResponse(assign=batch))

    def send(self, message: pb.ConnectResponse) -> None:
        """Says something on the newest stream."""
        self._put(message)

    def break_stream(
        self,
        code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE,
        reason: str = "",
        message: str = "broken by the test",
        *,
        owner: str = "",
    ) -> None:
        """Ends the newest stream with a status, which may name an owner."""
        self._put(_Refused(code, reason, message, owner))

    def _put(self, item: pb.ConnectResponse | Exception | None) -> None:
        self._loop.call_soon_threadsafe(self.stream.outbox.put_nowait, item)

    # the servicer

    async def _serve(self) -> None:
        server = grpc.aio.server()
        add_AgentServiceServicer_to_server(self, server)
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        self._started.set_result(None)
        await self._stop.wait()
        await server.stop(0)

    async def Connect(  # type: ignore[override]  # a coroutine that reads and writes is as good to grpc.aio
        self, request_iterator: AsyncIterator[pb.ConnectRequest], context: "grpc.aio.ServicerContext[pb.ConnectRequest, pb.ConnectResponse]"
    ) -> None:
        first = await anext(aiter(request_iterator))
        stream = FakeStream(first.hello, asyncio.Queue())
        self.streams.append(stream)
        if self.script.refuse is not None:
            await _abort(context, *self.script.refuse)
        if self.script.welcome:
            await context.write(self._welcome(first.hello))
        reader = asyncio.create_task(self._read(request_iterator, stream))
        try:
            while (item := await stream.outbox.get()) is not None:
                if isinstance(item, _Refused):
                    await _abort(context, item.code, item.reason, item.message, item.owner)
                elif isinstance(item, pb.ConnectResponse):
                    await context.write(item)
        finally:
            reader.cancel()
            stream.closed = True

    def _welcome(self, hello: pb.Hello) -> pb.ConnectResponse:
        script = self.script
        answer = pb.ConnectResponse(
            welcome=pb.Welcome(
                session_id=f"session-{len(self.streams)}",
                renew_period=_duration(script.renew_period_s),
                lease=_duration(3 * script.renew_period_s),
                max_payload_bytes=script.max_payload_bytes,
                max_checkpoint_bytes=script.max_checkpoint_bytes,
                max_chunk_bytes=script.max_chunk_bytes,
                owner_address=script.owner_address,
            )
        )
        answer.reconcile.SetInParent()
        for attempt in hello.in_flight:
            answer.reconcile.attempts.add(task_id=attempt.task_id, fence=attempt.fence, verdict=script.reconcile(attempt))
        return answer

    async def _read(self, request_iterator: AsyncIterator[pb.ConnectRequest], stream: FakeStream) -> None:
        async for message in request_iterator:
            stream.received.append(message)
            answer = pb.ConnectResponse()
            if message.HasField("renew"):
                self.renews.append(message.renew)
                if self.script.answer_renews:
                    answer.renew_ack.SetInParent()
            if message.HasField("results"):
                self.results.extend(message.results.results)
                if self.script.answer_results:
                    answer.result_acks.add(batch_id=message.results.batch_id)
            if self.script.answer_checkpoints:
                for checkpoint in message.checkpoints:
                    answer.checkpoint_acks.add(
                        task_id=checkpoint.task_id,
                        fence=checkpoint.fence,
                        sequence=checkpoint.sequence,
                        verdict=pb.RESULT_VERDICT_ACCEPTED,
                    )
            if answer.ListFields():
                stream.outbox.put_nowait(answer)
        stream.outbox.put_nowait(None)


async def _abort(
    context: "grpc.aio.ServicerContext[pb.ConnectRequest, pb.ConnectResponse]",
    code: grpc.StatusCode,
    reason: str,
    message: str,
    owner: str = "",
) -> None:
    info = AnyMessage()
    info.Pack(ErrorInfo(reason=reason, domain="muster", metadata={"owner": owner} if owner else None))
    status = Status(code=code.value[0], message=message, details=[info])
    await context.abort(code, message, (("grpc-status-details-bin", status.SerializeToString()),))


def _duration(seconds: float) -> Duration:
    wire = Duration()
    wire.FromNanoseconds(round(seconds * 1e9))
    return wire
