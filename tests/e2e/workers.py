"""The agent that end-to-end tests start as a process: `python -m agent_node tests.e2e.workers:agent`.

Handlers write down what they do, one JSON line each, in the file that WORKER_EXECUTIONS names; those that wait do so at a gate: a
file in the folder WORKER_GATES that the test makes.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from agent_node import Agent, AttemptLostError, Context

agent = Agent(drain_deadline_s=float(os.environ.get("WORKER_DRAIN_DEADLINE_S", "30")))
_POLL_S = 0.01
_running: dict[str, int] = {}  # executions by task id: what this process runs now


def record(event: str, ctx: Context, **facts: object) -> None:
    """Writes one line, whole or not at all: it is below what a pipe or file takes in one piece."""
    line = {"event": event, "task_id": ctx.task_id, "attempt": ctx.attempt, "fence": ctx.fence, "agent": agent.name, "pid": os.getpid()}
    descriptor = os.open(os.environ["WORKER_EXECUTIONS"], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, json.dumps({**line, **facts}).encode() + b"\n")
    finally:
        os.close(descriptor)


def gate(name: str) -> Path:
    return Path(os.environ["WORKER_GATES"]) / name


async def at_gate(name: str) -> None:
    while not gate(name).exists():
        await asyncio.sleep(_POLL_S)


def answer_to(payload: bytes) -> bytes:
    """What `digest` returns: different for each payload, and nothing that anyone could have made up."""
    return hashlib.sha256(payload).hexdigest().encode()


def work_s(payload: bytes) -> float:
    """How long the work on a payload takes: up to 20 ms, so that a kill finds attempts at work."""
    return payload[-1] % 3 * 0.01 if payload else 0.0


@agent.handler("digest")
async def digest(ctx: Context) -> bytes:
    """Computes, without a trace."""
    await asyncio.sleep(work_s(ctx.payload))
    return answer_to(ctx.payload)


@agent.handler("recorded-digest")
async def recorded_digest(ctx: Context) -> bytes:
    """Computes, and has a side effect: the line that it writes."""
    record("executed", ctx)
    await asyncio.sleep(work_s(ctx.payload))
    return answer_to(ctx.payload)


@agent.handler("count-running")
async def count_running(ctx: Context) -> None:
    """Writes down how many run at once, and stays a moment so that they can."""
    _running[ctx.task_id] = ctx.fence
    record("running", ctx, running=len(_running))
    try:
        await asyncio.sleep(_POLL_S)
    finally:
        del _running[ctx.task_id]


@agent.handler("limited")
@agent.handler("metered")
async def under_a_limit(ctx: Context) -> None:
    """Writes down when it begins and when it is over. Its payload is its concurrency key."""
    facts = {"key": ctx.payload.decode(), "task_type": ctx.task_type}
    record("began", ctx, **facts)
    await asyncio.sleep(_POLL_S)
    record("over", ctx, **facts)


@agent.handler("fragile")
async def fragile(ctx: Context) -> bytes:
    """Fails while the test says that this agent is broken."""
    if gate(f"{agent.name}-is-broken").exists():
        record("failed", ctx)
        raise OSError("its disk is broken")
    record("worked", ctx)
    await asyncio.sleep(_POLL_S)
    return b""


@agent.handler("at-gate")
async def async_at_gate(ctx: Context) -> bytes:
    """Waits at the gate that its payload names; a cancel is written down."""
    record("started", ctx, checkpoint=(ctx.last_checkpoint or b"").decode())
    try:
        await at_gate(ctx.payload.decode())
    except asyncio.CancelledError:
        record("cancelled", ctx)
        raise
    record("finished", ctx)
    return f"attempt {ctx.attempt}".encode()


@agent.handler("thread-at-gate")
def thread_at_gate(ctx: Context) -> bytes | None:
    """The same in a thread, which looks whether it is to stop."""
    record("started", ctx)
    while not gate(ctx.payload.decode()).exists():
        if ctx.cancelled:
            record("cancelled", ctx, reason=ctx.cancel_reason)
            return None
        time.sleep(_POLL_S)  # noqa: TID251 - a handler's work
    record("finished", ctx)
    return b"done"


@agent.handler("process-at-gate", isolation="process")
def process_at_gate(ctx: Context) -> bytes:
    """The same in a process of its own, which doesn't look."""
    record("started", ctx)
    while not gate(ctx.payload.decode()).exists():
        time.sleep(_POLL_S)  # noqa: TID251 - a handler's work
    record("finished", ctx)
    return b"done"


@agent.handler("checkpoint-at-gate")
async def checkpoint_at_gate(ctx: Context) -> bytes:
    """Stores how far it is, then waits at its gate. What a later attempt starts from is its result."""
    resumed_from = ctx.last_checkpoint or b"nothing"
    if ctx.last_checkpoint is None:
        await ctx.checkpoint(b"half way")
    record("checkpointed", ctx, resumed_from=resumed_from.decode())
    await at_gate(ctx.payload.decode())
    return resumed_from


@agent.handler("block-loop")
async def block_loop(ctx: Context) -> bytes:
    """What no async handler should do: blocks its event loop for as many seconds as its payload says."""
    record("started", ctx)
    time.sleep(float(ctx.payload))  # noqa: TID251 - the point
    return b"awake"


@agent.handler("block-thread")
def block_thread(ctx: Context) -> bytes:
    """Blocks its thread for as many seconds as its payload says."""
    record("started", ctx)
    time.sleep(float(ctx.payload))  # noqa: TID251 - the point
    return b"awake"


@agent.handler("hang-once")
def hang_once(ctx: Context) -> bytes:
    """Shows no progress in its first attempt until its gate opens, and then returns a result that comes too late."""
    record("started", ctx)
    if ctx.attempt == 1:
        while not gate(ctx.payload.decode()).exists():
            time.sleep(_POLL_S)  # noqa: TID251 - a handler's work
        record("late", ctx)
        return b"late"
    return f"attempt {ctx.attempt}".encode()


@agent.handler("write-fenced")
async def write_fenced(ctx: Context) -> None:
    """Writes again and again, each write tied to the attempt; it doesn't know when to stop."""
    late = 0
    try:
        while not gate("enough").exists():
            await ctx.state.put("written", ctx.attempt, fenced=True)
    except (AttemptLostError, asyncio.CancelledError) as error:
        record("stopped", ctx, why=type(error).__name__)
    for _ in range(20):
        with contextlib.suppress(AttemptLostError):
            await ctx.state.put("written", ctx.attempt, fenced=True)
            late += 1
    record("wrote late", ctx, late=late)


@agent.handler("emit")
async def emit(ctx: Context) -> bytes:
    """Emits numbered lines: half of those that its payload asks for, and after its gate the other half."""
    count, gate_name = ctx.json()
    for number in range(count):
        if number == count // 2:
            record("half", ctx)
            await at_gate(gate_name)
        ctx.emit(f"line {number}\n")
        await asyncio.sleep(0)
    return b"all"


@agent.handler("in-order")
async def in_order(ctx: Context) -> None:
    """Writes down when it ran."""
    record("ran", ctx, label=ctx.payload.decode())


@agent.handler("fail-then-wait")
async def fail_then_wait(ctx: Context) -> None:
    """Fails in its first attempt, and waits at its gate in every later one."""
    if ctx.attempt == 1:
        raise RuntimeError("not yet")
    record("started", ctx)
    await at_gate(ctx.payload.decode())


@agent.handler("when-mended")
async def when_mended(ctx: Context) -> bytes:
    """Fails until its gate opens."""
    if not gate(ctx.payload.decode()).exists():
        raise RuntimeError("it is broken")
    return b"mended"
