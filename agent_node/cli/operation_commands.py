"""`muster cancel`, `reprioritise`, `redrive` and `purge`: what an operator does to many tasks at once.

What is chosen by ids was named; what a filter or --all chooses is counted and shown first, and whoever is at the terminal is asked.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from agent_node.cli.exits import CommandFailure, ExitCode
from agent_node.cli.invocation import Invocation, command
from agent_node.cli.submit_command import PriorityName
from agent_node.cli.task_commands import FILTER_HELP, worse

if TYPE_CHECKING:
    from muster.v1 import task_pb2
    from muster.v1.bulk_pb2 import OperationProgress

    from agent_node.client.client import Client

CANCEL_BATCH = 1000  # tasks in one CancelTasks call: the protocol's limit

ChosenIds = Annotated[list[str] | None, typer.Argument(metavar="[TASK_ID]...", help="The tasks.")]
ChosenFilter = Annotated[
    str | None, typer.Option("--filter", "-f", metavar="FILTER", help=f"Instead of ids: every task that matches. {FILTER_HELP}")
]
ChosenAll = Annotated[bool, typer.Option("--all", help="Instead of ids: every task.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing: count the tasks, and show some.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]
KeptReason = Annotated[str, typer.Option("--reason", help="Why: kept in the tasks' histories.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    command(app, "cancel")(cancel)
    command(app, "reprioritise")(reprioritise)
    command(app, "redrive")(redrive)
    command(app, "purge")(purge)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which tasks, and how sure whoever chose them is."""

    task_ids: list[str] | None
    filter_text: str | None
    every: bool
    dry_run: bool
    yes: bool

    def check(self) -> None:
        """Raises CommandFailure for a choice of nothing, or in two ways."""
        if sum((bool(self.task_ids), self.filter_text is not None, self.every)) != 1:
            raise CommandFailure("name the tasks, or give --filter or --all: one of the three.", ExitCode.USAGE)
        if self.filter_text is not None and not self.filter_text.strip():
            raise CommandFailure("an empty --filter chooses nothing; --all is every task.", ExitCode.USAGE)


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How an operation speaks of itself: "12 tasks `done`", "12 tasks `would_be`", "`asks` 12 tasks?"."""

    done: str
    would_be: str
    asks: str
    asks_always: bool = False  # also about tasks that were named


async def cancel(
    invocation: Invocation,
    *,
    task_ids: ChosenIds = None,
    filter_text: ChosenFilter = None,
    every: ChosenAll = False,
    reason: Annotated[str, typer.Option("--reason", help="Why: shown to the handler and on the task.")] = "cancelled from the command line",
    dry_run: DryRun = False,
    yes: Yes = False,
) -> ExitCode:
    """Stop tasks: waiting ones at once, running ones as soon as their handler has stopped.

    With ids it exits 1 if one had ended before, 3 if one is not known. With --filter or --all it asks first.
    """
    choice = Choice(task_ids=task_ids, filter_text=filter_text, every=every, dry_run=dry_run, yes=yes)
    if task_ids and not dry_run:
        choice.check()
        return await _cancel_named(invocation, task_ids, reason)
    wording = Wording(done="are cancelled, or asked to stop", would_be="would be cancelled, or asked to stop", asks="Cancel")
    return await _operate(invocation, choice, wording, lambda client, **how: client.cancel_matching(reason=reason, **how))


async def _cancel_named(invocation: Invocation, task_ids: list[str], reason: str) -> ExitCode:
    """Cancels tasks by their ids, and tells what each came to."""
    from agent_node.cli.records import print_record, record_of
    from agent_node.cli.terminal import progress_bar, stdout_console

    answers: list[task_pb2.CancelledTask] = []
    remaining = iter(task_ids)
    async with invocation.connect() as client:
        with progress_bar("cancelling", len(task_ids)) as bar:
            while batch := list(islice(remaining, CANCEL_BATCH)):
                answers += await client.cancel(batch, reason)
                bar.advance(len(batch))
    if invocation.as_json:
        for answer in answers:
            print_record(record_of(answer))
    else:
        from agent_node.cli.tables import cancels_table

        stdout_console().print(cancels_table(answers))
    return cancel_verdict(answers)


def cancel_verdict(answers: "list[task_pb2.CancelledTask]") -> ExitCode:
    """The exit code of a cancel: the worst of its tasks."""
    from muster.v1 import task_pb2

    code = ExitCode.OK
    for answer in answers:
        match answer.verdict:
            case task_pb2.CANCEL_VERDICT_NOT_FOUND:
                code = worse(code, ExitCode.NOT_FOUND)
            case task_pb2.CANCEL_VERDICT_ALREADY_ENDED:
                code = worse(code, ExitCode.NEGATIVE)
            case _:  # cancelled, or asked to stop
                pass
    return code


async def reprioritise(
    invocation: Invocation,
    *,
    task_ids: ChosenIds = None,
    priority: Annotated[PriorityName, typer.Option("--priority", help="What they get.")],
    filter_text: ChosenFilter = None,
    every: ChosenAll = False,
    reason: KeptReason = "reprioritised from the command line",
    dry_run: DryRun = False,
    yes: Yes = False,
) -> ExitCode:
    """Give tasks another priority.

    They keep their place among their equals, and their age. What runs goes on, and is retried with it. With ids it exits 1 if one had ended
    before, 3 if one is not known. With --filter or --all it asks first.
    """
    from agent_node.client.tasks import Priority

    choice = Choice(task_ids=task_ids, filter_text=filter_text, every=every, dry_run=dry_run, yes=yes)
    wording = Wording(done=f"are {priority} now", would_be=f"would be {priority}", asks=f"Give priority {priority} to")
    wanted = Priority[priority.name]
    return await _operate(invocation, choice, wording, lambda client, **how: client.reprioritise(priority=wanted, reason=reason, **how))


async def redrive(
    invocation: Invocation,
    *,
    task_ids: ChosenIds = None,
    filter_text: ChosenFilter = None,
    every: ChosenAll = False,
    priority: Annotated[PriorityName | None, typer.Option("--priority", help="Of the new run. [default: what they had]")] = None,
    reason: KeptReason = "redriven from the command line",
    request_id: Annotated[
        str, typer.Option("--request-id", metavar="ID", help="Of your own: the same again runs nothing twice, however it ended since.")
    ] = "",
    dry_run: DryRun = False,
    yes: Yes = False,
) -> ExitCode:
    """Have tasks that failed or were cancelled run again.

    The same ids, payloads and histories, with no retries counted, behind what waits already. With ids it exits 1 if one can't run again, 3
    if one is not known. With --filter or --all it asks first.
    """
    from agent_node.client.tasks import Priority

    choice = Choice(task_ids=task_ids, filter_text=filter_text, every=every, dry_run=dry_run, yes=yes)
    wording = Wording(done="run again", would_be="would run again", asks="Run again")
    wanted = None if priority is None else Priority[priority.name]
    return await _operate(
        invocation,
        choice,
        wording,
        lambda client, **how: client.redrive(priority=wanted, reason=reason, request_id=request_id, **how),
    )


async def purge(
    invocation: Invocation,
    *,
    task_ids: ChosenIds = None,
    filter_text: ChosenFilter = None,
    every: ChosenAll = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> ExitCode:
    """Forget tasks that have ended, for good: with their results and histories.

    What ended less than ten minutes ago is left. It asks first. With ids it exits 1 if one is left, 3 if one is not known.
    """
    choice = Choice(task_ids=task_ids, filter_text=filter_text, every=every, dry_run=dry_run, yes=yes)
    wording = Wording(done="are forgotten", would_be="would be forgotten", asks="Forget, for good,", asks_always=True)
    return await _operate(invocation, choice, wording, lambda client, **how: client.purge(**how))


async def _operate(
    invocation: Invocation, choice: Choice, wording: Wording, call: "Callable[..., Awaitable[OperationProgress]]"
) -> ExitCode:
    """Does an operation, or shows what it would do; asks where it must be asked."""
    choice.check()
    asks = not choice.dry_run and not choice.yes and (wording.asks_always or not choice.task_ids)
    from agent_node.cli.terminal import ask, can_ask, stderr_console

    async with invocation.connect() as client:
        expected: int | None = None
        if asks:
            would_be = await _call(client, choice, wording, call, dry_run=True, total=None)
            if not can_ask():  # a filter that says nothing has been told of by now
                raise CommandFailure("nobody can be asked, for stdin is no terminal: look with --dry-run, and give --yes.", ExitCode.USAGE)
            expected = would_be.changed
            if expected:
                from agent_node.cli.tables import tasks_table

                stderr_console().print(tasks_table(would_be.sample))
                if not await ask(f"{wording.asks} {_tasks(expected)}?"):
                    stderr_console().print("Nothing is changed.")
                    return ExitCode.NEGATIVE
        done = await _call(client, choice, wording, call, dry_run=choice.dry_run, total=expected)
    _show(invocation, choice, wording, done)
    return _verdict(done) if choice.task_ids else ExitCode.OK


async def _call(
    client: "Client",
    choice: Choice,
    wording: Wording,
    call: "Callable[..., Awaitable[OperationProgress]]",
    *,
    dry_run: bool,
    total: int | None,
) -> "OperationProgress":
    """Calls, and shows how far it is. If it fails midway, says what is done."""
    from muster.v1.bulk_pb2 import OperationProgress

    from agent_node.cli.terminal import progress_bar, stderr_console
    from agent_node.errors import MusterError

    so_far = OperationProgress()
    with progress_bar("looking" if dry_run else "at work", total) as bar:

        def tell(progress: OperationProgress) -> None:
            bar.show(completed=progress.changed)
            so_far.CopyFrom(progress)

        try:
            return await call(
                client,
                task_ids=choice.task_ids or (),
                filter=choice.filter_text or "",
                all=choice.every,
                dry_run=dry_run,
                on_progress=tell,
            )
        except MusterError:
            if so_far.changed and not dry_run:
                stderr_console().print(f"{_tasks(so_far.changed)} {wording.done}; then it failed.")
            raise


def _tasks(count: int) -> str:
    return f"{count} task{'' if count == 1 else 's'}"


def _show(invocation: Invocation, choice: Choice, wording: Wording, done: "OperationProgress") -> None:
    if invocation.as_json:
        from agent_node.cli.records import print_record, record_of

        record = record_of(done)
        record.pop("next_page_token")
        print_record({"dry_run": choice.dry_run, **record})
        return
    from agent_node.cli.operation_tables import skipped_table
    from agent_node.cli.tables import tasks_table
    from agent_node.cli.terminal import stdout_console

    console = stdout_console()
    if done.sample:
        console.print(tasks_table(done.sample))
    if done.matched or choice.task_ids:
        console.print(f"{_tasks(done.changed)} {wording.would_be if choice.dry_run else wording.done}.")
    else:
        console.print("No task matches." if choice.filter_text else "No tasks.")
    if done.skipped:
        console.print(skipped_table(done.skipped))


def _verdict(done: "OperationProgress") -> ExitCode:
    """The exit code of an operation on tasks that were named: the worst of them."""
    from muster.v1 import bulk_pb2

    code = ExitCode.OK
    for skipped in done.skipped:
        match skipped.reason:
            case bulk_pb2.SKIP_REASON_NOT_FOUND:
                code = worse(code, ExitCode.NOT_FOUND)
            case bulk_pb2.SKIP_REASON_SAME_PRIORITY | bulk_pb2.SKIP_REASON_CANCEL_REQUESTED | bulk_pb2.SKIP_REASON_ALREADY_REDRIVEN:
                pass  # it is as was asked for
            case _:
                code = worse(code, ExitCode.NEGATIVE)
    return code
