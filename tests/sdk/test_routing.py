"""Where an agent's streams go: the given addresses in turn, the owner that it hears of, and where it is sent."""

import asyncio

import grpc
import pytest
from muster.v1 import agent_pb2 as pb

from agent_node import Agent
from tests.support.eventually import eventually
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.ports import free_port
from tests.support.serving import result_of, serving, task


@pytest.fixture
def other():
    with FakeCoordinator() as coordinator:
        yield coordinator


def agent_at(*addresses):
    return Agent("a", address=",".join(addresses))


async def test_a_stream_that_breaks_is_followed_by_one_to_the_owner(coordinator, other):
    """It had come by way of another coordinator. What it runs goes on, and is reported where it is then."""
    agent = agent_at(coordinator.address)
    release = asyncio.Event()

    @agent.handler("work")
    async def work(ctx):
        await release.wait()

    coordinator.script.owner_address = other.address
    async with serving(coordinator, agent):
        coordinator.assign(task("t"))
        await eventually(lambda: any(message.acknowledged_batch_ids for message in coordinator.said), message="the assignment to arrive")
        coordinator.break_stream()
        await eventually(lambda: other.streams, message="a stream to the owner")
        assert [attempt.task_id for attempt in other.stream.hello.in_flight] == ["t"]
        release.set()
        assert (await result_of(other, "t")).HasField("success")
    assert len(coordinator.streams) == 1


async def test_back_to_the_given_address_when_the_owner_is_not_there(coordinator):
    agent = agent_at(coordinator.address)
    agent.handler("work")(lambda ctx: None)
    coordinator.script.owner_address = f"127.0.0.1:{free_port()}"
    async with serving(coordinator, agent):
        for streams in (2, 3):
            coordinator.break_stream()
            await eventually(lambda streams=streams: len(coordinator.streams) == streams, message="the next stream")


async def test_a_shard_that_moved_names_its_owner(coordinator, other):
    agent = agent_at(coordinator.address)
    agent.handler("work")(lambda ctx: None)
    async with serving(coordinator, agent):
        coordinator.break_stream(grpc.StatusCode.UNAVAILABLE, "SHARD_MOVED", "it moved", owner=other.address)
        await eventually(lambda: other.streams, message="a stream to the owner")


async def test_go_away_with_an_address_and_without(coordinator, other):
    agent = agent_at(coordinator.address, other.address)
    agent.handler("work")(lambda ctx: None)
    async with serving(coordinator, agent):
        coordinator.send(pb.ConnectResponse(go_away=pb.GoAway(address=other.address)))
        await eventually(lambda: other.streams, message="a stream where it was sent")
        other.send(pb.ConnectResponse(go_away=pb.GoAway()))
        await eventually(lambda: len(coordinator.streams) == 2, message="a stream to a given address")
        coordinator.send(pb.ConnectResponse(go_away=pb.GoAway()))
        await eventually(lambda: len(other.streams) == 2, message="a stream to the next one")


async def test_a_coordinator_that_says_nothing_is_left_for_the_next_one(coordinator, other):
    coordinator.script.answer_renews = False
    agent = agent_at(coordinator.address, other.address)
    agent.handler("work")(lambda ctx: None)
    async with serving(coordinator, agent):
        await eventually(lambda: other.streams, message="a stream to the next one")
