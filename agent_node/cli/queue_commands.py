"""`muster queues` and `muster top`: what waits, runs and has happened lately, once or again and again."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from agent_node.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from muster.v1 import admin_pb2

    from agent_node.client.client import Client


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    command(app, "queues")(queues)
    command(app, "top")(top)


async def queues(
    invocation: Invocation,
    *,
    task_type: Annotated[str, typer.Option("--type", metavar="TYPE", help="Of this task type alone, minute by minute.")] = "",
) -> None:
    """Show what waits and runs, and what has happened over the last minute, five minutes and hour, by task type and priority."""
    async with invocation.connect() as client:
        stats, history = await _asked(client, task_type)
    if invocation.as_json:
        from agent_node.cli.records import print_record, record_of

        print_record({"stats": record_of(stats), "history": record_of(history)})
        return
    from agent_node.cli.queue_tables import queue_report
    from agent_node.cli.terminal import stdout_console

    stdout_console().print(queue_report(stats, history, task_type=task_type))


async def top(
    invocation: Invocation,
    *,
    every_s: Annotated[float, typer.Option("--every", min=0.2, metavar="SECONDS", help="How often it is asked anew.")] = 2.0,
    rounds: Annotated[int, typer.Option("--rounds", min=0, metavar="N", help="End after so many; 0 goes on until Ctrl-C.")] = 0,
) -> None:
    """Follow the queues on the terminal, the busiest first; with --json, a line each time. Ctrl-C ends it."""
    from agent_node.cli.queue_tables import queue_report
    from agent_node.cli.records import print_record, record_of
    from agent_node.cli.terminal import live_screen

    done = 0
    async with invocation.connect() as client:
        with live_screen() as screen:
            while True:
                stats, history = await _asked(client, "")
                if invocation.as_json:
                    print_record({"stats": record_of(stats), "history": record_of(history)})
                else:
                    screen.show(queue_report(stats, history, most_rows=screen.rows()))
                done += 1
                if done == rounds:
                    return
                await asyncio.sleep(every_s)


async def _asked(client: "Client", task_type: str) -> "tuple[admin_pb2.GetQueueStatsResponse, admin_pb2.GetQueueHistoryResponse]":
    return await client.queue_stats(), await client.queue_history(task_type)
