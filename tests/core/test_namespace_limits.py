"""What operators let a namespace hold: it holds at once, over restarts, until it is deleted."""

import pytest
from google.protobuf.duration_pb2 import Duration
from muster.v1 import policy_pb2

from coordinator.convert_policies import policy_in, policy_out
from coordinator.core.model import Settings
from coordinator.core.policies import LIMITS_NAME, NO_LIMITS, NamespaceLimitsPolicy, WeightPolicy, limits_of
from coordinator.core.submits import Refused, submit
from coordinator.errors import InvalidRequest
from tests.support.core_world import CoreWorld, spec_of


def taken(world, *specs):
    """Submits tasks, and answers what became of them."""
    answers = [submit(world.scheduler, spec, world.now) for spec in specs]
    world.commit()
    return answers


def full(world, *names):
    return [answer is Refused.QUEUE_FULL for answer in taken(world, *map(spec_of, names))]


@pytest.mark.parametrize("restart", [False, True])
def test_live_tasks_are_limited(restart):
    world = CoreWorld(settings=Settings(max_live_tasks=3))
    world.set_policy(NamespaceLimitsPolicy(max_live_tasks=2))
    if restart:
        world.crash()
    assert full(world, "a", "b", "c") == [False, False, True]
    world.set_policy(NamespaceLimitsPolicy(max_live_bytes=10**6))
    assert full(world, "c", "d") == [False, True], "as the coordinator was started"
    world.set_policy(NamespaceLimitsPolicy(max_live_tasks=1))
    assert full(world, "d") == [True], "what is there stays"
    world.delete_policy(LIMITS_NAME)
    world.cancel("a")
    assert full(world, "d") == [False]


def test_bytes_of_live_tasks_are_limited():
    world = CoreWorld()
    world.set_policy(NamespaceLimitsPolicy(max_live_bytes=100))
    first, second = taken(world, spec_of("a", payload=bytes(60)), spec_of("b", payload=bytes(60)))
    assert (first is Refused.MEMORY_FULL, second is Refused.MEMORY_FULL) == (False, True)


def test_they_are_known_by_their_one_name():
    world = CoreWorld()
    assert limits_of(world.scheduler.state) is NO_LIMITS
    world.set_policy(WeightPolicy("", 2.0))
    limits = NamespaceLimitsPolicy(max_retained_tasks=0)
    world.set_policy(limits)
    assert limits_of(world.scheduler.state) == limits


@pytest.mark.parametrize(
    "limits", [NamespaceLimitsPolicy(1, 2, 3.5, 4, 5), NamespaceLimitsPolicy(retain_for_s=0.0), NamespaceLimitsPolicy(max_retained_tasks=0)]
)
def test_they_travel_as_they_are(limits):
    assert policy_in(policy_out(limits), "p") == limits


@pytest.mark.parametrize(
    "fields, field",
    [
        ({}, "p.namespace_limits"),
        ({"max_live_tasks": 0}, "p.namespace_limits.max_live_tasks"),
        ({"max_live_bytes": 2**60}, "p.namespace_limits.max_live_bytes"),
        ({"max_retained_tasks": 2**60}, "p.namespace_limits.max_retained_tasks"),
        ({"max_retained_bytes": 2**60}, "p.namespace_limits.max_retained_bytes"),
        ({"retain_for": Duration(seconds=-1)}, "p.namespace_limits.retain_for"),
    ],
)
def test_what_cannot_be_is_refused(fields, field):
    with pytest.raises(InvalidRequest) as caught:
        policy_in(policy_pb2.Policy(namespace_limits=policy_pb2.NamespaceLimitsPolicy(**fields)), "p")
    assert caught.value.field == field
