"""`muster namespaces list` and `create`."""

from typing import Annotated

import typer

from agent_node.cli.invocation import Invocation, command


def build() -> typer.Typer:
    """The command group."""
    app = typer.Typer(help="Isolated worlds of tasks and agents.", no_args_is_help=True)
    command(app, "list")(list_namespaces)
    command(app, "create")(create)
    return app


async def list_namespaces(invocation: Invocation) -> None:
    """List the namespaces."""
    async with invocation.connect() as client:
        known = list(await client.namespaces())
    if invocation.as_json:
        from agent_node.cli.records import print_record, record_of

        for namespace in known:
            print_record(record_of(namespace))
        return
    from agent_node.cli.tables import namespaces_table
    from agent_node.cli.terminal import stdout_console

    stdout_console().print(namespaces_table(known))


async def create(
    invocation: Invocation,
    *,
    name: Annotated[str, typer.Argument(help="1 to 63 lower-case letters, digits and dashes, beginning with a letter.")],
) -> None:
    """Create a namespace. One that exists already is left as it is."""
    async with invocation.connect() as client:
        namespace = await client.create_namespace(name)
    if invocation.as_json:
        from agent_node.cli.records import print_record, record_of

        print_record(record_of(namespace))
        return
    from agent_node.cli.terminal import stdout_console

    stdout_console().print(f"Namespace {namespace.name} is there, in shard {namespace.shard}.")
