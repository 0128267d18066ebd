"""What a run of the chaos suite leaves behind for its checker: what clients saw, what agents did, and what lies in the store."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from muster.v1 import common_pb2, event_pb2

from coordinator.core.events import Commit
from tests.support.linearizability import Operation

TaskKey = tuple[str, str]
"""A namespace, and a task's id."""

# All times are seconds of the clock of the process that runs the suite, unless said otherwise.


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A submit was answered OK."""

    task: TaskKey
    at_s: float


@dataclass(frozen=True, slots=True)
class Told:
    """A client that waited for a task's end was told it.

    Args:
        task: which.
        state: how it ended.
        payload: what came of it; empty unless it COMPLETED.
        at_s: when.
    """

    task: TaskKey
    state: "common_pb2.TaskState.ValueType"
    payload: bytes
    at_s: float


@dataclass(frozen=True, slots=True)
class Looked:
    """A client asked how a task is."""

    task: TaskKey
    state: "common_pb2.TaskState.ValueType"
    called_s: float
    returned_s: float


@dataclass(frozen=True, slots=True)
class Handled:
    """What a handler wrote down, in the order of its process: `event` is "began" or "over"."""

    event: str
    namespace: str
    task_id: str
    fence: int
    agent: str
    pid: int


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a key of shared state. `value` is None for one that was deleted."""

    revision: int
    key: str
    value: bytes | None


@dataclass(slots=True)
class Watched:
    """What one watch saw, from its beginning to the end of the run.

    Args:
        namespace: where.
        prefix: of the keys that it watched.
        start_revision: the first that it sees.
        changes: what it was told, in order.
        until_revision: nothing above it is missed by the watch: it was ended, or the run was.
    """

    namespace: str
    prefix: str
    start_revision: int
    changes: list[Change] = field(default_factory=list)
    until_revision: int = 0


@dataclass(slots=True)
class Evidence:
    """All of it.

    Args:
        capacity: of each agent, by namespace and name.
        acknowledged, told, looked: tasks, as clients saw them.
        handled: what handlers wrote down.
        journals: whole, by shard.
        records: of ended tasks, as the store has them at the end.
        operations: on shared state, by namespace.
        changes: of shared state, by namespace, as the store has them at the end: all from `kept_from` on.
        kept_from: the first revision that the store still has, by namespace.
        watched: by clients.
    """

    capacity: dict[tuple[str, str], int] = field(default_factory=dict)
    acknowledged: list[Acknowledged] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    looked: list[Looked] = field(default_factory=list)
    handled: list[Handled] = field(default_factory=list)
    journals: dict[int, Sequence[Commit]] = field(default_factory=dict)
    records: dict[TaskKey, event_pb2.TaskRecord] = field(default_factory=dict)
    operations: dict[str, list[Operation]] = field(default_factory=dict)
    changes: dict[str, list[Change]] = field(default_factory=dict)
    kept_from: dict[str, int] = field(default_factory=dict)
    watched: list[Watched] = field(default_factory=list)
