"""A scheduler under a test's control: its clock, its agents, and a journal that it can be brought back from."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import cast

from muster.v1 import common_pb2, event_pb2

from coordinator import convert
from coordinator.convert_operations import ended_run
from coordinator.core.effects import Effect, TaskEnded
from coordinator.core.events import AnyEvent, Assigned, Commit, NamespaceEvent, Submitted
from coordinator.core.evolve import evolve, evolve_beside_tasks
from coordinator.core.fifo import Ages
from coordinator.core.invariants import check, check_placed
from coordinator.core.load_map import Agent, LoadMap
from coordinator.core.model import Capability, Failure, FailureKind, Now, RetryPolicy, Settings, Spec, Task
from coordinator.core.operations import Priorities, redrive, reprioritise
from coordinator.core.placement import place
from coordinator.core.policies import Policy, PolicyName, delete_policy, set_policy
from coordinator.core.pools import Pools
from coordinator.core.rates import RateWalk
from coordinator.core.reports import (
    Failed,
    GivenBack,
    RenewVerdict,
    Result,
    SignOfLife,
    Stopped,
    Success,
    Verdict,
    acknowledge,
    finish,
    renew,
)
from coordinator.core.scheduler import Scheduler
from coordinator.core.sessions import Hello, ReconcileVerdict, hello, lost, ready
from coordinator.core.snapshot import Walk, restore, restored
from coordinator.core.state import State
from coordinator.core.submits import CancelVerdict, Refused, cancel, submit
from coordinator.core.ticks import tick
from coordinator.core.webhooks import DeliveryWalk, delivered, give_up, retry
from coordinator.engine.recovery import restore_beside_tasks
from coordinator.journal.codec import decode, decode_snapshot, encode, record_out, snapshot_encoder
from coordinator.ports import SnapshotNamespace

Offers = Iterable[str] | Mapping[str, Capability]

FIRST_EPOCH = 1_000
FIRST_DATE_MS = 1_700_000_000_000
NAMESPACE = "default"

SUCCESS = Success(b"done")
FAILED = Failed(Failure(FailureKind.APPLICATION, "it broke"))
FAILED_FOR_GOOD = Failed(Failure(FailureKind.APPLICATION, "it can't work", non_retryable=True))
STOPPED = Stopped("cancelled")
GIVEN_BACK = GivenBack("draining")


def spec_of(
    task_id: str,
    task_type: str = "work",
    *,
    priority: int = 0,
    max_retries: int | None = None,
    max_crashes: int | None = None,
    run_timeout_s: float | None = None,
    progress_timeout_s: float | None = None,
    payload: bytes = b"",
    defaults: RetryPolicy | None = None,
    delay_s: float | None = None,
    not_before_ms: int | None = None,
    queue_timeout_s: float | None = None,
    deadline_s: float | None = None,
    labels: Mapping[str, str] | None = None,
    parent: str = "",
    webhook: common_pb2.Webhook | str | None = None,
    **scheduling: object,
) -> Spec:
    """A task as a client would submit it; None and 0 leave a field out. What else is given is of its `scheduling`."""
    message = common_pb2.TaskSpec(
        task_id=task_id,
        task_type=task_type,
        payload=payload,
        priority=cast("common_pb2.Priority.ValueType", priority),
        labels=labels,
        parent_task_id=parent,
    )
    if webhook is not None:
        message.webhook.CopyFrom(common_pb2.Webhook(url=webhook) if isinstance(webhook, str) else webhook)
    if scheduling:
        message.scheduling.CopyFrom(common_pb2.Scheduling(**scheduling))  # type: ignore[arg-type]
    if max_retries is not None:
        message.retry_policy.max_retries = max_retries
    if max_crashes is not None:
        message.retry_policy.max_crashes = max_crashes
    if run_timeout_s is not None:
        message.run_timeout.CopyFrom(convert.duration(run_timeout_s))
    if progress_timeout_s is not None:
        message.progress_timeout.CopyFrom(convert.duration(progress_timeout_s))
    if delay_s is not None:
        message.delay.CopyFrom(convert.duration(delay_s))
    if not_before_ms is not None:
        message.not_before.CopyFrom(convert.timestamp(not_before_ms))
    if queue_timeout_s is not None:
        message.queue_timeout.CopyFrom(convert.duration(queue_timeout_s))
    if deadline_s is not None:
        message.deadline.CopyFrom(convert.duration(deadline_s))
    return convert.spec_in(message, defaults or RetryPolicy(), convert.Bounds())


def load_map() -> LoadMap:
    """An empty load map of a namespace without limits."""
    return LoadMap(Pools(limiters=lambda _: (), ages=Ages(0, {}), hurry=lambda _: None))


class CoreWorld:
    """One namespace's scheduler. After every command, what became ready is placed, everything is checked, and the events are journalled.

    Args:
        settings: of the core.
        jitter: what every draw for a backoff answers.
    """

    def __init__(self, *, settings: Settings | None = None, jitter: float = 0.5) -> None:
        self.settings = settings or Settings()
        self.jitter = jitter
        self.epoch = FIRST_EPOCH
        self.mono_s = 1000.0
        self.date_ms = FIRST_DATE_MS
        self.journal: list[bytes] = []
        self.events: list[AnyEvent] = []  # all that were decided, in order
        self.effects: list[Effect] = []  # likewise
        self._sessions = 0
        self.snapshot: tuple[int, list[bytes]] | None = None  # the last one that was finished: after which entry, and its pieces
        self._walk: Walk | None = None
        self.scheduler = self._scheduler(State())

    # --- time, and the end of it ---

    @property
    def now(self) -> Now:
        """The present, in both kinds of time."""
        return Now(self.mono_s, self.date_ms)

    def advance(self, seconds: float, *, ticks: int = 1) -> None:
        """Lets time pass, in equal steps with a tick after each."""
        for _ in range(ticks):
            self.mono_s += seconds / ticks
            self.date_ms += round(seconds / ticks * 1000)
            tick(self.scheduler, self.now)
            self.commit()

    def commit(self) -> None:
        """Places, checks, and journals what was decided."""
        place(self.scheduler, self.now)
        check(self.scheduler)
        check_placed(self.scheduler)
        events, effects, _ = self.scheduler.take()
        self.events += events
        self.effects += effects
        if events:
            commit = Commit(len(self.journal) + 1, self.epoch, self.date_ms, [(NAMESPACE, event) for event in events])
            self.journal.append(encode(commit, self.settings.retry))

    def crash(self) -> None:
        """The coordinator dies, and the next one takes over with what snapshot and journal say. No agent has a session."""
        self.epoch += 1
        self._walk = None
        state = self.recovered()
        for task in list(state.ended.values()):
            state.settle(task)
        self.scheduler = self._scheduler(state)
        for _ in self.scheduler.rebuild(self.now):
            pass
        self.commit()

    def begin_snapshot(self, *, others: Sequence[SnapshotNamespace] = ()) -> None:
        """A snapshot of the state as it is now, in place of one that is being taken; `others` are namespaces without tasks."""
        if self._walk is not None:
            self._walk.abandon()
        state = self.scheduler.state
        namespace = SnapshotNamespace(
            NAMESPACE,
            FIRST_DATE_MS,
            state.next_number,
            tuple(state.policies.values()),
            next_delivery=state.deliveries.next_number,
        )
        self._encoder = snapshot_encoder(sequence=len(self.journal), date_ms=self.date_ms, namespaces=[namespace, *others], max_bytes=600)
        self._walk = Walk(state, partial(self._encoder.add, namespace))
        self._rate_walk = RateWalk(state.rates, partial(self._encoder.add_rate_log, namespace))
        self._delivery_walk = DeliveryWalk(state.deliveries, partial(self._encoder.add_webhook, namespace))
        self._snapshot_at = len(self.journal)

    def go_on_with_snapshot(self, numbers: int) -> bool:
        """Looks at so many numbers. Answers whether there are more; else the snapshot is the one to recover from."""
        if self._walk is None or self._rate_walk.step(numbers) or self._delivery_walk.step(numbers) or self._walk.step(numbers):
            return self._walk is not None
        self._walk = None
        self._encoder.finish()
        self.snapshot = self._snapshot_at, list(iter(self._encoder.take, None))
        return False

    def recovered(self) -> State:
        """The state that the last snapshot and the journal behind it say."""
        if self.snapshot is None:
            return replay(self.journal)
        sequence, pieces = self.snapshot
        state, next_number = State(), 1
        for piece in map(decode_snapshot, pieces):
            assert piece.sequence == sequence
            for namespace, tasks in piece.parts:
                next_number = namespace.next_number
                restore_beside_tasks(state, namespace)
                for task in tasks:
                    restore(state, task)
        restored(state, next_number)
        return replay(self.journal[sequence:], state)

    def _scheduler(self, state: State) -> Scheduler:
        return Scheduler(settings=self.settings, epoch=self.epoch, jitter=lambda: self.jitter, state=state)

    # --- commands ---

    def submit(self, spec: Spec | str, **options: object) -> Task:
        """Submits a task, which must be taken: a spec, or the id of one to be made with `options`."""
        taken = submit(self.scheduler, spec if isinstance(spec, Spec) else spec_of(spec, **options), self.now)  # type: ignore[arg-type]
        assert isinstance(taken, Task), taken
        self.commit()
        return taken

    def cancel(self, task_id: str, reason: str = "asked for") -> CancelVerdict:
        """Cancels a task."""
        verdict = cancel(self.scheduler, task_id, reason, self.now)
        self.commit()
        return verdict

    def set_policy(self, policy: Policy) -> None:
        """An operator sets a policy."""
        set_policy(self.scheduler, policy, self.now)
        self.commit()

    def settle(self, number: int, reason: str = "") -> None:
        """A delivery was answered well; or, with a reason, was given up."""
        if reason:
            give_up(self.scheduler, number, reason, self.now)
        else:
            delivered(self.scheduler, number, self.now)
        self.commit()

    def retry(self, number: int) -> bool:
        """An operator has a delivery that was given up tried again. Answers whether there was one."""
        was_there = retry(self.scheduler, number, self.now)
        self.commit()
        return was_there

    def delete_policy(self, name: PolicyName) -> bool:
        """An operator deletes a policy. Answers whether there was one."""
        was_there = delete_policy(self.scheduler, name, self.now)
        self.commit()
        return was_there

    def reprioritise(self, task_id: str, priority: int, reason: str = "urgent") -> Priorities:
        """An operator gives a live task another priority."""
        changed = reprioritise(self.scheduler, self.task(task_id), priority, reason, self.now)
        self.commit()
        return changed

    def redrive(self, task_id: str, reason: str = "mended", priority: int = 0) -> Task | Refused:
        """An operator has an ended task run again, by its record as the store has it."""
        record = event_pb2.TaskRecord.FromString(record_out(self.ends(task_id)[-1]))
        ended = ended_run(record, lambda name: self.scheduler.type_retries.get(name, self.settings.retry), priority)
        task = redrive(self.scheduler, ended, reason, self.now, request_id="an operation")
        self.commit()
        return task

    def connect(
        self,
        name: str,
        capabilities: Offers = ("work",),
        *,
        capacity: int = 10,
        nonce: str = "first",
        in_flight: Mapping[str, int] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> list[ReconcileVerdict]:
        """An agent says Hello on a new session, and is not ready yet."""
        self._sessions += 1
        offers = capabilities if isinstance(capabilities, Mapping) else dict.fromkeys(capabilities, Capability())
        said = Hello(name, nonce, offers, capacity, tuple((in_flight or {}).items()), labels or {})
        verdicts = hello(self.scheduler, f"s{self._sessions}", said, self.now)
        self.commit()
        return verdicts

    def join(
        self,
        name: str,
        capabilities: Offers = ("work",),
        *,
        capacity: int = 10,
        limit: int | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Agent:
        """An agent says Hello and is ready for `limit` attempts; as many as it has capacity for, unless told otherwise."""
        self.connect(name, capabilities, capacity=capacity, labels=labels)
        self.ready(name, capacity if limit is None else limit)
        return self.agent(name)

    def ready(self, name: str, limit: int) -> None:
        """An agent says how much it will take."""
        ready(self.scheduler, self.agent(name), limit)
        self.commit()

    def lose(self, name: str) -> None:
        """An agent's stream breaks."""
        lost(self.scheduler, self.agent(name).session, self.now)
        self.commit()

    def acknowledge(self, name: str, task_id: str, fence: int | None = None) -> None:
        """An agent says that an assignment arrived; the task's present one, unless told otherwise."""
        acknowledge(self.scheduler, self.agent(name), task_id, self._fence(task_id, fence), self.now)
        self.commit()

    def renew(self, name: str, sign: SignOfLife | str) -> RenewVerdict:
        """An agent renews an attempt: with a whole sign of life, or the id of a task whose present attempt it only holds."""
        if not isinstance(sign, SignOfLife):
            sign = SignOfLife(sign, self._fence(sign, None), None, (), cancel_delivered=False)
        verdict = renew(self.scheduler, self.agent(name), sign, self.now)
        self.commit()
        return verdict

    def finish(self, name: str, task_id: str, result: Result = SUCCESS, *, fence: int | None = None) -> Verdict:
        """An agent reports how an attempt ended; the task's present one, unless told otherwise."""
        verdict = finish(self.scheduler, self.agent(name), task_id, self._fence(task_id, fence), result, self.now)
        self.commit()
        return verdict

    # --- questions ---

    def agent(self, name: str) -> Agent:
        """A known agent."""
        return self.scheduler.load.agents[name]

    def task(self, task_id: str) -> Task:
        """A task in memory, live or just ended."""
        task = self.scheduler.state.find(task_id)
        assert task is not None, f"no task {task_id} in memory"
        return task

    def running(self, name: str) -> list[str]:
        """The ids of what an agent runs, in order of assignment."""
        agent = self.scheduler.load.agents.get(name)
        return [attempt.task.spec.task_id for attempt in agent.running.values()] if agent is not None else []

    def assignments(self) -> list[tuple[str, str]]:
        """(task id, agent) of every assignment so far, in order."""
        ids = {event.number: event.spec.task_id for event in self.events if isinstance(event, Submitted)}
        return [(ids[event.number], event.agent) for event in self.events if isinstance(event, Assigned)]

    def ends(self, task_id: str) -> list[Task]:
        """The task, once for each time that it was said to have ended."""
        return [effect.task for effect in self.effects if isinstance(effect, TaskEnded) and effect.task.spec.task_id == task_id]

    def _fence(self, task_id: str, fence: int | None) -> int:
        return self.task(task_id).fence if fence is None else fence


def replay(journal: Iterable[bytes], state: State | None = None) -> State:
    """The state that a journal says, after the one that it goes on from."""
    state = state or State()
    for blob in journal:
        commit = decode(blob)
        for _, event in commit.events:
            if isinstance(event, NamespaceEvent):
                evolve_beside_tasks(state, event, commit.date_ms)
            else:
                evolve(state, event, commit.date_ms)
    return state


def durable(state: State) -> dict[str, dict[str, object]]:
    """Everything that must survive of a state's live tasks, in a form that can be compared."""
    return {task_id: _facts(task) for task_id, task in state.tasks.items()}


def durable_beside_tasks(state: State) -> dict[str, object]:
    """Everything else that must survive of a state."""
    deliveries = state.deliveries
    return {
        "policies": dict(state.policies),
        "hooks": dict(state.hooks),
        "pending": sorted(deliveries.pending.values(), key=lambda one: one.number),
        "given_up": list(deliveries.given_up.values()),
        "next_delivery": deliveries.next_number,
        "of_hook": dict(deliveries.of_hook),
    }


def _facts(task: Task) -> dict[str, object]:
    facts = {name: getattr(task, name) for name in Task.__slots__}
    spec = facts.pop("spec")
    return facts | {f"spec.{name}": getattr(spec, name) for name in Spec.__slots__}
