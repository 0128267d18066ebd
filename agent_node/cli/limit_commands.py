"""`muster limits`: how much may run at a time, how much may begin in a period, and how much does."""

import math
from enum import Enum
from typing import Annotated

import typer

from agent_node.cli.exits import CommandFailure, ExitCode
from agent_node.cli.invocation import Invocation, command
from agent_node.cli.policy_commands import delete as delete_policy
from agent_node.cli.policy_commands import set_and_show

TYPE_KEY = "task_type="
KEY_HELP = "A key, or a prefix and '*' for all keys that begin so, each for itself; or task_type=NAME."


class WhenFullName(Enum):
    """What becomes of a new task whose key is full."""

    WAIT = "wait"
    CANCEL_OLDEST = "cancel-oldest"
    REJECT = "reject"


class LimitKind(Enum):
    """Which of a key's limits."""

    CONCURRENCY = "concurrency"
    RATE = "rate"


def build() -> typer.Typer:
    """The command group."""
    app = typer.Typer(help="Limits for any work: how many run at a time, how many begin in a period.", no_args_is_help=True)
    command(app, "list")(list_limits)
    command(app, "set")(set_limit)
    command(app, "delete")(delete)
    return app


async def list_limits(invocation: Invocation) -> None:
    """List the namespace's limits, and how much of each is in use."""
    async with invocation.connect() as client:
        limits = list(await client.limits())
    if invocation.as_json:
        from agent_node.cli.records import print_record, record_of

        for use in limits:
            print_record(record_of(use))
        return
    from agent_node.cli.tables import limits_table
    from agent_node.cli.terminal import stdout_console

    stdout_console().print(limits_table(limits) if limits else "No limits.")


async def set_limit(
    invocation: Invocation,
    *,
    key: Annotated[str, typer.Argument(help=KEY_HELP)],
    running: Annotated[int | None, typer.Option("--running", min=0, metavar="N", help="At most so many run at a time.")] = None,
    when_full: Annotated[
        WhenFullName | None, typer.Option("--when-full", help="With --running: what becomes of a new task. [default: wait]")
    ] = None,
    starts: Annotated[int | None, typer.Option("--starts", min=0, metavar="N", help="At most so many begin in any period.")] = None,
    period: Annotated[float | None, typer.Option("--period", metavar="SECONDS", help="With --starts: the period.")] = None,
) -> None:
    """Set a limit: --running for a concurrency key, --starts and --period for a rate key."""
    from muster.v1.policy_pb2 import ConcurrencyLimitPolicy, Policy, RateLimitPolicy, WhenFull

    from agent_node.connection import duration

    if (running is None) == (starts is None) or (starts is None) != (period is None) or (when_full is not None and running is None):
        raise CommandFailure("give --running N (and --when-full), or --starts N and --period SECONDS.", ExitCode.USAGE)
    task_type = key.removeprefix(TYPE_KEY) if key.startswith(TYPE_KEY) else ""
    key = "" if task_type else key
    if running is not None:
        way = WhenFull.Value(f"WHEN_FULL_{(when_full or WhenFullName.WAIT).name}")
        limit = ConcurrencyLimitPolicy(concurrency_key=key, task_type=task_type, max_running=_fitting(running), when_full=way)
        await set_and_show(invocation, Policy(concurrency_limit=limit))
        return
    if period is None or starts is None or not 0 < period < math.inf:
        raise CommandFailure(f"--period is {period}: give a number of seconds above 0.", ExitCode.USAGE)
    rate = RateLimitPolicy(rate_key=key, task_type=task_type, count=_fitting(starts), period=duration(min(period, 1e9)))
    await set_and_show(invocation, Policy(rate_limit=rate))


async def delete(
    invocation: Invocation,
    *,
    kind: Annotated[LimitKind, typer.Argument(help="Which of its limits.")],
    key: Annotated[str, typer.Argument(help="The key, as `muster limits list` shows it.")],
) -> None:
    """Delete a limit: what it held up begins."""
    await delete_policy(invocation, kind=f"{kind.value}_limit", key=key)


def _fitting(count: int) -> int:
    return min(count, 2**32 - 1)  # more doesn't fit into a message, and so much is refused
