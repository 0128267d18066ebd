"""Policies: they hold at once, over snapshots and restarts, until they are deleted."""

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from muster.v1 import common_pb2, event_pb2, policy_pb2

from coordinator import convert_policies
from coordinator.core.model import Settings
from coordinator.core.policies import CordonPolicy, PausePolicy, PolicyKind, PolicyName, RetryDefaultsPolicy, StandingPolicy, WeightPolicy
from coordinator.errors import InvalidRequest
from coordinator.journal.codec import FORMAT_VERSION, JournalTooNew, decode
from tests.support.core_world import FIRST_DATE_MS, CoreWorld

A = PolicyName(PolicyKind.WEIGHT, "a")


def served(world, count):
    """Which keys the next tasks have that one agent with one slot gets, out of enough of each."""
    for key in "ab":
        for number in range(count):
            world.submit(f"{key}-{number}-{world.epoch}", fairness_key=key)
    world.join("ann", capacity=1)
    keys = ""
    for _ in range(count):
        [task_id] = world.running("ann")
        keys += task_id[0]
        world.finish("ann", task_id)
    return keys


def test_a_weight_holds_at_once():
    world = CoreWorld()
    world.set_policy(WeightPolicy("a", 3.0))
    assert served(world, 40).count("a") == pytest.approx(30, abs=1)


@pytest.mark.parametrize("in_snapshot", [True, False])
def test_a_weight_holds_over_a_restart(in_snapshot):
    world = CoreWorld()
    world.set_policy(WeightPolicy("a", 1.5))
    world.set_policy(WeightPolicy("a", 3.0))
    world.set_policy(WeightPolicy("b", 5.0))
    if in_snapshot:
        world.begin_snapshot()
        world.advance(1)
        assert not world.go_on_with_snapshot(10)
    assert world.delete_policy(PolicyName(PolicyKind.WEIGHT, "b"))
    world.crash()
    assert world.scheduler.state.policies == {A: StandingPolicy(WeightPolicy("a", 3.0), FIRST_DATE_MS)}
    assert served(world, 40).count("a") == pytest.approx(30, abs=1)


def test_a_deleted_weight_is_what_the_coordinator_was_started_with():
    world = CoreWorld(settings=Settings(weights={"b": 3.0}))
    world.set_policy(WeightPolicy("a", 100.0))
    world.set_policy(WeightPolicy("b", 100.0))
    assert world.delete_policy(A)
    assert world.delete_policy(PolicyName(PolicyKind.WEIGHT, "b"))
    assert not world.delete_policy(A)
    assert served(world, 40).count("b") == pytest.approx(30, abs=1)


@pytest.mark.parametrize(
    "policy",
    [
        WeightPolicy("", 0.001),
        WeightPolicy("key", 1000.0),
        RetryDefaultsPolicy("work", 0, 0.0, 0.25, 1.0, 0),
        RetryDefaultsPolicy("work", max_retries=7),
        PausePolicy(""),
        PausePolicy("llm.*", "the provider is down", 1),
        PausePolicy("work", "w" * 256, 366 * 24 * 3_600_000),
        CordonPolicy("ann", "a new disk"),
    ],
)
def test_what_is_read_is_what_was_written(policy):
    message = convert_policies.policy_out(policy)
    assert convert_policies.policy_in(message, "policies[0]") == policy
    standing = StandingPolicy(policy, 1_700_000_000_123)
    assert convert_policies.standing_stored(convert_policies.standing_out(standing)) == standing
    assert convert_policies.name_stored(convert_policies.name_out(policy.name)) == policy.name
    assert convert_policies.kind_in(policy.name.kind.value, "kind") is policy.name.kind
    assert policy_pb2.PolicyKind.Name(policy.name.kind.value) == f"POLICY_KIND_{policy.name.kind.name}"
    assert message.WhichOneof("policy") == policy.name.kind.name.lower()


def retry_defaults(task_type, **options):
    retry = common_pb2.RetryPolicy(**options)
    return policy_pb2.Policy(retry_defaults=policy_pb2.RetryDefaultsPolicy(task_type=task_type, retry_policy=retry))


def pause(task_type, **options):
    return policy_pb2.Policy(pause=policy_pb2.PausePolicy(task_type=task_type, **options))


@pytest.mark.parametrize(
    "message, field, says",
    [
        (policy_pb2.Policy(set_time=Timestamp(seconds=1)), "p", "set one"),
        (policy_pb2.Policy(weight=policy_pb2.WeightPolicy(fairness_key="a" * 129, weight=1)), "p.weight.fairness_key", "at most 128"),
        (retry_defaults(""), "p.retry_defaults.task_type", "empty"),
        (retry_defaults("work"), "p.retry_defaults.retry_policy", "at least one"),
        (retry_defaults("work", backoff_multiplier=0.5), "p.retry_defaults.retry_policy.backoff_multiplier", "use 1 to"),
        (retry_defaults("work", max_backoff=Duration(seconds=-1)), "p.retry_defaults.retry_policy.max_backoff", "negative"),
        (pause("*"), "p.pause.task_type", "leave it empty"),
        (pause("a*b"), "p.pause.task_type", "only stand at the end"),
        (pause("a" * 129), "p.pause.task_type", "at most 128"),
        (pause("a", reason="r" * 257), "p.pause.reason", "at most 256"),
        (pause("a", reason="two\nlines"), "p.pause.reason", "can't be printed"),
        (pause("a", pause_for=Duration()), "p.pause.pause_for", "or leave it out"),
        (pause("a", pause_for=Duration(seconds=-1)), "p.pause.pause_for", "negative"),
        (pause("a", pause_for=Duration(nanos=1)), "p.pause.pause_for", "whole milliseconds"),
        (pause("a", pause_for=Duration(seconds=367 * 86400)), "p.pause.pause_for", "a year"),
        (policy_pb2.Policy(cordon=policy_pb2.CordonPolicy()), "p.cordon.agent_name", "empty"),
        (policy_pb2.Policy(cordon=policy_pb2.CordonPolicy(agent_name="a", reason="\x1b[1m")), "p.cordon.reason", "can't be printed"),
        *(
            (policy_pb2.Policy(weight=policy_pb2.WeightPolicy(fairness_key="a", weight=weight)), "p.weight.weight", "0.001 to 1000")
            for weight in (0.0, -1.0, 0.0009, 1001.0, float("inf"), float("nan"))
        ),
    ],
)
def test_what_cannot_be_is_refused(message, field, says):
    with pytest.raises(InvalidRequest, match=says) as refused:
        convert_policies.policy_in(message, "p")
    assert refused.value.field == field


def test_a_type_s_backoff_is_kept_to_the_millisecond_as_the_journal_keeps_it():
    policy = convert_policies.policy_in(retry_defaults("work", initial_backoff=Duration(nanos=1_900_000)), "p")
    assert policy == RetryDefaultsPolicy("work", initial_backoff_s=0.001)


def test_a_policy_of_a_newer_release_is_not_passed_over():
    for record in (
        event_pb2.Record(namespace="n", policy_set=event_pb2.PolicySet(policy=policy_pb2.Policy())),
        event_pb2.Record(namespace="n", policy_deleted=event_pb2.PolicyDeleted(name=policy_pb2.PolicyName(kind=99, key="k"))),
    ):
        with pytest.raises(JournalTooNew, match="newer release"):
            decode(event_pb2.Commit(format_version=FORMAT_VERSION, records=[record]).SerializeToString())
