"""What the demo knows about its tasks and agents at this moment: the model behind the screen, the kill, and the summary. No I/O."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum


class State(Enum):
    """Where a task is. The values are those of muster.v1.TaskState, without their prefix."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    RETRYING = "RETRYING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self in (State.COMPLETED, State.FAILED, State.CANCELLED)


@dataclass
class TaskRow:
    """One task, as last seen. `agents` are all that had it, in order."""

    task_type: str
    label: str = ""
    state: State = State.PENDING
    agents: list[str] = field(default_factory=list)
    crashes: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass
class AgentRow:
    """One agent process."""

    name: str
    role: str
    pid: int
    killed: bool = False


@dataclass(frozen=True)
class Sighting:
    """A task as an event of the coordinator shows it."""

    task_id: str
    task_type: str
    state: State
    agent: str
    crashes: int
    input_tokens: int
    output_tokens: int


class Board:
    """Rows that change, and whoever waits for that.

    Args:
        now_s: a clock that never goes backwards; times on the board count from the board's making.
    """

    def __init__(self, *, now_s: Callable[[], float]) -> None:
        self.tasks: dict[str, TaskRow] = {}
        self.agents: dict[str, AgentRow] = {}
        self.news: list[tuple[float, str]] = []
        self._labels: dict[str, str] = {}
        self._now_s = now_s
        self._started_at = now_s()
        self._changed = asyncio.Event()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the board was made."""
        return self._now_s() - self._started_at

    def add_agent(self, name: str, *, role: str, pid: int) -> None:
        """An agent process has started."""
        self.agents[name] = AgentRow(name, role, pid)
        self._note()

    def mark_killed(self, name: str) -> None:
        """An agent process is no more."""
        self.agents[name].killed = True
        self._note()

    def name_task(self, task_id: str, label: str) -> None:
        """What to call a task, said before or after it is first seen."""
        self._labels[task_id] = label
        if task_id in self.tasks:
            self.tasks[task_id].label = label

    def see(self, seen: Sighting) -> None:
        """A task has changed. Ends, and moves to another agent, are news."""
        row = self.tasks.setdefault(seen.task_id, TaskRow(seen.task_type, self._labels.get(seen.task_id, "")))
        if seen.agent and seen.state is not State.PENDING and row.agents[-1:] != [seen.agent]:
            row.agents.append(seen.agent)
            if len(row.agents) > 1:
                self.tell(f"{self.describe(seen.task_id)} moved from {row.agents[-2]} to {seen.agent}")
        if seen.state.ended and not row.state.ended:
            self.tell(f"{self.describe(seen.task_id)} {seen.state.value.lower()} at {seen.agent or 'no agent'}")
        row.state, row.crashes = seen.state, seen.crashes
        row.input_tokens, row.output_tokens = seen.input_tokens, seen.output_tokens
        self._note()

    def tell(self, line: str) -> None:
        """Something to show, with its time."""
        self.news.append((self.elapsed_s, line))
        self._note()

    def describe(self, task_id: str) -> str:
        """A task in words."""
        row = self.tasks[task_id]
        verb = row.task_type.rpartition(".")[2]
        return f"{verb}: {row.label or task_id}"

    def held_by(self, agent: str) -> list[str]:
        """The tasks that an agent runs."""
        return [task_id for task_id, row in self.tasks.items() if row.state is State.RUNNING and row.agents[-1:] == [agent]]

    def counts(self, task_type: str) -> dict[State, int]:
        """How many tasks of a type there are in each state."""
        counts = dict.fromkeys(State, 0)
        for row in self.tasks.values():
            if row.task_type == task_type:
                counts[row.state] += 1
        return counts

    def completed_by(self, agent: str) -> list[TaskRow]:
        """What an agent brought to its end."""
        return [row for row in self.tasks.values() if row.state is State.COMPLETED and row.agents[-1:] == [agent]]

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Waits for a change after which `predicate` holds."""
        while not predicate():
            self._changed.clear()
            await self._changed.wait()

    async def change(self) -> None:
        """Waits for the next change."""
        self._changed.clear()
        await self._changed.wait()

    def _note(self) -> None:
        self._changed.set()
