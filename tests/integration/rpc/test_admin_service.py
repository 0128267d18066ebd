"""AdminService, reflection and health."""

import asyncio

import grpc
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from muster.v1 import admin_pb2, common_pb2

from coordinator.journal.memory_store import Fault
from tests.support.eventually import eventually
from tests.support.hosted import MemoryShard, failure, hosted, spec_of


async def _stats(muster):
    return await muster.admin.GetQueueStats(admin_pb2.GetQueueStatsRequest())


async def test_namespaces_are_made_once_and_listed_by_name():
    data = MemoryShard()
    async with hosted(data=data) as muster:
        first = (await muster.admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name="b-2"))).namespace
        again = (await muster.admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name="b-2"))).namespace
        assert first == again
        assert (first.name, first.shard) == ("b-2", 0)
        assert first.HasField("create_time")
        await muster.admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name="a"))
    async with hosted(data=data) as muster:
        names, token = [], ""
        for _ in range(3):
            page = await muster.admin.ListNamespaces(admin_pb2.ListNamespacesRequest(page_size=1, page_token=token))
            names += [one.name for one in page.namespaces]
            token = page.next_page_token
        assert (names, token) == (["a", "b-2", "default"], "")
        again = (await muster.admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name="b-2"))).namespace
        assert first == again


async def test_counts_what_waits_runs_and_has_ended(muster):
    agent = await muster.agent("worker", ["work"], ready=4)
    await muster.submit(*"abcde", spec_of("urgent", "other", priority=4))
    a, b, c, d = await agent.assigned(4)
    await agent.ready(0)
    await agent.succeed(a)
    await agent.report(
        failure(b.task.task_id, b.fence, non_retryable=True), failure("c", c.fence, retry_after=Duration(seconds=99)), batch_id=2
    )
    await muster.cancel("urgent")
    await muster.submit(spec_of("urgent-2", "other", priority=4))
    stats = await _stats(muster)
    totals = (
        stats.submitted_total,
        stats.completed_total,
        stats.failed_total,
        stats.cancelled_total,
        stats.crashed_total,
        stats.stale_results_total,
    )
    assert totals == (7, 1, 1, 1, 0, 0)
    assert (stats.pending, stats.running, stats.retrying, stats.retained, stats.max_live_tasks) == (2, 1, 1, 3, 2_000_000)
    rows = {(row.task_type, row.priority): row for row in stats.queues}
    assert sorted(rows) == [("other", 4), ("work", 2)]
    work, other = rows["work", 2], rows["other", 4]
    assert (work.ready, work.delayed, work.running) == (1, 1, 1)
    assert (other.ready, other.delayed, other.running) == (1, 0, 0)
    assert other.waits_for == "no connected agent offers other"
    assert other.HasField("oldest_wait")
    assert d.task.task_id == "d"


async def test_the_load_map_says_who_runs_what(muster):
    agent = await muster.agent("b", max_concurrent_tasks=3)
    await muster.agent("a", ["other"], max_concurrent_tasks=4)
    await muster.submit("x", "y")
    await agent.assigned(2)
    answer = await muster.admin.GetLoadMap(admin_pb2.GetLoadMapRequest())
    assert [(row.agent_name, row.running, sorted(row.task_ids)) for row in answer.agents] == [("a", 0, []), ("b", 2, ["x", "y"])]
    assert (answer.capacity, answer.running) == (7, 2)
    await agent.leave()
    await eventually(lambda: not muster.scheduler.load.agents["b"].session, message="its session to end")
    answer = await muster.admin.GetLoadMap(admin_pb2.GetLoadMapRequest())
    assert (answer.capacity, answer.running) == (4, 2)


async def test_a_coordinator_says_what_it_is(muster):
    facts = await muster.admin.GetCoordinator(admin_pb2.GetCoordinatorRequest())
    assert (facts.store, facts.durability, facts.shards, facts.store_available) == ("memory", "nothing survives", 1, True)
    assert facts.version
    assert facts.instance_id
    assert facts.HasField("start_time")
    assert 0 <= facts.worst_loop_stall.ToSeconds() < 10
    muster.faults.appends = Fault.BEFORE
    writing = asyncio.ensure_future(muster.submit("a"))
    await eventually(lambda: muster.shard.outage_since_s is not None, message="the outage")
    assert not (await muster.admin.GetCoordinator(admin_pb2.GetCoordinatorRequest())).store_available
    muster.faults.over()
    await writing
    assert (await muster.get("a")).state == common_pb2.TASK_STATE_PENDING


async def test_reflection_lists_the_services(muster):
    stub = reflection_pb2_grpc.ServerReflectionStub(muster.channel)
    call = stub.ServerReflectionInfo(iter([
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="muster.v1.TaskService"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="muster.v1.Nothing"),
    ]))  # fmt: skip
    answers = [answer async for answer in call]
    names = {service.name for service in answers[0].list_services_response.service}
    services = {
        "muster.v1.TaskService",
        "muster.v1.AgentService",
        "muster.v1.StateService",
        "muster.v1.AdminService",
        "grpc.health.v1.Health",
    }
    assert services <= names
    assert answers[1].file_descriptor_response.file_descriptor_proto
    assert answers[2].error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_health_is_known_for_the_server_and_each_service(muster):
    stub = health_pb2_grpc.HealthStub(muster.channel)
    for service in ("", "muster.v1.TaskService", "muster.v1.AgentService", "muster.v1.AdminService"):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_coordinator_that_is_alone_owns_all_shards():
    async with hosted() as muster:
        await muster.submit("t")
        view = await muster.admin.GetCluster(admin_pb2.GetClusterRequest())
        [me] = view.coordinators
        assert (me.coordinator_id, me.shards, me.leaving) == (view.coordinator_id, len(view.shards), False)
        assert me.address.endswith(f":{muster.running.port}")
        [shard] = [shard for shard in view.shards if shard.number == muster.shard.number]
        assert (shard.coordinator_id, shard.serving, shard.epoch) == (me.coordinator_id, True, muster.shard.epoch)
        assert shard.sequence == muster.shard.sequence > 0
