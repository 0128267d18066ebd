"""The command line's root: the shared options, and where each command comes from."""

import os
from typing import Annotated

import typer

from agent_node.cli import (
    admin_commands,
    breaker_commands,
    cluster_command,
    dead_letter_command,
    fleet_commands,
    limit_commands,
    namespace_commands,
    operation_commands,
    pause_commands,
    policy_commands,
    queue_commands,
    state_commands,
    submit_command,
    task_commands,
    webhook_commands,
)
from agent_node.cli.bench import bench_commands
from agent_node.cli.exits import EXIT_CODES_HELP
from agent_node.cli.invocation import ADDRESS_VARIABLE, DEFAULT_ADDRESS, DEFAULT_NAMESPACE, Invocation, JsonOption


def _print_version(wanted: bool) -> None:  # noqa: FBT001  # typer's shape
    if wanted:
        from importlib.metadata import version

        print(f"muster {version('muster-agents')}")
        raise typer.Exit


def build_app() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name="muster",
        help="Submit tasks to a fleet of agents, follow them, and look after the fleet.",
        epilog=EXIT_CODES_HELP,
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def remember_shared_options(
        context: typer.Context,
        *,
        address: Annotated[
            str,
            typer.Option(
                "--address",
                metavar="HOST:PORT",
                help=f"The coordinator, or several, comma separated. [env var: {ADDRESS_VARIABLE}] [default: {DEFAULT_ADDRESS}]",
            ),
        ] = "",
        namespace: Annotated[
            str, typer.Option("--namespace", envvar="MUSTER_NAMESPACE", metavar="NAME", help="The namespace.")
        ] = DEFAULT_NAMESPACE,
        as_json: JsonOption = False,
        version: Annotated[  # noqa: ARG001  # its callback has answered
            bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
        ] = False,
    ) -> None:
        usual_address = os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
        context.obj = Invocation(address=address, usual_address=usual_address, namespace=namespace, as_json=as_json)

    submit_command.register(app)
    task_commands.register(app)
    operation_commands.register(app)
    dead_letter_command.register(app)
    fleet_commands.register(app)
    queue_commands.register(app)
    pause_commands.register(app)
    cluster_command.register(app)
    app.add_typer(namespace_commands.build(), name="namespaces")
    app.add_typer(policy_commands.build(), name="policies")
    app.add_typer(state_commands.build(), name="state")
    app.add_typer(limit_commands.build(), name="limits")
    app.add_typer(breaker_commands.build(), name="breakers")
    app.add_typer(webhook_commands.build(), name="webhooks")
    app.add_typer(admin_commands.build(), name="admin")
    app.add_typer(bench_commands.build(), name="bench")
    return app
