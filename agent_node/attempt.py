"""The words that an agent's parts exchange: an attempt, how it ended, and why it is being stopped.

Plain values without behaviour. What the wire calls them is the session's business.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent_node.reports import AttemptReports

AttemptKey = tuple[str, int]
"""A task's id and an attempt's fence: what every report names."""


class StopCause(Enum):
    """Why a handler is asked to stop."""

    CANCELLED = "CANCELLED"  # its task was cancelled: report what came of it
    LOST = "LOST"  # the attempt is no longer this agent's: nothing it reports counts
    RETURNED = "RETURNED"  # the agent is leaving: the attempt goes back to the queue


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt to make. Its facts never change once its handler runs; before that an encoded payload is decoded in place.

    The rest is set by the thread of the handlers' loop, or by the handler, and read by any.
    """

    key: AttemptKey
    task_type: str
    payload: bytes
    content_type: str
    attempt: int
    run: int
    last_checkpoint: bytes  # empty when there is none
    traceparent: str
    tracestate: str
    deadline_at_s: float | None = None  # by this machine's clock of durations: its task has failed then
    reports: "AttemptReports | None" = None  # once its handler has reported something
    stop_cause: StopCause | None = None  # once its handler is asked to stop
    stop_reason: str = ""
    stop_seen: bool = False  # its handler has asked, and was told to stop
    cost: float = 0.0  # what its handler said that it cost; 0 when it said nothing


@dataclass(slots=True)
class Succeeded:
    """The handler returned."""

    payload: bytes = field(repr=False)  # it may be logged by a middleware, and it may be secret
    content_type: str


@dataclass(slots=True)
class Failed:
    """The handler raised, or could not be run. `kind` is a name of muster.v1.FailureKind without its prefix."""

    message: str
    kind: str = "APPLICATION"
    error_type: str = ""
    stack_trace: str = ""
    non_retryable: bool = False
    retry_after_s: float | None = None


@dataclass(slots=True)
class Stopped:
    """The handler stopped because it was asked to, or gave itself up as cancelled."""


@dataclass(slots=True)
class Unfinished:
    """The attempt goes back to the queue at no cost, for `reason`."""

    reason: str


HandlerOutcome = Succeeded | Failed | Stopped | Unfinished


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an attempt is: units done, units in all (0 when not known), and a line for a person."""

    current: float
    total: float
    message: str


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """What an attempt has consumed at one model so far."""

    model: str
    input_tokens: int
    output_tokens: int
    requests: int


@dataclass(frozen=True, slots=True)
class CheckpointData:
    """A resume point: the attempt's `sequence`-th, from 1."""

    sequence: int
    data: bytes


class CheckpointVerdict(Enum):
    """What became of a checkpoint."""

    STORED = "STORED"
    LOST = "LOST"  # the attempt is no longer this agent's
    REFUSED = "REFUSED"  # it broke a limit


@dataclass(frozen=True, slots=True)
class Limits:
    """The coordinator's bounds on what an attempt may report, in bytes. Until it has said so, its own defaults."""

    payload_bytes: int = 1024 * 1024
    checkpoint_bytes: int = 256 * 1024
    output_bytes: int = 256 * 1024
