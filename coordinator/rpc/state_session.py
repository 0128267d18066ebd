"""StateSession: batches of operations in, and their answers out, each as soon as it is durable."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any

from muster.v1 import state_pb2 as pb

from coordinator.convert_state import client_id_in
from coordinator.errors import InvalidRequest, LimitReached, MusterError, NotFound, Unavailable
from coordinator.rpc.opaque import opaque
from coordinator.rpc.outgoing import MAX_MESSAGE_BYTES, Sender
from coordinator.rpc.state_calls import WITH_OPTIONS
from coordinator.rpc.status import refusal_of

if TYPE_CHECKING:
    from coordinator.engine.shard import Shard
    from coordinator.rpc.state_calls import Response, StateCalls

MAX_BATCH_OPS = 256
MAX_ANSWERS = 256  # per message
MAX_UNANSWERED = 1024  # operations whose answers have not gone out: then no more is read. The store keeps as many verdicts of a client
MAX_UNANSWERED_BYTES = 8 * 1024 * 1024  # of these operations, and of answers that have not gone out
MAX_EXPECTED_MIB = 128  # of answers that are still to come, as large as they can be
MAX_WAITS = 10_000  # for locks. They count for themselves: what they wait for may come behind them

_Response = opaque(pb.StateSessionResponse, "StateSessionResponse.answers")


class StateSession:
    """One session of one client. What it asks of a key takes effect in its order; operations are answered in any.

    Args:
        shard: the shard that its namespace lives in.
        namespace_name: its namespace.
        calls: does what is asked.
    """

    def __init__(self, *, shard: Shard, namespace_name: str, calls: StateCalls) -> None:
        self.sender = Sender(outgoing=self)
        self.namespace_name = namespace_name
        self._shard = shard
        self._calls = calls
        self._client_id = ""
        self._answers: deque[bytes] = deque()  # serialized StateAnswers
        self.unanswered = 0
        self._waits = 0
        self.held_bytes = 0
        self._expected_mib = 0
        self._room = asyncio.Event()
        self._no_more_comes = False
        self._all_is_said = asyncio.Event()

    # --- in -------------------------------------------------------------------------------------------------------------------

    async def read(self, messages: AsyncIterator[pb.StateSessionRequest]) -> None:
        """Handles the client's messages until it closes the stream. Raises MusterError for one that breaks the protocol."""
        self._shard.client_streams.add(self)
        try:
            async for message in messages:
                if message.client_id:
                    self._introduce(message.client_id)
                if len(message.ops) > MAX_BATCH_OPS:
                    raise InvalidRequest(f"ops has {len(message.ops)} entries: at most {MAX_BATCH_OPS}; send several messages", field="ops")
                for op in message.ops:
                    while self.is_full():
                        self._room.clear()
                        await self._room.wait()
                    await self._begin(op)
            # A client that has said all it has to say still wants its answers.
            self._no_more_comes = True
            self.sender.wake()
            await self._all_is_said.wait()
        finally:
            self._shard.client_streams.discard(self)
            self._calls.leave()

    def is_full(self) -> bool:
        """Whether no more is read until answers have gone out."""
        return self.unanswered >= MAX_UNANSWERED or self.held_bytes > MAX_UNANSWERED_BYTES or self._expected_mib >= MAX_EXPECTED_MIB

    def _introduce(self, client_id: str) -> None:
        if self._client_id not in ("", client_id):
            raise InvalidRequest("client_id was told before, and was another: one session is one client's", field="client_id")
        self._client_id = client_id_in(client_id)

    async def _begin(self, op: pb.StateOp) -> None:
        name = op.WhichOneof("op") or ""
        request: Any = getattr(op, name) if name else None
        if name == "lock":
            answered = partial(self._granted, op.op_id)
            self._waits += 1
        else:
            size, expected_mib = op.ByteSize(), _largest_answer_mib(name, request)
            answered = partial(self._answered, op.op_id, name, size, expected_mib)
            self.unanswered += 1
            self.held_bytes += size
            self._expected_mib += expected_mib
        try:
            if name in WITH_OPTIONS and request.HasField("options"):
                await self._calls.require_attempt(request.options)
            if self._waits > MAX_WAITS and name == "lock":
                raise LimitReached(
                    "this session waits for too many locks: open another one",
                    limit="session_lock_waits",
                    used=self._waits - 1,
                    allowed=MAX_WAITS,
                    retry_after_s=None,
                )
            self._calls.begin(name, request, self._client_id, answered)
        except MusterError as error:
            answered(error)

    # --- out ------------------------------------------------------------------------------------------------------------------

    def _granted(self, op_id: int, response: Response | MusterError) -> None:
        self._waits -= 1
        self.unanswered += 1
        self._answered(op_id, "lock", 0, 0, response)

    def _answered(self, op_id: int, name: str, size: int, expected_mib: int, response: Response | MusterError) -> None:
        answer = pb.StateAnswer(op_id=op_id)
        if isinstance(response, MusterError):
            answer.refusal.CopyFrom(refusal_of(response))
        else:
            getattr(answer, name).CopyFrom(response)
        blob = answer.SerializeToString()
        self.held_bytes += len(blob) - size
        self._expected_mib -= expected_mib
        self._answers.append(blob)
        if expected_mib:
            self._room.set()
        self.sender.wake()

    def close(self, error: Unavailable) -> None:
        """The shard isn't served here any more."""
        self.sender.end(error)

    def gone(self, message: str) -> None:
        """The namespace was deleted."""
        self.sender.end(NotFound(message, reason="NAMESPACE_NOT_FOUND"))

    def next_message(self) -> bytes | None:
        """As many answers as fit, serialized."""
        answers = self._answers
        if not answers:
            if self._no_more_comes and not (self.unanswered or self._waits):
                self._all_is_said.set()
            return None
        taken: list[bytes] = []
        room = MAX_MESSAGE_BYTES
        while answers and len(taken) < MAX_ANSWERS and (not taken or len(answers[0]) <= room):
            taken.append(answers.popleft())
            room -= len(taken[-1])
        self.unanswered -= len(taken)
        self.held_bytes -= MAX_MESSAGE_BYTES - room
        self._room.set()
        message: bytes = _Response(answers=taken).SerializeToString()
        return message


def _largest_answer_mib(name: str, request: Any) -> int:
    """What an operation's answer may hold at most, in MiB, beside some kilobytes."""
    match name:
        case "get":
            return min(len(request.keys), 3)
        case "list" | "history" | "list_locks" | "txn":
            return 2
        case "update":
            return 1
        case "put" | "delete":
            return int(request.HasField("if_revision"))
        case _:
            return 0
