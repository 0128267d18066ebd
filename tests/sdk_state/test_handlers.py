"""Shared state in a handler: who writes is filled in, and writes can be tied to the attempt."""

import asyncio

import pytest

from agent_node import AttemptLostError
from agent_node.attempt import Attempt
from agent_node.connection import Target
from agent_node.context import Context
from agent_node.handler_clients import ClientOptions, HandlerClients
from agent_node.state import Author


class Host:
    """What runs a handler, as far as its clients go."""

    def __init__(self, address):
        self._clients = HandlerClients(ClientOptions(Target(address), agent_name="worker"))

    def clients(self):
        return self._clients


def _context(host, *, in_event_loop, fence=17):
    attempt = Attempt(("t-1", fence), "work", b"", "", attempt=2, run=1, last_checkpoint=b"", traceparent="", tracestate="")
    return Context(attempt, host, in_event_loop=in_event_loop)


async def test_an_async_handlers_writes(connect, service):
    host = Host(connect.address)
    ctx = _context(host, in_event_loop=True, fence=service.begin_attempt("t-1"))
    await ctx.state.put("k", 1)
    async with ctx.state.lock("l"):
        await ctx.state.add("n")
    assert service.entries["k"].author.agent_name == "worker"
    assert (await ctx.state.get("n")).author == Author(agent="worker", task_id="t-1", attempt=2)
    assert (await ctx.state.atomic_update("k", lambda entry: 2)).author.task_id == "t-1"
    assert service.entries["k"].author.attempt == 2
    await ctx.state.put("k", 3, fenced=True)
    service.end_attempt("t-1")
    with pytest.raises(AttemptLostError):
        await ctx.state.add("n", fenced=True)
    with pytest.raises(RuntimeError, match=r"ctx\.state"):
        _ = ctx.blocking_state
    await host.clients().aclose()


async def test_a_plain_handlers_writes(connect, service):
    host = Host(connect.address)
    ctx = _context(host, in_event_loop=False)
    await asyncio.to_thread(lambda: ctx.blocking_state.put("k", 1))
    assert service.entries["k"].author.task_id == "t-1"
    with pytest.raises(AttemptLostError):
        await asyncio.to_thread(lambda: ctx.blocking_state.put("k", 2, fenced=True))
    with pytest.raises(RuntimeError, match=r"ctx\.blocking_state"):
        _ = ctx.state
    await host.clients().aclose()
