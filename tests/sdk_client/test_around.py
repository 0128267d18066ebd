"""Middleware around submits, and what payloads and results go through at the client."""

import asyncio
import dataclasses
import inspect
from datetime import UTC, datetime

import pytest
from muster.v1.common_pb2 import Outcome, Success
from muster.v1.task_pb2 import SessionResponse

from agent_node import (
    BlockingClient,
    Client,
    MusterError,
    PayloadError,
    Priority,
    RefusedError,
    RetryPolicy,
    Scheduling,
    TaskRequest,
    Webhook,
)
from agent_node.payloads import About, AesGcm, Content, FileBlobStore, Payloads, Zlib
from tests.support.fake_task_service import FakeTaskService, completed, serving

CODECS = Payloads([Zlib(), AesGcm({"k": bytes(32)}, active="k")])

# Every option of submit but the task's type and payload, with a value that isn't the default.
OPTIONS = {
    "task_id": "mine",
    "content_type": "x/y",
    "priority": Priority.HIGH,
    "max_retries": None,
    "retry": RetryPolicy(max_retries=1),
    "run_timeout_s": 1.0,
    "progress_timeout_s": 2.0,
    "not_before": datetime(2030, 1, 2, tzinfo=UTC),
    "delay_s": None,
    "queue_timeout_s": 3.0,
    "deadline_s": 4.0,
    "scheduling": Scheduling(fairness_key="key"),
    "webhook": Webhook("https://example.com/hook", ["FAILED"]),
    "parent_task_id": "parent",
    "labels": {"team": "red"},
    "traceparent": "00-1",
    "want_result": False,
}


@pytest.fixture
def service():
    return FakeTaskService()


@pytest.fixture
async def connect(service):
    clients = []
    async with serving(service) as address:

        def connect(*middleware, **options):
            clients.append(Client(address, connect_timeout_s=5, middleware=middleware, **options))
            return clients[-1]

        yield connect
        for client in clients:
            await client.aclose()


def test_a_request_has_every_option_of_submit():
    options = set(inspect.signature(Client.submit).parameters) - {"self", "task_type", "payload"}
    assert options == {each.name for each in dataclasses.fields(TaskRequest)} - {"task_type", "payload"} == set(OPTIONS)


async def test_every_option_passes_through_the_middleware(connect, service):
    seen = []

    async def middleware(request, call_next):
        seen.append(request)
        return await call_next(request)

    await connect(middleware).submit("t", b"p", **OPTIONS)
    assert seen == [TaskRequest("t", b"p", **OPTIONS)]
    await connect().submit("t", b"p", **OPTIONS)
    first, second = service.batches
    assert first.tasks[0] == second.tasks[0]
    assert first.no_results


async def test_the_first_is_the_outermost_and_may_change_the_request(connect, service):
    order = []

    def named(name):
        async def middleware(request, call_next):
            order.append(f"{name} before")
            handle = await call_next(dataclasses.replace(request, traceparent=request.traceparent + name))
            order.append(f"{name} after {handle.task_id == request.task_id}")
            return handle

        return middleware

    client = connect(named("a"), named("b"))
    handle = await client.submit("t", {"n": 1})
    assert order == ["a before", "b before", "b after True", "a after True"]
    assert service.batches[0].tasks[0].traceparent == "ab"
    assert service.batches[0].first_send  # its id was made here, and no middleware changed it
    assert (await handle.result(timeout_s=5)).json() == {"n": 1}


async def test_an_id_that_a_middleware_gives_is_not_fresh(connect, service):
    async def middleware(request, call_next):
        return await call_next(dataclasses.replace(request, task_id="own"))

    assert (await connect(middleware).submit("t")).task_id == "own"
    assert not service.batches[0].first_send

    async def forgetful(request, call_next):
        return await call_next(dataclasses.replace(request, task_id=None))

    with pytest.raises(ValueError, match="must leave the request its task_id"):
        await connect(forgetful).submit("t")


async def test_many_submits_pass_through_one_by_one_and_keep_their_places(connect, service):
    async def middleware(request, call_next):
        if request.payload == 3:
            raise RefusedError("not three", reason="NOT_THREE")
        return await call_next(dataclasses.replace(request, payload=request.payload * 10))

    submitted = await connect(middleware).submit_many([TaskRequest("t", number) for number in range(6)])
    assert [isinstance(each, MusterError) for each in submitted] == [False] * 3 + [True] + [False] * 2
    assert sorted(task.payload for batch in service.batches for task in batch.tasks) == [b"0", b"10", b"20", b"40", b"50"]
    assert (await submitted[4].result(timeout_s=5)).json() == 40


async def test_what_a_middleware_raises_is_raised(connect, service):
    async def middleware(request, call_next):
        if request.payload:
            raise LookupError("no tenant")
        return await call_next(request)

    client = connect(middleware)
    with pytest.raises(LookupError, match="no tenant"):
        await client.submit("t", b"x")
    with pytest.raises(LookupError, match="no tenant"):
        await client.submit_many([TaskRequest("t"), TaskRequest("t", b"x")])
    assert len(service.task_ids) == 1


# payloads


async def test_payloads_are_encoded_after_all_middleware_and_bound_to_their_task(connect, service):
    seen = []

    async def middleware(request, call_next):
        seen.append(request.payload)
        return await call_next(request)

    client = connect(middleware, payloads=CODECS)
    await client.submit("t", {"secret": "x" * 2000}, want_result=False)
    await client.submit_many([TaskRequest("t", "text", want_result=False)])
    assert seen == [{"secret": "x" * 2000}, "text"]
    for batch, content in zip(
        service.batches,
        [Content(b'{"secret":"' + b"x" * 2000 + b'"}', "application/json"), Content(b"text", "text/plain; charset=utf-8")],
        strict=True,
    ):
        (task,) = batch.tasks
        assert task.content_type == "application/vnd.muster.aes256gcm; kid=k"
        assert await CODECS.decode(Content(task.payload, task.content_type), About("payload", task.task_id)) == content


async def test_the_same_task_again_is_the_same_task(connect, service, tmp_path):
    payloads = Payloads([Zlib(), AesGcm({"k": bytes(32)}, active="k")], blobs=FileBlobStore(tmp_path), blob_above_bytes=50)
    client = connect(payloads=payloads)
    for _ in range(2):
        await client.submit("t", {"text": "x" * 2000}, task_id="mine")
    first, second = service.batches
    assert first.tasks[0] == second.tasks[0]


async def test_bytes_that_nothing_encodes_travel_as_ever(connect, service):
    await connect(payloads=Payloads([Zlib()])).submit("t", b"\x00")
    assert (service.batches[0].tasks[0].payload, service.batches[0].tasks[0].content_type) == (b"\x00", "")


async def _answer(service, content, task_id):
    result = completed(task_id)
    result.outcome.CopyFrom(Outcome(success=Success(payload=content.data, content_type=content.content_type)))
    await service.send(SessionResponse(results=[result]))


async def test_results_are_decoded_once_for_every_handle(connect, service):
    service.completing = False
    client = connect(payloads=CODECS)
    handle = await client.submit("t", task_id="a")
    content = Content(b"result", "text/plain")
    await _answer(service, await CODECS.encode(content, About("result", "a")), "a")
    for _ in range(2):
        output = await handle.result(timeout_s=5)
        assert (output.text(), output.content_type, output.agent_name) == ("result", "text/plain", "agent-1")


async def test_a_result_that_cannot_be_decoded_says_whose_it_is(connect, service):
    service.completing = False
    client = connect(payloads=Payloads([Zlib()]))
    handle = await client.submit("t", task_id="a")
    await _answer(service, await CODECS.encode(Content(b"result", "x/y"), About("result", "a")), "a")
    with pytest.raises(PayloadError, match=r"result of task a: the payload is encoded as application/vnd\.muster\.aes256gcm"):
        await handle.result(timeout_s=5)


async def test_waiting_for_a_blob_counts_as_waiting_for_the_result(connect, service):
    class Slow:
        async def get(self, url, *, max_bytes):
            await asyncio.Event().wait()

    service.completing = False
    client = connect(payloads=Payloads(blobs=Slow()))
    handle = await client.submit("t", task_id="a")
    reference = b'{"url":"x","size":1,"sha256":"' + b"0" * 64 + b'","content_type":""}'
    await _answer(service, Content(reference, "application/vnd.muster.blob+json"), "a")
    with pytest.raises(TimeoutError):
        await handle.result(timeout_s=0.05)


async def test_the_blocking_client_has_both(service):
    async def middleware(request, call_next):
        return await call_next(dataclasses.replace(request, traceparent="set"))

    def use(address):
        with BlockingClient(address, payloads=CODECS, middleware=[middleware]) as client:
            client.submit("t", "text", want_result=False)
            client.submit_many([TaskRequest("t", "text", want_result=False)])

    async with serving(service) as address:
        await asyncio.to_thread(use, address)
    for batch in service.batches:
        assert (batch.tasks[0].traceparent, batch.tasks[0].content_type) == ("set", "application/vnd.muster.aes256gcm; kid=k")
