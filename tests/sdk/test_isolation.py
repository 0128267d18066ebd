"""Where handlers run, how many at a time, and how they are stopped."""

import asyncio
import contextvars
import os
import threading

import pytest
from muster.v1 import agent_pb2 as pb
from muster.v1.common_pb2 import FailureKind

from tests.sdk import process_handlers
from tests.support.eventually import eventually
from tests.support.serving import result_of, serving, task

# capacity and isolation


@pytest.mark.parametrize("plain", [False, True])
async def test_never_more_than_the_capacity_run(coordinator, agent, plain):
    running, most, lock = 0, 0, threading.Lock()
    released = threading.Event()

    def enter(by):
        nonlocal running, most
        with lock:
            running += by
            most = max(most, running)

    if plain:

        @agent.handler("work")
        def work(ctx):
            enter(1)
            released.wait(5)
            enter(-1)

    else:

        @agent.handler("work")
        async def work(ctx):
            enter(1)
            while not released.is_set():
                await asyncio.sleep(0.001)
            enter(-1)

    async with serving(coordinator, agent):
        coordinator.assign(*(task(f"t{number}") for number in range(8)))  # twice the capacity
        await eventually(lambda: running == 4)
        released.set()
        await eventually(lambda: len(coordinator.results) == 8)
    assert most == 4


async def test_what_a_handler_leaves_in_its_context_does_not_reach_the_next(coordinator, agent):
    variable = contextvars.ContextVar("variable", default="clean")

    @agent.handler("work")
    async def work(ctx):
        seen = variable.get()
        variable.set("dirty")
        return seen

    agent.handler("plain")(lambda ctx: (variable.get(), variable.set("dirty"))[0])
    async with serving(coordinator, agent):
        coordinator.assign(task("a"), task("b"), task("c", "plain"), task("d", "plain"))
        for task_id in "abcd":
            assert (await result_of(coordinator, task_id)).success.payload == b"clean"


async def test_handlers_that_wait_run_side_by_side(coordinator, agent):
    everyone = asyncio.Barrier(4)

    @agent.handler("work")
    async def work(ctx):
        await asyncio.wait_for(everyone.wait(), 5)

    async with serving(coordinator, agent):
        coordinator.assign(*(task(f"t{number}") for number in range(4)))
        await eventually(lambda: len(coordinator.results) == 4)
    assert {coordinator.outcome_of(f"t{number}") for number in range(4)} == {"success"}


async def test_renewals_go_on_while_a_handler_blocks_the_loop(coordinator, agent):
    renewed = []

    @agent.handler("work")
    async def work(ctx):
        before = len(coordinator.renews)
        while len(coordinator.renews) < before + 4:  # the loop answers nobody until then
            threading.Event().wait(0.01)
        renewed.extend(coordinator.renews[before:])

    async with serving(coordinator, agent):
        coordinator.assign(task("a"))
        await result_of(coordinator, "a")
    assert all(renew.attempts[0].task_id == "a" for renew in renewed[1:])
    assert max(renew.loop_lag.ToTimedelta().total_seconds() for renew in renewed) > 0.04


async def test_renewals_go_on_while_every_thread_blocks(coordinator, agent):
    released = threading.Event()
    agent.handler("work")(lambda ctx: released.wait(5))
    async with serving(coordinator, agent):
        coordinator.assign(*(task(f"t{number}") for number in range(4)))
        await eventually(lambda: coordinator.renews and len(coordinator.renews[-1].attempts) == 4)
        before = len(coordinator.renews)
        await eventually(lambda: len(coordinator.renews) > before + 3)
        assert len(coordinator.renews[-1].attempts) == 4
        released.set()


# cancel and loss


async def test_a_cancel_raises_in_an_async_handler(coordinator, agent):
    begun = asyncio.Event()

    @agent.handler("work")
    async def work(ctx):
        begun.set()
        await asyncio.Event().wait()

    agent.handler("next")(process_handlers.pid)
    async with serving(coordinator, agent):
        coordinator.assign(task("a"))
        await begun.wait()
        coordinator.send(pb.ConnectResponse(cancels=[pb.Cancel(task_id="a", fence=1, reason="enough")]))
        assert (await result_of(coordinator, "a")).cancelled.reason == "enough"
        coordinator.assign(task("b", "next"))
        assert (await result_of(coordinator, "b")).HasField("success")


async def test_a_cancel_before_its_turn_ends_an_attempt_without_a_handler(coordinator, agent):
    ran, released = [], asyncio.Event()

    @agent.handler("work")
    async def work(ctx):
        ran.append(ctx.task_id)
        await released.wait()

    async with serving(coordinator, agent):
        coordinator.assign(*(task(f"t{number}") for number in range(5)))
        await eventually(lambda: len(ran) == 4)
        coordinator.send(pb.ConnectResponse(cancels=[pb.Cancel(task_id="t4", fence=1)]))
        assert (await result_of(coordinator, "t4")).HasField("cancelled")
        released.set()
        await eventually(lambda: len(coordinator.results) == 5)
    assert "t4" not in ran


async def test_a_handler_in_a_thread_sees_the_cancel_and_keeps_its_slot_visibly(coordinator, agent):
    may_look = threading.Event()

    @agent.handler("work")
    def work(ctx):
        may_look.wait(5)
        if ctx.cancelled:
            return
        ctx.raise_if_cancelled()

    async with serving(coordinator, agent):
        coordinator.assign(task("a"))
        await eventually(lambda: coordinator.renews and coordinator.renews[-1].attempts)
        assert not coordinator.renews[-1].attempts[0].cancel_delivered
        coordinator.send(pb.ConnectResponse(cancels=[pb.Cancel(task_id="a", fence=1, reason="enough")]))
        await eventually(lambda: coordinator.renews[-1].attempts and coordinator.renews[-1].attempts[0].cancel_delivered)
        may_look.set()
        assert (await result_of(coordinator, "a")).cancelled.reason == "enough"


async def test_a_lost_attempt_is_cancelled_and_nothing_is_reported(coordinator, agent):
    begun, ended = asyncio.Event(), asyncio.Event()

    @agent.handler("work")
    async def work(ctx):
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set()
            raise

    async with serving(coordinator, agent):
        coordinator.assign(task("a"))
        await begun.wait()
        ack = pb.RenewAck(exceptions=[pb.RenewException(task_id="a", fence=1, verdict=pb.RENEW_VERDICT_LOST)])
        coordinator.send(pb.ConnectResponse(renew_ack=ack))
        await asyncio.wait_for(ended.wait(), 5)
        before = len(coordinator.renews)
        await eventually(lambda: len(coordinator.renews) > before + 2)
        assert not coordinator.renews[-1].attempts
    assert coordinator.results == []


async def test_losing_a_cancelled_attempt_does_not_cut_its_cleaning_up_short(coordinator, agent):
    begun, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @agent.handler("work")
    async def work(ctx):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await may_end.wait()
            ended.set()

    async with serving(coordinator, agent):
        coordinator.assign(task("a"))
        await begun.wait()
        coordinator.send(pb.ConnectResponse(cancels=[pb.Cancel(task_id="a", fence=1)]))
        coordinator.send(pb.ConnectResponse(cancels=[pb.Cancel(task_id="a", fence=1, lost=True)]))
        await eventually(lambda: any(message.ready.limit == 3 for message in coordinator.said), message="a slot less")
        coordinator.assign(task("b"))
        await eventually(
            lambda: coordinator.renews and coordinator.renews[-1].attempts and coordinator.renews[-1].attempts[0].task_id == "b"
        )
        may_end.set()
        await asyncio.wait_for(ended.wait(), 5)


# child processes


async def test_a_handler_in_a_process_runs_elsewhere_and_its_process_is_kept(coordinator, agent):
    agent.handler("work", isolation="process")(process_handlers.pid)
    async with serving(coordinator, agent):
        coordinator.assign(task("a"))
        first = (await result_of(coordinator, "a", within_s=20)).success.payload
        coordinator.assign(task("b"))
        second = (await result_of(coordinator, "b", within_s=20)).success.payload
    assert first == second != str(os.getpid()).encode()


async def test_a_cancel_kills_a_process(coordinator, agent):
    agent.handler("work", isolation="process")(process_handlers.hang)
    async with serving(coordinator, agent):
        coordinator.assign(task("a"))
        await eventually(lambda: coordinator.renews and any(each.progress.current for each in coordinator.renews[-1].attempts), within_s=20)
        pid = int(coordinator.renews[-1].attempts[0].progress.current)
        coordinator.send(pb.ConnectResponse(cancels=[pb.Cancel(task_id="a", fence=1, reason="enough")]))
        assert (await result_of(coordinator, "a")).cancelled.reason == "enough"
        await eventually(lambda: not os.path.exists(f"/proc/{pid}"))  # noqa: PTH110


async def test_a_process_that_dies_is_a_retryable_failure_and_the_next_attempt_gets_a_new_one(coordinator, agent):
    agent.handler("die", isolation="process")(process_handlers.die)
    async with serving(coordinator, agent):
        for task_id in "ab":
            coordinator.assign(task(task_id, "die"))
            failure = (await result_of(coordinator, task_id, within_s=20)).failure
            assert failure.kind == FailureKind.Value("FAILURE_KIND_LEASE_LOST")
            assert not failure.non_retryable
            assert "died with exit code 3" in failure.message


@pytest.mark.parametrize("function", [process_handlers.report, process_handlers.report_async])
async def test_reports_of_a_process_arrive(coordinator, agent, function):
    agent.handler("work", isolation="process")(function)
    async with serving(coordinator, agent):
        coordinator.assign(task("a"))
        outcome = await result_of(coordinator, "a", within_s=20)
    assert outcome.success.payload == b"stored"
    assert any(message.checkpoints for message in coordinator.said)
    if function is process_handlers.report:
        assert b"".join(chunk.data for message in coordinator.said for chunk in message.chunks) == b"partial"
        assert outcome.usage[0].output_tokens == 2
        assert outcome.cost == 2.5
