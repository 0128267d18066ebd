"""What handlers return, raise and report, over real gRPC."""

import asyncio
import math

import pytest
from muster.v1 import agent_pb2 as pb
from muster.v1.common_pb2 import FailureKind

from agent_node import AttemptLostError, Client, NonRetryableError, RetryableError
from tests.support.eventually import eventually
from tests.support.serving import result_of, serving, task

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


class OutsideException(BaseException):
    """As pytest.fail() and other libraries' ways to end things."""


@pytest.mark.parametrize("task_type", ["work", "plain"])
@pytest.mark.parametrize(
    "error, message, retry_after_s",
    [
        (OutsideException("out"), "out", None),
        (OSError("no file caf\udce9.txt"), r"no file caf\udce9.txt", None),
        (RetryableError("header", retry_after_s="5"), "header", 5),
        (RetryableError("a date", retry_after_s="Wed, 21 Oct 2026 07:28:00 GMT"), "a date", None),
        (RetryableError("never", retry_after_s=float("inf")), "never", 365 * 86_400),
        (RetryableError("nothing", retry_after_s=float("nan")), "nothing", None),
    ],
)
async def test_no_error_silences_its_agent(coordinator, agent, error, message, retry_after_s, task_type):
    @agent.handler("work")
    async def work(ctx):
        raise error

    @agent.handler("plain")
    def plain(ctx):
        raise error

    @agent.handler("next")
    async def following(ctx):
        return b"done"

    async with serving(coordinator, agent):
        coordinator.assign(task("a", task_type))
        failure = (await result_of(coordinator, "a")).failure
        assert (failure.message, failure.non_retryable) == (message, False)
        assert (failure.retry_after.seconds if failure.HasField("retry_after") else None) == retry_after_s
        coordinator.assign(task("b", "next"))
        assert (await result_of(coordinator, "b")).success.payload == b"done"


@pytest.mark.parametrize(
    "report, says",
    [
        (lambda ctx: ctx.report_usage(model="m", input_tokens=1.5, output_tokens=0), "integer"),
        (lambda ctx: ctx.report_usage(model="m", input_tokens=0, output_tokens=2**70), "at most"),
        (lambda ctx: ctx.emit(5), "bytes-like"),
        (lambda ctx: ctx.checkpoint(5), "bytes-like"),
    ],
)
async def test_a_report_that_is_none_fails_where_it_is_made(coordinator, agent, report, says):
    @agent.handler("work")
    async def work(ctx):
        report(ctx)

    async with serving(coordinator, agent):
        coordinator.assign(task("a"))
        assert says in (await result_of(coordinator, "a")).failure.message


async def test_what_utf8_cannot_say_is_reported_as_escapes(coordinator, agent):
    @agent.handler("work")
    async def work(ctx):
        ctx.progress(1, 2, "reading caf\udce9.txt")
        ctx.report_usage(model="m\ud83d", input_tokens=1, output_tokens=1)
        await asyncio.Event().wait()

    def renewed():
        return [each for renew in coordinator.renews for each in renew.attempts if each.usage]

    async with serving(coordinator, agent):
        coordinator.assign(task("a"))
        await eventually(renewed, message="a renewal with usage")
        assert renewed()[0].progress.message == r"reading caf\udce9.txt"
        assert renewed()[0].usage[0].model == r"m\ud83d"


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt()])
async def test_an_exit_in_a_handler_fails_its_attempt_alone(coordinator, agent, raised):
    @agent.handler("work")
    async def work(ctx):
        raise raised

    @agent.handler("awaits")
    async def awaits(ctx):
        await asyncio.sleep(0)
        raise raised

    @agent.handler("plain")
    def plain(ctx):
        raise raised

    async with serving(coordinator, agent):
        for task_id, task_type in (("a", "work"), ("b", "awaits"), ("c", "plain"), ("d", "plain"), ("e", "work")):
            coordinator.assign(task(task_id, task_type))
            assert (await result_of(coordinator, task_id)).failure.type == type(raised).__name__


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


@pytest.mark.parametrize("ending", [b"done", RuntimeError("boom")], ids=["success", "failure"])
async def test_the_last_cost_travels_with_the_result_however_it_ends(coordinator, agent, ending):
    @agent.handler("work")
    async def work(ctx):
        ctx.report_cost(7)
        ctx.report_cost(2.5)
        if isinstance(ending, Exception):
            raise ending
        return ending

    async with serving(coordinator, agent):
        coordinator.assign(task("a"))
        outcome = await result_of(coordinator, "a")
    assert outcome.cost == 2.5


@pytest.mark.parametrize("cost", [0, -1, math.nan, math.inf, 2e9])
async def test_a_cost_that_is_none_is_refused(coordinator, agent, cost):
    @agent.handler("work")
    async def work(ctx):
        with pytest.raises(ValueError, match="a cost is above 0"):
            ctx.report_cost(cost)

    async with serving(coordinator, agent):
        coordinator.assign(task("a"))
        outcome = await result_of(coordinator, "a")
    assert (outcome.HasField("success"), outcome.cost) == (True, 0)


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
