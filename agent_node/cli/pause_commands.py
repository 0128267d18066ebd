"""`muster pause`, `resume`, `cordon` and `uncordon`: what is to wait, and who is to get nothing new."""

import math
from typing import TYPE_CHECKING, Annotated

import typer

from agent_node.cli.exits import CommandFailure, ExitCode
from agent_node.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.v1.agent_pb2 import AgentInfo
    from muster.v1.policy_pb2 import Policy

TypeArgument = Annotated[
    str, typer.Argument(metavar="[TYPE]", help="The task type, or a prefix and '*' for all that begin so.", show_default=False)
]
AllOption = Annotated[bool, typer.Option("--all", help="Instead of a type: the whole namespace.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; shown to whoever asks why a task waits.")]
AgentArgument = Annotated[str, typer.Argument(metavar="AGENT", help="The agent, connected or not.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    command(app, "pause")(pause)
    command(app, "resume")(resume)
    command(app, "cordon")(cordon)
    command(app, "uncordon")(uncordon)


async def pause(
    invocation: Invocation,
    *,
    task_type: TypeArgument = "",
    everything: AllOption = False,
    reason: ReasonOption = "",
    for_s: Annotated[
        float | None, typer.Option("--for", metavar="SECONDS", help="End it by itself so much later. [default: it has no end]")
    ] = None,
) -> None:
    """Assign nothing of a task type, or of the namespace, until it is resumed. Tasks are accepted, and what runs goes on."""
    key = _key(task_type, everything=everything)
    if for_s is not None and not 0 < for_s < math.inf:
        raise CommandFailure(f"--for is {for_s}: give a number of seconds above 0.", ExitCode.USAGE)
    async with invocation.connect() as client:
        standing = await client.pause(key, reason=reason, for_s=None if for_s is None else min(for_s, 1e9))
        if invocation.as_json:
            from agent_node.cli.records import print_record, record_of

            print_record(record_of(standing))
            return
        stats = await client.queue_stats()
    from agent_node.cli.pause_cells import because, paused_what
    from agent_node.cli.terminal import stdout_console
    from agent_node.cli.times import local_time
    from agent_node.client.pauses import pauses_of

    running = sum(queue.running for queue in stats.queues if pauses_of([standing], queue.task_type))
    until = f"until {local_time(standing.pause.end_time)}" if standing.pause.HasField("end_time") else "until it is resumed"
    what = paused_what(standing.pause)
    words = f"{what[0].upper()}{what[1:]} is paused {until}{because(standing.pause.reason)}."
    words += f" {running} task{' runs' if running == 1 else 's run'} on." if running else ""
    stdout_console().print(words, markup=False)


async def resume(invocation: Invocation, *, task_type: TypeArgument = "", everything: AllOption = False) -> None:
    """Lift a pause: what waited goes on, in its order."""
    key = _key(task_type, everything=everything)
    from muster.v1.policy_pb2 import POLICY_KIND_PAUSE

    from agent_node.client.pauses import pauses_of

    async with invocation.connect() as client:
        was_paused = await client.resume(key)
        others = pauses_of(await client.policies(POLICY_KIND_PAUSE), key)
    what = f"task type {key}" if key else "the namespace"
    still = f"{what} is paused by the pause of {_named(others)}" if others else ""
    if not was_paused:
        hint = (
            f"{still}: `muster resume {_option(others[0])}` lifts that"
            if others
            else "`muster policies list --kind pause` shows those there are"
        )
        raise CommandFailure(f"there is no pause of {what}; {hint}.", ExitCode.NOT_FOUND)
    if invocation.as_json:
        from agent_node.cli.records import print_record, record_of
        from agent_node.client.pauses import pause_name

        print_record(record_of(pause_name(key)))
        return
    from agent_node.cli.terminal import stdout_console

    said = f"This pause of {what} is lifted; {still}." if others else f"{what[0].upper()}{what[1:]} goes on."
    stdout_console().print(said, markup=False)


async def cordon(
    invocation: Invocation,
    *,
    agent_name: AgentArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; shown beside the agent.")] = "",
) -> None:
    """Give an agent nothing new. It finishes what it runs, and stays connected."""
    async with invocation.connect() as client:
        standing = await client.cordon(agent_name, reason=reason)
        if invocation.as_json:
            from agent_node.cli.records import print_record, record_of

            print_record(record_of(standing))
            return
        known = await client.agents()
    from agent_node.cli.terminal import stdout_console

    stdout_console().print(f"{agent_name} is cordoned{_what_it_runs(agent_name, known)}.", markup=False)


async def uncordon(invocation: Invocation, *, agent_name: AgentArgument) -> None:
    """Let an agent get new work again."""
    async with invocation.connect() as client:
        was_cordoned = await client.uncordon(agent_name)
    if not was_cordoned:
        raise CommandFailure(f"{agent_name} isn't cordoned; `muster policies list --kind cordon` shows who is.", ExitCode.NOT_FOUND)
    if invocation.as_json:
        from agent_node.cli.records import print_record, record_of
        from agent_node.client.pauses import cordon_name

        print_record(record_of(cordon_name(agent_name)))
        return
    from agent_node.cli.terminal import stdout_console

    stdout_console().print(f"{agent_name} isn't cordoned any more.", markup=False)


def _key(task_type: str, *, everything: bool) -> str:
    if bool(task_type) == everything:
        raise CommandFailure("give a task type, or --all for the whole namespace.", ExitCode.USAGE)
    return task_type


def _named(pauses: "Sequence[Policy]") -> str:
    return " and ".join(one.pause.task_type or "the whole namespace" for one in pauses)


def _option(policy: "Policy") -> str:
    return f"'{policy.pause.task_type}'" if policy.pause.task_type else "--all"


def _what_it_runs(agent_name: str, known: "Sequence[AgentInfo]") -> str:
    agent = next((one for one in known if one.agent_name == agent_name), None)
    if agent is None:
        return ", and isn't connected: it will get nothing when it comes"
    if not agent.running:
        return ", and runs nothing"
    return f", with {agent.running} task{'' if agent.running == 1 else 's'} to finish"
