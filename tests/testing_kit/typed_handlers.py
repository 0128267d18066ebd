"""Handlers with typed payloads, importable by child processes."""

from dataclasses import dataclass, field, replace

from pydantic import BaseModel

from agent_node import Context, SubmitNext, TaskHandle, TaskRequest


@dataclass
class Document:
    title: str
    pages: list[int] = field(default_factory=list)


@dataclass
class Summary:
    title: str
    total: int
    where: str


class Order(BaseModel):
    item: str
    count: int = 1


def summarise_plain(ctx: Context, document: Document) -> Summary:
    return Summary(document.title, sum(document.pages), "plain")


async def summarise_async(ctx: Context, document: Document) -> Summary:
    return Summary(document.title, sum(document.pages), "async")


def buy(ctx: Context, order: Order) -> Order:
    return Order(item=order.item, count=order.count + 1)


def echo(ctx: Context) -> bytes:
    return ctx.content_type.encode() + b":" + ctx.payload


async def parent(ctx: Context, document: Document) -> str:
    handle = await ctx.client.submit("echo", document)
    return (await handle.result(timeout_s=10)).text()


async def retitle(request: TaskRequest, call_next: SubmitNext) -> TaskHandle:
    return await call_next(replace(request, payload=Document("retitled")))


def parent_plain(ctx: Context, document: Document) -> str:
    return ctx.blocking_client.submit("echo", document).result(timeout_s=10).text()
