"""What a session remembers: the attempts it holds, and what belongs to one stream."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from muster.v1.agent_pb2 import Assignment, ResultVerdict

from agent_node.attempt import (
    Attempt,
    AttemptKey,
    CheckpointData,
    CheckpointVerdict,
    Failed,
    HandlerOutcome,
    Limits,
    ModelUsage,
    Progress,
    StopCause,
    Stopped,
    Succeeded,
    Unfinished,
)


class Capability(NamedTuple):
    """A task type that an agent can run; see `Agent.handler`."""

    task_type: str
    max_concurrent: int = 0
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What an agent says of itself in Hello."""

    agent_name: str
    session_nonce: str
    capabilities: Sequence[Capability]
    labels: Mapping[str, str]
    capacity: int
    sdk: str


@dataclass(slots=True, eq=False)
class Held:
    """An attempt that the coordinator believes this agent has."""

    attempt: Attempt
    outcome: HandlerOutcome | None = None  # None: it runs
    stop_cause: StopCause | None = None
    stop_reason: str = ""
    cancel_delivered: bool = False
    progress: Progress | None = None
    usage: tuple[ModelUsage, ...] = ()
    output: bytearray | None = None
    output_sent: int = 0
    checkpoint: CheckpointData | None = None  # the last one, until it is answered
    checkpoint_sent: bool = False


@dataclass(slots=True)
class StreamState:
    """What lives and dies with one stream."""

    hello_due: bool = True
    ready_due: bool = True
    drain_due: bool = False
    batches_to_ack: list[int] = field(default_factory=list)
    ack_by_s: float = 0.0  # when they go out alone, if nothing else has taken them along
    unsent_results: deque[Held] = field(default_factory=deque)
    sent_batches: dict[int, list[Held]] = field(default_factory=dict)
    last_batch_id: int = 0
    renew_due: bool = False
    renew_queue: deque[Held] = field(default_factory=deque)  # what the last Renew had no room for
    renews_sent: int = 0
    renews_answered: int = 0
    leaving_after: int | None = None  # the number of answers that prove that Ready 0 was read


@dataclass(slots=True)
class Counters:
    """What was ignored, for logs and tests."""

    unknown_frames: int = 0
    stale_frames: int = 0
    duplicate_assignments: int = 0


def attempt_of(key: AttemptKey, assignment: Assignment, now_s: float) -> Attempt:
    """What an assignment that has just come asks for. Copied out, so that a long attempt doesn't keep the message of 256 alive."""
    task = assignment.task
    return Attempt(
        key,
        task.task_type,
        task.payload,
        task.content_type,
        assignment.attempt,
        assignment.run,
        assignment.checkpoint,
        task.traceparent,
        task.tracestate,
        now_s + assignment.time_left.ToTimedelta().total_seconds() if assignment.HasField("time_left") else None,
    )


def as_reported(outcome: HandlerOutcome, held: Held, limits: Limits) -> HandlerOutcome:
    """What the coordinator is to hear, given how the handler ended and what it had been asked."""
    match outcome:
        case Succeeded(payload) if len(payload) > limits.payload_bytes:
            return Failed(
                f"the result of {len(payload)} bytes is over the limit of {limits.payload_bytes}: store it elsewhere and return where",
                non_retryable=True,
            )
        case Stopped() if held.stop_cause is StopCause.RETURNED:
            return Unfinished(held.stop_reason)
        case Stopped() if held.stop_cause is None:
            return Failed("the handler gave up as cancelled, though nobody had cancelled it", error_type="CancelledError")
        case _:
            return outcome


def checkpoint_verdict(verdict: int) -> CheckpointVerdict:
    """What a CheckpointAck means for the handler that waits."""
    if verdict in (ResultVerdict.RESULT_VERDICT_ACCEPTED, ResultVerdict.RESULT_VERDICT_DUPLICATE):
        return CheckpointVerdict.STORED
    return CheckpointVerdict.REFUSED if verdict == ResultVerdict.RESULT_VERDICT_INVALID else CheckpointVerdict.LOST
