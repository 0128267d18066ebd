"""What the session machine tells its shell to do."""

from dataclasses import dataclass

from agent_node.attempt import Attempt, CheckpointVerdict, Limits, StopCause


@dataclass(frozen=True, slots=True)
class Start:
    """Run the handlers of these attempts."""

    attempts: list[Attempt]


@dataclass(frozen=True, slots=True)
class StopHandler:
    """Ask the handler of this attempt to stop. It still ends, and says so, later."""

    attempt: Attempt
    cause: StopCause
    reason: str


@dataclass(frozen=True, slots=True)
class AnswerCheckpoint:
    """Tell the handler what became of its checkpoints up to `sequence`."""

    attempt: Attempt
    sequence: int
    verdict: CheckpointVerdict


@dataclass(frozen=True, slots=True)
class SetLimits:
    """The coordinator's bounds, for reports to come."""

    limits: Limits


@dataclass(frozen=True, slots=True)
class ResultRefused:
    """A result didn't count, for `reason`: worth a line in the log."""

    attempt: Attempt
    verdict: str
    reason: str


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Give the stream up and open another: at `address`, or where it was when that is empty."""

    address: str
    reason: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Everything is done: end the stream and the agent. `unanswered` results were not answered in time."""

    unanswered: int


Instruction = Start | StopHandler | AnswerCheckpoint | SetLimits | ResultRefused | Reconnect | Finish
