"""Who owns a shard changes: calls find the new owner, and are repeated only where nothing was done."""

import asyncio

import grpc
import pytest
from muster.v1 import admin_pb2, task_pb2

from coordinator.cluster.directory import Owner
from coordinator.rpc.status import OWNER_KEY
from tests.support.eventually import eventually
from tests.support.hosted import spec_of
from tests.support.pair import HOME, NAMES, OTHER, SHARDS
from tests.support.ports import free_port
from tests.support.raw_owner import raw_owner
from tests.support.refusals import refusal

SESSION = "/muster.v1.TaskService/Session"
GET = "/muster.v1.TaskService/GetTask"


async def not_mine(call):
    """What a coordinator answers to a forwarded call of a shard that it doesn't own."""
    call.context.set_trailing_metadata((("muster-untouched", "1"),))
    await call.context.abort(grpc.StatusCode.UNAVAILABLE, "it isn't mine")


@pytest.fixture
async def other():
    """Another owner that knows nothing but bytes."""
    async with raw_owner("other") as owner:
        yield owner


def own_all(side, owner):
    for shard in range(SHARDS):
        side.directory.set_owner(shard, owner)


class TestNobody:
    async def test_a_call_waits_for_an_owner(self, front, raw):
        own_all(front, None)
        unary = front.channel.unary_unary(GET)(b"x")
        stream = front.channel.stream_stream(SESSION)()
        await stream.write(b"y")
        asyncio.get_running_loop().call_later(0.1, own_all, front, raw.owner())
        assert await unary == b"x"
        assert await stream.read() == b"y"

    async def test_not_for_ever(self, pair):
        own_all(pair.front, None)
        for call in (pair.front.tasks.GetTask(task_pb2.GetTaskRequest(task_id="t")), pair.front.tasks.Session()):
            why = await refusal(call)
            assert (why.code, why.reason, why.retry_after_s) == (grpc.StatusCode.UNAVAILABLE, "SHARD_UNAVAILABLE", 1.0)
            assert "has no owner now: try again" in why.message

    async def test_a_caller_that_waits_less_is_told_so(self, front):
        own_all(front, None)
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await front.channel.unary_unary(GET)(b"x", timeout=0.1)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    async def test_the_shard_becomes_ours_meanwhile(self, pair):
        """Calls of every kind are handled here then, as if they had been from the first."""
        pair.move(HOME, None)
        asyncio.get_running_loop().call_later(0.1, pair.move, HOME, pair.front.owner())
        session = pair.front.session()
        watch = pair.front.tasks.WatchTasks(task_pb2.WatchTasksRequest(task_ids=["t"]))
        submitted, client, event = await asyncio.gather(pair.front.submit("t"), session, watch.read())
        assert [one.verdict for one in submitted] == [task_pb2.SUBMIT_VERDICT_ACCEPTED]
        assert not client.received[0].welcome.owner_address
        assert event.events
        assert (await client.submit(spec_of("u"))).batch_id == 1
        assert set(pair.front.scheduler.state.tasks) == {"t", "u"}
        why = await refusal(pair.front.channel.unary_unary(GET)(b"\xff\xff"))
        assert why.reason == "MALFORMED_MESSAGE"

    async def test_what_cannot_be_read_is_refused_here_too(self, pair):
        pair.move(HOME, None)
        calls = [
            pair.front.channel.unary_unary(GET)(b"\xff\xff"),
            pair.front.channel.unary_stream("/muster.v1.TaskService/WatchTasks")(b"\xff\xff"),
            pair.front.channel.stream_stream(SESSION)(),
        ]
        asyncio.get_running_loop().call_later(0.1, pair.move, HOME, pair.front.owner())
        await calls[2].write(b"\xff\xff")
        for call in calls:
            assert (await refusal(call)).reason == "MALFORMED_MESSAGE"


class TestUnreachable:
    async def test_an_owner_that_is_not_there(self, pair):
        own_all(pair.front, Owner(coordinator_id="gone", address=f"127.0.0.1:{free_port()}"))
        why = await refusal(pair.front.tasks.GetTask(task_pb2.GetTaskRequest(task_id="t")))
        assert (why.code, why.reason) == (grpc.StatusCode.UNAVAILABLE, "SHARD_UNAVAILABLE")
        assert "coordinator 'gone', which can't be reached" in why.message

    async def test_the_next_owner_is_found_meanwhile(self, front, raw):
        own_all(front, Owner(coordinator_id="gone", address=f"127.0.0.1:{free_port()}"))
        call = front.channel.unary_unary(GET)(b"x")
        asyncio.get_running_loop().call_later(0.2, own_all, front, raw.owner())
        assert await call == b"x"

    async def test_it_comes_back_where_it_was(self, front):
        port = free_port()
        own_all(front, Owner(coordinator_id="restarted", address=f"127.0.0.1:{port}"))
        call = front.channel.unary_unary(GET)(b"x")
        async with raw_owner("restarted", address=f"127.0.0.1:{port}"):
            assert await call == b"x"


class TestNotMine:
    async def test_it_goes_to_the_next_owner_once(self, front, raw, other):
        async def move(call):
            own_all(front, other.owner())
            await not_mine(call)

        for kind in ("unary", "stream"):
            raw.answer = move
            own_all(front, raw.owner())
            if kind == "unary":
                call = front.channel.unary_unary(GET)(b"x")
                assert await call == b"x"
            else:
                call = front.channel.stream_stream(SESSION)()
                await call.write(b"x")
                assert await call.read() == b"x"
                await call.write(b"y")
                assert await call.read() == b"y"
                await call.done_writing()
                assert await call.read() is grpc.aio.EOF
            assert dict(await call.trailing_metadata())[OWNER_KEY] == other.address
        assert [len(raw.calls), len(other.calls)] == [2, 2]

    @pytest.mark.parametrize("kind", ["unary", "stream"])
    async def test_only_once(self, front, raw, other, kind):
        """Coordinators that disagree don't send a call round and round."""
        own_all(front, raw.owner())

        async def move(call):
            own_all(front, other.owner())
            await not_mine(call)

        async def move_back(call):
            own_all(front, raw.owner(epoch=2))
            await not_mine(call)

        raw.answer, other.answer = move, move_back
        call = front.channel.unary_unary(GET)(b"x") if kind == "unary" else front.channel.stream_stream(SESSION)()
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert await call.details() == "it isn't mine"
        assert [len(raw.calls), len(other.calls)] == [1, 1]
        assert "muster-untouched" not in dict(await call.trailing_metadata())

    async def test_not_after_an_answer(self, front, raw, other):
        async def move(call):
            await call.write(b"something")
            own_all(front, other.owner())
            await not_mine(call)

        raw.answer = move
        call = front.channel.stream_stream(SESSION)()
        await call.write(b"x")
        assert await call.read() == b"something"
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert not other.calls

    async def test_not_when_more_was_sent_than_is_kept(self, front, raw, other):
        async def move(call):
            await call.read()
            await call.read()
            own_all(front, other.owner())
            await not_mine(call)

        raw.answer = move
        call = front.channel.stream_stream(SESSION)()
        await call.write(b"x")
        await call.write(b"y")
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert not other.calls

    async def test_not_when_it_may_have_been_handled(self, front, raw, other):
        async def lost(call):
            await call.read()
            own_all(front, other.owner())
            await call.context.abort(grpc.StatusCode.UNAVAILABLE, "the shard was lost: it may have been written all the same")

        raw.answer = lost
        with pytest.raises(grpc.aio.AioRpcError, match="may have been written"):
            await front.channel.unary_unary(GET)(b"x")
        assert not other.calls

    async def test_one_hop_only(self, pair):
        """Each thinks that the other owns it: whoever is asked by a coordinator refuses, and names the owner that it knows of."""
        pair.move(HOME, pair.front.owner(), front=False)
        why = await refusal(pair.front.tasks.GetTask(task_pb2.GetTaskRequest(task_id="t")))
        assert (why.code, why.reason) == (grpc.StatusCode.UNAVAILABLE, "SHARD_MOVED")
        assert why.metadata == {"shard": str(HOME), "owner": pair.front.address}
        for call in (pair.front.tasks.Session(), pair.front.tasks.WatchTasks(task_pb2.WatchTasksRequest(task_ids=["t"]))):
            assert (await refusal(call)).reason == "SHARD_MOVED"

    async def test_the_newest_owner_may_be_this_one(self, pair):
        pair.move(HOME, pair.front.owner(), front=False)
        call = pair.front.submit("t")
        asyncio.get_running_loop().call_later(0.1, pair.front.directory.set_owner, HOME, pair.front.owner())
        await call
        assert set(pair.front.scheduler.state.tasks) == {"t"}


class TestUnderWay:
    async def test_streams_with_an_owner_that_hangs_end_when_the_shard_moves(self, front, raw, other):
        async def hang(call):
            await call.write(b"welcome")
            await asyncio.Event().wait()

        raw.answer = hang
        call = front.channel.stream_stream(SESSION)()
        assert await anext(aiter(call)) == b"welcome"
        unary = front.channel.unary_unary("/muster.v1.TaskService/ListTasks")(b"")
        await eventually(lambda: len(raw.calls) == 2, message="both calls")
        own_all(front, other.owner())
        for each in (call, unary):
            why = await refusal(each)
            assert (why.code, why.reason, why.metadata["owner"]) == (grpc.StatusCode.UNAVAILABLE, "SHARD_MOVED", other.address)

    async def test_those_of_other_shards_go_on(self, pair):
        client = await pair.front.session()
        pair.move(OTHER, pair.front.owner())
        pair.front.directory.set_owner(HOME, None)  # nobody owns it: whoever has it may come back
        await client.submit(spec_of("t"))
        assert client.ended is None

    async def test_channels_to_those_who_own_nothing_are_closed(self, front, raw, other):
        await front.channel.unary_unary(GET)(b"x")
        peers = front.running.forwarding.peers
        assert peers.addresses() == {raw.address}
        own_all(front, other.owner())
        await eventually(lambda: not peers.addresses(), message="the channel to be let go")
        await front.channel.unary_unary(GET)(b"x")
        assert peers.addresses() == {other.address}


@pytest.mark.parametrize("address", ["there:7450", ""])
async def test_agents_are_sent_to_the_next_owner_of_a_shard_that_is_given_up(pair, address):
    agent, client = await pair.front.agent(), await pair.back.session()
    pair.back.shard.owner_address = lambda _: address
    pair.back.shard.hand_over()
    ended = await agent.end()
    assert (ended.code, ended.reason) == (grpc.StatusCode.UNAVAILABLE, "SHARD_MOVED")
    assert ended.metadata.get("owner", "") == address
    last = agent.received[-1]
    assert last.HasField("go_away")
    assert last.go_away.address == address
    assert (await client.end()).reason == "SHARD_MOVED"


class TestRecovering:
    """A shard that is this coordinator's, and not served yet."""

    @pytest.fixture
    async def recovering(self, pair):
        """The front owns it, and says that it serves it when the test does."""
        pair.move(HOME, pair.front.owner())
        pair.front.shard.serving = False
        yield pair
        pair.front.shard.serving = True

    @pytest.mark.parametrize("way", ["front", "back"])
    async def test_calls_wait_for_it(self, recovering, way):
        side = getattr(recovering, way)
        calls = [asyncio.ensure_future(side.submit("t")), asyncio.ensure_future(side.session())]
        created = side.admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name=NAMES[HOME]))
        asyncio.get_running_loop().call_later(0.1, setattr, recovering.front.shard, "serving", True)
        await asyncio.gather(*calls)
        assert (await created).namespace.shard == HOME
        assert set(recovering.front.scheduler.state.tasks) == {"t"}

    async def test_not_for_ever(self, recovering):
        why = await refusal(recovering.back.tasks.GetTask(task_pb2.GetTaskRequest(task_id="t")))
        assert why.reason == "SHARD_UNAVAILABLE"
        assert "being recovered" in why.message

    async def test_one_hop_only_though_it_moves_meanwhile(self, recovering):
        call = recovering.back.tasks.GetTask(task_pb2.GetTaskRequest(task_id="t"))
        asyncio.get_running_loop().call_later(0.1, recovering.front.directory.set_owner, HOME, recovering.back.owner(2))
        why = await refusal(call)
        assert (why.reason, why.metadata["owner"]) == ("SHARD_MOVED", recovering.back.address)
