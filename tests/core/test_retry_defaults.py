"""The retry policy of a task type: what tasks of it are accepted with, and that replay repeats it exactly."""

import pytest
from muster.v1 import common_pb2, event_pb2

from coordinator import convert
from coordinator.core.model import RetryPolicy
from coordinator.core.policies import PolicyKind, PolicyName, RetryDefaultsPolicy
from coordinator.core.submits import submit
from coordinator.rpc.client_session import checked
from tests.support.core_world import FAILED, CoreWorld, durable, replay

MODEST = RetryDefaultsPolicy("modest", max_retries=1, initial_backoff_s=0.125)
EAGER = RetryDefaultsPolicy("eager", max_retries=9, multiplier=3.0, max_crashes=0)


class AsNamespace:
    """As much of an engine's namespace as `checked` looks at."""

    def __init__(self, world):
        self.scheduler = world.scheduler


@pytest.fixture
def world():
    world = CoreWorld()
    world.set_policy(MODEST)
    world.set_policy(EAGER)
    return world


def take(world, *tasks):
    """Submits tasks in one batch, as they come from a client; answers their policies."""
    messages = [common_pb2.TaskSpec(task_id=task_id, task_type=task_type, retry_policy=retry) for task_id, task_type, retry in tasks]
    specs = checked(messages, AsNamespace(world), convert.Bounds())
    for spec in specs:
        submit(world.scheduler, spec, world.now)
    world.commit()
    return [spec.retry for spec in specs]


def test_what_a_task_leaves_out_is_its_type_s(world):
    own = common_pb2.RetryPolicy(max_retries=4)
    assert take(world, ("a", "modest", None), ("b", "eager", None), ("c", "other", None), ("d", "modest", own), ("e", "other", own)) == [
        RetryPolicy(max_retries=1, initial_backoff_s=0.125),
        RetryPolicy(max_retries=9, multiplier=3.0, max_crashes=0),
        RetryPolicy(),
        RetryPolicy(max_retries=4, initial_backoff_s=0.125),
        RetryPolicy(max_retries=4),
    ]


def test_one_batch_with_many_types_is_replayed_exactly(world):
    own = common_pb2.RetryPolicy(max_backoff={"nanos": 1})
    tasks = [
        (f"{task_type}{number}", task_type, own if number % 3 else None)
        for number in range(9)
        for task_type in ("modest", "eager", "other")
    ]
    take(world, *tasks)
    [submitted] = [record for record in event_pb2.Commit.FromString(world.journal[-1]).records if record.HasField("tasks_submitted")]
    assert len(submitted.tasks_submitted.type_policies) == 4, "each once"
    assert durable(replay(world.journal)) == durable(world.scheduler.state)
    assert len({task.spec.retry for task in replay(world.journal).tasks.values()}) == 6


def test_whoever_sets_none_pays_nothing(world):
    world = CoreWorld()
    take(world, ("a", "modest", None), ("b", "other", common_pb2.RetryPolicy(max_retries=4)))
    [record] = event_pb2.Commit.FromString(world.journal[-1]).records
    assert not record.tasks_submitted.type_policies
    assert not record.tasks_submitted.type_policy_numbers


def test_it_is_what_a_task_was_accepted_with(world):
    """Changes count for tasks that come later; over restarts, too, from a journal or a snapshot."""
    take(world, ("before", "modest", None))
    world.set_policy(RetryDefaultsPolicy("modest", max_retries=0))
    take(world, ("between", "modest", None))
    assert world.delete_policy(PolicyName(PolicyKind.RETRY_DEFAULTS, "modest"))
    take(world, ("after", "modest", None))
    for snapshot in (False, True):
        if snapshot:
            world.begin_snapshot()
            while world.go_on_with_snapshot(1):
                pass
        world.crash()
        assert [world.task(name).spec.retry.max_retries for name in ("before", "between", "after")] == [1, 0, 3]
    assert take(world, ("eager", "eager", None))[0].max_retries == 9, "the others hold on"


def test_it_decides_how_often_a_task_is_tried(world):
    world.join("ann", ["modest"], capacity=1)
    take(world, ("a", "modest", None))
    for _ in range(2):
        world.finish("ann", "a", FAILED)
        world.advance(1)
    assert len(world.ends("a")) == 1
    assert world.ends("a")[0].retries == 1
