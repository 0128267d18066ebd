"""`muster cluster`: who shares the store, and who owns what."""

import typer

from agent_node.cli.invocation import Invocation, command


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, "cluster")(cluster)


async def cluster(invocation: Invocation) -> None:
    """Show the coordinators that share the store, and who owns which shard, since when, and how far its snapshot is."""
    async with invocation.connect() as client:
        view = await client.cluster()
    if invocation.as_json:
        from agent_node.cli.records import print_record, record_of

        print_record(record_of(view))
        return
    from agent_node.cli.cluster_tables import cluster_tables
    from agent_node.cli.terminal import stdout_console

    stdout_console().print(cluster_tables(view))
