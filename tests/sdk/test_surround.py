"""Middleware and codecs around handlers, wherever those run."""

import asyncio
import contextvars
import os
import threading

import pytest
from muster.v1 import agent_pb2 as pb

from agent_node import Agent, ProcessFailedError
from agent_node.payloads import About, AesGcm, Content, Payloads, Zlib
from tests.sdk import process_handlers
from tests.support.eventually import eventually
from tests.support.serving import result_of, serving, task

variable = contextvars.ContextVar("variable", default="unset")


@pytest.fixture
def make(coordinator):
    return lambda *middleware, **options: Agent("tester", address=coordinator.address, capacity=4, middleware=middleware, **options)


def kinds(agent, async_function, plain_function, process_function=None):
    """Registers one handler for each place."""
    agent.handler("async")(async_function)
    agent.handler("plain")(plain_function)
    if process_function is not None:
        agent.handler("process", isolation="process")(process_function)


async def test_the_first_is_the_outermost_and_all_see_the_value(coordinator, make):
    seen = []

    def named(name):
        async def middleware(ctx, call_next):
            seen.append(f"{name} before {ctx.task_id}")
            value = await call_next()
            seen.append(f"{name} after {value}")
            return value + name

        return middleware

    async def work(ctx):
        return "value "

    agent = make(named("a"), named("b"))
    kinds(agent, work, lambda ctx: "value ")
    async with serving(coordinator, agent):
        for kind in ("async", "plain"):
            coordinator.assign(task(kind, kind))
            assert (await result_of(coordinator, kind)).success.payload == b"value ba"
            assert seen == [f"a before {kind}", f"b before {kind}", "b after value ", "a after value b"]
            seen.clear()


async def test_errors_pass_through_as_they_are_and_may_be_mended_or_replaced(coordinator, make):
    caught = []

    async def middleware(ctx, call_next):
        try:
            return await call_next()
        except ValueError as error:
            caught.append(error)
            if ctx.payload == b"mend":
                return "mended"
            raise KeyError("replaced") from error

    async def work(ctx):
        raise ValueError("as it is")

    def plain(ctx):
        raise ValueError("as it is")

    agent = make(middleware)
    kinds(agent, work, plain)
    async with serving(coordinator, agent):
        for kind in ("async", "plain"):
            coordinator.assign(task(f"{kind}-1", kind, payload=b"mend"), task(f"{kind}-2", kind))
            assert (await result_of(coordinator, f"{kind}-1")).success.payload == b"mended"
            failure = (await result_of(coordinator, f"{kind}-2")).failure
            assert failure.type == "KeyError"
            assert "as it is" in failure.stack_trace
            assert f"in {'work' if kind == 'async' else 'plain'}" in failure.stack_trace
    assert {str(error) for error in caught} == {"as it is"}


async def test_a_middleware_may_answer_itself_or_try_again(coordinator, make):
    tries = []

    async def cached(ctx, call_next):
        return "cached" if ctx.payload == b"known" else await call_next()

    async def again(ctx, call_next):
        try:
            return await call_next()
        except ValueError:
            return await call_next()

    async def work(ctx):
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("once")
        return "second"

    agent = make(cached, again)
    agent.handler("work")(work)
    async with serving(coordinator, agent):
        coordinator.assign(task("a", payload=b"known"), task("b"))
        assert (await result_of(coordinator, "a")).success.payload == b"cached"
        assert (await result_of(coordinator, "b")).success.payload == b"second"


async def test_what_is_set_around_a_handler_reaches_it_and_no_other(coordinator, make):
    async def middleware(ctx, call_next):
        if ctx.payload:
            variable.set(ctx.payload.decode())
        return await call_next()

    async def work(ctx):
        return variable.get()

    agent = make(middleware)
    kinds(agent, work, lambda ctx: variable.get())
    async with serving(coordinator, agent):
        for kind in ("async", "plain"):
            coordinator.assign(task(f"{kind}-1", kind, payload=b"here"), task(f"{kind}-2", kind))
            assert (await result_of(coordinator, f"{kind}-1")).success.payload == b"here"
            assert (await result_of(coordinator, f"{kind}-2")).success.payload == b"unset"


async def test_plain_handlers_keep_their_thread_and_their_context(coordinator, make):
    async def middleware(ctx, call_next):
        await ctx.checkpoint(b"from the loop")
        return await call_next()

    def plain(ctx):
        ctx.checkpoint_sync(b"from a thread")
        with pytest.raises(RuntimeError, match="no event loop"):
            ctx.checkpoint(b"")
        return threading.current_thread() is not threading.main_thread()

    agent = make(middleware)
    agent.handler("plain")(plain)
    async with serving(coordinator, agent):
        coordinator.assign(task("a", "plain"))
        assert (await result_of(coordinator, "a")).success.payload == b"true"


# stopping


async def test_a_cancel_reaches_handlers_of_every_kind_through_the_middleware(coordinator, make):
    ends, started = [], []

    async def middleware(ctx, call_next):
        started.append(ctx.task_id)
        try:
            return await call_next()
        finally:
            ends.append(ctx.task_id)

    async def work(ctx):
        await asyncio.Event().wait()

    def plain(ctx):
        while not ctx.cancelled:
            threading.Event().wait(0.001)

    agent = make(middleware)
    kinds(agent, work, plain, process_handlers.hang)
    async with serving(coordinator, agent):
        for kind in ("async", "plain", "process"):
            coordinator.assign(task(kind, kind))
            await eventually(lambda kind=kind: kind in started)
            if kind == "process":
                await eventually(lambda: any(each.progress.current for message in coordinator.said for each in message.renew.attempts))
            coordinator.send(pb.ConnectResponse(cancels=[pb.Cancel(task_id=kind, fence=1, reason="changed my mind")]))
            assert (await result_of(coordinator, kind)).HasField("cancelled"), kind
    assert ends == ["async", "plain", "process"]


async def test_a_plain_handler_that_does_not_stop_keeps_its_slot_and_its_result(coordinator, make):
    running, release = threading.Event(), threading.Event()

    async def middleware(ctx, call_next):
        return await call_next()

    @(agent := make(middleware)).handler("plain")
    def plain(ctx):
        running.set()
        release.wait(10)
        return "all the same"

    async with serving(coordinator, agent):
        coordinator.assign(task("a", "plain"))
        await eventually(running.is_set)
        coordinator.send(pb.ConnectResponse(cancels=[pb.Cancel(task_id="a", fence=1)]))
        await eventually(lambda: any(each.cancel_delivered for message in coordinator.said for each in message.renew.attempts))
        assert not coordinator.results
        release.set()
        assert (await result_of(coordinator, "a")).success.payload == b"all the same"


async def test_a_loop_ends_although_a_thread_does_not(coordinator, make):
    running, release = threading.Event(), threading.Event()

    async def middleware(ctx, call_next):
        return await call_next()

    @(agent := make(middleware)).handler("plain")
    def plain(ctx):
        running.set()
        release.wait(20)

    async def serve():
        async with serving(coordinator, agent):
            coordinator.assign(task("a", "plain"))
            await eventually(running.is_set)

    try:
        async with asyncio.timeout(10):
            await asyncio.to_thread(asyncio.run, serve())
    finally:
        release.set()


# processes


async def test_what_a_process_handler_ends_with_reaches_the_middleware_as_it_travels(coordinator, make):
    seen = []

    async def middleware(ctx, call_next):
        try:
            seen.append(await call_next())
        except ProcessFailedError as error:
            seen.append(error)
            raise
        return seen[-1]

    agent = make(middleware)
    agent.handler("pid", isolation="process")(process_handlers.pid)
    agent.handler("refuse", isolation="process")(process_handlers.refuse)
    agent.handler("die", isolation="process")(process_handlers.die)
    async with serving(coordinator, agent):
        coordinator.assign(task("a", "pid"))
        success = (await result_of(coordinator, "a", within_s=20)).success
        assert (seen[0].payload, seen[0].content_type) == (success.payload, "application/json")
        assert int(success.payload) != os.getpid()
        coordinator.assign(task("b", "refuse"))
        failure = (await result_of(coordinator, "b", within_s=20)).failure
        assert (failure.message, failure.type, failure.non_retryable) == ("never", "NonRetryableError", True)
        assert (seen[1].message, seen[1].error_type) == ("never", "NonRetryableError")
        assert "in refuse" in failure.stack_trace
        coordinator.assign(task("c", "die"))
        failure = (await result_of(coordinator, "c", within_s=20)).failure
        assert failure.type == seen[2].error_type == "ProcessDied"


@pytest.mark.parametrize("option", ["payloads", "submit_middleware"])
async def test_what_cannot_go_to_a_process_is_refused_before_it_serves(make, option):
    class Local(Payloads):
        pass

    agent = make(**{option: Local() if option == "payloads" else [lambda request, call_next: call_next(request)]})
    agent.handler("pid", isolation="process")(process_handlers.pid)
    with pytest.raises(RuntimeError, match="must be picklable"):
        await agent.serve()


# payloads


@pytest.mark.parametrize("kind", ["async", "plain", "process"])
async def test_payloads_are_decoded_before_and_results_encoded_after_all_middleware(coordinator, make, kind):
    payloads = Payloads([Zlib(), AesGcm({"k": bytes(32)}, active="k")])
    seen = []

    async def middleware(ctx, call_next):
        seen.append((ctx.content_type, ctx.payload))
        return await call_next()

    async def work(ctx):
        return ctx.payload

    agent = make(middleware, payloads=payloads)
    kinds(agent, work, lambda ctx: ctx.payload, process_handlers.echo)
    content = Content(b"secret" * 500, "text/plain")
    travelling = await payloads.encode(content, About("payload", "a"))
    async with serving(coordinator, agent):
        coordinator.assign(task("a", kind, payload=travelling.data, content_type=travelling.content_type))
        success = (await result_of(coordinator, "a", within_s=20)).success
    assert seen == [("text/plain", content.data)]
    assert success.content_type == "application/vnd.muster.aes256gcm; kid=k"
    decoded = await payloads.decode(Content(success.payload, success.content_type), About("result", "a"))
    assert decoded == Content(content.data, "application/octet-stream")


async def test_a_payload_that_cannot_be_decoded_fails_for_good_and_no_handler_runs(coordinator, make):
    ran = []
    agent = make(payloads=Payloads([Zlib()]))
    agent.handler("work")(lambda ctx: ran.append(1))
    async with serving(coordinator, agent):
        coordinator.assign(task("a", payload=b"ciphertext", content_type="application/vnd.muster.aes256gcm; kid=k"))
        failure = (await result_of(coordinator, "a")).failure
        assert failure.non_retryable
        assert failure.type == "PayloadError"
        assert "aes256gcm; kid=k" in failure.message
        assert "ciphertext" not in failure.stack_trace
        coordinator.assign(task("b", payload=b"plain"))
        await result_of(coordinator, "b")
    assert ran == [1]


async def test_a_blob_store_that_fails_is_tried_again(coordinator, make):
    class Down:
        async def put(self, key, data):
            raise OSError("no route")

    agent = make(payloads=Payloads(blobs=Down(), blob_above_bytes=3))
    agent.handler("work")(lambda ctx: b"large")
    async with serving(coordinator, agent):
        coordinator.assign(task("a"))
        failure = (await result_of(coordinator, "a")).failure
        assert not failure.non_retryable
        assert "no route" in failure.message


async def test_a_result_that_cannot_be_sent_still_fails_for_good(coordinator, make):
    agent = make(payloads=Payloads([Zlib()]))
    agent.handler("work")(lambda ctx: object())
    async with serving(coordinator, agent):
        coordinator.assign(task("a"))
        assert (await result_of(coordinator, "a")).failure.non_retryable


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration()])
async def test_whatever_a_thread_raises_ends_its_attempt_alone(coordinator, make, error):
    agent = make(payloads=Payloads())

    @agent.handler("work")
    def work(ctx):
        raise error

    agent.handler("fine")(lambda ctx: "fine")
    async with serving(coordinator, agent):
        coordinator.assign(task("a"))
        assert (await result_of(coordinator, "a")).HasField("failure")
        coordinator.assign(task("b", "fine"))
        assert (await result_of(coordinator, "b")).HasField("success")
