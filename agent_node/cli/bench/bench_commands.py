"""`muster bench`: the commands."""

from pathlib import Path
from typing import Annotated

import typer

from agent_node.cli.bench.loop import loop_factory
from agent_node.cli.exits import CommandFailure, ExitCode
from agent_node.cli.invocation import DEFAULT_NAMESPACE, Invocation, command, usable


def build() -> typer.Typer:
    """The command group."""
    app = typer.Typer(help="Measure what a coordinator moves on this machine.", no_args_is_help=True)
    app.callback()(_group)
    command(app, "dispatch", loop_factory=loop_factory)(dispatch)
    command(app, "depth", loop_factory=loop_factory)(depth)
    command(app, "fairness", loop_factory=loop_factory)(fairness)
    command(app, "state", loop_factory=loop_factory)(state)
    return app


def _group() -> None:
    """Measure what a coordinator moves on this machine."""


async def dispatch(
    invocation: Invocation,
    *,
    tasks: Annotated[int, typer.Option("--tasks", min=1, help="Tasks to measure with.")] = 20_000,
    capacity: Annotated[int, typer.Option("--capacity", min=1, max=10_000, help="Tasks that each agent runs at a time.")] = 1_000,
    payload: Annotated[int, typer.Option("--payload", min=0, metavar="BYTES", help="Size of each task's payload.")] = 100,
    agents: Annotated[int, typer.Option("--agents", min=1, help="Working agents, each with its own stream, in at most 4 processes.")] = 1,
    connected: Annotated[
        int,
        typer.Option("--connected", min=0, help="Streams in all: idle agents of another capability, in one more process, fill up to it."),
    ] = 0,
    in_flight: Annotated[int, typer.Option("--in-flight", min=1, help="Tasks between submit and result at the client.")] = 1_000,
    profile: Annotated[
        Path | None, typer.Option("--profile", metavar="DIR", file_okay=False, help="Write cProfile statistics of each process here.")
    ] = None,
) -> ExitCode:
    """Measure durable dispatch end to end: client, coordinator, store, agents and back.

    Starts a coordinator of its own, with its embedded store in a temporary directory; with --address it uses the one that is there, and
    leaves its CPU and memory out. The ceiling is a bare gRPC stream between two processes with the same payload, without any of that.
    Exits 1 when a task did not complete.
    """
    from agent_node.cli.bench.dispatch import Surroundings, measure_dispatch
    from agent_node.cli.bench.report import DispatchOptions
    from agent_node.cli.terminal import progress_bar, stdout_console

    options = DispatchOptions(
        tasks=tasks, in_flight=in_flight, capacity=capacity, payload_bytes=payload, agents=agents, connected=max(connected, agents)
    )
    if profile is not None:
        try:
            profile.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CommandFailure(f"can't make the directory {profile}: {error.strerror}.", ExitCode.USAGE) from None
    namespace = invocation.namespace if invocation.address else DEFAULT_NAMESPACE  # a coordinator of our own has no other yet
    surroundings = Surroundings(address=usable(invocation.address) if invocation.address else None, namespace=namespace, profile=profile)
    with progress_bar("starting", None) as bar:
        report = await measure_dispatch(options, surroundings, bar)
    if invocation.as_json:
        from agent_node.cli.records import print_record

        print_record(report.record())
    else:
        stdout_console().print(report.table())
    return ExitCode.OK if report.completed == report.submitted else ExitCode.NEGATIVE


async def depth(
    invocation: Invocation,
    *,
    tasks: Annotated[int, typer.Option("--tasks", min=1_000, help="Tasks to queue.")] = 100_000,
    payload: Annotated[int, typer.Option("--payload", min=0, metavar="BYTES", help="Size of each task's payload.")] = 100,
) -> ExitCode:
    """Measure what many queued tasks cost: dispatch, memory, snapshots, and the way back after a crash.

    Always starts a coordinator of its own, with its embedded store in a temporary directory, and kills it with -9 twice. Exits 1 when not
    every queued task was there afterwards.
    """
    from agent_node.cli.bench.depth import measure_depth
    from agent_node.cli.terminal import progress_bar, stdout_console

    with progress_bar("starting", None) as bar:
        report = await measure_depth(tasks=tasks, payload_bytes=payload, bar=bar)
    if invocation.as_json:
        from agent_node.cli.records import print_record

        print_record(report.record())
    else:
        stdout_console().print(report.table())
    return ExitCode.OK if report.recovered == report.queued else ExitCode.NEGATIVE


async def fairness(
    invocation: Invocation,
    *,
    tasks: Annotated[int, typer.Option("--tasks", min=1_000, help="Tasks to measure shares with.")] = 10_000,
    ageing_period: Annotated[
        float, typer.Option("--ageing-period", min=1, max=60, metavar="S", help="Seconds for one priority more; the run takes 7 of them.")
    ] = 2.0,
) -> ExitCode:
    """Measure how well fairness keys share by weight, and how long the least urgent tasks wait beside an overload of urgent ones.

    Always starts coordinators of its own, with their embedded stores in temporary directories. The wait to be expected is computed from the
    rates before the run, and printed beside the one that was measured.
    """
    from agent_node.cli.bench.fairness import measure_fairness
    from agent_node.cli.terminal import progress_bar, stdout_console

    with progress_bar("starting", None) as bar:
        report = await measure_fairness(tasks=tasks, ageing_period_s=ageing_period, bar=bar)
    if invocation.as_json:
        from agent_node.cli.records import print_record

        print_record(report.record())
    else:
        stdout_console().print(report.table())
    return ExitCode.OK


async def state(
    invocation: Invocation,
    *,
    operations: Annotated[int, typer.Option("--operations", min=1_000, help="Puts to measure with; twice as many gets.")] = 50_000,
    value: Annotated[int, typer.Option("--value", min=0, max=1_000_000, metavar="BYTES", help="Size of each value.")] = 100,
) -> ExitCode:
    """Measure shared state: writes, reads, a hot key, watches.

    Always starts a coordinator of its own, with its embedded store in a temporary directory. Beside it stands what the same store does raw,
    and what a cycle of lock, get, set, publish and unlock with redis-py's own lock moves. Exits 1 when an update was lost.
    """
    from agent_node.cli.bench.state import measure_state
    from agent_node.cli.terminal import progress_bar, stdout_console

    with progress_bar("starting", None) as bar:
        report = await measure_state(operations=operations, value_bytes=value, bar=bar)
    if invocation.as_json:
        from agent_node.cli.records import print_record

        print_record(report.record())
    else:
        stdout_console().print(report.table())
    return ExitCode.NEGATIVE if report.lost_updates else ExitCode.OK
