"""The asynchronous client against a scripted coordinator over real gRPC."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from muster.v1 import common_pb2
from muster.v1.common_pb2 import Cancelled, Failure, Outcome, Refusal, Usage
from muster.v1.task_pb2 import SUBMIT_VERDICT_DUPLICATE, SessionResponse, SubmitException, TaskResult

from agent_node import Client, Priority, RetryPolicy, TaskRequest, as_completed
from agent_node.client import stream
from agent_node.client.handle import TaskHandle
from agent_node.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    RefusedError,
    TaskCancelledError,
    TaskFailedError,
    UnavailableError,
)
from tests.support.eventually import eventually
from tests.support.fake_task_service import FakeTaskService, completed, refused, serving


@pytest.fixture
def service() -> FakeTaskService:
    return FakeTaskService()


@pytest.fixture
async def address(service: FakeTaskService) -> AsyncIterator[str]:
    async with serving(service) as address:
        yield address


@pytest.fixture
async def client(address: str) -> AsyncIterator[Client]:
    async with Client(address, namespace="team-a", connect_timeout_s=5) as client:
        yield client


@pytest.fixture
def no_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the periodic tick would heal late must happen without it."""
    monkeypatch.setattr(stream, "TICK_S", 60.0)


@pytest.fixture
def quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "TICK_S", 0.02)


async def test_a_task_goes_out_and_its_result_comes_back(client: Client, service: FakeTaskService) -> None:
    handle = await client.submit("echo", {"text": "ä"})
    output = await handle.result(timeout_s=5)
    assert output.json() == {"text": "ä"}
    assert (output.agent_name, output.attempts) == ("agent-1", 1)
    assert handle.done()
    assert service.sessions[0].metadata["muster-namespace"] == "team-a"
    assert service.batches[0].first_send


async def test_every_option_reaches_the_coordinator(client: Client, service: FakeTaskService) -> None:
    await client.submit(
        "t",
        "text",
        task_id="mine",
        priority=Priority.CRITICAL,
        retry=RetryPolicy(max_retries=0, initial_backoff_s=0.5, max_backoff_s=9, backoff_multiplier=3, max_crashes=1),
        run_timeout_s=1.5,
        progress_timeout_s=2,
        parent_task_id="parent",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    spec = service.batches[0].tasks[0]
    assert (spec.task_id, spec.payload, spec.content_type) == ("mine", b"text", "text/plain; charset=utf-8")
    assert spec.priority == common_pb2.PRIORITY_CRITICAL
    assert spec.retry_policy.HasField("max_retries")
    assert (spec.retry_policy.max_retries, spec.retry_policy.max_crashes, spec.retry_policy.backoff_multiplier) == (0, 1, 3)
    assert (spec.retry_policy.initial_backoff.nanos, spec.retry_policy.max_backoff.seconds) == (500_000_000, 9)
    assert (spec.run_timeout.seconds, spec.run_timeout.nanos, spec.progress_timeout.seconds) == (1, 500_000_000, 2)
    assert (spec.parent_task_id, spec.traceparent[:2]) == ("parent", "00")
    assert not service.batches[0].first_send


async def test_options_left_out_stay_unset(client: Client, service: FakeTaskService) -> None:
    await client.submit("t", b"\x00", max_retries=7)
    spec = service.batches[0].tasks[0]
    assert spec.retry_policy.max_retries == 7
    assert not spec.retry_policy.HasField("max_crashes")
    assert not spec.HasField("run_timeout")
    assert spec.content_type == ""


async def test_concurrent_submits_share_messages(client: Client, service: FakeTaskService) -> None:
    handles = await asyncio.gather(*(client.submit("t") for _ in range(1_000)))
    await asyncio.gather(*(handle.result(timeout_s=5) for handle in handles))
    assert len(set(service.task_ids)) == 1_000
    assert len(service.batches) <= 10
    assert service.opened == 1


async def test_submit_returns_only_when_acknowledged(client: Client, service: FakeTaskService) -> None:
    service.answering = False
    submitting = asyncio.ensure_future(client.submit("t"))
    await eventually(lambda: service.batches, message="the submit arrives")
    assert not submitting.done()
    await service.break_sessions()
    service.answering = True
    assert (await submitting).task_id == service.batches[0].tasks[0].task_id


async def test_in_flight_is_bounded(address: str, service: FakeTaskService) -> None:
    service.answering = False
    async with Client(address, max_in_flight=3) as client:
        submitting = [asyncio.ensure_future(client.submit("t", task_id=str(number))) for number in range(5)]
        await eventually(lambda: len(service.task_ids) == 3)
        await asyncio.sleep(0)
        assert len(service.task_ids) == 3
        service.answering = True
        await service.break_sessions()
        await asyncio.wait_for(asyncio.gather(*submitting), 5)
        assert set(service.task_ids) == {"0", "1", "2", "3", "4"}


@pytest.mark.usefixtures("no_ticks")
async def test_room_is_given_as_soon_as_there_is_some(address: str, service: FakeTaskService) -> None:
    async with Client(address, max_in_flight=1) as client:
        await asyncio.wait_for(asyncio.gather(*(client.submit("t") for _ in range(5))), 5)
    assert [len(batch.tasks) for batch in service.batches] == [1] * 5


@pytest.mark.usefixtures("no_ticks")
async def test_a_caller_that_stops_waiting_for_room_passes_its_turn_on(address: str) -> None:
    async with Client(address, max_in_flight=1) as client:

        async def submit_and_stop_the_next() -> None:
            await client.submit("t")
            second.cancel()  # its turn has come with this very acknowledgement, and it hasn't run yet

        first = asyncio.ensure_future(submit_and_stop_the_next())
        second, third = (asyncio.ensure_future(client.submit("t")) for _ in range(2))
        await asyncio.wait_for(asyncio.gather(first, third), 5)
        assert second.cancelled()


async def test_many_at_once_are_bounded_too(address: str, service: FakeTaskService) -> None:
    service.answering = False
    async with Client(address, max_in_flight=2) as client:
        submitting = asyncio.ensure_future(client.submit_many([TaskRequest("t")] * 5))
        await eventually(lambda: len(service.task_ids) == 2)
        service.answering = True
        await service.break_sessions()
        await asyncio.wait_for(submitting, 5)
        assert max(len(batch.tasks) for batch in service.batches) == 2


@pytest.mark.usefixtures("no_ticks")
async def test_the_result_of_a_duplicate_is_asked_for_at_once(client: Client, service: FakeTaskService) -> None:
    service.completing = False
    service.judge = lambda index, spec: SubmitException(index=index, verdict=SUBMIT_VERDICT_DUPLICATE)
    service.results["mine"] = completed("mine")
    handle = await client.submit("t", task_id="mine")
    assert (await handle.result(timeout_s=5)).payload == b"done"


async def test_a_refusal_raises_what_it_means(client: Client, service: FakeTaskService) -> None:
    refusal = Refusal(code=6, reason="TASK_EXISTS", message="another task has this id: choose a new one", field="task_id")
    service.judge = lambda index, spec: refused(index, refusal)
    with pytest.raises(AlreadyExistsError, match="choose a new one") as caught:
        await client.submit("t", task_id="mine")
    assert (caught.value.reason, caught.value.field) == ("TASK_EXISTS", "task_id")


async def test_one_bad_task_of_many_has_its_own_verdict(client: Client, service: FakeTaskService) -> None:
    bad = Refusal(code=3, reason="INVALID_TASK", message="task_type is empty", field="task_type")
    service.judge = lambda index, spec: None if spec.task_type else refused(index, bad)
    outcomes = await client.submit_many([TaskRequest("t"), TaskRequest(""), TaskRequest("t", bytes(4_000_000)), TaskRequest("t")])
    assert [type(each) for each in outcomes] == [TaskHandle, RefusedError, RefusedError, TaskHandle]
    assert await client.submit_many([]) == []


@pytest.mark.usefixtures("no_ticks")
async def test_a_store_outage_is_waited_out(client: Client, service: FakeTaskService) -> None:
    away = Refusal(code=14, reason="STORE_UNAVAILABLE", message="the store is away", retry_after=Duration(nanos=10_000_000))
    verdicts = iter([away, away])
    service.judge = lambda index, spec: refused(index, r) if (r := next(verdicts, None)) else None
    handle = await asyncio.wait_for(client.submit("t"), 5)
    assert service.task_ids == [handle.task_id] * 3
    assert [batch.first_send for batch in service.batches] == [True, False, False]


async def test_results_are_asked_for_again_on_a_new_stream(client: Client, service: FakeTaskService) -> None:
    service.completing = False
    handle = await client.submit("t")
    waiting = asyncio.ensure_future(handle.result())
    await service.break_sessions()
    service.results[handle.task_id] = completed(handle.task_id, b"late")
    assert (await asyncio.wait_for(waiting, 5)).payload == b"late"
    assert service.attached == [[handle.task_id]]


async def test_an_idle_client_does_not_reconnect(client: Client, service: FakeTaskService) -> None:
    await (await client.submit("t")).result()
    await service.break_sessions()
    await eventually(lambda: not service.sessions)
    await (await client.submit("t")).result(timeout_s=5)
    assert service.opened == 2


async def test_a_coordinator_that_ends_the_stream_is_called_again(client: Client, service: FakeTaskService) -> None:
    service.completing = False
    handle = await client.submit("t")
    service.results[handle.task_id] = completed(handle.task_id)
    await service.break_sessions(grpc.StatusCode.OK)
    await handle.result(timeout_s=5)


async def test_a_refused_session_fails_what_waits_and_later_calls_try_again(client: Client, service: FakeTaskService) -> None:
    service.refuse_with = grpc.StatusCode.NOT_FOUND
    with pytest.raises(NotFoundError):
        await client.submit("t")
    with pytest.raises(NotFoundError):
        await client.attach("x").result()
    service.refuse_with = None
    assert await (await client.submit("t")).result(timeout_s=5)


@pytest.mark.usefixtures("quick_ticks")
async def test_nobody_there_is_said_soon() -> None:
    async with Client("127.0.0.1:1", connect_timeout_s=0.05) as client:
        with pytest.raises(UnavailableError, match=r"refused|connect"):
            await client.submit("t")
        with pytest.raises(UnavailableError):
            await client.get("x")
        assert [type(each) for each in await client.submit_many([TaskRequest("t")])] == [UnavailableError]


@pytest.mark.usefixtures("quick_ticks")
async def test_submits_are_given_up_when_the_coordinator_stays_away(address: str, service: FakeTaskService) -> None:
    async with Client(address, give_up_s=0.1) as client:
        await client.submit("t")
        service.refuse_with = grpc.StatusCode.UNAVAILABLE
        await service.break_sessions()
        with pytest.raises(UnavailableError):
            await client.submit("t")


@pytest.mark.parametrize(
    "outcome, state, error, text",
    [
        (Outcome(failure=Failure(kind=6, message="slow down", type="E")), common_pb2.TASK_STATE_FAILED, TaskFailedError, "slow down"),
        (Outcome(cancelled=Cancelled(reason="enough")), common_pb2.TASK_STATE_CANCELLED, TaskCancelledError, "enough"),
    ],
)
async def test_other_ends_raise(
    client: Client, service: FakeTaskService, outcome: Outcome, state: int, error: type[Exception], text: str
) -> None:
    service.completing = False
    handle = await client.submit("t")
    await service.send(SessionResponse(results=[TaskResult(task_id=handle.task_id, state=state, outcome=outcome)]))
    for _ in range(2):
        with pytest.raises(error, match=text) as caught:
            await handle.result()
    if isinstance(caught.value, TaskFailedError):
        assert (caught.value.kind, caught.value.error_type) == ("RATE_LIMITED", "E")


async def test_usage_comes_with_the_output(client: Client, service: FakeTaskService) -> None:
    service.results["x"] = completed("x")
    service.results["x"].outcome.usage.append(Usage(model="m", input_tokens=7))
    output = await client.attach("x").result()
    assert [(each.model, each.input_tokens) for each in output.usage] == [("m", 7)]


async def test_a_task_whose_result_was_not_wanted_can_be_asked_for_later(client: Client, service: FakeTaskService) -> None:
    handle = await client.submit("t", want_result=False)
    assert service.batches[0].no_results
    service.results[handle.task_id] = completed(handle.task_id)
    assert (await handle.result(timeout_s=5)).payload == b"done"


async def test_attaching_to_an_unknown_task_says_so(client: Client) -> None:
    handle = client.attach("nobody")
    with pytest.raises(NotFoundError):
        await handle.result()


async def test_a_timeout_ends_only_that_wait(client: Client, service: FakeTaskService) -> None:
    service.completing = False
    handle = await client.submit("t")
    other = asyncio.ensure_future(handle.result())
    with pytest.raises(TimeoutError):
        await handle.result(timeout_s=0.01)
    await service.send(SessionResponse(results=[completed(handle.task_id)]))
    assert (await asyncio.wait_for(other, 5)).payload == b"done"
    assert (await handle.result()).payload == b"done"


async def test_handles_come_as_their_tasks_end(client: Client, service: FakeTaskService) -> None:
    service.completing = False
    handles = [await client.submit("t") for _ in range(3)]
    await service.send(SessionResponse(results=[completed(handles[2].task_id)]))
    seen = []
    async for handle in as_completed(handles):
        seen.append(handle)
        if handle is handles[2]:
            await service.send(SessionResponse(results=[completed(handles[0].task_id), completed(handles[1].task_id)]))
    assert seen == [handles[2], handles[0], handles[1]]


async def test_closing_ends_every_wait(address: str, service: FakeTaskService) -> None:
    service.completing = False
    async with Client(address) as client:
        handle = await client.submit("t")
        service.answering = False
        waits = [asyncio.ensure_future(handle.result()), asyncio.ensure_future(client.submit("t"))]
        await eventually(lambda: len(service.batches) == 2)
    for wait in waits:
        with pytest.raises(UnavailableError, match="closed"):
            await wait
    with pytest.raises(UnavailableError, match="closed"):
        await client.submit("t")
    with pytest.raises(UnavailableError, match="closed"):
        await handle.result()


async def test_a_cancelled_submit_disturbs_no_other(client: Client, service: FakeTaskService) -> None:
    service.answering = False
    first, second = (asyncio.ensure_future(client.submit("t", task_id=name)) for name in "ab")
    await eventually(lambda: len(service.task_ids) == 2)
    first.cancel()
    service.answering = True
    await service.break_sessions()
    assert (await asyncio.wait_for(second, 5)).task_id == "b"


async def test_a_restarted_coordinator_is_found_again(service: FakeTaskService) -> None:
    service.completing = False
    async with serving(service) as address:
        client = await Client(address).__aenter__()
        handle = await client.submit("t")
    service.results[handle.task_id] = completed(handle.task_id)
    submitting = asyncio.ensure_future(client.submit("t"))
    async with serving(service, port=int(address.rpartition(":")[2])):
        await asyncio.wait_for(submitting, 10)
        await handle.result(timeout_s=10)
        await client.aclose()


async def test_payloads_that_are_none_are_refused_before_they_are_sent(client: Client) -> None:
    with pytest.raises(ValueError, match="JSON"):
        await client.submit("t", {"x": float("nan")})


async def test_arguments_that_cannot_be_are_named(client: Client) -> None:
    lone: Any = "\ud800"
    nothing: Any = None
    for name, call in {
        "task_type": lambda: client.submit(nothing),
        "task_id": lambda: client.submit("t", task_id=lone),
        "payload": lambda: client.submit("t", lone),
        "content_type": lambda: client.submit("t", b"", content_type=lone),
        "priority": lambda: client.submit("t", priority=cast("Any", "high")),
        "max_retries": lambda: client.submit("t", max_retries=-1),
        "run_timeout_s": lambda: client.submit("t", run_timeout_s=float("nan")),
        "delay_s": lambda: client.submit("t", delay_s=cast("Any", "1")),
        "parent_task_id": lambda: client.submit("t", parent_task_id=lone),
        "labels": lambda: client.submit("t", labels=cast("Any", "a=b")),
        r"labels\['n'\]": lambda: client.submit("t", labels={"n": lone}),
    }.items():
        with pytest.raises((InvalidArgumentError, TypeError), match=f"^{name} (is|has|can't be) .*give "):
            await call()
    with pytest.raises(TypeError):
        await client.submit("t", {"x": object()})
    with pytest.raises(ValueError, match="not both"):
        await client.submit("t", max_retries=1, retry=RetryPolicy())
    with pytest.raises(ValueError, match="max_in_flight"):
        Client(max_in_flight=0)


async def test_a_client_names_the_parent_of_what_has_none(address: str, service: FakeTaskService) -> None:
    async with Client(address, parent_task_id="parent") as client:
        await client.submit("t")
        await client.submit("t", parent_task_id="other")
        await client.submit_many([TaskRequest("t"), TaskRequest("t", parent_task_id="other")])
    assert [spec.parent_task_id for batch in service.batches for spec in batch.tasks] == ["parent", "other", "parent", "other"]


async def test_a_client_opens_at_its_first_use(address: str) -> None:
    client = Client(address)
    await (await client.submit("t")).result(timeout_s=5)
    await client.aclose()
    with pytest.raises(UnavailableError, match="closed"):
        await client.submit("t")


async def test_a_client_belongs_to_the_event_loop_that_used_it_first(client: Client) -> None:
    await client.submit("t")

    def elsewhere() -> None:
        asyncio.run(client.submit("t"))

    with pytest.raises(RuntimeError, match="another event loop: give each its own, or use a BlockingClient"):
        await asyncio.to_thread(elsewhere)


async def test_a_wait_that_was_given_up_leaves_no_unread_error(
    address: str, service: FakeTaskService, caplog: pytest.LogCaptureFixture
) -> None:
    service.completing = False
    async with Client(address, namespace="team-a") as client:
        handle = await client.submit("echo")
        await asyncio.wait([handle.when_ended()], timeout=0.01)
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]
