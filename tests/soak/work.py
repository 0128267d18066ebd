"""What a soak is made of: a table of kinds of work. A new kind is one entry, with its handler beside it.

Both sides import it: agents for the handlers, clients for the rest.
"""

import asyncio
import contextlib
import hashlib
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agent_node import Client, Context, NonRetryableError, RetryPolicy, Scheduling, TaskHandle
from agent_node.errors import MusterError, UnavailableError

COMPLETED, FAILED, CANCELLED = "COMPLETED", "FAILED", "CANCELLED"
_PAUSE_S = 0.3  # before a call is repeated that found nobody
_MANY_CRASHES = 1000  # whoever an agent's end happens to hit is not at fault

Options = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of work.

    Attributes:
        share: how many of a thousand tasks are of it, about.
        ends: how its tasks may end.
        handler: runs it; None when no agent does.
        isolation: the handler's.
        options: what is submitted with it, beside type and payload; drawn anew for each task.
        then: what its client does once it is taken.
        needs_answer: its client waits for the result.
    """

    share: float
    ends: frozenset[str] = frozenset({COMPLETED})
    handler: Callable[[Context], Any] | None = None
    isolation: str | None = None
    options: Callable[[random.Random], Options] = lambda _rng: {}
    then: Callable[[Client, TaskHandle, random.Random], Awaitable[None]] | None = None
    needs_answer: bool = True
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(max_crashes=_MANY_CRASHES, initial_backoff_s=0.2, max_backoff_s=2.0))


# --- handlers -----------------------------------------------------------------------------------------------------------------------


def answer_to(payload: bytes) -> bytes:
    """What a handler returns: different for each payload."""
    return hashlib.sha256(payload).hexdigest().encode()


def executed(ctx: Context) -> None:
    """Leaves a trace of this execution, whatever becomes of its process."""
    path = Path(os.environ["SOAK_EXECUTIONS"])
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, f"{ctx.task_id} {ctx.fence}\n".encode())
    finally:
        os.close(descriptor)


async def digest(ctx: Context) -> bytes:
    executed(ctx)
    await asyncio.sleep(ctx.payload[-1] % 3 * 0.005)
    return answer_to(ctx.payload)


def digest_in_thread(ctx: Context) -> bytes:
    executed(ctx)
    return answer_to(ctx.payload)


def digest_in_process(ctx: Context) -> bytes:
    executed(ctx)
    return answer_to(ctx.payload)


async def fail_at_first(ctx: Context) -> bytes:
    executed(ctx)
    if ctx.attempt <= 1 + ctx.payload[-1] % 2:
        raise RuntimeError("not yet")
    return answer_to(ctx.payload)


async def fail_always(ctx: Context) -> bytes:
    executed(ctx)
    raise RuntimeError("never")


async def refuse(ctx: Context) -> bytes:
    executed(ctx)
    raise NonRetryableError("this input can't be worked on")


async def wait_for_cancel(ctx: Context) -> bytes:
    executed(ctx)
    await asyncio.sleep(60)
    return b"nobody cancelled it"


def wait_for_cancel_in_thread(ctx: Context) -> bytes | None:
    executed(ctx)
    until_s = time.monotonic() + 60  # noqa: TID251 - a handler's work
    while not ctx.cancelled and time.monotonic() < until_s:  # noqa: TID251
        time.sleep(0.02)  # noqa: TID251
    return None if ctx.cancelled else b"nobody cancelled it"


async def emit(ctx: Context) -> bytes:
    executed(ctx)
    for number in range(5):
        ctx.emit(f"piece {number}\n")
        ctx.progress(number, 5)
        await asyncio.sleep(0.005)
    await ctx.checkpoint(ctx.payload[:20])
    return answer_to(ctx.payload)


# --- what clients do beside waiting ---------------------------------------------------------------------------------------------------


async def until_reached(call: Callable[[], Awaitable[Any]]) -> None:
    """Repeats a call that found no coordinator, or no store."""
    while True:
        try:
            await call()
        except UnavailableError:
            await asyncio.sleep(_PAUSE_S)
        else:
            return


async def cancel_soon(client: Client, handle: TaskHandle, rng: random.Random) -> None:
    await asyncio.sleep(rng.uniform(0.02, 0.3))
    await until_reached(lambda: client.cancel([handle.task_id], "no longer wanted"))


async def cancel_now(client: Client, handle: TaskHandle, _rng: random.Random) -> None:
    await until_reached(lambda: client.cancel([handle.task_id]))


async def read_output(client: Client, handle: TaskHandle, _rng: random.Random) -> None:
    with contextlib.suppress(MusterError):
        async for _ in client.chunks(handle.task_id):
            pass


async def look_around(client: Client, handle: TaskHandle, rng: random.Random) -> None:
    """Every unary call there is."""
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: client.get(handle.task_id, full=True),
        lambda: client.explain(handle.task_id),
        lambda: client.history(handle.task_id),
        lambda: _first_of(client, f'task_id = "{handle.task_id}"'),
        lambda: _first_of(client, "state = FAILED"),
        client.agents,
        client.load_map,
        client.namespaces,
    ]
    with contextlib.suppress(MusterError):
        await rng.choice(calls)()


async def _first_of(client: Client, wanted: str) -> None:
    listed = client.list(wanted, page_size=20)
    async for _ in listed:
        break


# --- the table ------------------------------------------------------------------------------------------------------------------------

KINDS: Final[Mapping[str, Kind]] = {
    "plain": Kind(share=560, handler=digest),
    "own-id": Kind(share=60, handler=digest, options=lambda rng: {"task_id": f"own-{rng.getrandbits(80):020x}"}),
    "unasked": Kind(share=60, handler=digest, needs_answer=False),
    "urgent": Kind(share=30, handler=digest, options=lambda rng: {"priority": rng.choice([1, 3, 4])}),
    "in-thread": Kind(share=20, handler=digest_in_thread),
    "in-process": Kind(share=0.2, handler=digest_in_process, isolation="process"),
    "keyed": Kind(share=50, handler=digest, options=lambda rng: {"scheduling": Scheduling(fairness_key=f"key-{rng.getrandbits(40)}")}),
    # Of few keys: 100,000 are remembered, and to fill them takes longer than a run; these are all known after seconds.
    "sticky": Kind(share=20, handler=digest, options=lambda rng: {"scheduling": Scheduling(sticky_key=f"key-{rng.getrandbits(8)}")}),
    "heavy": Kind(share=20, handler=digest, options=lambda rng: {"scheduling": Scheduling(slots=rng.randrange(2, 6))}),
    "timed": Kind(share=20, handler=digest, options=lambda _rng: {"run_timeout_s": 30.0, "progress_timeout_s": 30.0}),
    "fails-at-first": Kind(share=60, handler=fail_at_first),
    "fails-for-good": Kind(share=20, handler=fail_always, ends=frozenset({FAILED}), retry=RetryPolicy(
        max_retries=2, initial_backoff_s=0.1, max_crashes=_MANY_CRASHES)),
    "refused": Kind(share=20, handler=refuse, ends=frozenset({FAILED})),
    "cancelled-at-work": Kind(share=20, handler=wait_for_cancel, ends=frozenset({CANCELLED}), then=cancel_soon),
    "cancelled-in-thread": Kind(share=2, handler=wait_for_cancel_in_thread, ends=frozenset({CANCELLED}), then=cancel_soon),
    "cancelled-in-queue": Kind(share=20, ends=frozenset({CANCELLED}), then=cancel_now),
    "cancelled-by-kind": Kind(
        share=5, ends=frozenset({CANCELLED}), then=cancel_now, options=lambda rng: {"scheduling": Scheduling(
            selectors=[f"zone=z{rng.getrandbits(40)}"])}),  # each in a lane of its own
    "emits": Kind(share=8, handler=emit, then=read_output),
    "looked-at": Kind(share=5, handler=digest, then=look_around),
}  # fmt: skip


def task_type_of(name: str) -> str:
    """What tasks of a kind are submitted as."""
    return f"soak.{name}"
