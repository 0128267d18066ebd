"""Reads the journal as it grows, and holds every answer that leaves a coordinator against it.

It knows only what is durable: an answer that shows more breaks G1, an entry of an old epoch breaks G8, and so on.
"""

import hashlib
import json
import math

from muster.v1 import agent_pb2, event_pb2, task_pb2

from coordinator.convert_deliveries import event_id
from coordinator.core.events import (
    Acknowledged,
    Assigned,
    AttemptFailed,
    BecameReady,
    CancelRecorded,
    CheckpointStored,
    ChunkStored,
    Completed,
    Cost,
    Disposition,
    NamespaceEvent,
    PolicyDeleted,
    PolicySet,
    Redriven,
    Reprioritised,
    Returned,
    Submitted,
    WebhookDelivered,
    WebhookGivenUp,
    WebhookRetried,
)
from coordinator.core.evolve import evolve, evolve_beside_tasks
from coordinator.core.model import FailureKind
from coordinator.core.policies import PolicyKind
from coordinator.core.state import State
from coordinator.journal.codec import decode
from tests.sim.passing import PASSING, PassingAuditor
from tests.sim.stories import Story
from tests.support.core_world import durable, durable_beside_tasks
from tests.support.known_limits import KnownLimits
from tests.support.known_pauses import KnownPauses

REFUSED = task_pb2.SUBMIT_VERDICT_REFUSED
DUPLICATE, STALE = agent_pb2.RESULT_VERDICT_DUPLICATE, agent_pb2.RESULT_VERDICT_STALE
LATE_MS = 2000  # how late a step of an age may be noticed: a slot of the timers, and the wait for a tick


class Auditor:
    def __init__(self, *, sim):
        self.sim = sim
        self.state = State()  # as a restart would find it
        self.stories = {}  # by number
        self.by_id = {}  # the latest run
        self.runs = {}  # by id and run
        self.redriven_by = set()  # ids, and of which call
        self.places = 0  # how many tasks have become ready
        self.limits = KnownLimits()
        self.passing = PassingAuditor(sim=sim)
        self.pauses = KnownPauses()
        self.policies_seen = set()  # that ever were in the journal
        self.sequence = 0
        self.epoch = 0
        self.owner = None
        self.history = hashlib.sha256()
        self.webhooks_due = {}  # by task, run and hook: "due", "delivered" or "given up"
        self.answered_well = set()  # ids of webhooks
        self.ids_told = {}

    # --- the journal ---

    def catch_up(self):
        data = self.sim.shard_data
        while self.sequence < data.sequence:
            self.sequence += 1
            blob = data.journal[self.sequence]
            self.history.update(blob)
            commit = decode(blob)
            assert commit.sequence == self.sequence, "the journal has a gap"
            assert commit.epoch >= self.epoch, "G8: a coordinator that lost its shard has written to it"
            self.epoch = commit.epoch
            for name, event in commit.events:
                if name == PASSING:
                    self.passing.read(event, commit.date_ms)
                    continue
                if isinstance(event, PolicySet | PolicyDeleted):
                    self.limits.observe(event)
                    self.pauses.observe(event, commit.date_ms)
                    self.policies_seen.add(event.policy if isinstance(event, PolicySet) else event.name)
                if isinstance(event, NamespaceEvent):
                    self._read_webhook(event)
                    evolve_beside_tasks(self.state, event, commit.date_ms)
                else:
                    self._read(event, commit.date_ms)
                    evolve(self.state, event, commit.date_ms)
                    self._expect_webhooks(event)

    # --- webhooks ---

    def _expect_webhooks(self, event):
        """Whoever must be told of an end, told apart from the code that decides it."""
        story = self.stories[event.number]
        if not story.end or story.is_told:
            return
        story.is_told = True
        task_id, own = story.spec.task_id, story.spec.webhook
        if own is not None and story.end in {state.name for state in own.states}:
            self.webhooks_due[task_id, story.run, None] = "due"
        for name in self.state.policies:
            if name.kind is PolicyKind.WEBHOOK and name.key in (story.spec.task_type, ""):
                self.webhooks_due[task_id, story.run, name.key] = "due"

    def _read_webhook(self, event):
        if isinstance(event, WebhookDelivered | WebhookGivenUp):
            delivery = self.state.deliveries.pending[event.delivery]
            key = delivery.task_id, delivery.run, delivery.hook
            assert self.webhooks_due[key] == "due", f"{event}, and it was {self.webhooks_due[key]}"
            is_delivered = isinstance(event, WebhookDelivered)
            self.webhooks_due[key] = "delivered" if is_delivered else "given up"
            assert not is_delivered or event_id("default", delivery) in self.answered_well, "it was called delivered, and nobody has it"
        elif isinstance(event, WebhookRetried):
            delivery = self.state.deliveries.given_up[event.delivery].delivery
            key = delivery.task_id, delivery.run, delivery.hook
            assert self.webhooks_due[key] == "given up"
            self.webhooks_due[key] = "due"

    def told(self, webhook_id, body):
        """A receiver hears of a task's end: it must be durable by now."""
        self.catch_up()
        said = json.loads(body)
        if said["data"]["namespace"] == PASSING:
            return
        story = self.runs.get((said["data"]["task_id"], said["data"]["run"]))
        assert story is not None, "G1: a webhook told of a task that isn't durable"
        assert story.end == said["data"]["state"], "G1: a webhook told of an end that isn't durable"
        assert said["id"] == webhook_id
        hook = said["data"]["hook"]
        told_of = story.spec.task_id, story.run, hook
        assert self.ids_told.setdefault(webhook_id, told_of) == told_of, "one id, two events"

    def webhooks_are_settled(self):
        """Whether nothing is due any more."""
        self.catch_up()
        return "due" not in self.webhooks_due.values()

    def every_end_was_told_of(self):
        """At the end: each webhook that a task's end made due was delivered or given up."""
        assert self.webhooks_are_settled()
        assert not self.state.deliveries.pending
        self.sim.counts["webhooks due"] += len(self.webhooks_due)

    def claimed(self, epoch, store):
        """Another coordinator owns the shard now, by its way to the store."""
        self.catch_up()
        self.owner = store
        self.epoch = max(self.epoch, epoch)  # whatever is written from here on must be of this epoch or a later one

    def _read(self, event, date_ms):
        if isinstance(event, Submitted):
            assert event.spec.task_id not in self.by_id, f"G6: {event.spec.task_id} was taken twice"
            self._begun(event.number, Story(event.spec, date_ms, date_ms, priority=event.spec.priority), date_ms)
            return
        if isinstance(event, Redriven):
            self._redriven(event, date_ms)
            return
        story = self.stories[event.number]
        assert not story.end, f"G2: {event} after its end"
        match event:
            case BecameReady():
                assert date_ms >= self._due_ms(story), "its delay ended early"
                self.sim.count("delay ended")
                self._ready(story, date_ms)
            case Assigned():
                self._assigned(story, event, date_ms)
            case Reprioritised():
                assert event.priority != story.priority
                story.priority = event.priority
            case AttemptFailed() if not story.holder:
                self._given_up(story, event, date_ms)
            case CancelRecorded():
                story.cancelled = True
                assert event.ended == (not story.holder)
                if event.ended:
                    story.is_pending, story.end = False, "CANCELLED"
            case _:
                assert story.holder, f"{event} about an attempt that nobody holds"
                self._about_attempt(story, event, date_ms)

    def _begun(self, number, story, date_ms):
        task_id = story.spec.task_id
        assert number > max(self.stories, default=0), "numbers grow"
        self.stories[number] = self.by_id[task_id] = self.runs[task_id, story.run] = story
        if self._due_ms(story) <= date_ms:
            self._ready(story, date_ms)

    def _redriven(self, event, date_ms):
        spec = event.ended.spec
        before = self.by_id[spec.task_id]
        assert before.end in ("FAILED", "CANCELLED"), f"G2: redriven, and it is {before.end or 'live'}"
        assert (event.ended.run, event.ended.fence) == (before.run, before.fence), "not the last run, or not all of it"
        assert (spec.task_id, event.request_id) not in self.redriven_by, "a repeated call has redriven it again"
        self.redriven_by.add((spec.task_id, event.request_id))
        story = Story(spec, date_ms, before.accepted_ms, run=before.run + 1, priority=spec.priority, fence=before.fence)
        story.fences, story.accepted, story.stored_checkpoints = before.fences, before.accepted, before.stored_checkpoints
        self._begun(event.number, story, date_ms)

    def operated(self, request, progress):
        """An operator was told what a call has done: it must be durable by now."""
        self.catch_up()
        if hasattr(request, "request_id"):
            done = sum(request_id == request.request_id for _, request_id in self.redriven_by)
            assert progress.changed <= done, "G1: what was called redriven isn't durable"

    def all_have_ended(self):
        """Whether every run has."""
        self.catch_up()
        return all(story.end for story in self.by_id.values())

    def nothing_is_left(self):
        """After a purge of everything, and the sweeper's rounds."""
        held = self.sim.shard_data.namespaces["default"]
        assert not held.records, f"{list(held.records)} are still known"
        assert (len(held.index), held.superseded, held.record_bytes, dict(held.terms)) == (0, 0, 0, {}), "the index isn't empty"

    @staticmethod
    def _due_ms(story):
        """When a task becomes ready."""
        return story.accepted_ms + story.spec.timing.delay_ms

    def _ready(self, story, date_ms):
        assert not story.place, "a place is fixed when a task first becomes ready"
        self.places += 1
        story.place, story.ready_ms, story.is_pending = self.places, date_ms, True

    @staticmethod
    def _until_ms(story):
        """Until when a task must have begun or ended, as things are."""
        timing = story.spec.timing
        deadline_ms = story.created_ms + timing.deadline_ms if timing.deadline_ms else math.inf
        waits_for_agent = timing.queue_timeout_ms and story.place and not story.has_begun
        return min(deadline_ms, story.ready_ms + timing.queue_timeout_ms if waits_for_agent else math.inf)

    def nothing_is_overdue(self, date_ms):
        """To be called while somebody serves: whatever should have become ready, or failed, has."""
        self.catch_up()
        for story in self.stories.values():
            task_id = story.spec.task_id
            assert story.end or date_ms < self._until_ms(story) + LATE_MS, f"{task_id} should have failed"
            assert story.place or story.end or date_ms < self._due_ms(story) + LATE_MS, f"{task_id} should be ready"

    def _given_up(self, story, event, date_ms):
        self.sim.count(f"given up: {event.failure.kind.name}")
        assert date_ms >= self._until_ms(story), "given up before its deadline"
        assert event.disposition is Disposition.FAIL
        assert not story.cancelled, "a cancelled task ends cancelled"
        story.is_pending, story.end = False, "FAILED"

    def _assigned(self, story, event, date_ms):
        agent = self.sim.agents[event.agent]
        assert event.fence > story.fence, "G2: a fence must grow"
        assert event.fence >> 20 >= self.epoch, "a fence of an old epoch"
        assert not story.holder, "G3: two live leases on one task"
        assert story.place, "it is delayed"
        assert date_ms < self._until_ms(story), "assigned after a deadline"
        assert story.spec.task_type in agent.capabilities, "G3: an agent without the capability"
        assert event.agent not in self.pauses.cordoned, f"{event.agent} is cordoned"
        assert not self.pauses.hold_up(story.spec.task_type), f"{story.spec.task_id} began although its type is paused"
        held = sum(other.spec.scheduling.slots for other in self.stories.values() if other.holder == event.agent)
        assert held + story.spec.scheduling.slots <= agent.capacity, f"G3: {event.agent} is over its capacity"
        running = [other.spec for other in self.stories.values() if other.holder]
        assert not self.limits.hold_up(story.spec, running, date_ms), f"{story.spec.task_id} began although a limit is exhausted"
        self.limits.began(story.spec, date_ms)
        mine = (-self._level(story, date_ms), story.place)
        better = [
            other.spec.task_id
            for other in self.stories.values()
            if other.is_pending
            and other.spec.needs == story.spec.needs
            and _keys(other.spec.scheduling) == _keys(story.spec.scheduling)
            and (-self._level(other, date_ms - LATE_MS), other.place) < mine
        ]
        assert not better, f"G4: {better} go before {story.spec.task_id}"
        assert event.attempt == story.attempt + 1, "attempts are numbered without gaps"
        story.holder, story.fence, story.attempt, story.is_pending = event.agent, event.fence, event.attempt, False
        story.fences[event.fence], story.has_begun = story.checkpoint, True

    def _level(self, story, date_ms):
        """The effective priority of a ready task."""
        steps = (date_ms - story.ready_ms) // round(1000 * self.sim.settings.ageing_period_s)
        return min(4, story.priority + max(0, steps))

    def _about_attempt(self, story, event, date_ms):
        match event:
            case Acknowledged():
                pass
            case CheckpointStored():
                story.checkpoint = event.data
                story.stored_checkpoints.add((story.fence, event.sequence))
            case ChunkStored():
                assert event.data
            case Completed():
                self._released(story, accepted=True)
                story.end = "COMPLETED"
            case Returned():
                assert not story.cancelled, "a cancelled task is never tried again"
                self._released(story, accepted=event.cost is Cost.NONE)
                story.attempt -= 1
                story.undelivered += event.cost is Cost.DELIVERY
                assert story.undelivered < self.sim.settings.max_deliveries, "G9: delivered too often"
                story.is_pending = True
            case AttemptFailed():
                self._released(story, accepted=event.reported)
                self._failed(story, event, date_ms)

    def _failed(self, story, event, date_ms):
        policy = story.spec.retry
        story.retries += event.cost is Cost.RETRY
        story.crashes += event.cost is Cost.CRASH
        story.undelivered += event.cost is Cost.DELIVERY
        exhausted = (
            story.retries > policy.max_retries
            or story.crashes > policy.max_crashes
            or story.undelivered >= self.sim.settings.max_deliveries
        )
        match event.disposition:
            case Disposition.RETRY:
                assert not exhausted, "G9: it has used up its tries"
                assert not event.failure.non_retryable, "trying again can't help"
                assert event.ready_at_ms < self._until_ms(story), "it could not begin before its deadline"
                assert not story.cancelled, "a cancelled task is never tried again"
            case Disposition.FAIL:
                assert exhausted or event.failure.non_retryable, "it had tries left"
                if event.failure.kind is FailureKind.DEADLINE and not event.reported and event.cost is Cost.NONE:
                    self.sim.count("stopped at its deadline")
                    assert date_ms >= self._until_ms(story), "stopped before its deadline"
                story.end = "FAILED"
            case Disposition.CANCEL:
                assert story.cancelled
                story.end = "CANCELLED"

    @staticmethod
    def _released(story, *, accepted):
        story.holder = ""
        if accepted:
            story.accepted.add(story.fence)

    def agrees_with(self, shard):
        """A coordinator that has nothing left to write must remember what a restart would find."""
        self.catch_up()
        for name, namespace in shard.namespaces.items():
            state, known = namespace.scheduler.state, self.passing.state if name == PASSING else self.state
            assert durable(state) == durable(known), "memory and journal tell different stories"
            assert durable_beside_tasks(state) == durable_beside_tasks(known), "likewise, beside tasks"

    def policy_answered(self, policy):
        """An operator was told that a policy is set: it must be in the journal, and whatever is assigned later stands behind it."""
        self.catch_up()
        assert policy in self.policies_seen, "G1: a policy was called set, and isn't durable"

    # --- what coordinators say ---

    def released(self, wire, message):
        """A coordinator hands out a message: all that it shows must be durable by now."""
        self.catch_up()
        self.history.update(f"{self.sim.loop.time():.6f} {wire.owner.name}".encode())
        if wire.owner.namespace_name == PASSING:
            self.passing.released(wire, message)
        elif isinstance(message, agent_pb2.ConnectResponse):
            self._to_agent(wire, message)
        else:
            self._to_client(wire, message)

    def _to_agent(self, wire, message):
        for one in message.assign.assignments:
            story = self.by_id.get(one.task.task_id)
            assert story is not None, "G1: an assignment of a task that isn't durable"
            assert one.fence in story.fences, "G1, G8: an assignment that isn't durable"
            assert one.checkpoint == story.fences[one.fence], "G1: another checkpoint than the last one stored"
        for ack in message.result_acks:
            exceptions = {exception.index: exception.verdict for exception in ack.exceptions}
            for index, result in enumerate(wire.batches[ack.batch_id]):
                verdict, story = exceptions.get(index), self.by_id[result.task_id]
                if verdict in (None, DUPLICATE):
                    assert result.fence in story.accepted, "G1, G2: a result was called taken, and isn't durable"
                elif verdict == STALE:
                    assert result.fence < story.fence or not story.holder, "G2: a result that counts was refused"
                    assert result.fence != max(story.accepted, default=0), "G2: it is the very result that was taken"
                    self.sim.count("stale result")
                else:
                    raise AssertionError(f"{result.task_id} is known, and the answer was {ack}")
        for ack in message.checkpoint_acks:
            if ack.verdict == agent_pb2.RESULT_VERDICT_ACCEPTED:
                assert (ack.fence, ack.sequence) in self.by_id[ack.task_id].stored_checkpoints, "G1: a checkpoint that isn't durable"

    def _to_client(self, wire, message):
        for ack in message.submit_acks:
            refused = {exception.index for exception in ack.exceptions if exception.verdict == REFUSED}
            for index, task_id in enumerate(wire.batches[ack.batch_id]):
                assert index in refused or task_id in self.by_id, f"G1: {task_id} was acknowledged, and isn't durable"
        for result in message.results:
            if result.HasField("refusal"):
                continue  # the client judges it
            story = self.by_id[result.task_id]
            ends = [self.runs[result.task_id, run].end for run in range(1, story.run + 1)]
            assert task_state(result.state) in ends, f"G1: an outcome of {result.task_id} was shown, and isn't durable"
            if story.run > 1:
                continue  # it may be of any run that has ended
            record = self.record(result.task_id)
            assert task_state(result.state) == story.end == task_state(record.state)
            assert result.outcome.SerializeToString(deterministic=True) == _again(result.outcome, record.outcome)

    # --- at the end ---

    def record(self, task_id):
        _, blob = self.sim.shard_data.namespaces["default"].records[task_id]
        return event_pb2.TaskRecord.FromString(blob)

    def everything_has_ended(self, task_ids):
        self.catch_up()
        assert sorted(self.by_id) == sorted(task_ids)
        for task_id, story in self.by_id.items():
            record = self.record(task_id)
            assert story.end == task_state(record.state)
            assert record.fence == story.fence
            assert (record.result_fence in story.accepted) or record.result_fence == 0


def _keys(scheduling):
    return scheduling.fairness_key, scheduling.concurrency_key, scheduling.rate_key


def task_state(value):
    return {4: "COMPLETED", 5: "FAILED", 6: "CANCELLED"}.get(value, "")


def _again(like, blob):
    return type(like).FromString(blob).SerializeToString(deterministic=True)
