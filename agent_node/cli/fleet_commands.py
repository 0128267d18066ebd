"""`muster agents`, `drain` and `stats`: the fleet and its queues."""

from typing import Annotated

import typer

from agent_node.cli.invocation import Invocation, command


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    command(app, "agents")(agents)
    command(app, "drain")(drain)
    command(app, "stats")(stats)


async def agents(invocation: Invocation) -> None:
    """List the agents: how they are, what they can do, how much they run."""
    async with invocation.connect() as client:
        known = list(await client.agents())
    if invocation.as_json:
        from agent_node.cli.records import print_record, record_of

        for agent in known:
            print_record(record_of(agent))
        return
    from agent_node.cli.tables import agents_table
    from agent_node.cli.terminal import stdout_console

    stdout_console().print(agents_table(known) if known else "No agents: start one with `muster-agent module:agent`.")


async def drain(
    invocation: Invocation,
    *,
    agent_name: Annotated[str, typer.Argument(metavar="AGENT", help="The agent.")],
    deadline_s: Annotated[
        float,
        typer.Option("--deadline", min=0, metavar="SECONDS", help="Handlers that still run then are stopped, and their tasks given back."),
    ] = 30.0,
    reason: Annotated[str, typer.Option("--reason", help="Why; shown to the agent.")] = "drained from the command line",
) -> None:
    """Ask an agent to take no new work, to finish or give back what it runs, and to end."""
    async with invocation.connect() as client:
        agent = (await client.drain_agent(agent_name, deadline_s=deadline_s, reason=reason)).agent
    if invocation.as_json:
        from agent_node.cli.records import print_record, record_of

        print_record(record_of(agent))
        return
    from agent_node.cli.terminal import stdout_console

    left = f"{agent.running} task{'' if agent.running == 1 else 's'} to finish" if agent.running else "nothing left to finish"
    stdout_console().print(f"{agent.agent_name or agent_name} is draining, with {left} within {deadline_s:g} s.")


async def stats(invocation: Invocation) -> None:
    """Show the coordinator, what waits and runs by task type and priority, and the totals."""
    async with invocation.connect() as client:
        queues, load, about = await client.queue_stats(), await client.load_map(), await client.coordinator()
    if invocation.as_json:
        from agent_node.cli.records import print_record, record_of

        capacity = record_of(load)
        capacity.pop("agents")  # `muster agents --json` prints them
        print_record({"coordinator": record_of(about), "load": capacity, **record_of(queues)})
        return
    from agent_node.cli.tables import statistics
    from agent_node.cli.terminal import stdout_console

    stdout_console().print(statistics(queues, load, about))
