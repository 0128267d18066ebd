"""What happened to tasks: the only input of `evolve`, and what the journal holds. Tasks are named by their numbers.

Beside them, what happened to a namespace as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from coordinator.core.model import Failure, Spec, Usage

if TYPE_CHECKING:
    from coordinator.core.history import HistoryEntry
    from coordinator.core.policies import Policy, PolicyName


class Disposition(Enum):
    """What becomes of a task whose attempt failed; the numbers are those of muster.v1.Disposition."""

    RETRY = 1
    FAIL = 2
    CANCEL = 3


class Cost(Enum):
    """What an ended attempt costs its task; the numbers are those of muster.v1.AttemptCost."""

    NONE = 1
    RETRY = 2
    CRASH = 3
    DELIVERY = 4


@dataclass(slots=True)
class Submitted:
    """A task was accepted."""

    number: int
    spec: Spec


@dataclass(slots=True)
class BecameReady:
    """The date of a delayed task has come: it takes its place."""

    number: int


@dataclass(slots=True)
class Assigned:
    """An attempt was given to an agent."""

    number: int
    agent: str
    attempt: int
    fence: int


@dataclass(slots=True)
class Acknowledged:
    """The agent said that the assignment arrived."""

    number: int


@dataclass(slots=True)
class Completed:
    """An attempt succeeded. `outcome` is opaque, and empty on replay: the task's record has it."""

    number: int
    outcome: bytes
    usage: Sequence[Usage]


@dataclass(slots=True)
class AttemptFailed:
    """An attempt failed, or was given up."""

    number: int
    failure: Failure
    disposition: Disposition
    cost: Cost
    ready_at_ms: int
    usage: Sequence[Usage]
    reported: bool  # True: the agent's result said so; False: the coordinator gave the attempt up


@dataclass(slots=True)
class Returned:
    """An attempt went back to the queue and keeps its number."""

    number: int
    reason: str
    cost: Cost


@dataclass(slots=True)
class CancelRecorded:
    """A cancel was asked for; `ended` when the task was waiting, so that this was its end."""

    number: int
    reason: str
    ended: bool


@dataclass(slots=True)
class CheckpointStored:
    """A resume point was stored."""

    number: int
    sequence: int
    data: bytes


@dataclass(slots=True)
class ChunkStored:
    """Partial output was stored: `data` begins `offset` bytes into the attempt's output."""

    number: int
    offset: int
    data: bytes


@dataclass(slots=True)
class Reprioritised:
    """An operator gave a task another priority."""

    number: int
    priority: int
    reason: str


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A task's last run, as its record has it: what the next one begins with. The record goes with the commit that begins it."""

    spec: Spec
    reprioritised: int  # see Task
    created_ms: int
    run: int
    fence: int
    result_fence: int
    agent: str
    usage: tuple[Usage, ...]
    failure: Failure | None
    history: tuple[HistoryEntry, ...]


@dataclass(slots=True)
class Redriven:
    """An ended task waits again, in its next run, under a number of its own: to whoever goes over tasks by number it is a new one."""

    number: int
    ended: EndedRun
    reason: str
    request_id: str = ""  # of the operator's call


Event = (
    Submitted
    | BecameReady
    | Assigned
    | Acknowledged
    | Completed
    | AttemptFailed
    | Returned
    | CancelRecorded
    | CheckpointStored
    | ChunkStored
    | Reprioritised
    | Redriven
)


@dataclass(frozen=True, slots=True)
class NamespaceCreated:
    """A namespace came to be."""

    number: ClassVar[int] = 0  # no task's


@dataclass(frozen=True, slots=True)
class NamespaceDeleted:
    """A namespace was deleted; `purged` once nothing of it is left in the store."""

    number: ClassVar[int] = 0  # no task's
    purged: bool


@dataclass(slots=True)
class PolicySet:
    """A policy was set, in place of the one with its name."""

    number: ClassVar[int] = 0  # no task's
    policy: Policy


@dataclass(slots=True)
class PolicyDeleted:
    """A policy was deleted."""

    number: ClassVar[int] = 0  # no task's
    name: PolicyName


@dataclass(slots=True)
class WebhookDelivered:
    """A pending delivery was answered well. That it was due follows from its task's end."""

    number: ClassVar[int] = 0  # no task's
    delivery: int


@dataclass(slots=True)
class WebhookGivenUp:
    """A pending delivery won't be tried any more."""

    number: ClassVar[int] = 0  # no task's
    delivery: int
    reason: str


@dataclass(slots=True)
class WebhookRetried:
    """A delivery that had been given up is pending again."""

    number: ClassVar[int] = 0  # no task's
    delivery: int


NamespaceEvent = NamespaceCreated | NamespaceDeleted | PolicySet | PolicyDeleted | WebhookDelivered | WebhookGivenUp | WebhookRetried
AnyEvent = Event | NamespaceEvent


@dataclass(frozen=True, slots=True)
class Commit:
    """One journal entry: what was decided while the one before was being written, in order, each event with its namespace."""

    sequence: int
    epoch: int
    date_ms: int
    events: Sequence[tuple[str, AnyEvent]]
