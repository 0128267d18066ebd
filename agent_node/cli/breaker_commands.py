"""`muster breakers`: which agents are given nothing because they fail again and again, when that begins, and how it ends."""

import math
from typing import Annotated

import typer

from agent_node.cli.exits import CommandFailure, ExitCode
from agent_node.cli.invocation import Invocation, command
from agent_node.cli.policy_commands import set_and_show


def build() -> typer.Typer:
    """The command group."""
    app = typer.Typer(help="Circuit breakers: agents that fail again and again are given nothing for a while.", no_args_is_help=True)
    command(app, "list")(list_breakers)
    command(app, "reset")(reset)
    command(app, "set")(set_breaker)
    return app


async def list_breakers(invocation: Invocation) -> None:
    """List the circuit breakers of connected agents that aren't closed: since when, why, and when the next probe may begin."""
    async with invocation.connect() as client:
        agents = list(await client.agents())
    breakers = [breaker for agent in agents for breaker in agent.breakers]
    if invocation.as_json:
        from agent_node.cli.records import print_record, record_of

        for breaker in breakers:
            print_record(record_of(breaker))
        return
    from agent_node.cli.breaker_tables import breakers_table, failing_everywhere
    from agent_node.cli.terminal import stdout_console

    console = stdout_console()
    console.print(breakers_table(breakers) if breakers else "All circuit breakers are closed.")
    for line in failing_everywhere(agents):
        console.print(line, markup=False)


async def reset(
    invocation: Invocation,
    *,
    agent_name: Annotated[str, typer.Argument(metavar="AGENT", help="The agent, connected or not.")],
    capability: Annotated[
        str, typer.Option("--capability", metavar="TYPE", help="Its breaker for this task type alone. [default: all of its breakers]")
    ] = "",
) -> None:
    """Close an agent's circuit breakers, and forget what they have counted: it gets work again."""
    async with invocation.connect() as client:
        closed = await client.reset_breakers(agent_name, capability)
    if invocation.as_json:
        from agent_node.cli.records import print_record, record_of

        for breaker in closed:
            print_record(record_of(breaker))
        return
    from agent_node.cli.terminal import stdout_console

    named = ", ".join(breaker.task_type or "its own" for breaker in closed)
    said = f"{len(closed)} of its circuit breakers {'is' if len(closed) == 1 else 'are'} closed now: {named}" if closed else "none was open"
    stdout_console().print(f"{agent_name}: {said}.", markup=False)


async def set_breaker(
    invocation: Invocation,
    *,
    task_type: Annotated[
        str, typer.Argument(metavar="[TYPE]", help="A task type, or a prefix and '*'. [default: the whole namespace]", show_default=False)
    ] = "",
    consecutive_failures: Annotated[
        int | None, typer.Option("--in-a-row", min=0, metavar="N", help="Open when so many tasks fail in a row; 0: not for that.")
    ] = None,
    failure_rate: Annotated[
        float | None, typer.Option("--rate", metavar="SHARE", help="Open when such a share of the results are failures; 0: not for that.")
    ] = None,
    min_results: Annotated[
        int | None, typer.Option("--min-results", min=1, metavar="N", help="For the rate: of at least so many results.")
    ] = None,
    window: Annotated[float | None, typer.Option("--window", metavar="SECONDS", help="For the rate: within so long.")] = None,
    open_for: Annotated[float | None, typer.Option("--open-for", metavar="SECONDS", help="Until the first probe.")] = None,
    max_open_for: Annotated[
        float | None, typer.Option("--max-open-for", metavar="SECONDS", help="At most so long, however many probes have failed.")
    ] = None,
    max_open_share: Annotated[
        float | None, typer.Option("--max-share", metavar="SHARE", help="Shut out at most such a share of a type's agents.")
    ] = None,
) -> None:
    """Set when circuit breakers open, and for how long. `muster policies delete breaker TYPE` takes it back."""
    from muster.v1.policy_pb2 import BreakerPolicy, Policy

    from agent_node.connection import duration

    policy = BreakerPolicy(
        task_type=task_type,
        consecutive_failures=_fitting(consecutive_failures),
        failure_rate=failure_rate,
        min_results=_fitting(min_results),
        max_open_share=max_open_share,
    )
    for name, seconds, field in (
        ("--window", window, policy.window),
        ("--open-for", open_for, policy.open_for),
        ("--max-open-for", max_open_for, policy.max_open_for),
    ):
        if seconds is not None:
            if not 0 < seconds < math.inf:
                raise CommandFailure(f"{name} is {seconds}: give a number of seconds above 0.", ExitCode.USAGE)
            field.CopyFrom(duration(min(seconds, 1e9)))
    await set_and_show(invocation, Policy(breaker=policy))


def _fitting(count: int | None) -> int | None:
    return None if count is None else min(count, 2**32 - 1)  # more doesn't fit into a message, and so much is refused
