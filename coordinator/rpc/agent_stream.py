"""An agent's stream: frames in become commands of one decision, released effects become frames out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, cast

from muster.v1 import agent_pb2, event_pb2

from coordinator import convert
from coordinator.checks import MAX_ID_CHARS, check_name
from coordinator.convert import Bounds
from coordinator.convert_scheduling import capabilities_in
from coordinator.core import reports, sessions
from coordinator.core.effects import Assign, DrainSession, StopAttempt
from coordinator.core.model import Failure, FailureKind, Now
from coordinator.core.reports import Failed, RenewVerdict, SignOfLife, Verdict
from coordinator.errors import InvalidRequest, NotFound, SessionSuperseded, Unavailable
from coordinator.rpc.opaque import opaque
from coordinator.rpc.outgoing import MAX_MESSAGE_BYTES, Sender

if TYPE_CHECKING:
    from coordinator.core.load_map import Agent
    from coordinator.engine.namespace import Namespace
    from coordinator.engine.shard import Shard
    from coordinator.rpc.agent_presence import AgentPresence

MAX_ASSIGNMENTS = 256  # per message: more only makes the agent wait for the first
LOOKUP_RETRY_S = 1.0  # while the store is out
ACK_PATIENCE_S = 0.05  # an agent only keeps its results a little longer
MAX_LABELS = 32
MAX_CAPABILITIES = 256
MAX_CAPACITY = 10_000
DEFAULT_CAPACITY = 10
PROTOCOL_VERSION = 1
MAX_UNANSWERED = 1024  # messages whose answers have not gone out: then no more is read, and an agent that doesn't read loses its leases
MAX_BESIDE_ASSIGNMENTS = 512 * 1024  # bytes of answers that go out with assignments: with more the message would be too large

Ended = tuple[str, int]  # a task's id and an attempt's fence

_Assigning = opaque(agent_pb2.ConnectResponse, "Assignment.task")


class AgentStream:
    """One session of one agent, from its Hello to the end of its stream.

    Args:
        shard: the shard that its namespace lives in.
        namespace: its namespace.
        session: the session's id.
        bounds: sizes that its reports must keep to.
        presence: is told of its coming and going; without it, nobody is.
        owner_address: where its agent had better connect the next time, if it came by way of another coordinator.
    """

    def __init__(
        self,
        *,
        shard: Shard,
        namespace: Namespace,
        session: str,
        bounds: Bounds,
        presence: AgentPresence | None = None,
        owner_address: str = "",
    ) -> None:
        self._owner_address = owner_address
        self.sender = Sender(outgoing=self)
        self._shard = shard
        self._namespace = namespace
        self._session = session
        self._bounds = bounds
        self._presence = presence
        self._agent_name = ""
        self._batch_id = 0
        self._unacknowledged: dict[int, list[Ended]] = {}  # assignment batches
        self._lookups: set[asyncio.Task[None]] = set()
        self._assigns: deque[Assign] = deque()
        self._others = agent_pb2.ConnectResponse()  # everything that isn't an assignment
        self._others_gathered = False
        self._unanswered = 0
        self._answered = 0  # of these: in `_others`
        self._room = asyncio.Event()
        self._patience: asyncio.TimerHandle | None = None
        self._silent_periods = 0
        self._watchdog: asyncio.TimerHandle | None = None
        self.ignored_messages = 0

    # --- in -------------------------------------------------------------------------------------------------------------------

    async def read(self, messages: AsyncIterator[agent_pb2.ConnectRequest]) -> None:
        """Handles the agent's messages until it closes the stream. Raises MusterError for one that breaks the protocol."""
        try:
            first = await anext(aiter(messages), None)
            if first is None:
                return
            self._open(first)
            self._watch_for_silence()
            async for message in messages:
                self._silent_periods = 0
                self._handle(message)
                while self._unanswered >= MAX_UNANSWERED:
                    self._room.clear()
                    await self._room.wait()
                if self._shard.commits.is_crowded():  # an agent keeps what it reports until it is answered
                    await self._shard.commits.until_roomy()
        finally:
            self._close()

    def _open(self, first: agent_pb2.ConnectRequest) -> None:
        if not first.HasField("hello") or len(first.ListFields()) > 1:
            raise InvalidRequest("the first message of the stream must hold hello, and nothing else", field="hello")
        hello = _checked_hello(first.hello)
        shard, now = self._shard, self._shard.now()
        shard.agent_sinks[self._session] = self
        verdicts = sessions.hello(self._namespace.scheduler, self._session, hello, now)
        shard.decided(self._namespace, now)
        self._agent_name = hello.name
        if self._presence is not None:
            self._presence.came(shard, self._namespace, self._namespace.scheduler.load.agents[hello.name])
        settings = shard.settings
        welcome = agent_pb2.Welcome(
            session_id=self._session,
            lease=convert.duration(settings.lease_s),
            renew_period=convert.duration(settings.renew_period_s),
            ack_timeout=convert.duration(settings.ack_timeout_s),
            session_grace=convert.duration(settings.session_grace_s),
            max_payload_bytes=self._bounds.max_payload_bytes,
            max_checkpoint_bytes=self._bounds.max_checkpoint_bytes,
            max_chunk_bytes=settings.max_chunk_bytes,
            owner_address=self._owner_address,
        )
        reconcile = agent_pb2.Reconcile(
            attempts=[
                agent_pb2.ReconciledAttempt(
                    task_id=task_id, fence=fence, verdict=cast("agent_pb2.ReconcileVerdict.ValueType", verdict.value)
                )
                for (task_id, fence), verdict in zip(hello.in_flight, verdicts, strict=True)
            ]
        )

        def answer() -> None:
            self._others.welcome.CopyFrom(welcome)
            self._others.reconcile.CopyFrom(reconcile)
            self._gathered()

        shard.when_durable(answer)

    def _handle(self, message: agent_pb2.ConnectRequest) -> None:
        agent = self._namespace.scheduler.load.by_session.get(self._session)
        if agent is None:  # superseded: the stream is about to be ended
            return
        shard, now = self._shard, self._shard.now()
        known = False
        if message.HasField("hello"):
            raise InvalidRequest("hello belongs into the first message of a stream: open a new stream to say it again", field="hello")
        if message.HasField("ready"):
            known = True
            sessions.ready(self._namespace.scheduler, agent, message.ready.limit)
        if message.HasField("renew"):
            known = True
            self._unanswered += 1
            self._renew(agent, message.renew, now)
        if message.checkpoints:
            known = True
            self._unanswered += 1
            self._checkpoints(agent, message, now)
        for chunk in message.chunks:
            known = True
            reports.chunk(self._namespace.scheduler, agent, chunk.task_id, chunk.fence, chunk.offset, chunk.data, now)
        if message.HasField("results"):
            known = True
            self._unanswered += 1
            self._results(agent, message.results, now)
        if message.HasField("drain"):
            known = True
            sessions.draining(agent)
        # Last: an assignment whose result came along needs no acknowledgement in the journal.
        live = self._namespace.scheduler.state.tasks
        for batch_id in message.acknowledged_batch_ids:
            known = True
            for task_id, fence in self._unacknowledged.pop(batch_id, ()):
                if task_id in live:
                    reports.acknowledge(self._namespace.scheduler, agent, task_id, fence, now)
        self.ignored_messages += not known
        shard.decided(self._namespace, now)

    def _renew(self, agent: Agent, renew: agent_pb2.Renew, now: Now) -> None:
        lag_s = renew.loop_lag.seconds + renew.loop_lag.nanos / 1e9
        agent.loop_lag_s = min(max(lag_s, 0.0), convert.MAX_DURATION_S)  # shown only: a wrong one is no reason to end the stream
        if self._shard.is_suspended():  # the one answer that doesn't wait
            self._others.renew_ack.suspended = True
            self._answer_gathered()
            return
        exceptions = []
        for renewal in renew.attempts:
            sign = SignOfLife(
                renewal.task_id,
                renewal.fence,
                convert.progress_in(renewal.progress) if renewal.HasField("progress") else None,
                convert.usage_in(renewal.usage),
                renewal.cancel_delivered,
            )
            verdict = reports.renew(self._namespace.scheduler, agent, sign, now)
            if verdict is not RenewVerdict.EXTENDED:
                exceptions.append(agent_pb2.RenewException(task_id=renewal.task_id, fence=renewal.fence, verdict=verdict.value))

        def answer() -> None:
            self._others.renew_ack.CopyFrom(agent_pb2.RenewAck(exceptions=exceptions))
            self._answer_gathered()

        self._shard.when_durable(answer)

    def _checkpoints(self, agent: Agent, message: agent_pb2.ConnectRequest, now: Now) -> None:
        answers = []
        for sent in message.checkpoints:
            if len(sent.data) > self._bounds.max_checkpoint_bytes:
                verdict = Verdict.INVALID
            else:
                verdict = reports.checkpoint(self._namespace.scheduler, agent, sent.task_id, sent.fence, sent.sequence, sent.data, now)
            answers.append(
                agent_pb2.CheckpointAck(
                    task_id=sent.task_id,
                    fence=sent.fence,
                    sequence=sent.sequence,
                    verdict=cast("agent_pb2.ResultVerdict.ValueType", verdict.value),
                )
            )

        def answer() -> None:
            self._others.checkpoint_acks.extend(answers)
            self._answer_gathered()

        self._shard.when_durable(answer)

    def _results(self, agent: Agent, batch: agent_pb2.ResultBatch, now: Now) -> None:
        scheduler = self._namespace.scheduler
        ack = agent_pb2.ResultAck(batch_id=batch.batch_id)
        unknown: list[tuple[int, Ended]] = []
        for index, sent in enumerate(batch.results):
            try:
                result = convert.result_in(sent.outcome, self._bounds)
            except InvalidRequest as error:
                result = Failed(Failure(FailureKind.APPLICATION, error.message, error_type=error.reason, non_retryable=True))
                ack.exceptions.add(index=index, verdict=agent_pb2.RESULT_VERDICT_INVALID, message=error.message)
            verdict = reports.finish(scheduler, agent, sent.task_id, sent.fence, result, now)
            if verdict is Verdict.UNKNOWN:
                unknown.append((index, (sent.task_id, sent.fence)))
            elif verdict is not Verdict.ACCEPTED:
                ack.exceptions.add(index=index, verdict=verdict.value, message=_RESULT_MESSAGES[verdict])
        if unknown:
            lookup = asyncio.create_task(self._answer_after_lookup(ack, unknown), name="results.lookup")
            self._lookups.add(lookup)
            lookup.add_done_callback(self._lookups.discard)
        else:
            self._shard.when_durable(lambda: self._result_ack(ack))

    async def _answer_after_lookup(self, ack: agent_pb2.ResultAck, unknown: list[tuple[int, Ended]]) -> None:
        """Results of tasks that are not in memory: their records say whether they ended by this very result."""
        records: list[bytes | None] | None = None
        while records is None:
            try:
                records = await self._shard.records.get(self._namespace.name, [task_id for _, (task_id, _) in unknown])
            except Unavailable:  # the agent won't send them again on this stream
                await asyncio.sleep(LOOKUP_RETRY_S)
        for (index, (_, fence)), blob in zip(unknown, records, strict=True):
            if blob is None:
                verdict = Verdict.UNKNOWN
                self._shard.ownership.doubt()  # it may be known to another coordinator that has taken the shard
            else:
                verdict = Verdict.DUPLICATE if event_pb2.TaskRecord.FromString(blob).result_fence == fence else Verdict.STALE
            ack.exceptions.add(index=index, verdict=verdict.value, message=_RESULT_MESSAGES[verdict])
        self._shard.when_durable(lambda: self._result_ack(ack))

    def _result_ack(self, ack: agent_pb2.ResultAck) -> None:
        """Answers results, with the next assignments if they come soon: a message costs as much as a hundred tasks in it."""
        self._others.result_acks.append(ack)
        self._answered += 1
        if self._patience is None and not self._others_gathered:
            self._patience = asyncio.get_running_loop().call_later(ACK_PATIENCE_S, self._gathered)

    def _watch_for_silence(self) -> None:
        """Ends the stream of an agent that has missed all renewals of a lease, so that it is given nothing more (G9).

        Periods are counted, and not the time: when this process was the one that slept, what has arrived meanwhile comes first.
        """
        settings = self._shard.settings
        if self._silent_periods * settings.renew_period_s > settings.lease_s:
            message = f"nothing was heard on this stream for {settings.lease_s:g} s: connect again"
            self.close(Unavailable(message, reason="SHARD_UNAVAILABLE"))
            return
        if not self._shard.commits.is_crowded():  # else it may have spoken, and isn't read
            self._silent_periods += 1
        self._watchdog = asyncio.get_running_loop().call_later(settings.renew_period_s, self._watch_for_silence)

    def _close(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
        for lookup in self._lookups:
            lookup.cancel()
        if self._patience is not None:
            self._patience.cancel()
        if self._presence is not None:
            self._presence.left(self._namespace, self._agent_name, self._session)
        shard = self._shard
        if shard.agent_sinks.get(self._session) is self:
            del shard.agent_sinks[self._session]
        if shard.namespaces.get(self._namespace.name) is self._namespace:
            now = shard.now()
            sessions.lost(self._namespace.scheduler, self._session, now)
            shard.decided(self._namespace, now)

    # --- out ------------------------------------------------------------------------------------------------------------------

    def assign(self, effect: Assign) -> None:
        self._assigns.append(effect)
        self.sender.wake()

    def stop(self, effect: StopAttempt) -> None:
        self._others.cancels.add(task_id=effect.task_id, fence=effect.fence, reason=effect.reason, lost=effect.lost)
        self._gathered()

    def drain(self, effect: DrainSession) -> None:
        self._others.drain.deadline.CopyFrom(convert.duration(effect.deadline_s))
        self._others.drain.reason = effect.reason
        self._gathered()

    def supersede(self, message: str) -> None:
        self.sender.end(SessionSuperseded(message))

    def close(self, error: Unavailable) -> None:
        if error.reason == "SHARD_MOVED":  # the agent goes at once, with what it runs
            self._others.go_away.address = error.metadata.get("owner", "")
            self._others.go_away.reason = error.message
            self._gathered()
        self.sender.end(error)

    def gone(self, message: str) -> None:
        self.sender.end(NotFound(message, reason="NAMESPACE_NOT_FOUND"))

    def _answer_gathered(self) -> None:
        self._answered += 1
        self._gathered()

    def _gathered(self) -> None:
        self._others_gathered = True
        self.sender.wake()

    def next_message(self) -> bytes | None:
        """Everything that has gathered, with as many assignments as fit, serialized."""
        if not self._assigns and not self._others_gathered:
            return None
        others, self._others, self._others_gathered = self._others.SerializeToString(), agent_pb2.ConnectResponse(), False
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self._unanswered -= self._answered
        self._answered = 0
        self._room.set()
        if not self._assigns or len(others) > MAX_BESIDE_ASSIGNMENTS:
            return others
        return others + self._next_assignments()  # one message after the other is their union

    def _next_assignments(self) -> bytes:
        self._batch_id += 1
        message = _Assigning()
        batch = message.assign
        batch.batch_id = self._batch_id
        add = batch.assignments.add
        sent: list[Ended] = []
        room = MAX_MESSAGE_BYTES
        while self._assigns and len(sent) < MAX_ASSIGNMENTS:
            effect = self._assigns[0]
            room -= len(effect.request) + len(effect.checkpoint)
            if room < 0 and sent:
                break
            self._assigns.popleft()
            assignment = add()  # field by field: by keyword it takes a third longer
            assignment.task = effect.request
            assignment.attempt = effect.attempt
            assignment.fence = effect.fence
            assignment.run = effect.run
            if effect.checkpoint:
                assignment.checkpoint = effect.checkpoint
            if effect.time_left_ms:
                assignment.time_left.FromMilliseconds(effect.time_left_ms)
            sent.append((effect.task_id, effect.fence))
        self._unacknowledged[self._batch_id] = sent
        if len(self._unacknowledged) > MAX_CAPACITY:  # of an agent that reports results and acknowledges nothing
            del self._unacknowledged[next(iter(self._unacknowledged))]
        serialized: bytes = message.SerializeToString()
        return serialized


_RESULT_MESSAGES = {
    Verdict.DUPLICATE: "this result was taken before",
    Verdict.STALE: "the attempt was superseded: the result changed nothing",
    Verdict.UNKNOWN: "no such task, live or retained",
}


def _checked_hello(message: agent_pb2.Hello) -> sessions.Hello:
    """A Hello, checked. Raises InvalidRequest."""
    name = check_name(message.agent_name, "hello.agent_name")
    if not 8 <= len(message.session_nonce) <= 64:  # documented in the proto
        raise InvalidRequest("hello.session_nonce must have 8 to 64 characters: make it once per process", field="hello.session_nonce")
    if message.protocol_version != PROTOCOL_VERSION:
        raise InvalidRequest(
            f"hello.protocol_version is {message.protocol_version}: this coordinator speaks {PROTOCOL_VERSION}",
            field="hello.protocol_version",
        )
    if not 0 < len(message.capabilities) <= MAX_CAPABILITIES:
        raise InvalidRequest(
            f"hello.capabilities has {len(message.capabilities)} entries: give 1 to {MAX_CAPABILITIES}", field="hello.capabilities"
        )
    if message.max_concurrent_tasks > MAX_CAPACITY:
        raise InvalidRequest(
            f"hello.max_concurrent_tasks is {message.max_concurrent_tasks}: at most {MAX_CAPACITY}", field="hello.max_concurrent_tasks"
        )
    if len(message.labels) > MAX_LABELS:
        raise InvalidRequest(f"hello.labels has {len(message.labels)} entries: at most {MAX_LABELS}", field="hello.labels")
    for key, value in message.labels.items():
        check_name(key, "hello.labels")
        if value:
            check_name(value, f"hello.labels[{key}]")
    return sessions.Hello(
        name=name,
        nonce=message.session_nonce,
        capabilities=capabilities_in(message.capabilities),
        capacity=message.max_concurrent_tasks or DEFAULT_CAPACITY,
        in_flight=[(one.task_id, one.fence) for one in message.in_flight],
        labels=dict(message.labels),
        sdk=message.sdk[:MAX_ID_CHARS],
    )
