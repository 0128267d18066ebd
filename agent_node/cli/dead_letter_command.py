"""`muster dead-letters`: the tasks that failed for good, and why."""

from typing import TYPE_CHECKING, Annotated

import typer

from agent_node.cli.exits import CommandFailure, ExitCode
from agent_node.cli.invocation import Invocation, command
from agent_node.cli.task_commands import FILTER_HELP, PAGE

if TYPE_CHECKING:
    from muster.v1 import task_pb2


def register(app: typer.Typer) -> None:
    """Adds the command to `app`."""
    command(app, "dead-letters")(dead_letters)


async def dead_letters(
    invocation: Invocation,
    *,
    task_id: Annotated[str, typer.Argument(metavar="[TASK_ID]", help="One of them, with its whole history.")] = "",
    filter_text: Annotated[str, typer.Option("--filter", "-f", metavar="FILTER", help=f"Those that match. {FILTER_HELP}")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Show at most this many, the latest first; 0 is all.")] = 50,
) -> None:
    """List the tasks that failed for good: why, after how many attempts, and when. `muster redrive` has them run again."""
    if task_id:
        if filter_text:
            raise CommandFailure("give either a task or --filter.", ExitCode.USAGE)
        await _show_one(invocation, task_id)
        return
    from agent_node.cli.records import print_record, task_record

    # OR binds tighter than AND, so this needs no parentheses, and what the filter's errors say of its characters stays right.
    wanted = f"{filter_text} AND state = FAILED" if filter_text.strip() else "state = FAILED"
    found: list[task_pb2.Task] = []
    count = 0
    async with invocation.connect() as client:
        async for task in client.list(filter=wanted, page_size=min(limit or PAGE, PAGE)):
            if invocation.as_json:
                print_record(task_record(task))
            else:
                found.append(task)
            count += 1
            if count == limit:
                break
    if invocation.as_json:
        return
    from agent_node.cli.operation_tables import dead_letters_table
    from agent_node.cli.terminal import stdout_console

    console = stdout_console()
    console.print(dead_letters_table(found) if found else "No dead letter matches." if filter_text else "No dead letters.")
    if limit and count == limit:
        console.print(f"The latest {limit}; there may be more: see --limit.", style="dim")


async def _show_one(invocation: Invocation, task_id: str) -> None:
    from muster.v1 import common_pb2

    async with invocation.connect() as client:
        task = await client.get(task_id, full=True)
    if task.state != common_pb2.TASK_STATE_FAILED:
        state = common_pb2.TaskState.Name(task.state).removeprefix("TASK_STATE_").lower()
        raise CommandFailure(f"task {task_id} is no dead letter: it is {state}; `muster get` shows it.", ExitCode.NEGATIVE)
    if invocation.as_json:
        from agent_node.cli.records import print_record, task_record

        print_record(task_record(task))
        return
    from agent_node.cli.operation_tables import stack_trace
    from agent_node.cli.tables import task_details
    from agent_node.cli.terminal import stdout_console
    from agent_node.cli.timeline import timeline_table

    console = stdout_console()
    console.print(task_details(task), stack_trace(task.last_failure), timeline_table(task))
