"""`muster get`, `history`, `list`, `watch` and `explain`: what became of tasks."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from agent_node.cli.exits import CommandFailure, ExitCode, without_controls
from agent_node.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from muster.v1 import task_pb2

    from agent_node.errors import MusterError

EVERY_TASK = 'task_id = "*"'  # a filter that each task matches
PAGE = 1000  # tasks in one page of a list, at most: the protocol's limit
FILTER_HELP = (
    "Such as 'task_type = \"summarise\" AND (state = RUNNING OR state = RETRYING)'; "
    "fields: state, task_type, priority, agent, task_id, parent_task_id, labels.NAME."
)

TaskIds = Annotated[list[str], typer.Argument(metavar="TASK_ID...", help="The tasks.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    command(app, "get")(get)
    command(app, "history")(history)
    command(app, "list")(list_tasks)
    command(app, "watch")(watch)
    command(app, "explain")(explain)


async def get(invocation: Invocation, task_ids: TaskIds) -> None:
    """Show tasks with all that is known of them, payload and result included."""
    async with invocation.connect() as client:
        for task_id in task_ids:
            task = await client.get(task_id, full=True)
            if invocation.as_json:
                from agent_node.cli.records import print_record, task_record

                print_record(task_record(task))
            else:
                from agent_node.cli.tables import task_details
                from agent_node.cli.terminal import stdout_console

                stdout_console().print(task_details(task))


async def history(invocation: Invocation, task_id: Annotated[str, typer.Argument(help="The task.")]) -> None:
    """Show what happened to a task, and when: waits, attempts, failures, cancels; for as long as the task is retained."""
    async with invocation.connect() as client:
        task = await client.get(task_id, full=True)
    if invocation.as_json:
        from agent_node.cli.records import history_record, print_record

        print_record(history_record(task))
    else:
        from agent_node.cli.terminal import stdout_console
        from agent_node.cli.timeline import timeline

        stdout_console().print(timeline(task))


async def list_tasks(
    invocation: Invocation,
    *,
    filter_text: Annotated[str, typer.Option("--filter", "-f", metavar="FILTER", help=FILTER_HELP)] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Show at most this many; 0 is all.")] = 50,
) -> None:
    """List tasks: the live ones by age, then those that ended, the latest first."""
    from agent_node.cli.records import print_record, task_record
    from agent_node.cli.terminal import progress_bar, stdout_console

    shown: list[task_pb2.Task] = []
    count = 0
    async with invocation.connect() as client:
        with progress_bar("listing", limit or None) as bar:
            async for task in client.list(filter=filter_text, page_size=min(limit or PAGE, PAGE)):
                if invocation.as_json:
                    print_record(task_record(task))
                else:
                    shown.append(task)
                count += 1
                bar.advance()
                if count == limit:
                    break
    if invocation.as_json:
        return
    from agent_node.cli.tables import tasks_table

    console = stdout_console()
    console.print(tasks_table(shown) if shown else "No task matches." if filter_text else "No tasks.")
    if limit and count == limit:
        console.print(f"The first {limit}; there may be more: see --limit.", style="dim")


async def watch(
    invocation: Invocation,
    *,
    task_ids: Annotated[list[str] | None, typer.Argument(metavar="[TASK_ID]...", help="The tasks.")] = None,
    filter_text: Annotated[
        str | None,
        typer.Option("--filter", "-f", metavar="FILTER", help=f"Instead of ids: every task that matches, '' is all. {FILTER_HELP}"),
    ] = None,
    chunks: Annotated[bool, typer.Option("--chunks", help="Show partial output too.")] = False,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="Show progress too.")] = True,
) -> ExitCode:
    """Follow tasks as they change.

    With ids it ends when all of them have ended, and exits 1 if one failed or was cancelled; with --filter it goes on until Ctrl-C.
    """
    if bool(task_ids) == (filter_text is not None):
        raise CommandFailure("name the tasks to follow, or give --filter ('' follows all), not both.", ExitCode.USAGE)
    from agent_node.cli.records import event_record, print_record
    from agent_node.cli.tables import event_line
    from agent_node.cli.terminal import stderr_console, stdout_console

    console = stdout_console()
    verdict = ExitCode.OK
    async with invocation.connect() as client:
        if filter_text is None:
            events = client.watch(task_ids or (), chunks=chunks, progress=progress, on_break=say_break)
        else:
            events = client.watch(filter=filter_text or EVERY_TASK, chunks=chunks, progress=progress, on_break=say_break)
        async for watched in events:
            event = watched.event
            if watched.compacted:
                stderr_console().print("Some changes were missed; what follows starts from the present state.", style="yellow")
            if invocation.as_json:
                print_record(event_record(event))
            else:
                console.print(event_line(event))
            verdict = worse(verdict, judge(event))
    return verdict


def say_break(error: "MusterError") -> None:
    """Says that a watch goes on as soon as the coordinator can be reached."""
    print(f"muster: {without_controls(str(error))}; connecting again.", file=sys.stderr)


def judge(event: "task_pb2.TaskEvent") -> ExitCode:
    """What an event means for the exit code of a watch."""
    from muster.v1 import common_pb2

    if event.HasField("missing"):
        return ExitCode.NOT_FOUND
    if event.HasField("task") and event.task.state in (common_pb2.TASK_STATE_FAILED, common_pb2.TASK_STATE_CANCELLED):
        return ExitCode.NEGATIVE
    return ExitCode.OK


def worse(one: ExitCode, other: ExitCode) -> ExitCode:
    """The exit code that says more: a task that isn't there outweighs one that failed, and that one success."""
    return max(one, other)


async def explain(invocation: Invocation, task_id: Annotated[str, typer.Argument(help="The task.")]) -> None:
    """Say why a task waits, or where it runs, and what rules each agent out."""
    async with invocation.connect() as client:
        answer = await client.explain(task_id)
    if invocation.as_json:
        from agent_node.cli.records import print_record, record_of, task_record

        print_record({**record_of(answer), "task": task_record(answer.task)})
    else:
        from agent_node.cli.tables import explanation
        from agent_node.cli.terminal import stdout_console

        stdout_console().print(explanation(answer))
