"""Limits for any work: so many of a concurrency key or a type run at a time, so many of a rate key or a type begin in any period.

Who runs follows from the state, and what began when is in it (`rates`), so all of this is derived. Whether a limit has room is found where
it changes: as an attempt begins or ends, as a date passes, as a policy is set. `pools` has what waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, TypeVar

from coordinator.core.ordered_tasks import OrderedTasks
from coordinator.core.patterns import Patterns, covers
from coordinator.core.policies import TYPE_KEY, ConcurrencyLimitPolicy, PolicyKind, PolicyName, RateLimitPolicy, WhenFull
from coordinator.core.pools import Limiter
from coordinator.core.timers import TimerWheel

if TYPE_CHECKING:
    from coordinator.core.fifo import Ages
    from coordinator.core.line import LimitKeys, Line
    from coordinator.core.model import Now, Task
    from coordinator.core.rates import RateBook, RateRule
    from coordinator.core.ready_queue import Lane
    from coordinator.core.scheduler import Scheduler

_SLOT_MS = 5  # how late a rate key may go on: tasks of one wake together
_number_of = attrgetter("number")


class ConcurrencyLimiter(Limiter):
    """How many of a concurrency key, or of a type, run. One of a key is there while the key has live tasks."""

    __slots__ = ("_order", "_registry", "live", "policy", "running")

    def __init__(self, key: str, policy: ConcurrencyLimitPolicy | None, registry: dict[str, ConcurrencyLimiter]) -> None:
        super().__init__(key)
        self.policy = policy
        self.running: dict[int, Task] = {}  # by number
        self.live = 0  # of a key: tasks that haven't ended, and that nobody has asked to cancel
        self._order = OrderedTasks(_number_of)  # those
        self._registry = registry
        self.refresh()

    def refresh(self) -> bool:
        """Finds whether one more may begin. Answers whether that has become so."""
        was_open, self.open = self.open, self.policy is None or len(self.running) < self.policy.max_running
        return self.open and not was_open

    def begin(self, task: Task) -> None:
        """A task of the key runs."""
        self.running[task.number] = task
        self.refresh()

    def came(self, task: Task) -> None:
        """A task of the key is live."""
        self.live += 1
        self._order.add(task, task.number)

    def left(self, task: Task) -> None:
        """A task of the key has ended, or was asked to."""
        self.live -= 1
        self._order.remove(task)

    def oldest(self) -> Task | None:
        """The oldest of the key's live tasks that nobody has asked to cancel."""
        front = self._order.front
        return front[0] if front else None

    def leave(self) -> None:
        """A group, a task or the limit has gone."""
        if not self.groups and not self.live and not self.running and self._registry.get(self.key) is self:
            del self._registry[self.key]
            self.close_stands()


class RateLimiter(Limiter):
    """Whether one more of a rate key, or of a type, may begin. It is there while tasks wait for it."""

    __slots__ = ("_registry", "_wheel", "due_slot", "rule")

    def __init__(self, key: str, rule: RateRule | None, registry: dict[str, RateLimiter], wheel: TimerWheel[RateLimiter]) -> None:
        super().__init__(key)
        self.rule = rule
        self.due_slot = 0
        self._registry = registry
        self._wheel = wheel

    def refresh(self, date_ms: int) -> bool:
        """Finds whether one more may begin, and else when. Answers whether that has become so."""
        was_open, rule = self.open, self.rule
        self.open = rule is None or self.used_at(date_ms) < rule.policy.count
        if not self.open and (free_ms := self.free_at()) is not None:
            self._wheel.disarm(self)
            self._wheel.arm(self, free_ms)
        return self.open and not was_open

    @property
    def policy(self) -> RateLimitPolicy | None:
        """The limit; None where nothing limits the key."""
        return self.rule.policy if self.rule is not None else None

    def free_at(self) -> int | None:
        """When one more may begin, if it can't now; None when none ever may."""
        rule = self.rule
        log = rule.logs.get(self.key) if rule is not None else None
        return log.free_at(rule.policy) if log is not None and rule is not None else None

    def used_at(self, date_ms: int) -> int:
        """How many starts count at a date."""
        rule = self.rule
        log = rule.logs.get(self.key) if rule is not None else None
        return log.used_at(date_ms, rule.policy) if log is not None and rule is not None else 0

    def leave(self) -> None:
        """A group has gone."""
        if not self.groups and self._registry.get(self.key) is self:
            del self._registry[self.key]
            self._wheel.disarm(self)
            self.close_stands()


class Limits:
    """The limits of a namespace.

    Args:
        rates: what began when.
        ages: what time it is.
        hurry: called with each pool that may have a better head now.
    """

    def __init__(self, *, rates: RateBook, ages: Ages, hurry: Callable[[Line], None]) -> None:
        self.keys: dict[str, ConcurrencyLimiter] = {}  # by concurrency key: of live tasks
        self.types: dict[str, ConcurrencyLimiter] = {}  # by type: of waiting and running tasks, where a policy names it
        self.rate_keys: dict[str, RateLimiter] = {}  # of waiting tasks
        self.type_rates: dict[str, RateLimiter] = {}  # likewise, where a policy names it
        self.key_policies: Patterns[ConcurrencyLimitPolicy] = Patterns()
        self.type_policies: Patterns[ConcurrencyLimitPolicy] = Patterns()
        self.names_types = False  # some policy names a task type
        self.wheel: TimerWheel[RateLimiter] = TimerWheel(slot_width=_SLOT_MS)
        self.rates = rates
        self._ages = ages
        self._hurry = hurry

    # --- what tasks do ---

    def came(self, task: Task) -> None:
        """A task is live, with options of its scheduling."""
        key = task.spec.scheduling.concurrency_key
        if key:
            self._key(key).came(task)

    def when_full(self, key: str) -> WhenFull:
        """What is to become of a new task of a key: WAIT unless as many live tasks of it as may run are there already.

        Those that are being cancelled don't count, and those that wait do: so it is the same for a batch as for one after the other.
        """
        limiter = self.keys.get(key)
        policy = limiter.policy if limiter is not None else self.key_policies.match(key)
        live = limiter.live if limiter is not None else 0
        return WhenFull.WAIT if policy is None or live < policy.max_running else policy.when_full

    def use_of(self, key: str) -> tuple[int, int]:
        """How many live tasks a concurrency key has, and how many of them may run; 0 where nothing limits it."""
        limiter, policy = self.keys.get(key), self.key_policies.match(key)
        return limiter.live if limiter is not None else 0, policy.max_running if policy is not None else 0

    def blocker(self, lane: Lane, task: Task) -> Limiter | None:
        """The first limit that holds up a ready task; None when none does."""
        keys = lane.limits_of(task)
        if keys is None:
            return None
        fifo = lane.limited.get((task.spec.scheduling.fairness_key, task.spec.priority, keys.concurrency_key, keys.rate_key))
        return fifo.group.blocker() if fifo is not None and fifo.group is not None else None

    def oldest(self, key: str) -> Task | None:
        """The oldest of a key's live tasks that nobody has asked to cancel."""
        limiter = self.keys.get(key)
        return limiter.oldest() if limiter is not None else None

    def left(self, task: Task) -> None:
        """A live task has ended, or its cancel was asked for: whichever comes first."""
        key = task.spec.scheduling.concurrency_key
        if key:
            limiter = self.keys[key]
            limiter.left(task)
            limiter.leave()

    def began(self, task: Task, date_ms: int) -> None:
        """An attempt of a task has begun."""
        spec = task.spec
        scheduling = spec.scheduling
        if scheduling.concurrency_key:
            self._key(scheduling.concurrency_key).begin(task)
        if scheduling.rate_key and (rate := self.rate_keys.get(scheduling.rate_key)) is not None:
            rate.refresh(date_ms)
        if self.names_types:
            if self.type_policies.match(spec.task_type) is not None:
                self._type(spec.task_type).begin(task)
            if (rate := self.type_rates.get(spec.task_type)) is not None:
                rate.refresh(date_ms)

    def ended(self, task: Task) -> None:
        """An attempt of a task is over."""
        key = task.spec.scheduling.concurrency_key
        if key:
            self._end(self.keys[key], task)
        if self.names_types and (limiter := self.types.get(task.spec.task_type)) is not None:
            self._end(limiter, task)

    def _end(self, limiter: ConcurrencyLimiter, task: Task) -> None:
        limiter.running.pop(task.number, None)
        if limiter.refresh():
            self._opened(limiter)
        limiter.leave()

    # --- what holds tasks up ---

    def limiters(self, keys: LimitKeys) -> Sequence[Limiter]:
        """The limits of tasks with such keys, those first that hold up whole fleets of keys."""
        found: list[Limiter] = []
        if keys.rate_key:
            found.append(self._rate(keys.rate_key, self.rate_keys, self.rates.keys))
        if keys.task_type:
            if self.rates.types.match(keys.task_type) is not None:
                found.append(self._rate(keys.task_type, self.type_rates, self.rates.types))
            if self.type_policies.match(keys.task_type) is not None:
                found.append(self._type(keys.task_type))
        if keys.concurrency_key:
            found.append(self._key(keys.concurrency_key))
        return found

    def due(self, limiter: RateLimiter, date_ms: int) -> None:
        """The date has come at which a rate key may go on."""
        if limiter.refresh(date_ms):
            self._opened(limiter)

    def postpone(self, since_ms: int, date_ms: int) -> None:
        """What began at `since_ms` or later was held up by an outage until `date_ms`: it counts as if it began then."""
        keys, types = self.rates.postpone(since_ms, date_ms)
        for registry, postponed in ((self.rate_keys, keys), (self.type_rates, types)):
            for key in postponed:
                limiter = registry.get(key)
                if limiter is not None and limiter.open:  # the others look for themselves when their dates come
                    limiter.refresh(date_ms)

    def is_named(self, task_type: str) -> bool:
        """Whether some policy names a task type."""
        return self.rates.types.match(task_type) is not None or self.type_policies.match(task_type) is not None

    def _opened(self, limiter: Limiter) -> None:
        for pool in limiter.opened():
            self._hurry(pool)

    def _key(self, key: str) -> ConcurrencyLimiter:
        limiter = self.keys.get(key)
        if limiter is None:
            limiter = self.keys[key] = ConcurrencyLimiter(key, self.key_policies.match(key), self.keys)
        return limiter

    def _type(self, task_type: str) -> ConcurrencyLimiter:
        limiter = self.types.get(task_type)
        if limiter is None:
            limiter = self.types[task_type] = ConcurrencyLimiter(task_type, self.type_policies.match(task_type), self.types)
        return limiter

    def _rate(self, key: str, registry: dict[str, RateLimiter], rules: Patterns[RateRule]) -> RateLimiter:
        limiter = registry.get(key)
        if limiter is None:
            limiter = registry[key] = RateLimiter(key, rules.match(key), registry, self.wheel)
            limiter.refresh(self._ages.now_ms)
        return limiter

    # --- what operators do ---

    def key_changed(self, pattern: str, policy: ConcurrencyLimitPolicy | None) -> None:
        """A limit of concurrency keys was set, or deleted."""
        _hold(self.key_policies, pattern, policy)
        for limiter in _covered(self.keys, pattern):
            limiter.policy = self.key_policies.match(limiter.key)
            if limiter.refresh():
                self._opened(limiter)

    def rate_key_changed(self, pattern: str, date_ms: int) -> None:
        """A limit of rate keys was set, or deleted, in the state."""
        for limiter in _covered(self.rate_keys, pattern):
            limiter.rule = self.rates.keys.match(limiter.key)
            if limiter.refresh(date_ms):
                self._opened(limiter)

    def type_changed(self, pattern: str, policy: ConcurrencyLimitPolicy | None, running: Iterable[Task]) -> None:
        """A limit of how many of a type run was set, or deleted. Nothing waits for the types while it is told.

        Args:
            pattern: which types.
            policy: None when it was deleted.
            running: all tasks that run now.
        """
        _hold(self.type_policies, pattern, policy)
        for limiter in list(_covered(self.types, pattern)):
            limiter.close_stands()
            del self.types[limiter.key]
        for task in running:
            task_type = task.spec.task_type
            if covers(pattern, task_type) and self.type_policies.match(task_type) is not None:
                self._type(task_type).begin(task)


def follow(scheduler: Scheduler, name: PolicyName, now: Now) -> None:
    """A limit was set or deleted, or a scheduler is being rebuilt: what is derived follows it, and what may begin now does."""
    limits, load = scheduler.limits, scheduler.load
    standing = scheduler.state.policies.get(name)
    policy = standing.policy if standing is not None else None
    concurrency = policy if isinstance(policy, ConcurrencyLimitPolicy) else None
    scheduler.ages.at(now.date_ms)
    if not name.key.startswith(TYPE_KEY):
        if name.kind is PolicyKind.CONCURRENCY_LIMIT:
            limits.key_changed(name.key, concurrency)
        else:
            limits.rate_key_changed(name.key, now.date_ms)
        return
    pattern = name.key.removeprefix(TYPE_KEY)
    lanes = [lane for lane in load.lanes() if covers(pattern, lane.task_type)]
    waiting = load.pools.give_up(lanes)
    if name.kind is PolicyKind.CONCURRENCY_LIMIT:
        limits.type_changed(pattern, concurrency, (attempt.task for agent in load.agents.values() for attempt in agent.running.values()))
    limits.names_types = bool(limits.type_policies) or bool(limits.rates.types)
    for lane in lanes:
        lane.limited_type = lane.task_type if limits.is_named(lane.task_type) else ""
    for line in load.pools.take_back(waiting):
        scheduler.hurry(line)


def _hold(policies: Patterns[ConcurrencyLimitPolicy], pattern: str, policy: ConcurrencyLimitPolicy | None) -> None:
    if policy is None:
        policies.delete(pattern)
    else:
        policies.set(pattern, policy)


L = TypeVar("L", bound=Limiter)


def _covered(limiters: dict[str, L], pattern: str) -> Iterator[L]:
    """The limits of the keys that a pattern matches."""
    if not pattern.endswith("*"):
        if pattern in limiters:
            yield limiters[pattern]
        return
    yield from [limiter for key, limiter in limiters.items() if covers(pattern, key)]
