"""The agent's side of the stream as a pure machine: events in, instructions out, and the next message from all that gathered.

It knows the protocol and nothing else: no I/O, no thread, no clock (times are given, in seconds of one clock that only grows).

What it holds to:
- An attempt is *held* from its assignment until a ResultAck answers its result, or until it is lost. Each Hello lists, and each
  Renew extends, exactly what is held.
- A result goes out once per stream; a new stream starts over with all that is unanswered. So do output and the last checkpoint:
  what the coordinator has already, it skips.
- A lost attempt whose handler hasn't stopped yet *lingers*: nothing it reports counts, and it still takes a slot.
- Frames of any stream but the present one, and assignments of attempts that are known, change nothing.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from muster.v1 import agent_pb2 as pb

from agent_node.attempt import (
    Attempt,
    AttemptKey,
    CheckpointData,
    CheckpointVerdict,
    HandlerOutcome,
    Limits,
    ModelUsage,
    Progress,
    StopCause,
    Unfinished,
)
from agent_node.compose import fill_checkpoints_and_output, fill_hello, fill_renew, fill_results
from agent_node.connection import seconds
from agent_node.drain import Drain
from agent_node.heartbeat import Heartbeat
from agent_node.held import Counters, Held, Identity, StreamState, as_reported, attempt_of, checkpoint_verdict
from agent_node.instructions import AnswerCheckpoint, Finish, Instruction, Reconnect, ResultRefused, SetLimits, Start, StopHandler
from agent_node.outgoing import OutgoingMessage

ACK_PATIENCE_S = 0.05
# An acknowledgement may wait this long for a result to travel with: a message costs as much as a hundred tasks in it, and nobody
# misses it before the coordinator's ack_timeout of seconds.
WELCOME_TIMEOUT_S = 10.0


class _Phase(Enum):
    AWAY = "AWAY"  # no stream
    GREETED = "GREETED"  # Hello is to go out, or has, and Welcome hasn't come
    OPEN = "OPEN"


class Session:
    """The machine.

    Args:
        identity: what Hello says.
        drain_deadline_s: how long handlers may go on when a drain names no deadline.
    """

    def __init__(self, *, identity: Identity, drain_deadline_s: float) -> None:
        self.counters = Counters()
        self._identity = identity
        self._drain_deadline_s = drain_deadline_s
        self._phase = _Phase.AWAY
        self._stream = 0
        self._state = StreamState()
        self._held: dict[AttemptKey, Held] = {}
        self._lingering: set[AttemptKey] = set()
        self._dirty: dict[AttemptKey, Held] = {}  # with output or a checkpoint to send
        self._limits = Limits()
        self._heartbeat = Heartbeat()
        self._welcome_by_s = 0.0
        self._now_s = 0.0  # when the message in hand was received
        self._loop_lag_s = 0.0
        self._drain: Drain | None = None
        self._finished = False
        self._handlers: dict[int, Callable[[Any], list[Instruction]]] = {
            pb.ConnectResponse.WELCOME_FIELD_NUMBER: self._on_welcome,
            pb.ConnectResponse.RECONCILE_FIELD_NUMBER: self._on_reconcile,
            pb.ConnectResponse.ASSIGN_FIELD_NUMBER: self._on_assign,
            pb.ConnectResponse.RENEW_ACK_FIELD_NUMBER: self._on_renew_ack,
            pb.ConnectResponse.CANCELS_FIELD_NUMBER: self._on_cancels,
            pb.ConnectResponse.RESULT_ACKS_FIELD_NUMBER: self._on_result_acks,
            pb.ConnectResponse.CHECKPOINT_ACKS_FIELD_NUMBER: self._on_checkpoint_acks,
            pb.ConnectResponse.DRAIN_FIELD_NUMBER: self._on_drain,
            pb.ConnectResponse.GO_AWAY_FIELD_NUMBER: self._on_go_away,
        }

    @property
    def is_open(self) -> bool:
        """The coordinator has welcomed the present stream."""
        return self._phase is _Phase.OPEN

    @property
    def draining(self) -> bool:
        """The agent is leaving."""
        return self._drain is not None

    @property
    def held_keys(self) -> list[AttemptKey]:
        """The attempts that are held, running and ended ones."""
        return list(self._held)

    @property
    def lingering_keys(self) -> set[AttemptKey]:
        """Lost attempts whose handlers haven't stopped."""
        return set(self._lingering)

    # the stream

    def stream_opened(self, now_s: float) -> int:
        """A stream is up: the next message is Hello. Answers the stream's number, to be given with what comes from it."""
        self._stream += 1
        self._phase = _Phase.GREETED
        self._welcome_by_s = now_s + WELCOME_TIMEOUT_S
        self._heartbeat.stop()
        self._state = StreamState(drain_due=self._drain is not None)
        for held in self._held.values():
            held.output_sent = 0
            held.checkpoint_sent = False
            if held.output or held.checkpoint:
                self._dirty[held.attempt.key] = held
            if held.outcome is not None:
                self._state.unsent_results.append(held)
        return self._stream

    def stream_lost(self, stream: int) -> list[Instruction]:
        """The stream has ended, or was given up."""
        if stream != self._stream or self._phase is _Phase.AWAY:
            return []
        self._phase = _Phase.AWAY
        self._heartbeat.stop()
        return self._finish_if_done()

    def received(self, stream: int, message: pb.ConnectResponse, now_s: float) -> list[Instruction]:
        """A message from the coordinator. Its fields are handled in the order of their numbers."""
        if stream != self._stream or self._phase is _Phase.AWAY:
            self.counters.stale_frames += 1
            return []
        self._now_s = now_s
        instructions: list[Instruction] = []
        known = False
        for descriptor, value in message.ListFields():  # set fields only, by number
            handle = self._handlers.get(descriptor.number)
            # Nothing means anything before the Welcome.
            if handle is None or (self._phase is _Phase.GREETED and descriptor.number != pb.ConnectResponse.WELCOME_FIELD_NUMBER):
                continue
            known = True
            instructions += handle(value)
        if not known:
            self.counters.unknown_frames += 1
        if self._drain is not None:
            instructions += self._finish_if_done()
        return instructions

    # the handlers

    def ended(self, attempt: Attempt, outcome: HandlerOutcome) -> list[Instruction]:
        """A handler has ended."""
        held = self._held.get(attempt.key)
        if held is None:
            if attempt.key in self._lingering:
                self._lingering.discard(attempt.key)
                self._state.ready_due = True
            return []
        if held.outcome is None:
            self._end(held, outcome)
        return []

    def cancel_delivered(self, attempt: Attempt) -> None:
        """The handler has been asked to stop."""
        held = self._held.get(attempt.key)
        if held is not None:
            held.cancel_delivered = True

    def progressed(self, attempt: Attempt, progress: Progress) -> None:
        """The handler's latest progress."""
        held = self._held.get(attempt.key)
        if held is not None:
            held.progress = progress

    def used(self, attempt: Attempt, usage: tuple[ModelUsage, ...]) -> None:
        """What the handler has consumed so far, in all."""
        held = self._held.get(attempt.key)
        if held is not None:
            held.usage = usage

    def emitted(self, attempt: Attempt, output: bytes) -> None:
        """More output. All of an attempt's output is kept until the attempt is over: no answer says how far it was stored."""
        held = self._held.get(attempt.key)
        if held is not None and output:
            if held.output is None:
                held.output = bytearray()
            held.output += output
            self._dirty[attempt.key] = held

    def checkpointed(self, attempt: Attempt, checkpoint: CheckpointData) -> list[Instruction]:
        """A resume point; it takes the place of one that wasn't answered yet."""
        held = self._held.get(attempt.key)
        if held is None:
            return [AnswerCheckpoint(attempt, checkpoint.sequence, CheckpointVerdict.LOST)]
        held.checkpoint = checkpoint
        held.checkpoint_sent = False
        self._dirty[attempt.key] = held
        return []

    def loop_lag_measured(self, lag_s: float) -> None:
        """How late the handlers' event loop answers."""
        self._loop_lag_s = lag_s

    # time and leaving

    def drain(self, reason: str, now_s: float, *, deadline_s: float | None = None) -> list[Instruction]:
        """Take no new work, finish or give back what runs within `deadline_s`, and end. A second call may only shorten it."""
        deadline_s = self._drain_deadline_s if deadline_s is None else deadline_s
        if self._drain is None:
            self._drain = Drain(reason=reason, begun_s=now_s, deadline_s=deadline_s)
            self._state.ready_due = True
            self._state.drain_due = True
        else:
            self._drain.shorten(now_s + deadline_s)
        return self.tick(now_s)

    def next_deadline_s(self) -> float | None:
        """When `tick` has something to do; None when only an event can change that."""
        deadlines = [] if self._drain is None else [self._drain.next_at_s]
        if self._phase is _Phase.GREETED:
            deadlines.append(self._welcome_by_s)
        elif self._phase is _Phase.OPEN:
            deadlines.append(self._heartbeat.next_at_s)
            if self._state.batches_to_ack:
                deadlines.append(self._state.ack_by_s)
        return min(deadlines, default=None)

    def tick(self, now_s: float) -> list[Instruction]:
        """Time has passed."""
        instructions: list[Instruction] = []
        if self._phase is _Phase.GREETED and now_s >= self._welcome_by_s:
            instructions.append(Reconnect("", f"the coordinator didn't answer Hello within {WELCOME_TIMEOUT_S:g} s"))
        elif self._phase is _Phase.OPEN:
            if self._heartbeat.silent(now_s):
                instructions.append(Reconnect("", f"no answer to Renew for {self._heartbeat.patience_s:g} s"))
            elif self._heartbeat.due(now_s):
                self._renew(now_s)
        if instructions:
            instructions += self.stream_lost(self._stream)
        if self._drain is not None:
            instructions += self._drain_on(self._drain, now_s)
        return instructions

    def _renew(self, now_s: float) -> None:
        self._state.renew_due = True
        self._heartbeat.beat(now_s)

    def _drain_on(self, drain: Drain, now_s: float) -> list[Instruction]:
        step = drain.advance(now_s)
        if step is Drain.Step.STOP_HANDLERS:
            running = [held for held in self._held.values() if held.outcome is None]
            return [self._stop(held, StopCause.RETURNED, drain.reason) for held in running] + self._finish_if_done()
        if step is Drain.Step.GIVE_BACK:
            for held in [held for held in self._held.values() if held.outcome is None]:
                self._end(held, Unfinished(drain.reason))
        if step is Drain.Step.GIVE_UP and not self._finished:
            self._finished = True
            return [Finish(unanswered=len(self._held))]
        return self._finish_if_done()

    def _finish_if_done(self) -> list[Instruction]:
        """Finishes when nothing is held and, if the stream is open, nothing can come any more.

        The proof is the answer to a Renew that went out with Ready 0: what was assigned before has arrived before it.
        """
        if self._drain is None or self._held or self._finished:
            return []
        after = self._state.leaving_after
        if self._phase is _Phase.OPEN and (after is None or self._state.renews_answered < after):
            return []
        self._finished = True
        return [Finish(unanswered=0)]

    # what the coordinator says

    def _on_welcome(self, welcome: pb.Welcome) -> list[Instruction]:
        if self._phase is not _Phase.GREETED:
            return []
        self._phase = _Phase.OPEN
        self._heartbeat.start(self._now_s, period_s=seconds(welcome.renew_period))
        own = Limits()
        self._limits = Limits(
            payload_bytes=welcome.max_payload_bytes or own.payload_bytes,
            checkpoint_bytes=welcome.max_checkpoint_bytes or own.checkpoint_bytes,
            output_bytes=welcome.max_chunk_bytes or own.output_bytes,
        )
        return [SetLimits(self._limits)]

    def _on_reconcile(self, reconcile: pb.Reconcile) -> list[Instruction]:
        instructions: list[Instruction] = []
        for verdict in reconcile.attempts:
            held = self._held.get((verdict.task_id, verdict.fence))
            if held is None:
                continue
            if verdict.verdict == pb.RECONCILE_VERDICT_DROP:
                instructions += self._lose(held, "the coordinator no longer counts on it")
            elif verdict.verdict == pb.RECONCILE_VERDICT_CANCEL:
                instructions += self._cancel(held, "cancelled while the agent was away")
        return instructions

    def _on_assign(self, batch: pb.AssignBatch) -> list[Instruction]:
        if not self._state.batches_to_ack:
            self._state.ack_by_s = self._now_s + ACK_PATIENCE_S
        self._state.batches_to_ack.append(batch.batch_id)
        attempts = []
        for assignment in batch.assignments:
            task = assignment.task
            key = (task.task_id, assignment.fence)
            if key in self._held or key in self._lingering:
                self.counters.duplicate_assignments += 1
                continue
            attempt = attempt_of(key, assignment, self._now_s)
            held = self._held[key] = Held(attempt)
            if self._drain is not None:
                self._end(held, Unfinished(self._drain.reason))
            elif len(self._held) > 2 * self._identity.capacity:  # what waits here is bounded, whatever a coordinator thinks
                self._end(held, Unfinished("over the agent's capacity"))
            else:
                attempts.append(attempt)
        return [Start(attempts)] if attempts else []

    def _on_renew_ack(self, ack: pb.RenewAck) -> list[Instruction]:
        self._heartbeat.answered()
        self._state.renews_answered += 1
        instructions: list[Instruction] = []
        if ack.suspended:
            return instructions
        for exception in ack.exceptions:
            held = self._held.get((exception.task_id, exception.fence))
            if held is None:
                continue
            if exception.verdict == pb.RENEW_VERDICT_LOST:
                instructions += self._lose(held, "its lease ran out")
            elif exception.verdict == pb.RENEW_VERDICT_CANCEL:
                instructions += self._cancel(held, "cancelled")
        return instructions

    def _on_cancels(self, cancels: Sequence[pb.Cancel]) -> list[Instruction]:
        instructions: list[Instruction] = []
        for cancel in cancels:
            held = self._held.get((cancel.task_id, cancel.fence))
            if held is not None:
                instructions += self._lose(held, cancel.reason) if cancel.lost else self._cancel(held, cancel.reason)
        return instructions

    def _on_result_acks(self, acks: Sequence[pb.ResultAck]) -> list[Instruction]:
        instructions: list[Instruction] = []
        for ack in acks:
            batch = self._state.sent_batches.pop(ack.batch_id, [])
            for exception in ack.exceptions:
                if exception.index < len(batch) and exception.verdict != pb.RESULT_VERDICT_DUPLICATE:
                    verdict = pb.ResultVerdict.Name(exception.verdict).removeprefix("RESULT_VERDICT_")
                    instructions.append(ResultRefused(batch[exception.index].attempt, verdict, exception.message))
            for held in batch:
                self._forget(held)
        return instructions

    def _on_checkpoint_acks(self, acks: Sequence[pb.CheckpointAck]) -> list[Instruction]:
        instructions: list[Instruction] = []
        for ack in acks:
            held = self._held.get((ack.task_id, ack.fence))
            if held is None:
                continue
            if held.checkpoint is not None and held.checkpoint.sequence <= ack.sequence:
                held.checkpoint = None
            instructions.append(AnswerCheckpoint(held.attempt, ack.sequence, checkpoint_verdict(ack.verdict)))
        return instructions

    def _on_drain(self, drain: pb.CoordinatorDrain) -> list[Instruction]:
        deadline_s = seconds(drain.deadline) if drain.HasField("deadline") else None
        return self.drain(drain.reason or "drained by the coordinator", self._now_s, deadline_s=deadline_s)

    def _on_go_away(self, go_away: pb.GoAway) -> list[Instruction]:
        reconnect = Reconnect(go_away.address, go_away.reason or "the coordinator asked to")
        return [reconnect, *self.stream_lost(self._stream)]

    # an attempt's ways to its end

    def _cancel(self, held: Held, reason: str) -> list[Instruction]:
        # Cancelled by its task after the drain's deadline had stopped it: then it was cancelled.
        repeated = held.stop_cause is not None
        if held.stop_cause is not StopCause.CANCELLED:
            held.stop_cause, held.stop_reason = StopCause.CANCELLED, reason
        return [] if repeated or held.outcome is not None else [StopHandler(held.attempt, StopCause.CANCELLED, reason)]

    def _stop(self, held: Held, cause: StopCause, reason: str) -> StopHandler:
        if held.stop_cause is None:
            held.stop_cause, held.stop_reason = cause, reason
        return StopHandler(held.attempt, cause, reason)

    def _lose(self, held: Held, reason: str) -> list[Instruction]:
        self._forget(held)
        if held.outcome is not None:
            return []
        self._lingering.add(held.attempt.key)
        self._state.ready_due = True
        return [StopHandler(held.attempt, StopCause.LOST, reason)]

    def _end(self, held: Held, outcome: HandlerOutcome) -> None:
        held.outcome = as_reported(outcome, held, self._limits)
        self._state.unsent_results.append(held)

    def _forget(self, held: Held) -> None:
        self._held.pop(held.attempt.key, None)
        if self._dirty:
            self._dirty.pop(held.attempt.key, None)

    # what the agent says

    def next_message(self, now_s: float) -> pb.ConnectRequest | None:
        """All that gathered, up to what one message may hold; None when there is nothing to say. Once taken it counts as sent."""
        state = self._state
        if self._phase is _Phase.AWAY or (self._phase is _Phase.GREETED and not state.hello_due):
            return None
        out = OutgoingMessage()
        request = out.request
        if state.hello_due:
            state.hello_due = False
            fill_hello(request.hello, self._identity, self._held)
            return request
        if state.ready_due:
            state.ready_due = False
            out.fits(8)
            request.ready.limit = 0 if self._drain is not None else max(self._identity.capacity - len(self._lingering), 0)
            request.ready.SetInParent()
        if self._drain is not None and state.drain_due:
            state.drain_due = False
            out.fits(4 * len(self._drain.reason) + 8)
            request.drain.reason = self._drain.reason
            request.drain.SetInParent()
            self._renew(now_s)
            state.leaving_after = state.renews_sent + 1
        if state.renew_due or state.renew_queue:
            fill_renew(out, state, self._held, self._loop_lag_s)
        if self._dirty:
            fill_checkpoints_and_output(out, self._dirty)
        if state.unsent_results:
            fill_results(out, state, self._held, self._dirty)
        if state.batches_to_ack and (not out.empty or now_s >= state.ack_by_s):
            request.acknowledged_batch_ids.extend(state.batches_to_ack)
            state.batches_to_ack = []
            return request
        return None if out.empty else request
