"""The durable state of a namespace: its live tasks, its policies, and the webhooks that are due.

`evolve` and its like alone write it; nothing here knows agents' sessions or time.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from coordinator.core.model import Task
from coordinator.core.rates import RateBook
from coordinator.core.webhooks import Deliveries

if TYPE_CHECKING:
    from coordinator.core.policies import PolicyName, StandingPolicy, WebhookPolicy
    from coordinator.core.snapshot import Walk


class State:
    """Live tasks by id and by number, and those whose end isn't settled yet."""

    __slots__ = (
        "by_number",
        "bytes",
        "deliveries",
        "ended",
        "hooks",
        "known_numbers",
        "known_until",
        "next_number",
        "policies",
        "rates",
        "retrying",
        "tasks",
        "walk",
    )

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.by_number: dict[int, Task] = {}
        self.next_number = 1
        self.bytes = 0  # of the live tasks' requests: what they take in memory besides about 1 KiB each
        self.retrying = 0  # live tasks in RETRYING
        # Ended tasks stay until their commit is durable and no older look-up is open (`settle`): what is asked meanwhile must see them.
        self.ended: dict[str, Task] = {}
        self.policies: dict[PolicyName, StandingPolicy] = {}
        self.rates = RateBook()
        self.hooks: dict[str, WebhookPolicy] = {}  # of the policies, by task type
        self.deliveries = Deliveries()
        self.walk: Walk | None = None  # the snapshot that is being taken: told of a task before it changes
        self.known_numbers = array("Q")  # of the tasks that were live at the last snapshot, in order,
        self.known_until = 1  # when this was the next number

    def find(self, task_id: str) -> Task | None:
        """The task in memory, live or just ended."""
        return self.tasks.get(task_id) or self.ended.get(task_id)

    def settle(self, task: Task) -> None:
        """Forgets an ended task: its record is in the store now."""
        if self.ended.get(task.spec.task_id) is task:
            del self.ended[task.spec.task_id]
