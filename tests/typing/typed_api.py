"""What a type checker knows of the API. Never run: mypy reads it in `make check`, where an ignored error that is none is an error, too."""

from dataclasses import dataclass, replace
from typing import Any, assert_type

from pydantic import BaseModel

from agent_node import (
    Agent,
    BlockingClient,
    CallNext,
    Client,
    Context,
    Middleware,
    SubmitMiddleware,
    SubmitNext,
    TaskHandle,
    TaskOutput,
    TaskRequest,
)
from agent_node.payloads import About, AesGcm, BlobStore, Codec, Content, FileBlobStore, Payloads, S3BlobStore, Zlib


@dataclass
class Document:
    text: str


class Summary(BaseModel):
    text: str


agent = Agent("typed")


@agent.handler("summarise")
async def summarise(ctx: Context, document: Document) -> Summary:
    assert_type(ctx.json(), Any)
    assert_type(ctx.json(Document), Document)
    assert_type(ctx.json(list[int]), list[int])
    ctx.json("Document")  # type: ignore[call-overload]
    return Summary(text=document.text)


@agent.handler("plain")
def plain(ctx: Context, count: int) -> int:
    return count


@agent.handler("context.alone", isolation="process")
def alone(ctx: Context) -> bytes:
    return ctx.payload


@agent.handler("three")  # type: ignore[type-var]
def three(ctx: Context, document: Document, more: int) -> None: ...


@agent.handler("none")  # type: ignore[type-var]
def none() -> None: ...


# What is decorated stays what it was.
async def decorated(ctx: Context) -> None:
    assert_type(await summarise(ctx, Document("x")), Summary)
    assert_type(plain(ctx, 1), int)


async def clients(client: Client, blocking: BlockingClient) -> None:
    handle = await client.submit("summarise", Document("x"))
    assert_type(handle, TaskHandle)
    output = await handle.result()
    assert_type(output, TaskOutput)
    assert_type(output.json(), Any)
    assert_type(output.json(Summary), Summary)
    assert_type(output.json(dict[str, int]), dict[str, int])
    await client.submit("summarise", Summary(text="x"))
    await client.submit("summarise", [1, {"a": None}])
    await client.submit("summarise", object())  # type: ignore[arg-type]
    await client.submit("summarise", {1, 2})  # type: ignore[arg-type]
    assert_type(blocking.submit("summarise", Document("x")).result().json(Summary), Summary)
    TaskRequest("summarise", Document("x"))
    TaskRequest("summarise", object())  # type: ignore[arg-type]


async def timed(ctx: Context, call_next: CallNext) -> Any:
    return await call_next()


async def stamped(request: TaskRequest, call_next: SubmitNext) -> TaskHandle:
    return await call_next(replace(request, traceparent="00"))


def not_async(ctx: Context, call_next: CallNext) -> int:
    return 1


timed_is: Middleware = timed
stamped_is: SubmitMiddleware = stamped
Agent(middleware=[timed], submit_middleware=[stamped])
Agent(middleware=[not_async])  # type: ignore[list-item]
Agent(middleware=[stamped])  # type: ignore[list-item]
Client(middleware=[stamped])


class Reversed:
    media_type = "application/vnd.example.reversed"

    def encode(self, content: Content, about: About) -> Content:
        return Content(content.data[::-1], self.media_type)

    def decode(self, content: Content, about: About, *, max_bytes: int) -> Content:
        return Content(content.data[::-1], "")


codecs: list[Codec] = [Zlib(), AesGcm({"k": bytes(32)}, active="k"), Reversed()]
stores: list[BlobStore] = [FileBlobStore("blobs"), S3BlobStore("bucket")]
Payloads([Zlib(), Reversed()], blobs=stores[0])
Payloads([object()])  # type: ignore[list-item]
