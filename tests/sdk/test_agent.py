"""An agent and its stream, against a scripted coordinator over real gRPC."""

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from muster.v1 import agent_pb2 as pb

from agent_node import Agent, NotFoundError, RefusedError
from agent_node.stream_thread import StreamThread
from tests.support.eventually import eventually
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.serving import result_of, serving, task

# the stream


async def test_unanswered_results_and_running_attempts_survive_a_broken_stream(coordinator, agent):
    coordinator.script.answer_results = False
    released = asyncio.Event()

    @agent.handler("work")
    async def work(ctx):
        if ctx.task_id == "slow":
            await released.wait()

    async with serving(coordinator, agent):
        coordinator.assign(task("fast"), task("slow"))
        await result_of(coordinator, "fast")
        coordinator.script.answer_results = True
        coordinator.break_stream()
        await eventually(lambda: len(coordinator.streams) == 2)
        assert {each.task_id for each in coordinator.stream.hello.in_flight} == {"fast", "slow"}
        assert coordinator.stream.hello.session_nonce == coordinator.streams[0].hello.session_nonce
        await eventually(lambda: [result.task_id for result in coordinator.results] == ["fast", "fast"])
        released.set()
        await result_of(coordinator, "slow")


async def test_a_coordinator_that_fails_on_every_stream_is_complained_of_once(coordinator, agent, caplog):
    agent.handler("work")(lambda ctx: None)
    caplog.set_level(logging.WARNING)
    async with serving(coordinator, agent):
        for number in range(1, 5):
            coordinator.break_stream()
            await eventually(lambda number=number: len(coordinator.streams) > number)
    assert caplog.text.count("stream.lost") == 1


async def test_silence_after_renew_reconnects(coordinator, agent):
    agent.handler("work")(lambda ctx: None)
    coordinator.script.answer_renews = False
    async with serving(coordinator, agent):
        await eventually(lambda: len(coordinator.streams) >= 2)


async def test_go_away_moves_to_another_coordinator_with_what_runs(coordinator, agent):
    released = asyncio.Event()

    @agent.handler("work")
    async def work(ctx):
        await released.wait()

    with FakeCoordinator() as other:
        async with serving(coordinator, agent):
            coordinator.assign(task("a"))
            await eventually(lambda: coordinator.renews and coordinator.renews[-1].attempts)
            coordinator.send(pb.ConnectResponse(go_away=pb.GoAway(address=other.address)))
            await eventually(lambda: other.streams)
            assert [each.task_id for each in other.stream.hello.in_flight] == ["a"]
            released.set()
            await result_of(other, "a")


async def test_a_superseded_agent_stops_and_says_why(coordinator, agent):
    stopped = asyncio.Event()

    @agent.handler("work")
    async def work(ctx):
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with serving(coordinator, agent) as served:
        coordinator.assign(task("a"))
        await eventually(lambda: coordinator.renews and coordinator.renews[-1].attempts)
        coordinator.break_stream(grpc.StatusCode.ABORTED, "SESSION_SUPERSEDED", "a newer session")
        with pytest.raises(RefusedError, match="another process has connected as agent 'tester'") as raised:
            await asyncio.wait_for(served, 5)
    assert raised.value.reason == "SESSION_SUPERSEDED"
    assert stopped.is_set()
    assert len(coordinator.streams) == 1


async def test_a_refused_agent_stops_and_says_why(coordinator, agent):
    agent.handler("work")(lambda ctx: None)
    coordinator.script.refuse = (grpc.StatusCode.NOT_FOUND, "NAMESPACE_NOT_FOUND", "there is no namespace 'x'")
    with pytest.raises(NotFoundError, match="no namespace"):
        await asyncio.wait_for(agent.serve(), 5)


async def test_a_coordinator_that_is_not_there_is_waited_for(agent, caplog):
    agent.handler("work")(lambda ctx: None)
    agent.override(address="127.0.0.1:1")
    caplog.set_level(logging.WARNING)
    served = asyncio.create_task(agent.serve())
    await eventually(lambda: "stream.lost" in caplog.text)
    assert not served.done()
    agent.drain()
    await asyncio.wait_for(served, 5)


async def test_several_agents_share_a_process_and_nothing_else(coordinator):
    agents = [Agent(f"agent-{number}", address=coordinator.address, capacity=1) for number in range(3)]
    for each in agents:
        each.handler("work")(lambda ctx, name=each.name: name)
    async with serving(coordinator, *agents):
        await eventually(lambda: len(coordinator.streams) == 3)
        assert sum(thread.name == "muster-streams" for thread in threading.enumerate()) == 1
        coordinator.assign(task("a"))
        assert (await result_of(coordinator, "a")).success.payload.decode() == coordinator.stream.hello.agent_name
    assert not any(thread.name == "muster-streams" for thread in threading.enumerate())


# leaving


async def test_a_drain_finishes_what_runs(coordinator, agent):
    released = asyncio.Event()

    @agent.handler("work")
    async def work(ctx):
        await released.wait()

    async with serving(coordinator, agent) as served:
        coordinator.assign(task("a"))
        await eventually(lambda: coordinator.renews and coordinator.renews[-1].attempts)
        agent.drain("upgrade")
        await eventually(lambda: any(message.drain.reason == "upgrade" for message in coordinator.said))
        assert not served.done()
        released.set()
        await asyncio.wait_for(served, 5)
    assert coordinator.outcome_of("a") == "success"


async def test_a_drain_gives_back_what_does_not_end(coordinator, agent):
    stuck = threading.Event()

    @agent.handler("work")
    async def work(ctx):
        await asyncio.Event().wait()

    agent.handler("stuck")(lambda ctx: stuck.wait(20))
    async with serving(coordinator, agent) as served:
        coordinator.assign(task("a"), task("b", "stuck"))
        await eventually(lambda: coordinator.renews and len(coordinator.renews[-1].attempts) == 2)
        coordinator.send(pb.ConnectResponse(drain=pb.CoordinatorDrain(reason="rollout", deadline={"nanos": 50_000_000})))
        await asyncio.wait_for(served, 10)
    stuck.set()
    assert coordinator.outcome_of("a") == coordinator.outcome_of("b") == "returned"


async def test_a_drain_reaches_an_agent_whose_loop_is_blocked(coordinator, agent):
    heard = []

    @agent.handler("work")
    async def work(ctx):
        agent.drain("blocked")
        while not any(message.HasField("drain") for message in coordinator.said):
            threading.Event().wait(0.01)
        heard.append(True)

    async with serving(coordinator, agent) as served:
        coordinator.assign(task("a"))
        await asyncio.wait_for(served, 5)
    assert heard


async def test_cancelling_serve_stops_handlers(coordinator, agent):
    stopped = asyncio.Event()

    @agent.handler("work")
    async def work(ctx):
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with serving(coordinator, agent) as served:
        coordinator.assign(task("a"))
        await eventually(lambda: coordinator.renews and coordinator.renews[-1].attempts)
        served.cancel()
        with pytest.raises(asyncio.CancelledError):
            await served
    assert stopped.is_set()


# wrong use


def test_wrong_arguments_are_refused():
    for arguments in ({"name": ""}, {"name": "x" * 129}, {"capacity": 0}, {"capacity": 10_001}, {"drain_deadline_s": -1}):
        with pytest.raises(ValueError):
            Agent(**arguments)


def test_handlers_are_checked_when_they_are_registered():
    agent = Agent()

    async def work(ctx): ...

    agent.handler("work")(work)
    with pytest.raises(ValueError, match="already"):
        agent.handler("work")
    with pytest.raises(ValueError, match="128"):
        agent.handler("")
    with pytest.raises(ValueError, match="event loop"):
        agent.handler("other", isolation="thread")(work)
    with pytest.raises(ValueError, match='"process"'):
        agent.handler("other", isolation="prozess")(work)


async def test_serving_twice_or_nothing_is_refused(coordinator, agent):
    with pytest.raises(RuntimeError, match="no handler"):
        await agent.serve()
    agent.handler("work")(lambda ctx: None)
    async with serving(coordinator, agent):
        with pytest.raises(RuntimeError, match="serving already"):
            await agent.serve()


def test_default_names_differ():
    with ThreadPoolExecutor(4) as pool:
        names = list(pool.map(lambda _: Agent().name, range(100)))
    assert len(set(names)) == 100


def test_a_name_that_no_message_can_hold_is_refused_at_once():
    with pytest.raises(ValueError, match="UTF-8"):
        Agent("caf\udce9")
    with pytest.raises(ValueError, match="UTF-8"):
        Agent("tester").handler("caf\udce9")(lambda ctx: None)


async def test_a_stop_that_comes_while_it_ends_by_itself_is_no_error(coordinator, agent, monkeypatch):
    release, stopped = StreamThread.release, []

    async def release_and_stop(thread):
        await release(thread)
        try:
            agent.stop()
            agent.drain()
        except RuntimeError as error:
            stopped.append(error)
        else:
            stopped.append(thread.loop.is_closed())

    monkeypatch.setattr(StreamThread, "release", release_and_stop)
    agent.handler("work")(lambda _: None)
    async with serving(coordinator, agent):
        pass
    assert stopped == [True]
