"""`muster webhooks`: who is told of tasks' ends, and what has become of it."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from agent_node.cli.exits import CommandFailure, ExitCode
from agent_node.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from muster.v1.admin_pb2 import ListWebhookDeliveriesResponse, WebhookDeliveryState
    from muster.v1.policy_pb2 import Policy

SECRETS_VARIABLE = "MUSTER_WEBHOOK_SECRET"
TypeOption = Annotated[str, typer.Option("--type", metavar="TYPE", help="Of this task type. [default: of every type]")]


def build() -> typer.Typer:
    """The command group."""
    app = typer.Typer(help="Who is told of tasks' ends by a POST, and what has become of it.", no_args_is_help=True)
    command(app, "list")(list_webhooks)
    command(app, "set")(set_webhook)
    command(app, "delete")(delete)
    command(app, "deliveries")(deliveries)
    command(app, "retry")(retry)
    return app


async def list_webhooks(invocation: Invocation) -> None:
    """List the namespace's webhooks. Their secrets are not shown."""
    from muster.v1.policy_pb2 import POLICY_KIND_WEBHOOK

    async with invocation.connect() as client:
        known = list(await client.policies(POLICY_KIND_WEBHOOK))
    _show(invocation, known)


def _show(invocation: Invocation, policies: "list[Policy]", *, secret: str = "") -> None:
    if invocation.as_json:
        from agent_node.cli.records import print_record, record_of

        for policy in policies:
            print_record(record_of(policy) | ({"secret": secret} if secret else {}))
        return
    from agent_node.cli.tables import policies_table
    from agent_node.cli.terminal import stdout_console

    stdout_console().print(policies_table(policies) if policies else "No webhooks.")
    if secret:
        print(f"Secret, shown this once: {secret}")


async def set_webhook(
    invocation: Invocation,
    *,
    url: Annotated[
        str, typer.Argument(metavar="URL", help="https or http. Without one, the secrets only sign what goes to tasks' own webhooks.")
    ] = "",
    task_type: TypeOption = "",
    states: Annotated[
        list[str] | None,
        typer.Option("--state", metavar="STATE", help="Tell of this end alone: completed, failed or cancelled. May be repeated."),
    ] = None,
    secrets: Annotated[
        list[str] | None,
        typer.Option(
            "--secret",
            metavar="WHSEC",
            envvar=SECRETS_VARIABLE,
            help="Sign with this: whsec_ and base64. May be repeated, at most 4. [default: a new one, which is printed]",
        ),
    ] = None,
    unsigned: Annotated[bool, typer.Option("--unsigned", help="Don't sign.")] = False,
) -> None:
    """Set the webhook of a task type, or of every type."""
    from muster.v1.policy_pb2 import Policy, WebhookPolicy

    from agent_node.client.webhook import end_states
    from agent_node.ids import new_webhook_secret

    if unsigned and secrets and not os.environ.get(SECRETS_VARIABLE):
        raise CommandFailure("give --secret or --unsigned, not both.", ExitCode.USAGE)
    try:
        told = end_states([state.upper() for state in states or ()])
    except ValueError as error:
        raise CommandFailure(f"{error}.", ExitCode.USAGE) from None
    fresh = "" if unsigned or secrets else new_webhook_secret()
    signed_with = [] if unsigned else secrets or [fresh]
    policy = Policy(webhook=WebhookPolicy(task_type=task_type, url=url, states=told, secrets=signed_with))
    async with invocation.connect() as client:
        standing = list(await client.set_policies([policy]))
    _show(invocation, standing, secret=fresh)


async def delete(invocation: Invocation, *, task_type: TypeOption = "") -> None:
    """Delete the webhook of a task type, or of every type. What waits to be delivered to it is given up."""
    from muster.v1.policy_pb2 import POLICY_KIND_WEBHOOK, PolicyName

    what = f"of type {task_type!r}" if task_type else "of every type"
    async with invocation.connect() as client:
        deleted = await client.delete_policies([PolicyName(kind=POLICY_KIND_WEBHOOK, key=task_type)])
    if not deleted:
        raise CommandFailure(f"there is no webhook {what}; `muster webhooks list` shows those there are.", ExitCode.NOT_FOUND)
    if invocation.as_json:
        from agent_node.cli.records import print_record, record_of

        print_record(record_of(deleted[0]))
        return
    print(f"The webhook {what} is deleted.")


async def deliveries(
    invocation: Invocation,
    *,
    given_up: Annotated[bool, typer.Option("--given-up", help="Only those that were given up.")] = False,
    pending: Annotated[bool, typer.Option("--pending", help="Only those that wait.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many of each, the oldest first.")] = 100,
) -> None:
    """Show what waits to be delivered and what was given up, and why."""
    from muster.v1.admin_pb2 import WEBHOOK_DELIVERY_STATE_GIVEN_UP, WEBHOOK_DELIVERY_STATE_PENDING

    state: WebhookDeliveryState.ValueType | None = None
    if given_up != pending:
        state = WEBHOOK_DELIVERY_STATE_GIVEN_UP if given_up else WEBHOOK_DELIVERY_STATE_PENDING
    async with invocation.connect() as client:
        known = await client.webhook_deliveries(state, limit=limit)
    if invocation.as_json:
        from agent_node.cli.records import print_record, record_of

        for delivery in known.deliveries:
            print_record(record_of(delivery))
        return
    _show_deliveries(known)


def _show_deliveries(known: "ListWebhookDeliveriesResponse") -> None:
    from agent_node.cli.tables import deliveries_table
    from agent_node.cli.terminal import stdout_console

    if known.deliveries:
        stdout_console().print(deliveries_table(known.deliveries))
    print(f"{known.pending} wait, {known.given_up} given up.")


async def retry(
    invocation: Invocation,
    *,
    numbers: Annotated[list[int] | None, typer.Argument(metavar="NUMBER", help="As `muster webhooks deliveries` shows them.")] = None,
    given_up: Annotated[bool, typer.Option("--given-up", help="All that were given up.")] = False,
) -> None:
    """Try webhooks again now: those that were given up, for another day, and those that wait for their next attempt."""
    if given_up == bool(numbers):
        raise CommandFailure("give either numbers or --given-up.", ExitCode.USAGE)
    async with invocation.connect() as client:
        count = await client.retry_webhooks(numbers or (), all_given_up=given_up)
    if numbers and not count:
        raise CommandFailure("none of them waits or was given up; `muster webhooks deliveries` shows those that do.", ExitCode.NOT_FOUND)
    if invocation.as_json:
        from agent_node.cli.records import print_record

        print_record({"count": count})
        return
    print(f"{count} will be tried again.")
