"""Handlers for child processes: those must be importable."""

import asyncio
import os
import threading

from agent_node import Context, NonRetryableError


def pid(ctx: Context) -> int:
    return os.getpid()


def hang(ctx: Context) -> None:
    ctx.progress(os.getpid())
    threading.Event().wait()


def die(ctx: Context) -> None:
    os._exit(3)


def report(ctx: Context) -> str:
    ctx.emit("partial")
    ctx.report_usage(model="m", input_tokens=1, output_tokens=2)
    ctx.report_cost(2.5)
    ctx.checkpoint_sync(b"here")
    return "stored"


async def report_async(ctx: Context) -> str:
    await ctx.checkpoint(b"there")
    await asyncio.sleep(0)
    return "stored"


def echo(ctx: Context) -> bytes:
    return ctx.payload


def refuse(ctx: Context) -> None:
    raise NonRetryableError("never")
