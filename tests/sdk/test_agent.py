"""An agent against a scripted coordinator, over real gRPC."""

import asyncio
import contextlib
import contextvars
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from muster.v1 import agent_pb2 as pb
from muster.v1.common_pb2 import FailureKind, TaskSpec

from agent_node import Agent, AttemptLostError, Client, NonRetryableError, NotFoundError, RefusedError, RetryableError
from tests.sdk import process_handlers
from tests.support.eventually import eventually
from tests.support.fake_coordinator import FakeCoordinator


@pytest.fixture
def coordinator():
    with FakeCoordinator() as fake:
        yield fake


@pytest.fixture
def agent(coordinator):
    return Agent("tester", address=coordinator.address, capacity=4)


@contextlib.asynccontextmanager
async def serving(coordinator, *agents):
    """Serves while the block runs; then stops at once."""
    tasks = [asyncio.create_task(agent.serve()) for agent in agents]
    try:
        await eventually(lambda: len(coordinator.streams) >= len(agents) or any(task.done() for task in tasks), message="streams")
        await eventually(lambda: coordinator.said or not coordinator.script.welcome, message="the first Ready")
        yield tasks[0]
    finally:
        for each in agents:
            each.stop()
        await asyncio.gather(*tasks, return_exceptions=True)


def task(task_id, task_type="work", **fields):
    return TaskSpec(task_id=task_id, task_type=task_type, **fields)


async def result_of(coordinator, task_id, *, within_s=5.0):
    await eventually(lambda: coordinator.outcome_of(task_id), within_s=within_s, message=f"the result of {task_id}")
    return next(result.outcome for result in reversed(coordinator.results) if result.task_id == task_id)


# results


@pytest.mark.parametrize(
    "value, payload, content_type",
    [
        (b"raw", b"raw", "application/octet-stream"),
        ("täxt", "täxt".encode(), "text/plain; charset=utf-8"),
        (None, b"", ""),
        ({"n": [1, "ü"]}, '{"n":[1,"ü"]}'.encode(), "application/json"),
    ],
)
async def test_what_handlers_return_arrives_with_its_type(coordinator, agent, value, payload, content_type):
    agent.handler("async")(lambda ctx: value)

    @agent.handler("work")
    async def work(ctx):
        return value

    async with serving(coordinator, agent):
        coordinator.assign(task("a"), task("b", "async"))
        for task_id in ("a", "b"):
            success = (await result_of(coordinator, task_id)).success
            assert (success.payload, success.content_type) == (payload, content_type)


async def test_what_cannot_be_sent_fails_for_good(coordinator, agent):
    agent.handler("work")(lambda ctx: object())
    async with serving(coordinator, agent):
        coordinator.assign(task("a"))
        failure = (await result_of(coordinator, "a")).failure
        assert failure.non_retryable
        assert "object" in failure.message


@pytest.mark.parametrize(
    "error, kind, non_retryable, retry_after_s",
    [
        (ValueError("no"), "APPLICATION", False, None),
        (RetryableError("later", retry_after_s=2, kind="RATE_LIMITED"), "RATE_LIMITED", False, 2),
        (NonRetryableError("never", kind="PROVIDER_REJECTED"), "PROVIDER_REJECTED", True, None),
        (NonRetryableError("odd", kind="NO_SUCH_KIND"), "APPLICATION", True, None),
    ],
)
async def test_what_handlers_raise_arrives_as_a_failure(coordinator, agent, error, kind, non_retryable, retry_after_s):
    @agent.handler("work")
    async def work(ctx):
        raise error

    async with serving(coordinator, agent):
        coordinator.assign(task("a"))
        failure = (await result_of(coordinator, "a")).failure
        assert failure.kind == FailureKind.Value(f"FAILURE_KIND_{kind}")
        assert (failure.message, failure.type, failure.non_retryable) == (str(error), type(error).__name__, non_retryable)
        assert "in work" in failure.stack_trace
        assert (failure.retry_after.seconds if failure.HasField("retry_after") else None) == retry_after_s


async def test_exit_in_a_handler_fails_its_attempt_alone(coordinator, agent):
    @agent.handler("work")
    async def work(ctx):
        raise SystemExit(3)

    @agent.handler("plain")
    def plain(ctx):
        raise SystemExit(3)

    async with serving(coordinator, agent):
        for task_id, task_type in (("a", "work"), ("b", "plain"), ("c", "plain")):
            coordinator.assign(task(task_id, task_type))
            assert (await result_of(coordinator, task_id)).failure.type == "SystemExit"


async def test_an_unknown_type_has_no_handler(coordinator, agent):
    agent.handler("work")(lambda ctx: None)
    async with serving(coordinator, agent):
        coordinator.assign(task("a", "other"))
        assert (await result_of(coordinator, "a")).failure.kind == FailureKind.Value("FAILURE_KIND_NO_HANDLER")


async def test_the_context_tells_the_task(coordinator, agent):
    seen = {}

    @agent.handler("work")
    async def work(ctx):
        names = (
            "task_id",
            "fence",
            "task_type",
            "payload",
            "content_type",
            "attempt",
            "run",
            "last_checkpoint",
            "traceparent",
            "percentage",
        )
        seen.update({name: getattr(ctx, name) for name in names}, json=ctx.json())
        ctx.progress(1, 4)
        return ctx.percentage

    async with serving(coordinator, agent):
        spec = task("a", payload=b"[1]", content_type="application/json", traceparent="00-1-2-01")
        coordinator.assign(spec, fence=7, attempt=2, checkpoint=b"cp")
        assert (await result_of(coordinator, "a")).success.payload == b"25.0"
    assert seen == {
        "task_id": "a",
        "fence": 7,
        "task_type": "work",
        "payload": b"[1]",
        "content_type": "application/json",
        "attempt": 2,
        "run": 1,
        "last_checkpoint": b"cp",
        "traceparent": "00-1-2-01",
        "percentage": None,
        "json": [1],
    }


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
        await eventually(lambda: coordinator.renews[-1].attempts and coordinator.renews[-1].attempts[0].task_id == "b")
        may_end.set()
        await asyncio.wait_for(ended.wait(), 5)


# reports


@pytest.mark.parametrize("plain", [False, True])
async def test_a_checkpoint_waits_for_its_acknowledgement(coordinator, agent, plain):
    coordinator.script.answer_checkpoints = False
    stored = []

    if plain:

        @agent.handler("work")
        def work(ctx):
            ctx.checkpoint_sync(b"half")
            stored.append(ctx.task_id)

    else:

        @agent.handler("work")
        async def work(ctx):
            await ctx.checkpoint(b"half")
            stored.append(ctx.task_id)

    async with serving(coordinator, agent):
        coordinator.assign(task("a"))
        await eventually(lambda: any(message.checkpoints for message in coordinator.said))
        assert stored == []
        (checkpoint,) = next(message.checkpoints for message in coordinator.said if message.checkpoints)
        assert (checkpoint.sequence, checkpoint.data) == (1, b"half")
        ack = pb.CheckpointAck(task_id="a", fence=1, sequence=1, verdict=pb.RESULT_VERDICT_ACCEPTED)
        coordinator.send(pb.ConnectResponse(checkpoint_acks=[ack]))
        await result_of(coordinator, "a")
    assert stored == ["a"]


async def test_a_checkpoint_of_a_lost_attempt_says_so(coordinator, agent):
    coordinator.script.answer_checkpoints = False
    raised = []

    @agent.handler("work")
    def work(ctx):
        try:
            ctx.checkpoint_sync(b"half")
        except AttemptLostError as error:
            raised.append(error)

    async with serving(coordinator, agent):
        coordinator.assign(task("a"))
        await eventually(lambda: any(message.checkpoints for message in coordinator.said))
        coordinator.send(pb.ConnectResponse(cancels=[pb.Cancel(task_id="a", fence=1, lost=True)]))
        await eventually(lambda: raised)


async def test_a_checkpoint_over_the_limit_or_of_the_wrong_kind_is_refused_at_once(coordinator, agent):
    coordinator.script.max_checkpoint_bytes = 4

    @agent.handler("work")
    async def work(ctx):
        with pytest.raises(RuntimeError, match=r"await ctx\.checkpoint"):
            ctx.checkpoint_sync(b"")
        await ctx.checkpoint(b"12345")

    async with serving(coordinator, agent):
        coordinator.assign(task("a"))
        failure = (await result_of(coordinator, "a")).failure
        assert failure.non_retryable
        assert "limit of 4" in failure.message


async def test_output_arrives_in_order_and_is_bounded(coordinator, agent):
    coordinator.script.max_chunk_bytes = 6
    dropped = []

    @agent.handler("work")
    async def work(ctx):
        for piece in ("ab", b"cd", "efg"):
            ctx.emit(piece)
            await asyncio.sleep(0)
        dropped.append(ctx.dropped_bytes)

    async with serving(coordinator, agent):
        coordinator.assign(task("a"))
        await result_of(coordinator, "a")
    chunks = [chunk for message in coordinator.said for chunk in message.chunks]
    assert b"".join(chunk.data for chunk in chunks) == b"abcdef"
    assert [chunk.offset for chunk in chunks] == [sum(len(each.data) for each in chunks[:place]) for place in range(len(chunks))]
    assert dropped == [1]


async def test_usage_adds_up_per_model(coordinator, agent):
    @agent.handler("work")
    def work(ctx):
        for model in ("m", "n", "m"):
            ctx.report_usage(model=model, input_tokens=10, output_tokens=1)
        with pytest.raises(ValueError, match="negative"):
            ctx.report_usage(model="m", input_tokens=-1, output_tokens=0)

    async with serving(coordinator, agent):
        coordinator.assign(task("a"))
        outcome = await result_of(coordinator, "a")
    assert [(each.model, each.input_tokens, each.output_tokens, each.requests) for each in outcome.usage] == [
        ("m", 20, 2, 2),
        ("n", 10, 1, 1),
    ]


async def test_the_clients_of_handlers_are_one_connection_and_name_their_task_as_parent(coordinator, agent, monkeypatch):
    submitted = []

    async def submit(client, task_type, payload=b"", **options):
        submitted.append((task_type, options["parent_task_id"], vars(client)["_opened"]))

    monkeypatch.setattr(Client, "submit", submit)

    @agent.handler("work")
    async def work(ctx):
        with pytest.raises(RuntimeError, match=r"use ctx\.client"):
            ctx.blocking_client  # noqa: B018
        await ctx.client.submit("child")

    @agent.handler("plain")
    def plain(ctx):
        with pytest.raises(RuntimeError, match="blocking_client"):
            ctx.client  # noqa: B018
        ctx.blocking_client.submit("child", parent_task_id="other")

    async with serving(coordinator, agent):
        coordinator.assign(task("a"), task("b"))
        await eventually(lambda: len(coordinator.results) == 2)
        coordinator.assign(task("c", "plain"))
        assert (await result_of(coordinator, "c")).HasField("success")
    assert [each[:2] for each in submitted] == [("child", "a"), ("child", "b"), ("child", "other")]
    assert submitted[0][2] is submitted[1][2] is not None


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
