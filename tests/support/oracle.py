"""What a scheduler may do, said a second time and naively: it looks at everything, knows no queue, no heap and no timer.

Fed with what agents did and with the events that were decided, it raises AssertionError where a guarantee doesn't hold (G2, G3, G4, G9).
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from coordinator.core.events import (
    Acknowledged,
    AnyEvent,
    Assigned,
    AttemptFailed,
    BecameReady,
    CancelRecorded,
    CheckpointStored,
    Completed,
    Cost,
    Disposition,
    PolicyDeleted,
    PolicySet,
    Redriven,
    Reprioritised,
    Returned,
    Submitted,
)
from coordinator.core.model import INFINITY, Capability, Failure, FailureKind, Needs, Now, Settings, Spec
from coordinator.core.policies import ConcurrencyLimitPolicy, WhenFull
from tests.support.known_breakers import KnownBreakers, Said
from tests.support.known_deadlines import before_deadline, charge, deadline_ends, deadline_ms, overdue_at_ms
from tests.support.known_limits import KnownLimits
from tests.support.known_pauses import KnownPauses
from tests.support.known_tasks import Held, KnownAgent, Story

RATE_SLOT_MS = 5  # how late a rate key may go on
DATE_SLOT_MS = 20  # how much later than its date a backoff may end
AGE_SLOT_MS = 250  # how coarsely ages are looked at, where the period is at least 16 of it
SLOT_S = 0.25  # how much later than its deadline an attempt may be given up


@dataclass(slots=True)
class Oracle:
    """Watches one namespace's scheduler.

    Args:
        settings: the scheduler's.
    """

    settings: Settings
    agents: dict[str, KnownAgent] = field(default_factory=dict)
    held: dict[int, Held] = field(default_factory=dict)
    stories: dict[int, Story] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    places: int = 0  # how many tasks have become ready
    limits: KnownLimits = field(default_factory=KnownLimits)
    pauses: KnownPauses = field(default_factory=KnownPauses)
    kept: dict[str, int] = field(default_factory=dict)  # agents that are kept for tasks of so many slots, as the scheduler says
    jitter: float = 0.0  # what it shortens a breaker's opening by: a share
    offered: dict[str, Mapping[str, Capability]] = field(default_factory=dict)  # what agents offered until the Hello that is under way
    breakers: KnownBreakers = field(init=False)

    def __post_init__(self) -> None:
        self.breakers = KnownBreakers(
            self.settings.breakers,
            self.jitter,
            offers=lambda: {
                name: agent.capabilities
                for name, agent in self.agents.items()
                if agent.connected and not agent.draining and name not in self.pauses.cordoned
            },
            types_of=lambda name: self.offered.get(name, self.agents[name].capabilities),
        )

    # --- what agents do ---

    def hello(self, name: str, capabilities: Mapping[str, Capability], capacity: int, labels: Mapping[str, str] | None = None) -> None:
        """An agent opened a session."""
        if name in self.agents:
            self.offered[name] = self.agents[name].capabilities
        self.agents[name] = KnownAgent(capabilities, labels or {}, capacity, connected=True)

    def lost(self, name: str, now: Now) -> None:
        """An agent's stream broke."""
        agent = self.agents[name]
        agent.connected = False
        agent.grace_until_s = now.mono_s + self.settings.session_grace_s

    def heard(self, number: int, now: Now) -> None:
        """An agent showed that it holds an attempt."""
        held = self.held[number]
        held.lease_until_s = now.mono_s + self.settings.lease_s
        held.ack_until_s = INFINITY

    def takeover(self, now: Now) -> None:
        """The coordinator died, and the next one begins: no sessions, new deadlines."""
        until_s = now.mono_s + self.settings.lease_s
        for agent in self.agents.values():
            agent.connected = False
            agent.grace_until_s = until_s
            agent.capabilities = {}
        self.breakers.takeover()
        for held in self.held.values():
            held.lease_until_s = until_s
            held.ack_until_s = INFINITY if held.journalled else until_s

    def outage_over(self, now: Now) -> None:
        """Every lease and every grace has one more period."""
        until_s = now.mono_s + self.settings.lease_s
        for agent in self.agents.values():
            if not agent.connected:
                agent.grace_until_s = max(agent.grace_until_s, until_s)
        for held in self.held.values():
            held.lease_until_s = max(held.lease_until_s, until_s)
            held.ack_until_s = max(held.ack_until_s, until_s)

    # --- what was decided ---

    def observe(self, events: Sequence[AnyEvent], now: Now, delayed: Container[int], breakers: Said, *, pausing: bool = False) -> None:
        """Judges events in their order, all of one command. `delayed` has the numbers of tasks whose backoff the scheduler hasn't ended
        yet, `breakers` those that it has, and `pausing` says that a pause isn't through."""
        assert not (pausing and any(isinstance(event, Assigned) for event in events)), "nothing begins before a pause is through"
        here = {held.agent for held in self.held.values()} | {name for name, agent in self.agents.items() if agent.connected}
        self.breakers.time_passes(now.mono_s, breakers, here)
        for event in events:
            self.breakers.observe(event)
            self.limits.observe(event)
            self.pauses.observe(event, now.date_ms)
            match event:
                case PolicySet() | PolicyDeleted():
                    pass
                case Submitted():
                    assert event.spec.task_id not in self.numbers, f"G6: {event.spec.task_id} was taken twice"
                    self.numbers[event.spec.task_id] = event.number
                    self.limits.submitted(event.spec, self._live(event.spec.scheduling.concurrency_key))
                    self._submitted(event, now)
                case Redriven():
                    self._redriven(event, now)
                case Reprioritised():
                    self._reprioritised(event, now)
                case BecameReady():
                    self._became_ready(event.number, now)
                case Assigned():
                    self._assigned(event, now, delayed)
                case Acknowledged():
                    held = self.held[event.number]
                    assert held.ack_until_s == INFINITY, "nobody has acknowledged it"
                    held.journalled = True
                case CheckpointStored():
                    self._tell(event.number, self.held[event.number], now.date_ms, "CHECKPOINTS_STORED", "RUNNING")
                case Completed():
                    held, task_type = self._released(event.number), self.stories[event.number].spec.task_type
                    self.breakers.succeeded(held.agent, task_type, event.number, now.mono_s)
                    self._ended(event.number, "COMPLETED")
                case AttemptFailed():
                    self._failed(event, now)
                case Returned():
                    self._returned(event, now)
                case CancelRecorded():
                    self._cancelled(event, now)
                case _:
                    assert event.number in self.held, f"{event} about an attempt that nobody holds"
        self.offered.clear()
        self.breakers.agree(breakers)
        assert self.limits.must_cancel is None, "a key that is full cancels its oldest task"
        for number in self._ready(now, delayed):
            if pausing or self._is_held_up(number, now, late_ms=RATE_SLOT_MS):
                continue
            assert not self._takers(number), f"{self.stories[number].spec.task_id} waits although {self._takers(number)} could take it"

    def nothing_is_overdue(self, now: Now) -> None:
        """To be called after a tick: whatever should have been given up was."""
        self.pauses.nothing_is_overdue(now.date_ms)
        self.breakers.nothing_is_overdue(now.mono_s)
        for story in self.stories.values():
            assert story.end or now.date_ms < overdue_at_ms(story)[0] + DATE_SLOT_MS, f"{story.spec.task_id} should have failed"
            assert story.place or story.end or now.date_ms < story.ready_at_ms + DATE_SLOT_MS, f"{story.spec.task_id} should be ready"
        for number, held in self.held.items():
            agent = self.agents[held.agent]
            due_s = min(held.lease_until_s, held.ack_until_s, INFINITY if agent.connected else agent.grace_until_s)
            assert now.mono_s < due_s + SLOT_S, f"G9: {self.stories[number].spec.task_id} is still held by {held.agent}"

    def may_end(self, agent: str, task_id: str, fence: int) -> bool:
        """G2: whether an agent's result for this fence must be taken."""
        held = self.held.get(self.numbers.get(task_id, 0))
        return held is not None and (held.agent, held.fence) == (agent, fence)

    def _submitted(self, event: Submitted, now: Now) -> None:
        timing = event.spec.timing
        ready_at_ms = max(now.date_ms + timing.delay_ms, timing.not_before_ms)
        story = Story(event.spec, now.date_ms, now.date_ms, ready_at_ms=ready_at_ms, priority=event.spec.priority)
        self.stories[event.number] = story
        if ready_at_ms <= now.date_ms:
            self._takes_its_place(event.number, now)

    def _redriven(self, event: Redriven, now: Now) -> None:
        """A run begins, with nothing counted; what was waited for before isn't again."""
        spec, timing = event.ended.spec, event.ended.spec.timing
        before = self.stories[self.numbers[spec.task_id]]
        assert before.end in ("FAILED", "CANCELLED"), f"{spec.task_id} is redriven, and it is {before.end or 'live'}"
        assert event.number > max(self.stories), "it is the newest of all"
        assert (spec.request, event.ended.run, event.ended.fence) == (before.spec.request, before.run, before.fence)
        self.limits.submitted(spec, self._live(spec.scheduling.concurrency_key))
        self.numbers[spec.task_id] = event.number
        story = self.stories[event.number] = Story(spec, now.date_ms, before.accepted_ms, before.run + 1, spec.priority)
        story.fence, story.accepted_fence, story.told = before.fence, before.accepted_fence, [*before.told]
        story.ready_at_ms = max(now.date_ms, before.accepted_ms + timing.delay_ms, timing.not_before_ms)
        self._tell(event.number, None, now.date_ms, "REDRIVEN", "PENDING", event.reason)
        if story.ready_at_ms <= now.date_ms:
            self._takes_its_place(event.number, now)

    def _reprioritised(self, event: Reprioritised, now: Now) -> None:
        story, held = self.stories[event.number], self.held.get(event.number)
        assert not story.end, "it has ended"
        assert event.priority != story.priority, "it has this priority"
        after = "RUNNING" if held else "RETRYING" if story.is_retrying else "PENDING"
        self._tell(event.number, held, now.date_ms, "REPRIORITISED", after, event.reason)
        story.priority = event.priority

    def _became_ready(self, number: int, now: Now) -> None:
        story = self.stories[number]
        assert not story.place, "a place is fixed when a task first becomes ready"
        assert now.date_ms >= story.ready_at_ms, "its delay ended early"
        assert not story.end, "it has ended"
        self._takes_its_place(number, now)

    def _takes_its_place(self, number: int, now: Now) -> None:
        self.places += 1
        self.stories[number].place, self.stories[number].ready_since_ms = self.places, now.date_ms

    def _assigned(self, event: Assigned, now: Now, delayed: Container[int]) -> None:
        story, agent = self.stories[event.number], self.agents[event.agent]
        assert event.fence > story.fence, "G2: a fence must grow"
        assert event.number not in self.held, "G3: two live leases on one task"
        assert not story.end, "G2: it has ended"
        assert story.place, "it is delayed"
        assert now.date_ms < overdue_at_ms(story)[0], "it should have failed instead"
        assert agent.connected, f"{event.agent} has no session"
        assert not agent.draining, f"{event.agent} is draining"
        assert event.agent not in self.pauses.cordoned, f"{event.agent} is cordoned"
        assert not self.pauses.hold_up(story.spec.task_type), f"{story.spec.task_type} is paused"
        assert story.spec.task_type in agent.capabilities, "G3: an agent without the capability"
        assert self._busy(event.agent) + story.spec.scheduling.slots <= min(agent.capacity, agent.limit), "G3: over the capacity"
        assert event.attempt == story.assigned - story.given_back - story.undelivered + 1, "a returned attempt keeps its number"
        assert not self._is_held_up(event.number, now), "its limits are exhausted"
        able = [number for number in self._ready(now, delayed) if self._takers(number)]
        self._in_order(
            event.number, [one for one in able if one == event.number or not self._is_held_up(one, now, late_ms=RATE_SLOT_MS)], now
        )
        self.limits.began(story.spec, now.date_ms)
        takers = self._takers(event.number)
        assert event.agent in takers, f"{event.agent} can't take it"
        if not story.spec.scheduling.sticky_key:
            assert self._load_step(event.agent) == min(map(self._load_step, takers)), "another agent has less to do"
        self.breakers.began(event.agent, story.spec.task_type, event.number)
        story.fence = event.fence
        story.assigned += 1
        story.is_retrying = False
        settings, mono_s = self.settings, now.mono_s
        held = Held(event.agent, event.fence, mono_s + settings.lease_s, mono_s + settings.ack_timeout_s)
        held.attempt, held.since_ms = event.attempt, now.date_ms
        self.held[event.number] = held

    def _failed(self, event: AttemptFailed, now: Now) -> None:
        story = self.stories[event.number]
        if event.number not in self.held:
            self._given_up(event, now)
            return
        held = self._released(event.number)
        if story.cancelled:
            self.breakers.told_nothing(held.agent, story.spec.task_type, event.number)
        else:
            self.breakers.failed(held.agent, story.spec.task_type, event.number, before_deadline(event), now.mono_s)
        exhausted = charge(story, event.cost, self.settings.max_deliveries)
        if event.failure.kind is FailureKind.DEADLINE and event.disposition is Disposition.FAIL:
            deadline_ends(story, event, now)
        self._not_early(event.failure.kind, held, now)
        if event.reported:
            story.accepted_fence = held.fence
        after = {Disposition.RETRY: "RETRYING", Disposition.FAIL: "FAILED", Disposition.CANCEL: "CANCELLED"}[event.disposition]
        cost = "NONE" if event.cost is Cost.RETRY and after != "RETRYING" else event.cost.name
        wait_ms = max(event.ready_at_ms - now.date_ms, 0) if after == "RETRYING" else 0
        self._tell(event.number, held, now.date_ms, "ATTEMPT_FAILED", after, event.failure.message, cost, wait_ms)
        match event.disposition:
            case Disposition.RETRY:
                assert not exhausted, "it has used up its tries"
                assert not event.failure.non_retryable, "trying again can't help"
                assert not story.cancelled, "a cancelled task is never tried again"
                assert event.ready_at_ms < deadline_ms(story), "it could not begin before its deadline"
                story.ready_at_ms, story.is_retrying = event.ready_at_ms, True
            case Disposition.FAIL:
                assert exhausted or event.failure.non_retryable, "it has tries left"
                assert not story.cancelled, "a cancelled task ends cancelled"
                self._ended(event.number, "FAILED")
            case Disposition.CANCEL:
                assert story.cancelled, "nobody asked for it"
                self._ended(event.number, "CANCELLED")

    def _given_up(self, event: AttemptFailed, now: Now) -> None:
        """A task failed while it waited."""
        story = self.stories[event.number]
        due_ms, kind = overdue_at_ms(story)
        assert (now.date_ms >= due_ms, event.failure.kind.name, event.disposition) == (True, kind, Disposition.FAIL), "it had time left"
        assert not story.cancelled, "a cancelled task ends cancelled"
        self._tell(event.number, None, now.date_ms, "GIVEN_UP", "FAILED", event.failure.message)
        self._ended(event.number, "FAILED")

    def _returned(self, event: Returned, now: Now) -> None:
        story, held = self.stories[event.number], self._released(event.number)
        assert not story.cancelled, "a cancelled task is never tried again"
        if event.cost is Cost.NONE:
            story.given_back += 1
            story.accepted_fence = held.fence
            self.breakers.told_nothing(held.agent, story.spec.task_type, event.number)
        else:
            story.undelivered += 1
            assert story.undelivered < self.settings.max_deliveries, "G9: delivered too often"
            failure = Failure(FailureKind.UNDELIVERED, event.reason)
            self.breakers.failed(held.agent, story.spec.task_type, event.number, failure, now.mono_s)
            self._not_early(FailureKind.UNDELIVERED, held, now)
        story.ready_at_ms = now.date_ms
        self._tell(event.number, held, now.date_ms, "ATTEMPT_RETURNED", "PENDING", event.reason, event.cost.name)

    def _cancelled(self, event: CancelRecorded, now: Now) -> None:
        if self.limits.must_cancel is not None:
            assert event.number == self.limits.must_cancel, "another task than the oldest of the key is cancelled"
            self.limits.must_cancel = None
        held = self.held.get(event.number)
        self._tell(event.number, held, now.date_ms, "CANCEL_REQUESTED", "RUNNING" if held else "CANCELLED", event.reason)
        assert event.ended == (event.number not in self.held)
        self.stories[event.number].cancelled = True
        if event.ended:
            self._ended(event.number, "CANCELLED")

    def _tell(
        self, number: int, held: Held | None, date_ms: int, kind: str, after: str, why: str = "", cost: str = "NONE", wait_ms: int = 0
    ) -> None:
        whose = (held.agent, held.attempt, held.fence, held.since_ms) if held else ("", 0, 0, 0)
        told = self.stories[number].told
        if kind == "CHECKPOINTS_STORED" and told and told[-1][1:3] == (kind, whose):
            told[-1] = (date_ms, *told[-1][1:-1], cast("int", told[-1][-1]) + 1)
        else:
            told.append((date_ms, kind, whose, after, why, cost, wait_ms, int(kind == "CHECKPOINTS_STORED")))

    def _not_early(self, kind: FailureKind, held: Held, now: Now) -> None:
        """What the coordinator gives up must be due, or its agent came back without it: then it is connected as of this very command."""
        agent = self.agents[held.agent]
        gone = not agent.connected and now.mono_s >= agent.grace_until_s
        if kind is FailureKind.LEASE_LOST:
            assert gone or now.mono_s >= held.lease_until_s or agent.limit == 0, "given up before its lease was over"
            assert held.ack_until_s == INFINITY, "G9: a crash is only what had arrived"
        elif kind is FailureKind.UNDELIVERED:
            assert held.ack_until_s < INFINITY, "G9: it had arrived"
            assert gone or now.mono_s >= held.ack_until_s or agent.limit == 0, "given up before it could be acknowledged"

    def _released(self, number: int) -> Held:
        assert number in self.held, f"{self.stories[number].spec.task_id} isn't held by anybody"
        return self.held.pop(number)

    def _ended(self, number: int, end: str) -> None:
        story = self.stories[number]
        assert not story.end, f"G2: {story.spec.task_id} ended {story.end}, and now {end}"
        story.end = end

    # --- naive answers ---

    def _ready(self, now: Now, delayed: Container[int]) -> list[int]:
        """Tasks that wait for an agent alone. In the slot after its date, a backoff may have ended or not."""
        waiting = (number for number, story in self.stories.items() if not story.end and number not in self.held)
        return [number for number in waiting if not self._is_delayed(number, now, delayed)]

    def _is_delayed(self, number: int, now: Now, delayed: Container[int]) -> bool:
        ready_at_ms = self.stories[number].ready_at_ms
        if now.date_ms < ready_at_ms:
            assert number in delayed, "its backoff ended early"
            return True
        if not self.stories[number].place:
            return True
        if now.date_ms >= ready_at_ms + DATE_SLOT_MS:
            assert number not in delayed, "its backoff should have ended"
        return number in delayed

    def _in_order(self, number: int, ready: Sequence[int], now: Now) -> None:
        """G4: nothing that could go instead is more urgent, nor older and of the same key. What keys share is judged elsewhere."""
        level, key = self.level(number, now), self.stories[number].spec.scheduling.fairness_key
        assert number in ready
        for other in ready:
            other_level = self.level(other, now)
            assert other_level <= level, "G4: a more urgent task goes first"
            same_key = self.stories[other].spec.scheduling.fairness_key == key
            assert other_level < level or self.stories[other].place >= self.stories[number].place or not same_key, (
                "G4: an older task of the key goes first"
            )

    def level(self, number: int, now: Now) -> int:
        """The effective priority of a ready task, by ages in steps of a quarter second."""
        story, period_ms = self.stories[number], round(1000 * self.settings.ageing_period_s)
        looked_ms = now.date_ms // AGE_SLOT_MS * AGE_SLOT_MS - 1
        steps = max(0, (looked_ms - story.ready_since_ms) // period_ms) if period_ms else 0
        return min(4, story.priority + steps)

    def refuses(self, spec: Spec) -> bool:
        """Whether a new task must be refused because its concurrency key is full."""
        policy = self.limits.of("concurrency_key", spec.scheduling.concurrency_key)
        live = self._live(spec.scheduling.concurrency_key)
        return isinstance(policy, ConcurrencyLimitPolicy) and policy.when_full is WhenFull.REJECT and len(live) >= policy.max_running

    def _live(self, key: str) -> list[int]:
        """Tasks of a concurrency key that haven't ended, and that nobody has asked to cancel."""
        return [
            number
            for number, story in self.stories.items()
            if not (story.end or story.cancelled) and story.spec.scheduling.concurrency_key == key
        ]

    def _is_held_up(self, number: int, now: Now, *, late_ms: int = 0) -> bool:
        """Whether a limit keeps a ready task from beginning; one that notices so late that it has room may do so, too."""
        return self.limits.hold_up(self.stories[number].spec, [self.stories[one].spec for one in self.held], now.date_ms - late_ms)

    def _takers(self, number: int) -> list[str]:
        spec = self.stories[number].spec
        if self.pauses.hold_up(spec.task_type):
            return []
        needs = Needs(spec.needs) if isinstance(spec.needs, str) else spec.needs
        return [
            name
            for name, agent in self.agents.items()
            if agent.connected
            and not agent.draining
            and name not in self.pauses.cordoned
            and needs.task_type in agent.capabilities
            and agent.capabilities[needs.task_type].version >= needs.min_version
            and all(selector.matches(agent.labels) for selector in needs.selectors)
            and self._busy(name) + needs.slots <= min(agent.capacity, agent.limit)
            and self._below_limit(name, needs.task_type)
            and self.breakers.let_through(name, needs.task_type)
            and self.kept.get(name, 0) <= needs.slots
        ]

    def _below_limit(self, name: str, task_type: str) -> bool:
        limit = self.agents[name].capabilities[task_type].max_concurrent
        running = [number for number, held in self.held.items() if held.agent == name]
        return not limit or sum(self.stories[number].spec.task_type == task_type for number in running) < limit

    def _busy(self, name: str) -> int:
        return sum(self.stories[number].spec.scheduling.slots for number, held in self.held.items() if held.agent == name)

    def _load_step(self, name: str) -> int:
        return self._busy(name) * 16 // self.agents[name].capacity
