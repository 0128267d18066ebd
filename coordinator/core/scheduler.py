"""A namespace's scheduler: the durable state, what is derived from it, and the volatile load map, kept in step.

It decides nothing itself: submits, reports, sessions, ticks and placement are functions over it, each in its own module. All of
them change durable state through `apply` alone.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from coordinator.core.breakers import Breakers, follow_breakers
from coordinator.core.effects import Effect, TaskChanged, TaskEnded
from coordinator.core.events import Acknowledged, AnyEvent, BecameReady, ChunkStored, Event
from coordinator.core.evolve import evolve
from coordinator.core.fairness import Fairness
from coordinator.core.fifo import Ages
from coordinator.core.limits import Limits, follow
from coordinator.core.line import Line
from coordinator.core.load_map import Agent, LoadMap, Room
from coordinator.core.model import ENDED, INFINITY, PLAIN, UNTIMED, WAITING, Attempt, Now, RetryPolicy, Settings, Task, TaskState
from coordinator.core.pauses import Pauses, follow_cordon, follow_pause
from coordinator.core.policies import PolicyKind, PolicyName, RetryDefaultsPolicy, WeightPolicy, limits_of
from coordinator.core.pools import Pools
from coordinator.core.ready_queue import ReadyQueue
from coordinator.core.sizes import size_of_event, size_of_record
from coordinator.core.state import State
from coordinator.core.statistics import BUCKETS, TABLE_MS, Statistics, bucket_of
from coordinator.core.task_index import TaskIndex
from coordinator.core.timers import TimerWheel
from coordinator.core.timing import NEVER_MS, queue_until_ms, until_ms
from coordinator.core.webhooks import deliveries_begun

REBUILT_PER_STEP = 5000  # tasks: some milliseconds


_UNTOLD = (Acknowledged, BecameReady, ChunkStored)  # of no interest to whoever follows a task


class Backoff:
    """A task in the wheel of dates, which waits for its backoff to end or, delayed, to become ready."""

    __slots__ = ("due_slot", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.due_slot = 0


class Expiry:
    """A task in the wheel of dates: it is looked at when the first of its deadlines passes."""

    __slots__ = ("due_slot", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.due_slot = 0


@dataclass(slots=True)
class Totals:
    """What has happened since this coordinator took the shard."""

    submitted: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    redriven: int = 0
    crashed: int = 0
    stale_results: int = 0
    webhooks_delivered: int = 0
    webhooks_given_up: int = 0


class Scheduler:
    """One namespace's scheduler.

    Args:
        settings: durations and limits.
        epoch: fences begin with it: that of the coordinator that owns the shard, or the namespace's date if it is younger.
        jitter: draws the next number in [0, 1) for backoffs; the result is recorded in the event.
        state: what the journal says; empty for a new namespace.
    """

    def __init__(self, *, settings: Settings, epoch: int, jitter: Callable[[], float], state: State | None = None) -> None:
        self.settings = settings
        self.epoch = epoch
        self.jitter = jitter
        self.state = state or State()
        self.fairness = Fairness(settings.share_by, settings.weights)
        self.ages = Ages(round(1000 * settings.ageing_period_s), self.fairness.races)
        self.limits = Limits(rates=self.state.rates, ages=self.ages, hurry=self.hurry)
        pools = Pools(limiters=self.limits.limiters, ages=self.ages, hurry=self.hurry)
        self.pauses = Pauses()
        self.load = LoadMap(pools, is_paused=self.pauses.names)
        self.index = TaskIndex(state=self.state, load=self.load)
        self.statistics = Statistics()
        self.max_live_tasks = settings.max_live_tasks
        self.max_live_bytes = settings.max_live_bytes
        self.ready = ReadyQueue(ages=self.ages, pools=pools, is_limited=self.limits.is_named, opened=self.load.open, closed=self.load.close)
        self.type_retries: dict[str, RetryPolicy] = {}  # of task types that have one of their own
        self.sticky: OrderedDict[str, str] = OrderedDict()  # which agent served each sticky key last, the latest last
        self.reserved: dict[Line, Agent | None] = {}  # lanes of heavy tasks, and whom each has kept: see preferences
        self.breakers = Breakers(settings.breakers)
        self.liveness: TimerWheel[Attempt | Agent] = TimerWheel(slot_width=0.25)  # seconds; leases are tens of them
        self.dates: TimerWheel[Backoff | Expiry] = TimerWheel(slot_width=20)  # milliseconds; backoffs are hundreds of them and up
        self.backoffs: dict[int, Backoff] = {}
        self.expiries: dict[int, Expiry] = {}  # of live tasks with a queue deadline that isn't met yet, or a deadline
        self.postponed: dict[Line, None] = {}  # lanes with more overdue tasks at their heads than one turn may fail
        self.unjournalled_acks: dict[int, Attempt] = {}  # by task number; see reports.journal_acknowledgements
        self.awake: dict[Line | Room, None] = {}  # lanes with a better head than before, and rooms with a slot more
        self.totals = Totals()
        self.next_delivery = self.state.deliveries.next_number  # those before it are known to whoever delivers
        self.watched_ids: set[str] = set()  # tasks whose changes somebody wants to hear of
        self.watch_all = False  # somebody follows a filter: every task's changes
        self.events: list[AnyEvent] = []
        self.effects: list[Effect] = []
        self.bytes = 0  # about what all that was decided and not taken will take in the journal and in records

    def apply(self, event: Event, now: Now) -> Task:
        """Makes a decision part of the durable state, to be journalled, and answers its task."""
        task = evolve(self.state, event, now.date_ms)
        self.events.append(event)
        if (self.watch_all or self.watched_ids) and type(event) not in _UNTOLD and self.is_watched(task):
            self.effects.append(TaskChanged(task.snapshot(), now.date_ms))
        return task

    def apply_sized(self, event: Event, now: Now) -> Task:
        """As `apply`, for an event that may be large: its size counts."""
        self.bytes += size_of_event(event)
        return self.apply(event, now)

    def is_watched(self, task: Task) -> bool:
        """Whether somebody wants to hear of this task's changes."""
        return self.watch_all or task.spec.task_id in self.watched_ids

    def enqueue(self, task: Task, now: Now) -> None:
        """A task waits now: in its lane, or for its date."""
        if task.ready_at_ms > now.date_ms or not task.place:
            backoff = self.backoffs[task.number] = Backoff(task)
            self.dates.arm(backoff, task.ready_at_ms)
            self.statistics.delayed(task, 1)
            return
        if self.ages.now_ms != now.date_ms:
            self.ages.at(now.date_ms)
        lane = self.ready.lanes.get(task.spec.needs)
        is_new = lane is None
        if lane is None:
            lane = self.ready.open(task, spare=self.load.types())
        keys = lane.limits_of(task)
        if keys is not None:
            if (pool := self.load.pools.add(lane, task, keys)) is not None:
                self.hurry(pool)
        elif is_new:  # it came with the task in it
            self.awake[lane] = None
        elif lane.add(task):
            self.hurry(lane)

    def watch_dates(self, task: Task) -> None:
        """Has a task looked at when the next of its deadlines passes: to be called when it has got one, or another."""
        due_ms = min(queue_until_ms(task), until_ms(task))
        expiry = self.expiries.get(task.number)
        if expiry is not None:
            self.dates.disarm(expiry)
        if due_ms == NEVER_MS:
            self.expiries.pop(task.number, None)
            return
        if expiry is None:
            expiry = self.expiries[task.number] = Expiry(task)
        self.dates.arm(expiry, due_ms)

    def forget_waiting(self, task: Task) -> None:
        """A task that waited has ended."""
        backoff = self.backoffs.pop(task.number, None)
        if backoff is not None:
            self.dates.disarm(backoff)
            self.statistics.delayed(task, -1)
        else:
            self.ready.forget(task)

    def hurry(self, lane: Line) -> None:
        """A lane has a better head than before."""
        if lane.watchers:
            lane.improved()
        self.awake[lane] = None

    def release(self, task: Task, now: Now, cost: float = 0.0) -> Attempt | None:
        """A running task's attempt is over: frees its slots. Answers the attempt, if the load map had it.

        Args:
            task: it isn't RUNNING any more.
            now: the present.
            cost: what the agent reported that it cost; 0 if it didn't.
        """
        agent = self.load.agents.get(task.agent)
        attempt = agent.end(task.number) if agent is not None else None
        if agent is None or attempt is None:
            return None
        if task.spec.scheduling is not PLAIN or self.limits.names_types:
            self.limits.ended(task)
        self.liveness.disarm(attempt)
        self.unjournalled_acks.pop(task.number, None)
        if attempt.charge is not None:
            self.fairness.settle(attempt.charge, cost, now.mono_s)
        self.freed(agent)
        return attempt

    def freed(self, agent: Agent) -> None:
        """An agent in a class may have a free slot more than before."""
        group = agent.group
        if group is not None:
            for room in group.rooms.values():
                room.touch(agent)
                if room.watchers:
                    room.improved()
                self.awake[room] = None

    def ended(self, task: Task, now: Now) -> None:
        """A task has just reached its end by an event."""
        spec, index = task.spec, self.index
        if spec.timing is not UNTIMED:
            expiry = self.expiries.pop(task.number, None)
            if expiry is not None:
                self.dates.disarm(expiry)
        if spec.scheduling is not PLAIN and task.cancel_reason is None:
            self.limits.left(task)
        if task.state is TaskState.COMPLETED:
            self.totals.completed += 1
            rows = self.statistics.types.get(spec.task_type)
            row = (rows and rows[spec.priority]) or self.statistics.row(spec.task_type, spec.priority)
            time_ms = task.ended_ms - task.started_ms
            row.runs[BUCKETS[time_ms] if time_ms < TABLE_MS else bucket_of(time_ms)] += 1
        else:
            if task.state is TaskState.FAILED:
                self.totals.failed += 1
            else:
                self.totals.cancelled += 1
            self.statistics.unsuccessful(task)
        if spec.labels or spec.parent or index.tried:
            index.remove(task)
        self.effects.append(TaskEnded(task))
        self.bytes += size_of_record(task)
        if self.next_delivery != self.state.deliveries.next_number:
            deliveries_begun(self, now)

    def after_attempt(self, task: Task, now: Now) -> None:
        """An attempt's end was applied: the task waits again, or has ended."""
        self.statistics.failed_attempt(task)
        if task.state in ENDED:
            self.ended(task, now)
        else:
            self.index.tried[task.number] = None
            self.enqueue(task, now)

    def policy_changed(self, name: PolicyName, now: Now) -> None:
        """A policy was set or deleted: what is derived follows it."""
        standing = self.state.policies.get(name)
        policy = standing.policy if standing is not None else None
        match name.kind:
            case PolicyKind.WEIGHT:
                usual = self.settings.weights.get(name.key, 1.0)
                self.fairness.set_weight(name.key, policy.weight if isinstance(policy, WeightPolicy) else usual)
            case PolicyKind.NAMESPACE_LIMITS:
                limits = limits_of(self.state)
                self.max_live_tasks = limits.max_live_tasks or self.settings.max_live_tasks
                self.max_live_bytes = limits.max_live_bytes or self.settings.max_live_bytes
            case PolicyKind.RETRY_DEFAULTS:
                self.type_retries.pop(name.key, None)
                if isinstance(policy, RetryDefaultsPolicy):
                    self.type_retries[name.key] = policy.over(self.settings.retry)
            case PolicyKind.PAUSE:
                follow_pause(self, name)
            case PolicyKind.CORDON:
                follow_cordon(self, name)
            case PolicyKind.CONCURRENCY_LIMIT | PolicyKind.RATE_LIMIT:
                follow(self, name, now)
            case PolicyKind.BREAKER:
                follow_breakers(self, name)
            case PolicyKind.WEBHOOK:
                pass  # what is delivered looks at the policy that holds then

    def take(self) -> tuple[list[AnyEvent], list[Effect], int]:
        """What was decided since the last call: events, effects, and about how many bytes they will take."""
        taken = self.events, self.effects, self.bytes
        self.events, self.effects, self.bytes = [], [], 0
        return taken

    def next_due(self) -> tuple[float | None, float | None]:
        """When `ticks.tick` has something to do next: by the monotonic clock in seconds, and by the store's in milliseconds."""
        dues = self.dates.next_due(), self.ages.wheel.next_due(), self.limits.wheel.next_due(), self.pauses.due_ms()
        waits = [due_s for due_s in (self.liveness.next_due(), self.breakers.wheel.next_due()) if due_s is not None]
        return min(waits, default=None), min((due_ms for due_ms in dues if due_ms is not None), default=None)

    def rebuild(self, now: Now) -> Iterator[None]:
        """Derives queue, load map and timers from the state, after recovery; stops now and then, to be gone on with soon.

        Every deadline starts anew: nothing is given up before one lease has passed.
        """
        for name in self.state.policies:
            self.policy_changed(name, now)
        until_s = now.mono_s + self.settings.lease_s
        for place, task in enumerate(self.state.by_number.values(), 1):
            if place % REBUILT_PER_STEP == 0:
                yield
            if task.spec.timing is not UNTIMED:
                self.watch_dates(task)
            self.index.add(task)
            self.statistics.row(task.spec.task_type, task.spec.priority).recovered(running=task.state is TaskState.RUNNING)
            limited = task.spec.scheduling is not PLAIN
            if limited and task.cancel_reason is None:
                self.limits.came(task)
            if task.state in WAITING:
                if task.agent:
                    self.index.tried[task.number] = None
                self.enqueue(task, now)
                continue
            agent = self.load.agent(task.agent)
            agent.since_ms = now.date_ms
            attempt = Attempt(task, now.mono_s, until_s, INFINITY if task.acknowledged else until_s)
            attempt.run_until_s = max(attempt.run_until_s, until_s)
            attempt.progress_until_s = max(attempt.progress_until_s, until_s)
            agent.begin(attempt)
            if limited or self.limits.names_types:
                self.limits.began(task, now.date_ms)
            self.liveness.arm(attempt, attempt.due_s())
        for agent in self.load.agents.values():
            agent.grace_until_s = until_s
            self.liveness.arm(agent, until_s)

    def extend_leases(self, now: Now) -> None:
        """After an outage: every lease and every grace gets one more period."""
        until_s = now.mono_s + self.settings.lease_s
        for agent in self.load.agents.values():
            if agent.due_slot:
                agent.grace_until_s = max(agent.grace_until_s, until_s)
            for attempt in agent.running.values():
                attempt.lease_until_s = max(attempt.lease_until_s, until_s)
                if attempt.ack_until_s < INFINITY:
                    attempt.ack_until_s = max(attempt.ack_until_s, until_s)
