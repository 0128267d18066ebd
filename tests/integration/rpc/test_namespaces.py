"""Namespaces are deleted and limited over real gRPC: every stream of one ends with a clear status, and nothing of it comes back."""

import grpc
import pytest
from muster.v1 import admin_pb2, policy_pb2, task_pb2

from tests.support.eventually import eventually
from tests.support.hosted import spec_of
from tests.support.refusals import refusal

BLUE = (("muster-namespace", "blue"),)


async def create(muster, name="blue"):
    return await muster.admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name=name))


async def delete(muster, name="blue", **options):
    return await muster.admin.DeleteNamespace(admin_pb2.DeleteNamespaceRequest(name=name, **options))


async def submit(muster, *tasks):
    return (await muster.tasks.SubmitTasks(task_pb2.SubmitTasksRequest(tasks=tasks), metadata=BLUE)).tasks


@pytest.fixture
async def blue(muster):
    """A namespace in which one task has ended, one runs, and one waits."""
    await create(muster)
    agent = await muster.agent("worker", ready=1, namespace="blue")
    await submit(muster, spec_of("done"), spec_of("runs"), spec_of("waits"))
    await agent.succeed((await agent.assigned())[0])
    await agent.ready(1)
    await agent.assigned(2)
    return agent


async def test_it_is_not_deleted_while_it_has_live_tasks(muster, blue):
    refused = await refusal(delete(muster))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NAMESPACE_NOT_EMPTY")
    assert refused.metadata == {"live_tasks": "2"}
    assert "has live tasks (2)" in refused.message
    answer = await delete(muster, force=True, dry_run=True)
    assert (answer.live_tasks, answer.retained_tasks, answer.agents) == (2, 1, 1)
    assert (await muster.tasks.GetTask(task_pb2.GetTaskRequest(task_id="runs"), metadata=BLUE)).task.task_id == "runs"


async def test_whoever_has_a_stream_to_it_is_told(muster, blue):
    client = await muster.session(namespace="blue")
    await client.attach("runs")
    other = await muster.session()
    watch = muster.tasks.WatchTasks(task_pb2.WatchTasksRequest(filter=""), metadata=BLUE)
    await watch.read()
    answer = await delete(muster, force=True)
    assert (answer.live_tasks, answer.retained_tasks, answer.agents) == (2, 1, 1)
    for end in (await blue.end(), await client.end()):
        assert (end.code, end.reason) == (grpc.StatusCode.NOT_FOUND, "NAMESPACE_NOT_FOUND")
        assert "namespace 'blue' was deleted" in end.message
    cancels = [cancel for message in blue.received for cancel in message.cancels]
    assert [(cancel.task_id, cancel.lost) for cancel in cancels] == [("runs", True)], "G10"
    ended = await refusal(_rest_of(watch))
    assert (ended.code, ended.reason) == (grpc.StatusCode.NOT_FOUND, "NAMESPACE_NOT_FOUND")
    assert (await refusal(submit(muster, spec_of("x")))).code is grpc.StatusCode.NOT_FOUND
    names = await muster.admin.ListNamespaces(admin_pb2.ListNamespacesRequest())
    assert [one.name for one in names.namespaces] == ["default"]
    assert not other.ended
    await muster.is_alive()


async def _rest_of(call):
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_its_name_may_be_used_again_and_nothing_of_the_old_one_shows_up(muster, blue):
    await muster.admin.SetPolicies(
        admin_pb2.SetPoliciesRequest(policies=[policy_pb2.Policy(weight=policy_pb2.WeightPolicy(fairness_key="a", weight=2))]),
        metadata=BLUE,
    )
    await delete(muster, force=True)

    async def created():
        try:
            await create(muster)
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.UNAVAILABLE
        return True

    await eventually(created, within_s=10, message="the name to be free")
    assert list((await muster.tasks.ListTasks(task_pb2.ListTasksRequest(), metadata=BLUE)).tasks) == []
    assert list((await muster.admin.ListPolicies(admin_pb2.ListPoliciesRequest(), metadata=BLUE)).policies) == []
    for task_id in ("done", "runs"):
        assert (
            await refusal(muster.tasks.GetTask(task_pb2.GetTaskRequest(task_id=task_id), metadata=BLUE))
        ).code is grpc.StatusCode.NOT_FOUND
    (answer,) = await submit(muster, spec_of("done", payload=b"another"))
    assert answer.verdict == task_pb2.SUBMIT_VERDICT_ACCEPTED


@pytest.mark.parametrize(
    "name, code", [("default", grpc.StatusCode.INVALID_ARGUMENT), ("nothing", grpc.StatusCode.NOT_FOUND), ("", grpc.StatusCode.NOT_FOUND)]
)
async def test_what_cannot_be_deleted(muster, name, code):
    assert (await refusal(delete(muster, name, force=True))).code is code


async def test_an_empty_one_needs_no_force(muster):
    await create(muster)
    await delete(muster)
    assert (await refusal(delete(muster))).code is grpc.StatusCode.NOT_FOUND


async def test_a_limit_is_told_with_how_full_it_is(muster):
    await create(muster)
    limits = policy_pb2.Policy(namespace_limits=policy_pb2.NamespaceLimitsPolicy(max_live_tasks=1))
    await muster.admin.SetPolicies(admin_pb2.SetPoliciesRequest(policies=[limits]), metadata=BLUE)
    first, second = await submit(muster, spec_of("a"), spec_of("b"))
    assert first.verdict == task_pb2.SUBMIT_VERDICT_ACCEPTED
    assert dict(second.refusal.metadata) == {"limit": "max_live_tasks", "used": "1", "allowed": "1"}
    stats = await muster.admin.GetQueueStats(admin_pb2.GetQueueStatsRequest(), metadata=BLUE)
    assert stats.max_live_tasks == 1
    assert [one.verdict for one in await muster.submit("a", "b")] == [task_pb2.SUBMIT_VERDICT_ACCEPTED] * 2, "it is blue's alone"
