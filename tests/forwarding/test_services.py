"""All services by way of a coordinator that owns nothing."""

import grpc
import pytest
from muster.v1 import admin_pb2, agent_pb2, state_pb2

from tests.support.hosted import spec_of
from tests.support.pair import HOME, NAMES, OTHER, SHARDS
from tests.support.refusals import refusal
from tests.support.state_peers import SessionPeer, WatchPeer


def names(response):
    return [namespace.name for namespace in response.namespaces]


async def test_a_task_goes_all_the_way(pair):
    agent = await pair.front.agent()
    client = await pair.front.session()
    await client.submit(spec_of("t", payload=b"do"))
    (assignment,) = await agent.assigned()
    await agent.succeed(assignment, b"done")
    assert (await client.result("t")).outcome.success.payload == b"done"
    assert (await pair.front.get("t")).state == (await pair.back.get("t")).state
    assert pair.back.scheduler.statistics is not None
    assert not pair.front.scheduler.load.agents
    pair.back.check()


async def test_welcomes_say_where_the_owner_is_to_those_who_came_another_way(pair):
    for side, address in ((pair.front, pair.back.address), (pair.back, "")):
        agent, client = await side.agent(side.name), await side.session()
        assert (await agent.welcome()).welcome.owner_address == address
        assert client.received[0].welcome.owner_address == address


async def test_shared_state(pair):
    watching = WatchPeer(pair.front.state.Watch())
    session = SessionPeer(pair.front.state.StateSession())
    put = await pair.front.state.Put(state_pb2.PutRequest(key="k", value=b"v"))
    got = await pair.back.state.Get(state_pb2.GetRequest(keys=["k"]))
    assert put.header.revision == got.entries[0].mod_revision
    for peer in (watching, session):
        await peer.leave()


async def test_refusals_are_the_owners(pair):
    for side in (pair.front, pair.back):
        agents = side.agents.DrainAgent(agent_pb2.DrainAgentRequest(agent_name="nobody"))
        assert (await refusal(agents)).reason == "AGENT_NOT_FOUND"
        unknown = side.agents.ListAgents(agent_pb2.ListAgentsRequest(), metadata=(("muster-namespace", NAMES[OTHER]),))
        assert (await refusal(unknown)).reason == "NAMESPACE_NOT_FOUND"
        several = side.agents.ListAgents(agent_pb2.ListAgentsRequest(), metadata=(("muster-namespace", "a"), ("muster-namespace", "b")))
        assert (await refusal(several)).code is grpc.StatusCode.INVALID_ARGUMENT


class TestNamespaces:
    async def test_one_is_created_and_deleted_at_its_owner(self, pair):
        await pair.front.admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name=NAMES[OTHER]))
        assert NAMES[OTHER] in pair.back.running.shards[OTHER].namespaces
        assert NAMES[OTHER] not in pair.front.running.shards[OTHER].namespaces
        await pair.front.admin.DeleteNamespace(admin_pb2.DeleteNamespaceRequest(name=NAMES[OTHER]))
        assert NAMES[OTHER] not in pair.back.running.shards[OTHER].namespaces

    async def test_one_whose_owner_is_another_than_it_was_thought(self, pair):
        pair.move(OTHER, pair.front.owner(), front=False)
        why = await refusal(pair.front.admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name=NAMES[OTHER])))
        assert why.reason == "SHARD_MOVED"

    async def test_they_are_listed_from_all_owners_in_pages(self, pair, rng):
        pair.move(OTHER, pair.front.owner())
        made = {"default"} | {f"n{number}" for number in rng.sample(range(1000), 25)}
        for name in made:
            await rng.choice([pair.front, pair.back]).admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name=name))
        assert len([name for name in made if name in pair.front.running.shards[OTHER].namespaces]) not in (0, len(made))
        for side in (pair.front, pair.back):
            for size in (1, 4, len(made) - 1, len(made), 100):
                listed, token = [], ""
                while True:
                    page = await side.admin.ListNamespaces(admin_pb2.ListNamespacesRequest(page_size=size, page_token=token))
                    assert len(page.namespaces) <= size
                    listed += names(page)
                    token = page.next_page_token
                    if not token:
                        break
                assert listed == sorted(made)

    async def test_never_half_a_list(self, pair, raw):
        """An owner that isn't there, fails, or isn't the owner any more: the call fails, and says so."""
        pair.move(OTHER, pair.front.owner())
        ask = pair.front.admin.ListNamespaces
        assert names(await ask(admin_pb2.ListNamespacesRequest())) == ["default"]
        pair.move(HOME, pair.front.owner(), front=False)
        why = await refusal(ask(admin_pb2.ListNamespacesRequest()))
        assert (why.code, why.reason) == (grpc.StatusCode.UNAVAILABLE, "SHARD_UNAVAILABLE")
        assert "coordinator 'back'" in why.message
        pair.front.directory.set_owner(HOME, None)
        assert (await refusal(ask(admin_pb2.ListNamespacesRequest()))).reason == "SHARD_UNAVAILABLE"

        async def fail(call):
            await call.context.abort(grpc.StatusCode.INTERNAL, "broken")

        raw.answer = fail
        pair.front.directory.set_owner(HOME, raw.owner())
        why = await refusal(ask(admin_pb2.ListNamespacesRequest()))
        assert (why.code, why.reason) == (grpc.StatusCode.UNAVAILABLE, "SHARD_UNAVAILABLE")

    async def test_a_bad_request_is_refused_as_ever(self, pair):
        why = await refusal(pair.front.admin.ListNamespaces(admin_pb2.ListNamespacesRequest(page_token="nonsense")))
        assert why.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_coordinator_speaks_for_itself(pair):
    """GetCoordinator is about whoever was asked, and says of how many shards all are."""
    front = await pair.front.admin.GetCoordinator(admin_pb2.GetCoordinatorRequest())
    back = await pair.back.admin.GetCoordinator(admin_pb2.GetCoordinatorRequest())
    assert front.instance_id != back.instance_id
    assert front.shards == back.shards == SHARDS


@pytest.mark.parametrize("metadata", [None, (("muster-namespace", "default"),)])
async def test_a_call_without_a_namespace_is_for_the_default_one(pair, metadata):
    await pair.back.submit("t")
    listed = await pair.front.agents.ListAgents(agent_pb2.ListAgentsRequest(), metadata=metadata)
    assert not listed.agents
