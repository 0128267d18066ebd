"""The nouns of the core: tasks, attempts, policies, failures. What is journalled is in `Task`; what isn't is in `Attempt` and `Agent`."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, NamedTuple, assert_never

from coordinator.core.breaker_rules import BreakerRules

if TYPE_CHECKING:
    from coordinator.core.fairness import Charge
    from coordinator.core.history import HistoryEntry

FENCES_PER_EPOCH_BITS = 20
MAX_FAILURE_MESSAGE = 4096  # characters that are kept


class Now(NamedTuple):
    """The two kinds of time.

    `mono_s` counts durations and stands still while the engine is stalled or its store is out; `date_ms` is the store's clock,
    milliseconds since 1970, carried forward and never backwards.
    """

    mono_s: float
    date_ms: int


class Priority(IntEnum):
    """How urgent a task is."""

    LOW = 1
    NORMAL = 2
    HIGH = 3
    CRITICAL = 4


class TaskState(IntEnum):  # not Enum, whose members are hashed in Python: 0.1 us a look-up
    """Where a task is in its life (DESIGN: "A task's life")."""

    PENDING = 1
    RUNNING = 2
    RETRYING = 3
    COMPLETED = 4
    FAILED = 5
    CANCELLED = 6


WAITING = (TaskState.PENDING, TaskState.RETRYING)
ENDED = (TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED)
ALL_ENDS = frozenset(ENDED)


class FailureKind(Enum):
    """What kind of thing went wrong; the numbers are those of muster.v1.FailureKind."""

    APPLICATION = 1
    RUN_TIMEOUT = 2
    PROGRESS_TIMEOUT = 3
    LEASE_LOST = 4
    UNDELIVERED = 5
    RATE_LIMITED = 6
    PROVIDER_UNAVAILABLE = 7
    PROVIDER_REJECTED = 8
    NO_HANDLER = 9
    CANCELLED = 10
    QUEUE_TIMEOUT = 11
    DEADLINE = 12


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt, or a task, failed."""

    kind: FailureKind
    message: str
    error_type: str = ""
    stack_trace: str = ""
    non_retryable: bool = False
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What an attempt consumed at one model."""

    model: str
    input_tokens: int
    output_tokens: int
    requests: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an attempt is; `total` is 0 when unknown."""

    current: float
    total: float
    message: str = ""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How failed attempts are repeated. Backoff bound k is `initial * multiplier ** k`, at most `max`."""

    max_retries: int = 3
    initial_backoff_s: float = 1.0
    max_backoff_s: float = 60.0
    multiplier: float = 2.0
    max_crashes: int = 3
    is_of_type: bool = field(default=False, compare=False)  # defaults of the task's type are in it: the journal must say which


MIN_WEIGHT, MAX_WEIGHT = 0.001, 1000.0  # of a fairness key


class ShareBy(Enum):
    """What a task costs its fairness key."""

    TASKS = 1  # one, whatever it is
    COST = 2  # what its client gave, or one; corrected by what its agent reports
    SECONDS = 3  # how long its attempts ran: as reported, or else from assignment to result


class Operator(Enum):
    """How a selector looks at a label; the numbers are those of muster.v1.LabelOperator."""

    IN = 1  # the agent has the label with one of the values
    NOT_IN = 2  # the agent doesn't: it may lack the label
    EXISTS = 3
    NOT_EXISTS = 4


class Selector(NamedTuple):
    """A condition on an agent's labels."""

    label: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an agent with these labels fulfils it."""
        value = labels.get(self.label)
        match self.operator:
            case Operator.IN:
                return value in self.values
            case Operator.NOT_IN:
                return value not in self.values
            case Operator.EXISTS:
                return value is not None
            case Operator.NOT_EXISTS:
                return value is None
            case unreachable:
                assert_never(unreachable)

    def __str__(self) -> str:
        match self.operator:
            case Operator.IN:
                return f"{self.label}={','.join(self.values)}"
            case Operator.NOT_IN:
                return f"{self.label}!={','.join(self.values)}"
            case Operator.EXISTS:
                return self.label
            case Operator.NOT_EXISTS:
                return f"!{self.label}"
            case unreachable:
                assert_never(unreachable)


class Capability(NamedTuple):
    """What an agent says of a task type that it can run."""

    version: int = 0  # of its handler; 0 where it says none
    max_concurrent: int = 0  # how many of the type at a time; 0: as many as it has slots


class Needs(NamedTuple):
    """What a task needs of the agent that runs it. Tasks with equal needs stand in one lane."""

    task_type: str
    selectors: tuple[Selector, ...] = ()
    slots: int = 1
    min_version: int = 0


class Webhook(NamedTuple):
    """Who is told of a task's end."""

    url: str
    states: frozenset[TaskState] = ALL_ENDS  # the ends that are told of


class Scheduling(NamedTuple):
    """What else a task asks of the scheduler."""

    fairness_key: str = ""
    cost: float = 0.0  # to the key; 0: not given
    sticky_key: str = ""
    slots: int = 1  # of an agent's, that an attempt takes
    concurrency_key: str = ""
    rate_key: str = ""


Labels = tuple[tuple[str, str], ...]
"""A task's labels: names with their values, by name. What tasks are found by: nothing is decided from them."""

PLAIN = Scheduling()  # of nearly all tasks: told by `is`, so that they pay for nothing of it


class Timing(NamedTuple):
    """From when a task may begin, and until when it must have begun, or ended. Milliseconds; 0 is not given."""

    not_before_ms: int = 0  # a date of the store's clock; or else
    delay_ms: int = 0  # after it was accepted
    queue_timeout_ms: int = 0  # from when it becomes ready to its first assignment
    deadline_ms: int = 0  # from when its run began, when it was accepted or redriven, to its end

    def ready_ms(self, created_ms: int) -> int:
        """When a task that was accepted at `created_ms` becomes ready: never before that."""
        return max(created_ms + self.delay_ms, self.not_before_ms)


UNTIMED = Timing()  # of nearly all tasks: told by `is`


@dataclass(frozen=True, slots=True)
class Settings:
    """What the core needs to know of the deployment. All durations in seconds."""

    lease_s: float = 30.0  # an attempt is given up when nothing was heard of it for this long
    renew_period_s: float = 10.0  # three tries within a lease
    ack_timeout_s: float = 10.0  # an assignment that no agent acknowledged goes to another
    session_grace_s: float = 15.0  # a broken stream may come back for this long: longer than an agent's reconnect backoff
    max_deliveries: int = 5  # G9: then a task that is never acknowledged is a dead letter
    max_live_tasks: int = 2_000_000  # G7: about 1 KiB each
    max_live_bytes: int = 2 * 1024**3  # G7: of their payloads and options, which stay in memory until they end
    max_chunk_bytes: int = 256 * 1024  # stored partial output per attempt
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    ageing_period_s: float = 60.0  # G4: a ready task gets one priority more for each; 0 is off
    share_by: ShareBy = ShareBy.COST  # G4: what is shared between fairness keys; the same as by tasks where nobody gives a cost
    weights: Mapping[str, float] = field(default_factory=dict)  # G4: of fairness keys; 1 for those not named
    sticky_slack: float = 0.25  # a sticky key's agent is preferred while at most this share of a capacity busier than the least loaded
    max_pending_webhooks: int = 100_000  # G7: to tasks' own webhooks, and again to those of all types together; about 500 bytes each
    max_sticky_keys: int = 100_000  # remembered: about 250 bytes each
    breakers: BreakerRules = field(default_factory=BreakerRules)  # where no policy says otherwise


class Spec:
    """A task as its client described it, with defaults filled in. Immutable by convention; `request` is the submitted message's bytes."""

    __slots__ = (
        "labels",
        "needs",
        "parent",
        "priority",
        "progress_timeout_s",
        "request",
        "retry",
        "run_timeout_s",
        "scheduling",
        "task_id",
        "task_type",
        "timing",
        "webhook",
    )

    def __init__(
        self,
        task_id: str,
        task_type: str,
        priority: int,
        request: bytes,
        retry: RetryPolicy,
        run_timeout_s: float | None = None,
        progress_timeout_s: float | None = None,
        needs: Needs | None = None,
        scheduling: Scheduling = PLAIN,
        labels: Labels = (),
        parent: str = "",
        timing: Timing = UNTIMED,
        webhook: Webhook | None = None,
    ) -> None:
        self.task_id = task_id
        self.task_type = task_type
        self.priority = priority
        self.request = request
        self.retry = retry
        self.run_timeout_s = run_timeout_s
        self.progress_timeout_s = progress_timeout_s
        self.needs: Needs | str = needs or task_type  # its lane's name: most need their type alone
        self.scheduling = scheduling
        self.labels = labels
        self.parent = parent  # the task that submitted it; empty when none did
        self.timing = timing
        self.webhook = webhook

    def at(self, priority: int) -> "Spec":
        """The same task with another priority."""
        twin = copy.copy(self)
        twin.priority = priority
        return twin


class Task:
    """One live task: everything here is durable, and written by `evolve` alone."""

    __slots__ = (
        "acknowledged",
        "agent",
        "attempt",
        "cancel_reason",
        "changed_ms",
        "checkpoint",
        "chunk_end",
        "chunks",
        "crashes",
        "created_ms",
        "ended_ms",
        "failure",
        "fence",
        "first_ready_ms",
        "history",
        "number",
        "outcome",
        "place",
        "ready_at_ms",
        "reprioritised",
        "result_fence",
        "retries",
        "run",
        "run_created_ms",
        "spec",
        "started_ms",
        "state",
        "undelivered",
        "usage",
    )

    def __init__(self, number: int, spec: Spec, created_ms: int) -> None:
        self.number = number  # grows by one per task of the namespace; how the journal names it
        self.spec = spec
        self.state = TaskState.PENDING
        self.place = number  # its place among its equals, fixed when it first becomes ready: 0 until then
        self.ready_at_ms = self.first_ready_ms = created_ms  # first_ready_ms: when that was, and 0 until then: ages count from it
        self.run_created_ms = created_ms  # later if it was redriven
        if spec.timing is not UNTIMED and (ready_ms := spec.timing.ready_ms(created_ms)) > created_ms:
            self.ready_at_ms = ready_ms
            self.place = self.first_ready_ms = 0
        self.run = 1
        self.attempt = 0  # attempts begun in this run
        self.fence = 0
        self.agent = ""  # of the present or the last attempt
        self.acknowledged = False  # the present attempt's assignment has arrived
        self.retries = 0
        self.crashes = 0
        self.undelivered = 0
        self.created_ms = created_ms
        self.changed_ms = created_ms  # by the last event that a watcher would want to hear of
        self.started_ms = 0
        self.ended_ms = 0
        self.failure: Failure | None = None
        self.cancel_reason: str | None = None  # not None: a cancel was recorded
        self.checkpoint = b""
        self.chunks: bytearray | None = None
        self.chunk_end = 0  # bytes of output that the present attempt has emitted, stored or not
        self.usage: tuple[Usage, ...] = ()
        self.reprioritised = 0  # the priority that an operator gave it, which `spec` has too; 0: as it was submitted
        self.history: tuple[HistoryEntry, ...] = ()  # what its fields don't say: see core/history.py
        self.outcome = b""  # once ended: the accepted outcome as it came; empty when the core ended it
        self.result_fence = 0  # the last one whose result was taken: it may be sent again

    def snapshot(self) -> "Task":
        """A copy that stays as the task is now. What was emitted so far is left out: it is told piece by piece."""
        twin = copy.copy(self)
        twin.chunks = None
        return twin

    def __repr__(self) -> str:
        return f"<Task {self.spec.task_id} {self.state.name} run={self.run} attempt={self.attempt} fence={self.fence:#x}>"


def next_fence(last: int, epoch: int) -> int:
    """The fence of a task's next attempt: above its last one, and above all of earlier epochs. 2**20 attempts fit into an epoch."""
    return max(last + 1, epoch << FENCES_PER_EPOCH_BITS)


class Attempt:
    """The volatile side of a running task: deadlines and signs of life. Rebuilt after a restart with fresh deadlines."""

    __slots__ = (
        "ack_until_s",
        "cancel_delivered",
        "charge",
        "due_slot",
        "lease_until_s",
        "progress",
        "progress_until_s",
        "run_until_s",
        "task",
        "usage",
    )

    def __init__(self, task: Task, started_s: float, lease_until_s: float, ack_until_s: float) -> None:
        spec = task.spec
        self.task = task
        self.lease_until_s = lease_until_s
        self.ack_until_s = ack_until_s  # infinity once acknowledged
        self.run_until_s = INFINITY if spec.run_timeout_s is None else started_s + spec.run_timeout_s
        self.progress_until_s = INFINITY if spec.progress_timeout_s is None else started_s + spec.progress_timeout_s
        self.progress: Progress | None = None
        self.usage: Sequence[Usage] = ()
        self.cancel_delivered = False
        self.charge: Charge | None = None  # what its fairness key was charged, if that must be settled
        self.due_slot = 0  # the timer wheel's

    def has_arrived(self) -> bool:
        """Whether the agent has acknowledged the assignment."""
        return self.ack_until_s == INFINITY

    def due_s(self) -> float:
        """When the first of its deadlines passes."""
        return min(self.lease_until_s, self.ack_until_s, self.run_until_s, self.progress_until_s)


INFINITY = float("inf")
