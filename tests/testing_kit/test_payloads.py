"""Typed payloads, codecs and blobs from submit to result, through a real coordinator, for handlers of every kind."""

import asyncio
import dataclasses
import logging

import pytest

from agent_node import Agent, TaskFailedError, TaskRequest
from agent_node.client.tasks import TaskOutput
from agent_node.payloads import AesGcm, FileBlobStore, Payloads, Zlib
from agent_node.testing import muster_in_process
from tests.testing_kit import typed_handlers as handlers
from tests.testing_kit.typed_handlers import Document, Order, Summary

KINDS = ["async", "plain", "process", "async-process"]


def librarian(**options) -> Agent:
    agent = Agent("librarian", **options)
    agent.handler("async")(handlers.summarise_async)
    agent.handler("plain")(handlers.summarise_plain)
    agent.handler("process", isolation="process")(handlers.summarise_plain)
    agent.handler("async-process", isolation="process")(handlers.summarise_async)
    agent.handler("buy")(handlers.buy)
    agent.handler("echo")(handlers.echo)
    agent.handler("parent")(handlers.parent)
    agent.handler("parent-plain")(handlers.parent_plain)
    agent.handler("parent-process", isolation="process")(handlers.parent)
    return agent


@pytest.fixture
def secret(tmp_path):
    """Compression, encryption, and blobs for what is over 1,000 bytes."""
    return Payloads(
        [Zlib(), AesGcm({"k": bytes(32)}, active="k")], blobs=FileBlobStore(tmp_path / "blobs"), blob_above_bytes=1000, max_bytes=1_000_000
    )


async def test_types_go_all_the_way():
    async with muster_in_process(librarian()) as client:
        for kind in KINDS:
            output = await (await client.submit(kind, Document("Emma", [1, 2]))).result(timeout_s=20)
            assert output.json(Summary) == Summary("Emma", 3, kind.split("-")[0].replace("process", "plain"))
            assert output.content_type == "application/json"
        output = await (await client.submit("buy", Order(item="tea"))).result(timeout_s=10)
        assert output.json(Order) == Order(item="tea", count=2)


async def test_a_payload_that_does_not_fit_fails_for_good_and_names_the_field():
    async with muster_in_process(librarian()) as client:
        for kind in KINDS:
            with pytest.raises(TaskFailedError, match=r"field 'pages\[1\]' doesn't fit Document: expected int, got str") as failed:
                await (await client.submit(kind, {"title": "Emma", "pages": [1, "two"]})).result(timeout_s=20)
            assert failed.value.error_type == "PayloadError"
            assert (await client.get(failed.value.task_id)).attempt == 1


async def test_nothing_readable_reaches_the_coordinator(secret, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    async with muster_in_process(librarian(payloads=secret), payloads=secret) as client:
        for kind in [*KINDS, "parent", "parent-plain", "parent-process"]:
            handle = await client.submit(kind, Document("Northanger", list(range(1000))))
            output = await handle.result(timeout_s=20)
            assert "Northanger" in output.text()
        async for task in client.list(full=True):
            for payload, content_type in [
                (task.spec.payload, task.spec.content_type),
                (task.outcome.success.payload, task.outcome.success.content_type),
            ]:
                assert b"Northanger" not in payload
                assert content_type.startswith("application/vnd.muster.")
    blobs = [path.read_bytes() for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    assert blobs
    assert not any(b"Northanger" in blob for blob in blobs)
    assert "Northanger" not in caplog.text


async def test_a_payload_larger_than_the_coordinator_takes_goes_into_a_blob_both_ways(tmp_path):
    payloads = Payloads(blobs=FileBlobStore(tmp_path))
    large = bytes(5_000_000)
    async with muster_in_process(librarian(payloads=payloads), payloads=payloads) as client:
        (handle,) = await client.submit_many([TaskRequest("echo", large)])
        assert (await handle.result(timeout_s=20)).payload == b"application/octet-stream:" + large
        stored = (await client.get(handle.task_id, full=True)).outcome.success
        assert stored.content_type == "application/vnd.muster.blob+json"
        assert len(stored.payload) < 300


async def test_a_blob_that_is_gone_fails_the_task_for_good(tmp_path):
    store = FileBlobStore(tmp_path)
    payloads = Payloads(blobs=store, blob_above_bytes=10)
    agent = librarian(payloads=payloads)
    async with muster_in_process(payloads=payloads) as client:
        handle = await client.submit("echo", b"x" * 100)
        store.sweep(older_than_s=-60)
        agent.override(address=client.target.address)
        serving = asyncio.create_task(agent.serve())
        with pytest.raises(TaskFailedError, match=r"blob folder:[0-9a-f]{64} is gone") as failed:
            await handle.result(timeout_s=10)
        assert failed.value.error_type == "BlobGoneError"
        assert (await client.get(handle.task_id)).attempt == 1
        agent.stop()
        await serving


async def test_an_agent_without_codecs_says_what_it_lacks(secret):
    async with muster_in_process(librarian(), payloads=secret) as client:
        with pytest.raises(TaskFailedError, match=r"encoded as application/vnd\.muster\.aes256gcm; kid=k, and nothing here decodes it"):
            await (await client.submit("plain", Document("Emma"))).result(timeout_s=10)


async def test_submits_of_handlers_pass_through_the_agents_submit_middleware():
    agent = librarian(submit_middleware=[handlers.retitle])
    async with muster_in_process(agent) as client:
        for kind in ("parent", "parent-plain", "parent-process"):
            output: TaskOutput = await (await client.submit(kind, Document("Emma"))).result(timeout_s=20)
            assert output.text() == 'application/json:{"title":"retitled","pages":[]}'


async def test_the_client_may_have_middleware_here_too():
    async def retitle(request, call_next):
        return await call_next(dataclasses.replace(request, payload=Document("other")))

    async with muster_in_process(librarian(), middleware=[retitle]) as client:
        assert (await (await client.submit("plain", Document("Emma"))).result(timeout_s=10)).json(Summary).title == "other"
