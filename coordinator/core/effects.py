"""What the outside must do once a decision is durable. The engine carries effects out in the order in which they were decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordinator.core.model import Progress, Task

if TYPE_CHECKING:
    from coordinator.core.webhooks import Delivery


@dataclass(slots=True)
class Assign:
    """Send an assignment. The values are those of the decision: the task may have moved on since."""

    session: str
    task_id: str
    request: bytes
    run: int
    attempt: int
    fence: int
    checkpoint: bytes
    time_left_ms: int = 0  # until its task's deadline; 0 where there is none


@dataclass(slots=True)
class StopAttempt:
    """Tell an agent to stop an attempt; `lost` when it is no longer its own."""

    session: str
    task_id: str
    fence: int
    reason: str
    lost: bool


@dataclass(slots=True)
class CloseSession:
    """End an agent's stream: a newer session has its name."""

    session: str
    message: str


@dataclass(slots=True)
class DrainSession:
    """Ask an agent to finish or give back what it runs, and to end."""

    session: str
    deadline_s: float
    reason: str


@dataclass(slots=True)
class TaskEnded:
    """A task reached its end. It doesn't change any more."""

    task: Task


@dataclass(slots=True)
class TaskChanged:
    """A task changed, for those who watch: `task` is a copy, as it was after the change."""

    task: Task
    date_ms: int


@dataclass(slots=True)
class ChunkEmitted:
    """Partial output was stored, for those who watch."""

    task_id: str
    attempt: int
    offset: int
    data: bytes
    date_ms: int


@dataclass(slots=True)
class ProgressMade:
    """A running attempt moved, for those who watch. Not journalled."""

    task_id: str
    progress: Progress
    date_ms: int


@dataclass(slots=True)
class WatchOpened:
    """A watch begins here: it gets the state as of this decision, and everything released later."""

    begin: Callable[[], None]


@dataclass(slots=True)
class WebhookDue:
    """A webhook is to be delivered."""

    delivery: Delivery


Effect = (
    WebhookDue | WatchOpened | Assign | StopAttempt | CloseSession | DrainSession | TaskEnded | TaskChanged | ChunkEmitted | ProgressMade
)
