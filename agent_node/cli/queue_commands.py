"""`muster queues` and `muster top`: what waits, runs and has happened lately, once or again and again."""

import asyncio
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from agent_node.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.v1 import admin_pb2, policy_pb2

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
        asked = await _ask(client, task_type)
    if invocation.as_json:
        _print(asked)
        return
    from agent_node.cli.queue_tables import queue_report
    from agent_node.cli.terminal import stdout_console

    stdout_console().print(queue_report(asked.stats, asked.history, pauses=asked.pauses, cordons=asked.cordons, task_type=task_type))


async def top(
    invocation: Invocation,
    *,
    every_s: Annotated[float, typer.Option("--every", min=0.2, metavar="SECONDS", help="How often it is asked anew.")] = 2.0,
    rounds: Annotated[int, typer.Option("--rounds", min=0, metavar="N", help="End after so many; 0 goes on until Ctrl-C.")] = 0,
) -> None:
    """Follow the queues on the terminal, the busiest first; with --json, a line each time. Ctrl-C ends it."""
    from agent_node.cli.queue_tables import queue_report
    from agent_node.cli.terminal import live_screen

    done = 0
    async with invocation.connect() as client:
        with live_screen() as screen:
            while True:
                asked = await _ask(client, "")
                if invocation.as_json:
                    _print(asked)
                else:
                    rows = screen.rows()
                    screen.show(queue_report(asked.stats, asked.history, pauses=asked.pauses, cordons=asked.cordons, most_rows=rows))
                done += 1
                if done == rounds:
                    return
                await asyncio.sleep(every_s)


class _Asked(NamedTuple):
    """What is shown."""

    stats: "admin_pb2.GetQueueStatsResponse"
    history: "admin_pb2.GetQueueHistoryResponse"
    pauses: "Sequence[policy_pb2.Policy]"
    cordons: "Sequence[policy_pb2.Policy]"


async def _ask(client: "Client", task_type: str) -> _Asked:
    from muster.v1.policy_pb2 import POLICY_KIND_CORDON, POLICY_KIND_PAUSE

    pauses, cordons = await client.policies(POLICY_KIND_PAUSE), await client.policies(POLICY_KIND_CORDON)
    return _Asked(await client.queue_stats(), await client.queue_history(task_type), pauses, cordons)


def _print(asked: _Asked) -> None:
    from agent_node.cli.records import print_record, record_of

    print_record(
        {
            "stats": record_of(asked.stats),
            "history": record_of(asked.history),
            "pauses": [record_of(one) for one in asked.pauses],
            "cordons": [record_of(one) for one in asked.cordons],
        }
    )
