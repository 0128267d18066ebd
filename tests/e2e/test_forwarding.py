"""Three coordinators, one address: a plain client and the SDK reach every namespace, and outlive whoever they were told of."""

import asyncio
import sys
from pathlib import Path

import grpc.aio
import pytest
from muster.v1 import admin_pb2, admin_pb2_grpc, common_pb2, task_pb2, task_pb2_grpc

from agent_node import Client
from coordinator.journal.layout import shard_of
from tests.e2e.test_cluster import SHARDS, cluster
from tests.support.eventually import eventually
from tests.support.processes import Children

pytestmark = pytest.mark.e2e

NAMES = ("one", "two", "three")
NAMESPACES = {shard_of(name, shards=SHARDS): name for name in (f"n{number}" for number in range(60))}  # one for each shard


async def test_a_plain_client_needs_one_address(children: Children, tmp_path: Path) -> None:
    """gRPC and the protos alone: every call goes to the one coordinator that it was given."""
    async with cluster(children, tmp_path) as coordinators:
        await coordinators.start(*NAMES)
        await coordinators.until_even(*NAMES)
        owned = set()
        async with grpc.aio.insecure_channel(coordinators.address("one")) as channel:
            admin, tasks = admin_pb2_grpc.AdminServiceStub(channel), task_pb2_grpc.TaskServiceStub(channel)
            for namespace in NAMESPACES.values():
                await admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name=namespace))
                spec = common_pb2.TaskSpec(task_id="t", task_type="work", payload=namespace.encode())
                metadata = (("muster-namespace", namespace),)
                await tasks.SubmitTasks(task_pb2.SubmitTasksRequest(tasks=[spec]), metadata=metadata)
                call = tasks.GetTask(task_pb2.GetTaskRequest(task_id="t", view=task_pb2.TASK_VIEW_FULL), metadata=metadata)
                assert (await call).task.spec.payload == namespace.encode()
                owned.add(dict(await call.trailing_metadata() or ()).get("muster-owner"))
            listed = await admin.ListNamespaces(admin_pb2.ListNamespacesRequest())
        assert {namespace.name for namespace in listed.namespaces} == {"default", *NAMESPACES.values()}
        assert owned == {None, coordinators.address("two"), coordinators.address("three")}


async def test_agents_and_clients_of_every_namespace_by_one_address(children: Children, tmp_path: Path) -> None:
    async with cluster(children, tmp_path) as coordinators:
        await coordinators.start(*NAMES)
        await coordinators.until_even(*NAMES)
        one = coordinators.address("one")
        async with Client(one) as client:
            for namespace in NAMESPACES.values():
                await client.create_namespace(namespace)
        paths = {"WORKER_EXECUTIONS": str(coordinators.deployment.executions), "WORKER_GATES": str(coordinators.deployment.gates)}
        for namespace in NAMESPACES.values():
            agent = ["tests.e2e.workers:agent", "--address", one, "--namespace", namespace, "--name", f"agent-{namespace}"]
            children.start([sys.executable, "-m", "agent_node", *agent], name=f"agent-{namespace}", env=paths)

        async def use(namespace: str) -> None:
            async with Client(one, namespace=namespace) as client:
                handle = await client.submit("digest", b"hello")
                assert (await handle.result(timeout_s=30)).payload
                await client.state.put("k", namespace.encode())
                assert (await client.state.get("k")).value == namespace.encode()

        await asyncio.gather(*(use(namespace) for namespace in NAMESPACES.values()))


async def test_a_failover_and_a_clean_end_are_a_delay(children: Children, tmp_path: Path) -> None:
    """A client that was given two addresses submits, reads and writes on, while the owner is killed, and then the next one ends."""
    async with cluster(children, tmp_path, "--ownership-ttl", "1") as coordinators:
        await coordinators.start(*NAMES)
        await coordinators.until_even(*NAMES)
        home = shard_of("default", shards=SHARDS)
        given = ",".join(coordinators.address(name) for name in NAMES)
        failed: list[Exception] = []
        done = 0
        async with Client(given) as client:

            async def go_on() -> None:
                nonlocal done
                while True:
                    try:
                        handle = await client.submit("nobody", want_result=False)
                        await client.get(handle.task_id)
                        await client.state.add("done")
                    except Exception as error:  # noqa: BLE001 - whatever a caller sees is what is asked about
                        failed.append(error)
                        return
                    done += 1

            working = asyncio.create_task(go_on())
            for end in ("kill", "stop"):
                owner = (await coordinators.owners())[home]
                at = done
                child = coordinators.running[owner]
                if end == "kill":
                    child.kill()
                else:
                    await asyncio.to_thread(child.stop)
                await eventually(lambda at=at: done > at + 20 or failed, within_s=30, message="work to go on")  # type: ignore[misc]
                assert not failed
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            assert int((await client.state.get("done")).value) >= done
