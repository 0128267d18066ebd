"""`muster policies`: what operators set for a namespace while it runs."""

from typing import TYPE_CHECKING, Annotated

import typer

from agent_node.cli.exits import CommandFailure, ExitCode
from agent_node.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from muster.v1.policy_pb2 import Policy, PolicyKind

KIND_HELP = "A kind of policy, such as weight."


def build() -> typer.Typer:
    """The command group."""
    app = typer.Typer(help="Rules that hold in the namespace until they are deleted, over restarts.", no_args_is_help=True)
    command(app, "list")(list_policies)
    command(app, "delete")(delete)
    command(app, "weight")(weight)
    command(app, "retry-defaults")(retry_defaults)
    return app


async def list_policies(
    invocation: Invocation, *, kind: Annotated[str, typer.Option("--kind", metavar="KIND", help="Those of one kind alone.")] = ""
) -> None:
    """List the namespace's policies."""
    wanted = _kind(kind) if kind else None
    async with invocation.connect() as client:
        known = list(await client.policies(wanted))
    if invocation.as_json:
        from agent_node.cli.records import print_record, record_of

        for policy in known:
            print_record(record_of(policy))
        return
    from agent_node.cli.tables import policies_table
    from agent_node.cli.terminal import stdout_console

    stdout_console().print(policies_table(known) if known else "No policies.")


async def delete(
    invocation: Invocation,
    *,
    kind: Annotated[str, typer.Argument(help=KIND_HELP)],
    key: Annotated[str, typer.Argument(help="Its key, as `muster policies list` shows it.")],
) -> None:
    """Delete a policy."""
    from muster.v1.policy_pb2 import PolicyName

    name = PolicyName(kind=_kind(kind), key=key)
    async with invocation.connect() as client:
        deleted = await client.delete_policies([name])
    if not deleted:
        raise CommandFailure(f"there is no policy {kind} {key!r}; `muster policies list` shows those there are.", ExitCode.NOT_FOUND)
    if invocation.as_json:
        from agent_node.cli.records import print_record, record_of

        print_record(record_of(deleted[0]))
        return
    from agent_node.cli.terminal import stdout_console

    stdout_console().print(f"Policy {kind} {key!r} is deleted.", markup=False)


async def weight(
    invocation: Invocation,
    *,
    fairness_key: Annotated[str, typer.Argument(metavar="KEY", help="The fairness key.")],
    number: Annotated[float, typer.Argument(metavar="WEIGHT", help="0.001 to 1000; keys share in proportion to it.")],
) -> None:
    """Set the weight of a fairness key."""
    from muster.v1.policy_pb2 import Policy, WeightPolicy

    await set_and_show(invocation, Policy(weight=WeightPolicy(fairness_key=fairness_key, weight=number)))


async def retry_defaults(
    invocation: Invocation,
    *,
    task_type: Annotated[str, typer.Argument(metavar="TYPE", help="The task type.")],
    max_retries: Annotated[int | None, typer.Option("--max-retries", min=0, help="Attempts after the first one.")] = None,
    initial_backoff: Annotated[
        float | None, typer.Option("--initial-backoff", min=0, metavar="SECONDS", help="The first wait's upper bound.")
    ] = None,
    max_backoff: Annotated[float | None, typer.Option("--max-backoff", min=0, metavar="SECONDS", help="No bound grows past this.")] = None,
    multiplier: Annotated[float | None, typer.Option("--multiplier", min=1, help="Each bound is so many times the last.")] = None,
    max_crashes: Annotated[int | None, typer.Option("--max-crashes", min=0, help="Lost leases before the task fails.")] = None,
) -> None:
    """Set how tasks of a type are retried where they don't say, from now on."""
    from muster.v1.common_pb2 import RetryPolicy
    from muster.v1.policy_pb2 import Policy, RetryDefaultsPolicy

    from agent_node.connection import duration

    policy = RetryPolicy(max_retries=max_retries, max_crashes=max_crashes, backoff_multiplier=multiplier or 0.0)
    if initial_backoff is not None:
        policy.initial_backoff.CopyFrom(duration(initial_backoff))
    if max_backoff is not None:
        policy.max_backoff.CopyFrom(duration(max_backoff))
    if not policy.ListFields():
        raise CommandFailure("give at least one option, such as --max-retries.", ExitCode.USAGE)
    await set_and_show(invocation, Policy(retry_defaults=RetryDefaultsPolicy(task_type=task_type, retry_policy=policy)))


async def set_and_show(invocation: Invocation, policy: "Policy") -> None:
    """Sets one policy, and shows it as it holds now."""
    async with invocation.connect() as client:
        [standing] = await client.set_policies([policy])
    if invocation.as_json:
        from agent_node.cli.records import print_record, record_of

        print_record(record_of(standing))
        return
    from agent_node.cli.tables import policies_table
    from agent_node.cli.terminal import stdout_console

    stdout_console().print(policies_table([standing]))


def _kind(name: str) -> "PolicyKind.ValueType":
    from muster.v1.policy_pb2 import PolicyKind

    kinds = {each.removeprefix("POLICY_KIND_").lower(): number for each, number in PolicyKind.items() if number}
    if name.lower() not in kinds:
        raise CommandFailure(f"{name!r} is no kind of policy: use {', '.join(kinds)}.", ExitCode.USAGE)
    return kinds[name.lower()]
