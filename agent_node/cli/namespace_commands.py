"""`muster namespaces`: list, create, limit, delete."""

from dataclasses import replace
from typing import Annotated

import typer

from agent_node.cli.invocation import Invocation, command


def build() -> typer.Typer:
    """The command group."""
    app = typer.Typer(help="Isolated worlds of tasks and agents.", no_args_is_help=True)
    command(app, "list")(list_namespaces)
    command(app, "create")(create)
    command(app, "limit")(limit)
    command(app, "delete")(delete)
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


async def limit(
    invocation: Invocation,
    *,
    name: Annotated[str, typer.Argument(help="The namespace.")],
    max_live_tasks: Annotated[int | None, typer.Option("--max-live-tasks", min=1, metavar="N", help="Live tasks.")] = None,
    max_live_bytes: Annotated[
        int | None, typer.Option("--max-live-bytes", min=1, metavar="N", help="Bytes of live tasks' payloads and options.")
    ] = None,
    retain_for: Annotated[
        float | None,
        typer.Option("--retain-for", min=0, metavar="SECONDS", help="How long ended tasks are retained; ten minutes at least."),
    ] = None,
    max_retained_tasks: Annotated[
        int | None, typer.Option("--max-retained-tasks", min=0, metavar="N", help="How many ended tasks are retained.")
    ] = None,
    max_retained_bytes: Annotated[
        int | None, typer.Option("--max-retained-bytes", min=0, metavar="N", help="How many bytes of their records are.")
    ] = None,
) -> None:
    """Set what a namespace may hold, in place of what was set before. What isn't given is as the coordinator was started."""
    from muster.v1.policy_pb2 import NamespaceLimitsPolicy, Policy

    from agent_node.cli.policy_commands import set_and_show
    from agent_node.connection import duration

    limits = NamespaceLimitsPolicy(
        max_live_tasks=max_live_tasks,
        max_live_bytes=max_live_bytes,
        max_retained_tasks=max_retained_tasks,
        max_retained_bytes=max_retained_bytes,
    )
    if retain_for is not None:
        limits.retain_for.CopyFrom(duration(retain_for))
    await set_and_show(replace(invocation, namespace=name), Policy(namespace_limits=limits))


async def delete(
    invocation: Invocation,
    *,
    name: Annotated[str, typer.Argument(help="The namespace; default can't be deleted.")],
    force: Annotated[bool, typer.Option("--force", help="Although it has live tasks: they are cancelled with it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing, and say what would be.")] = False,
) -> None:
    """Delete a namespace with all that it holds: tasks, records and policies."""
    async with invocation.connect() as client:
        answer = await client.delete_namespace(name, force=force, dry_run=dry_run)
    if invocation.as_json:
        from agent_node.cli.records import print_record, record_of

        print_record({"name": name, "dry_run": dry_run, **record_of(answer)})
        return
    from agent_node.cli.terminal import stdout_console

    what = f"{answer.live_tasks} live and {answer.retained_tasks} ended tasks, and {answer.agents} agents"
    stdout_console().print(f"Namespace {name} {'would be' if dry_run else 'is'} deleted, with {what}.")
