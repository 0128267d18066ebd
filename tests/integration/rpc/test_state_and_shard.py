"""What shared state has to do with its shard: limits that operators set, room in the store, deleted namespaces, rebuilt shards, agents."""

import grpc
from muster.v1 import admin_pb2, agent_pb2, policy_pb2
from muster.v1 import state_pb2 as pb

from coordinator.journal.memory_store import MemoryShard
from coordinator.state.memory_store import MemoryState
from tests.support.eventually import eventually
from tests.support.hosted import PATIENT_S, hello_of, hosted
from tests.support.refusals import refusal
from tests.support.state_peers import SessionPeer, WatchPeer, put


async def test_operators_limit_the_state_of_a_namespace_while_it_runs(muster):
    limits = policy_pb2.Policy(namespace_limits=policy_pb2.NamespaceLimitsPolicy(max_state_keys=1, max_state_bytes=100))
    await muster.state.Put(put("a"))
    await muster.admin.SetPolicies(admin_pb2.SetPoliciesRequest(policies=[limits]))
    why = await refusal(muster.state.Put(put("b")))
    assert (why.code, why.metadata) == (grpc.StatusCode.RESOURCE_EXHAUSTED, {"limit": "state_keys", "used": "1", "allowed": "1"})
    why = await refusal(muster.state.Put(put("a", bytes(100))))
    assert (why.metadata["limit"], why.metadata["allowed"]) == ("state_bytes", "100")
    limits.namespace_limits.max_state_keys = 2
    await muster.admin.SetPolicies(admin_pb2.SetPoliciesRequest(policies=[limits]))
    await muster.state.Put(put("b"))


async def test_a_full_store_takes_nothing_that_makes_it_larger(muster):
    await muster.state.Put(put("a"))
    muster.shard.room.seen(used_bytes=99, limit_bytes=100, free_disk_bytes=None, reserve_bytes=0)
    why = await refusal(muster.state.Put(put("b")))
    assert (why.code, why.limits) == (grpc.StatusCode.RESOURCE_EXHAUSTED, ["store_memory"])
    assert why.retry_after_s
    assert [entry.key for entry in (await muster.state.Get(pb.GetRequest(keys=["a", "b"]))).entries] == ["a"]
    assert (await muster.state.Delete(pb.DeleteRequest(key="a"))).deleted == 1
    muster.shard.room.seen(used_bytes=10, limit_bytes=100, free_disk_bytes=None, reserve_bytes=0)
    await muster.state.Put(put("b"))


async def test_nothing_is_left_of_a_deleted_namespace():
    state = MemoryState()
    other = {"metadata": (("muster-namespace", "other"),)}
    async with hosted(state=state) as muster:
        await muster.admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name="other"))
        await muster.state.Put(put("k"), **other)
        assert "other" in state.namespaces
        await muster.admin.DeleteNamespace(admin_pb2.DeleteNamespaceRequest(name="other"))
        await eventually(lambda: "other" not in state.namespaces, within_s=PATIENT_S, message="its state to be removed")
        await eventually(lambda: "other" not in muster.shard.deleted, within_s=PATIENT_S, message="the name to be free")
        await muster.admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name="other"))
        assert not (await muster.state.Get(pb.GetRequest(keys=["k"]), **other)).entries
        assert (await muster.state.Put(put("k"), **other)).version == 1


async def test_a_deletion_that_was_interrupted_goes_on():
    data, state = MemoryShard(), MemoryState()
    other = {"metadata": (("muster-namespace", "other"),)}
    async with hosted(data=data, state=state) as muster:
        await muster.admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name="other"))
        await muster.state.Put(put("k"), **other)
        await muster.admin.DeleteNamespace(admin_pb2.DeleteNamespaceRequest(name="other"))
    async with hosted(data=data, state=state) as muster:
        await eventually(lambda: "other" not in state.namespaces, within_s=PATIENT_S, message="its state to be removed")
        await eventually(lambda: "other" not in muster.shard.deleted, within_s=PATIENT_S, message="the name to be free")


async def test_state_goes_on_when_its_shard_is_rebuilt():
    data, state = MemoryShard(), MemoryState()
    async with hosted(data=data, state=state) as muster:
        first = await muster.state.Put(put("k"))
        session, watching = SessionPeer(muster.state.StateSession()), WatchPeer(muster.state.Watch())
        await session.ask(session.op(get=pb.GetRequest(keys=["k"])))
        await watching.begin(pb.CreateWatch(watch_id=1, key="k"))
        muster.faults.diverge(data)
        await refusal(muster.admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name="other")))
        for stream in (session, watching):
            assert (await stream.end()).code is grpc.StatusCode.UNAVAILABLE

        async def again():
            try:
                return await muster.state.Put(put("k", if_revision=first.revision))
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                return None

        assert (await eventually(again, within_s=PATIENT_S, message="the state to be served")).version == 2


async def test_an_agent_that_comes_during_an_outage_is_seen_when_it_is_over(muster):
    muster.faults.outage()
    await eventually(lambda: muster.shard.outage_since_s is not None, within_s=PATIENT_S, message="the outage to be noticed")
    peer = await muster.connect()
    await peer.send(agent_pb2.ConnectRequest(hello=hello_of("worker", ["work"])))
    muster.faults.over()
    await peer.welcome()

    async def present():
        return [entry.key for entry in (await muster.state.List(pb.ListRequest(prefix="agents/"))).entries] == ["agents/worker/presence"]

    await eventually(present, within_s=PATIENT_S, message="the agent to be present")
