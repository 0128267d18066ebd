"""Carries a session over a gRPC stream, reconnecting for as long as it takes. Lives in the stream thread's loop.

While a write is in flight everything that happens gathers in the session, and goes out in the next message: nothing waits on a timer.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TypeAlias

import grpc
from muster.v1.agent_pb2 import ConnectRequest, ConnectResponse
from muster.v1.agent_pb2_grpc import AgentServiceStub

from agent_node.backoff import Backoff
from agent_node.connection import Target, call_metadata, from_rpc_error, open_single_channel
from agent_node.errors import MusterError, RefusedError
from agent_node.instructions import AnswerCheckpoint, Finish, Instruction, Reconnect, ResultRefused, SetLimits, Start, StopHandler
from agent_node.reports import AttemptReports, CancelDelivered, Ended, Report
from agent_node.session import Session
from agent_node.statuses import info_in

_log = logging.getLogger("muster.agent")

Call: TypeAlias = "grpc.aio.StreamStreamCall[ConnectRequest, ConnectResponse]"
HandlerInstruction = Start | StopHandler | SetLimits

SUPERSEDED = "SESSION_SUPERSEDED"
# Refusals that no further attempt can mend, if the coordinator never welcomed this agent before.
_FINAL = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
# A stream that was open for less doesn't count as a recovery: a coordinator that fails on every Hello is not to be hammered.
_STABLE_S = 5.0
_UNREACHABLE_S = 60.0  # then an owner that couldn't be reached is tried again, such as one behind a proxy that lets others through
_PARTING_S = 0.5  # what the coordinator gets to end the stream after our half-close


class Transport:
    """Runs one agent's session until it finishes, is stopped, or is refused for good.

    Args:
        session: the machine; used in this thread alone.
        target: where to connect, unless told to go away.
        agent_name: for logs.
        backoff: how long to wait between streams.
        now_s: the clock.
        loop_lag_s: how late the handlers' loop answers.
        instruct: takes what the handlers' side is to do.
    """

    def __init__(
        self,
        *,
        session: Session,
        target: Target,
        agent_name: str,
        backoff: Backoff,
        now_s: Callable[[], float],
        loop_lag_s: Callable[[], float],
        instruct: Callable[[list[HandlerInstruction]], None],
    ) -> None:
        self._session = session
        self._given = target.addresses
        self._turn = 0  # of these
        self._direct = ""  # where the coordinator is said to be that owns the namespace; empty: not known
        self._unreachable: dict[str, float] = {}  # such addresses that could not be reached, and until when they aren't tried
        self._address = self._given[0]
        self._metadata = call_metadata(target)
        self._agent_name = agent_name
        self._backoff = backoff
        self._now_s = now_s
        self._loop_lag_s = loop_lag_s
        self._instruct = instruct
        self._wake = asyncio.Event()
        self._leave_stream = asyncio.Event()
        self._done = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s: float | None = None
        self._welcomed_ever = False
        self._open_since_s: float | None = None
        self._go_at_once = False
        self._complained = False

    async def run(self) -> None:
        """Serves the session to its end.

        Raises:
            RefusedError: another process took the agent's name (reason SESSION_SUPERSEDED), or the coordinator will not have this one.
        """
        try:
            while not self._done.is_set():
                self._go_at_once = False
                await self._serve_one_stream()
                if not self._done.is_set() and not self._go_at_once:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._done.wait(), self._backoff.next_s())
        finally:
            if self._timer is not None:
                self._timer.cancel()

    # from other threads, by way of the loop

    def take_reports(self, reports: list[Report]) -> None:
        """What handlers ended with and told."""
        session = self._session
        instructions: list[Instruction] = []
        for report in reports:
            if type(report) is Ended:
                instructions += session.ended(report.attempt, report.outcome)
            elif isinstance(report, AttemptReports):
                instructions += self._gather(report)
            elif isinstance(report, CancelDelivered):
                session.cancel_delivered(report.attempt)
        self._proceed(instructions)

    def drain(self, reason: str, deadline_s: float | None) -> None:
        """Leave in an orderly way."""
        self._proceed(self._session.drain(reason, self._now_s(), deadline_s=deadline_s))

    def stop(self) -> None:
        """Leave at once."""
        self._done.set()
        self._leave_stream.set()

    # the stream

    async def _serve_one_stream(self) -> None:
        self._address = self._direct or self._given[self._turn]
        channel = open_single_channel(self._address)
        stream = self._session.stream_opened(self._now_s())
        self._leave_stream.clear()
        self._wake.set()
        self._arm()
        try:
            call: Call = AgentServiceStub(channel).Connect(metadata=self._metadata)
            await self._exchange(call, stream)
            if not self._done.is_set() and not self._leave_stream.is_set():
                _log.info("stream.ended agent=%s address=%s", self._agent_name, self._address)
        except grpc.aio.AioRpcError as error:
            self._forgive()
            self._judge(error)
        finally:
            self._forgive()
            self._proceed(self._session.stream_lost(stream))
            await channel.close()

    async def _exchange(self, call: Call, stream: int) -> None:
        """Reads and writes until either fails, the stream ends, or it is to be left. Raises AioRpcError with the stream's status."""
        reader = asyncio.create_task(self._read(call, stream))
        writer = asyncio.create_task(self._write(call))
        leaver = asyncio.create_task(self._leave_stream.wait())
        tasks = (reader, writer, leaver)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if leaver.done():
                if self._done.is_set():
                    await self._part(call, reader, writer)
            else:
                await reader  # a failed write says less than the status that follows it
        finally:
            call.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, call: Call, stream: int) -> None:
        session = self._session
        while True:
            message = await call.read()
            if not isinstance(message, ConnectResponse):  # the end of the stream
                return
            if message.HasField("welcome"):
                self._learn(message.welcome.owner_address)
            self._proceed(session.received(stream, message, self._now_s()))

    async def _write(self, call: Call) -> None:
        session = self._session
        wake = self._wake
        while True:
            wake.clear()
            while (message := session.next_message(self._now_s())) is not None:
                try:
                    await call.write(message)
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    return  # the stream is over, and the reader learns why
            await wake.wait()

    async def _part(self, call: Call, reader: "asyncio.Task[None]", writer: "asyncio.Task[None]") -> None:
        writer.cancel()
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
            await asyncio.wait_for(call.done_writing(), _PARTING_S)
            await asyncio.wait({reader}, timeout=_PARTING_S)

    def _forgive(self) -> None:
        """After a stream that held: what failed before it is forgotten."""
        if self._open_since_s is not None and self._now_s() - self._open_since_s >= _STABLE_S:
            self._backoff.reset()
            self._complained = False
        self._open_since_s = None

    def _judge(self, error: grpc.aio.AioRpcError) -> None:
        """Why a stream broke: raises when there is no point in another."""
        meaning = from_rpc_error(error)
        if error.code() is grpc.StatusCode.ABORTED and (
            (isinstance(meaning, RefusedError) and meaning.reason == SUPERSEDED) or SUPERSEDED in (error.details() or "")
        ):
            raise RefusedError(
                f"another process has connected as agent {self._agent_name!r}, and the newest one wins: give each process its own name",
                reason=SUPERSEDED,
            ) from None
        if error.code() in _FINAL and not self._welcomed_ever:
            raise meaning from None
        owner = info_in(error).metadata.get("owner", "")
        if not self._session.is_open or owner:
            self._turn_away()
        self._learn(owner)
        self._complain(meaning)

    def _learn(self, owner_address: str) -> None:
        """Where the next stream had better go."""
        if owner_address and self._unreachable.get(owner_address, 0.0) <= self._now_s():
            self._direct = owner_address

    def _turn_away(self) -> None:
        """Nobody answers at the present address, or not for this agent: back to the given ones, in turn."""
        if self._address == self._direct:
            self._unreachable = {self._address: self._now_s() + _UNREACHABLE_S}
            self._direct = ""
        elif self._address == self._given[self._turn]:
            self._turn = (self._turn + 1) % len(self._given)

    def _complain(self, meaning: MusterError) -> None:
        """One warning per outage: the attempts to end it are for those who look closely."""
        level = logging.DEBUG if self._complained else logging.WARNING
        self._complained = True
        _log.log(level, "stream.lost agent=%s address=%s error=%s", self._agent_name, self._address, meaning)

    # the session's instructions

    def _gather(self, reports: AttemptReports) -> list[Instruction]:
        attempt, gathered = reports.attempt, reports.take()
        if gathered.progress is not None:
            self._session.progressed(attempt, gathered.progress)
        if gathered.usage:
            self._session.used(attempt, gathered.usage)
        if gathered.output:
            self._session.emitted(attempt, gathered.output)
        return [] if gathered.checkpoint is None else self._session.checkpointed(attempt, gathered.checkpoint)

    def _proceed(self, instructions: list[Instruction]) -> None:
        """After every event: does what the session says, has the writer look for something to send, and sets the timer."""
        self._wake.set()
        for_handlers: list[HandlerInstruction] = []
        for instruction in instructions:
            match instruction:
                case Start() | StopHandler():
                    for_handlers.append(instruction)
                case SetLimits():
                    for_handlers.append(instruction)
                    self._on_welcome()
                case AnswerCheckpoint(attempt, sequence, verdict):
                    if attempt.reports is not None:
                        attempt.reports.answer_checkpoint(sequence, verdict)
                case ResultRefused(attempt, result_verdict, reason):
                    task_id, fence = attempt.key
                    _log.warning("result.refused task_id=%s fence=%d verdict=%s reason=%s", task_id, fence, result_verdict, reason)
                case Reconnect():
                    self._on_reconnect(instruction)
                case Finish(unanswered):
                    if unanswered:
                        _log.warning("drain.unanswered agent=%s results=%d", self._agent_name, unanswered)
                    self.stop()
        if for_handlers:
            self._instruct(for_handlers)
        self._arm()

    def _on_welcome(self) -> None:
        self._welcomed_ever = True
        self._open_since_s = self._now_s()
        _log.info("stream.open agent=%s address=%s", self._agent_name, self._address)

    def _on_reconnect(self, reconnect: Reconnect) -> None:
        _log.warning("stream.reconnect agent=%s to=%s reason=%s", self._agent_name, reconnect.address or "same", reconnect.reason)
        if reconnect.address:
            self._direct = reconnect.address
            self._go_at_once = True
        else:  # who asks for that, or is silent, is not to be asked again first, where there are others
            self._turn_away()
        self._leave_stream.set()

    # time

    def _arm(self) -> None:
        at_s = self._session.next_deadline_s()
        if at_s == self._timer_at_s:
            return
        self._timer_at_s = at_s
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at_s is not None and at_s != float("inf"):
            self._timer = asyncio.get_running_loop().call_later(max(at_s - self._now_s(), 0.0), self._tick)

    def _tick(self) -> None:
        self._timer = self._timer_at_s = None
        self._session.loop_lag_measured(self._loop_lag_s())
        self._proceed(self._session.tick(self._now_s()))
