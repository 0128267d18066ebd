"""Webhooks in the durable state: what a task's end makes due, until it was delivered or given up, over restarts and snapshots."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from muster.v1 import common_pb2

from coordinator import convert_webhooks
from coordinator.core import webhooks
from coordinator.core.effects import WebhookDue
from coordinator.core.events import WebhookGivenUp
from coordinator.core.model import ALL_ENDS, Failure, FailureKind, Settings, TaskState
from coordinator.core.policies import PolicyKind, PolicyName, WebhookPolicy
from coordinator.core.reports import Failed
from coordinator.core.submits import Refused, submit
from coordinator.core.webhooks import EVERY_TYPE, MAX_GIVEN_UP
from coordinator.errors import InvalidRequest
from tests.support.core_world import FAILED_FOR_GOOD, SUCCESS, CoreWorld, durable_beside_tasks, replay, spec_of

URL = "https://own.example/hook"
SECRET = "whsec_" + "a" * 32


def policy(task_type="work", url="https://type.example/", states=ALL_ENDS, secrets=()):
    return WebhookPolicy(task_type, url, states, secrets)


def due(world):
    return [effect.delivery for effect in world.effects if isinstance(effect, WebhookDue)]


def hooks(world):
    return [(one.task_id, one.hook) for one in world.scheduler.state.deliveries.pending.values()]


@pytest.fixture
def world():
    world = CoreWorld()
    world.join("ann", ["work", "other"])
    return world


def test_a_task_without_hooks_makes_nothing_due(world):
    world.submit("plain")
    world.finish("ann", "plain")
    assert world.scheduler.state.deliveries.next_number == 1


def test_its_own_its_types_and_every_types_are_told(world):
    for task_type in ("work", EVERY_TYPE, "other"):
        world.set_policy(policy(task_type))
    world.submit("a", webhook=URL)
    assert hooks(world) == []
    world.finish("ann", "a")
    assert hooks(world) == [("a", None), ("a", "work"), ("a", EVERY_TYPE)]
    assert due(world) == list(world.scheduler.state.deliveries.pending.values())
    assert [one.url for one in due(world)] == [URL, "", ""]


def test_only_the_ends_that_were_asked_for(world):
    failed = common_pb2.Webhook(url=URL, states=[common_pb2.TASK_STATE_FAILED])
    world.set_policy(policy(states=frozenset({TaskState.CANCELLED})))
    for task_id in ("completes", "fails", "is-cancelled"):
        world.submit(task_id, webhook=failed)
    world.finish("ann", "completes")
    world.finish("ann", "fails", FAILED_FOR_GOOD)
    world.cancel("is-cancelled", "enough")
    world.finish("ann", "is-cancelled")  # it had completed before it could be stopped
    world.submit("waits", task_type="nobody-can", webhook=failed)
    world.cancel("waits", "not needed")
    assert hooks(world) == [("fails", None)]
    world.submit("stopped", webhook=failed)
    world.cancel("stopped", "enough")
    world.finish("ann", "stopped", FAILED_FOR_GOOD)
    assert hooks(world) == [("fails", None), ("stopped", "work")]


def test_an_attempt_that_will_be_repeated_is_no_end(world):
    world.submit("a", webhook=URL)
    world.finish("ann", "a", Failed(Failure(FailureKind.APPLICATION, "not yet")))
    assert hooks(world) == []


def test_what_is_told(world):
    world.submit("a", webhook=URL)
    failure = Failure(FailureKind.APPLICATION, "x" * 1000, "ValueError", "a long trace", non_retryable=True)
    world.advance(1)
    world.finish("ann", "a", Failed(failure))
    (one,) = due(world)
    task = world.task("a")
    assert (one.task_id, one.task_type, one.state, one.run, one.attempt, one.agent) == ("a", "work", TaskState.FAILED, 1, 1, "ann")
    assert (one.created_ms, one.started_ms, one.ended_ms) == (task.created_ms, task.started_ms, task.ended_ms)
    assert one.due_ms == one.ended_ms
    assert len(one.failure.message) == 256
    assert one.failure.stack_trace == ""
    world.submit("waits", task_type="nobody-can", webhook=URL)
    world.cancel("waits", "not needed")
    assert due(world)[1].reason == "not needed"
    assert due(world)[1].failure is None


def test_a_policy_without_a_url_only_signs(world):
    world.set_policy(policy(url="", secrets=(SECRET,)))
    world.submit("a")
    world.finish("ann", "a")
    assert hooks(world) == []


def test_what_is_pending_survives_what_a_coordinator_does_not(world):
    world.set_policy(policy())
    for task_id in ("a", "b", "c", "d"):
        world.submit(task_id)
        world.finish("ann", task_id)
    world.settle(1)
    world.settle(2, "it was gone")
    world.settle(3, "nobody was there")
    assert world.retry(3)
    assert not world.retry(3)
    assert not world.retry(77)
    before = durable_beside_tasks(world.scheduler.state)
    assert [one.number for one in before["pending"]] == [3, 4]
    world.crash()
    assert durable_beside_tasks(world.scheduler.state) == before
    assert due(world)[-1].number == 3  # nothing is told twice by the core: whoever takes over looks at what is pending


def test_a_snapshot_has_them_as_they_were_when_it_began(world):
    world.set_policy(policy())
    for task_id in ("a", "b", "c", "d", "e"):
        world.submit(task_id)
        world.finish("ann", task_id)
    for number in (1, 2):
        world.settle(number, "nobody was there")
    for number in (3, 4, 5):
        world.settle(number)
    world.retry(1)
    world.begin_snapshot()
    world.settle(1)  # while it is being taken
    world.retry(2)
    world.submit("f")
    world.finish("ann", "f")
    while world.go_on_with_snapshot(1):
        pass
    before = durable_beside_tasks(world.scheduler.state)
    assert [one.number for one in before["pending"]] == [2, 6]
    world.crash()
    assert durable_beside_tasks(world.scheduler.state) == before
    world.settle(2)
    world.settle(6)
    world.begin_snapshot()
    while world.go_on_with_snapshot(1):
        pass
    world.crash()
    assert world.scheduler.state.deliveries.next_number == 7  # none is given out twice


def test_a_retried_one_is_due_anew(world):
    world.submit("a", webhook=URL)
    world.finish("ann", "a")
    world.settle(1, "nobody was there")
    world.advance(3600)
    world.retry(1)
    again = due(world)[-1]
    assert (again.due_ms, again.ended_ms) == (world.date_ms, world.date_ms - 3_600_000)


def test_the_latest_that_were_given_up_are_kept(world, monkeypatch):
    monkeypatch.setattr(webhooks, "MAX_GIVEN_UP", 3)
    for number in range(1, 6):
        world.submit(str(number), webhook=URL)
        world.finish("ann", str(number))
        world.settle(number, "nobody was there")
    assert list(world.scheduler.state.deliveries.given_up) == [3, 4, 5]
    assert MAX_GIVEN_UP == 1000  # part of the format


def test_submits_with_a_webhook_are_refused_when_too_many_are_pending():
    world = CoreWorld(settings=Settings(max_pending_webhooks=2))
    world.join("ann")
    for task_id in ("a", "b", "c"):
        world.submit(task_id, webhook=URL)
    for task_id in ("a", "b", "c"):  # what was accepted is told of, even so
        world.finish("ann", task_id)
    assert len(hooks(world)) == 3
    assert submit(world.scheduler, spec_of("d", webhook=URL), world.now) is Refused.WEBHOOKS_FULL
    world.submit("e")
    world.settle(1)
    world.settle(2)
    world.submit("f", webhook=URL)


def test_a_policy_has_its_share_and_crowds_out_none_but_its_own():
    world = CoreWorld(settings=Settings(max_pending_webhooks=4))
    world.join("ann", ["work", "other"])
    for task_type in ("work", "other"):
        world.set_policy(policy(task_type))
    for number in range(4):
        world.submit(str(number))
        world.finish("ann", str(number))
    world.submit("own", webhook=URL)
    world.finish("ann", "own")
    world.submit("another", task_type="other")
    world.finish("ann", "another")
    assert hooks(world) == [("0", "work"), ("1", "work"), ("own", None), ("another", "other")]
    given_up = world.scheduler.state.deliveries.given_up
    assert {one.delivery.task_id for one in given_up.values()} == {"2", "3", "own"}
    assert "2 webhooks waited for the same policy" in given_up[3].reason
    assert [event.delivery for event in world.events if isinstance(event, WebhookGivenUp)] == [3, 4, 6]
    assert durable_beside_tasks(replay(world.journal)) == durable_beside_tasks(world.scheduler.state)
    assert world.scheduler.totals.webhooks_given_up == 3


def test_a_policy_as_the_journal_has_it():
    for one in (policy(), policy(EVERY_TYPE, "", frozenset({TaskState.FAILED}), (SECRET, SECRET))):
        message = convert_webhooks.policy_out(one)
        assert convert_webhooks.policy_stored(message) == one
        assert message.secret_count == len(one.secrets)
        convert_webhooks.policy_shown(message)
        assert not message.secrets
        assert SECRET not in repr(one)


@pytest.mark.parametrize("states", [[3], [0], [99]])
def test_states_that_are_no_ends(states):
    with pytest.raises(InvalidRequest, match=r"webhook\.states"):
        spec_of("a", webhook=common_pb2.Webhook(url=URL, states=states))


class WebhookMachine(RuleBasedStateMachine):
    """Every delivery that is due stays so until it was delivered or given up, whatever happens in between."""

    def __init__(self):
        super().__init__()
        self.world = CoreWorld()
        self.names = 0
        self.live = {}  # by id: type, and whether it has a webhook of its own
        self.policies = set()
        self.pending = Counter()  # (task id, hook)
        self.given_up = Counter()
        self.join()

    def join(self):
        self.world.join("ann", ["a", "b"], capacity=50)

    @rule(task_type=st.sampled_from("ab"), own=st.booleans())
    def submit(self, task_type, own):
        self.names += 1
        name = f"t{self.names}"
        if len(self.live) < 20:
            self.world.submit(name, task_type=task_type, webhook=URL if own else None)
            self.live[name] = task_type, own

    @precondition(lambda self: self.live)
    @rule(pick=st.integers(0, 1000), result=st.sampled_from([SUCCESS, FAILED_FOR_GOOD]))
    def end(self, pick, result):
        name = list(self.live)[pick % len(self.live)]
        task_type, own = self.live.pop(name)
        self.world.finish("ann", name, result)
        told = [None] * own + [hook for hook in (task_type, EVERY_TYPE) if hook in self.policies]
        self.pending.update((name, hook) for hook in told)

    @rule(task_type=st.sampled_from(["a", "b", EVERY_TYPE]), there=st.booleans())
    def policy(self, task_type, there):
        if there:
            self.policies.add(task_type)
            self.world.set_policy(policy(task_type))
        else:
            assert self.world.delete_policy(PolicyName(PolicyKind.WEBHOOK, task_type)) == (task_type in self.policies)
            self.policies.discard(task_type)

    @precondition(lambda self: self.pending)
    @rule(pick=st.integers(0, 1000), reason=st.sampled_from(["", "nobody was there"]))
    def settle(self, pick, reason):
        pending = self.world.scheduler.state.deliveries.pending
        one = list(pending.values())[pick % len(pending)]
        self.world.settle(one.number, reason)
        self.pending -= Counter([(one.task_id, one.hook)])
        self.given_up.update([(one.task_id, one.hook)] if reason else [])

    @precondition(lambda self: self.given_up)
    @rule(pick=st.integers(0, 1000))
    def retry(self, pick):
        given_up = self.world.scheduler.state.deliveries.given_up
        one = list(given_up.values())[pick % len(given_up)].delivery
        assert self.world.retry(one.number)
        self.given_up -= Counter([(one.task_id, one.hook)])
        self.pending.update([(one.task_id, one.hook)])

    @rule()
    def coordinator_dies(self):
        lived = durable_beside_tasks(self.world.scheduler.state)
        assert durable_beside_tasks(replay(self.world.journal)) == lived, "the journal tells another story"
        in_flight = {name: self.world.task(name).fence for name in self.live}
        self.world.crash()
        assert durable_beside_tasks(self.world.scheduler.state) == lived, "the snapshot and the journal behind it tell another story"
        self.world.connect("ann", ["a", "b"], capacity=50, in_flight=in_flight)
        self.world.ready("ann", 50)

    @rule()
    def snapshot_begins(self):
        self.world.begin_snapshot()

    @rule(numbers=st.integers(1, 4), all_of_it=st.booleans())
    def snapshot_goes_on(self, numbers, all_of_it):
        while self.world.go_on_with_snapshot(numbers) and all_of_it:
            pass

    def teardown(self):
        deliveries = self.world.scheduler.state.deliveries
        assert Counter((one.task_id, one.hook) for one in deliveries.pending.values()) == self.pending
        assert Counter((one.delivery.task_id, one.delivery.hook) for one in deliveries.given_up.values()) == self.given_up


TestWebhooks = WebhookMachine.TestCase
TestWebhooks.settings = settings(max_examples=200, stateful_step_count=50)
