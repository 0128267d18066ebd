"""`muster submit`: hand a task over and, if asked, wait for its result or follow its output."""

import asyncio
import sys
from contextlib import AsyncExitStack
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_node.cli.exits import CommandFailure, ExitCode
from agent_node.cli.invocation import Invocation, command
from agent_node.cli.payloads import guess_content_type
from agent_node.errors import TaskCancelledError, TaskFailedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_node.cli.terminal import Bar
    from agent_node.client.client import Client
    from agent_node.client.handle import TaskHandle
    from agent_node.client.tasks import TaskOutput

STDIN = "-"
PATIENCE_S = 3.0  # then whoever waits is told why


class PriorityName(StrEnum):
    """The priorities, as they are typed."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"


def register(app: typer.Typer) -> None:
    """Adds the command to `app`."""
    command(app, "submit")(submit)


async def submit(
    invocation: Invocation,
    *,
    task_type: Annotated[str, typer.Argument(metavar="TYPE", help="What kind of work it is: agents that can do it may run it.")],
    payload: Annotated[str | None, typer.Argument(help="The input, as it is; - reads it from stdin. None at all is an empty one.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Take the input from this file; - is stdin.")] = None,
    content_type: Annotated[
        str | None, typer.Option("--content-type", help="The input's media type. Without it: JSON, text or bytes, as it looks.")
    ] = None,
    task_id: Annotated[
        str | None, typer.Option("--id", help="The task's id: the same id again is the same task. [default: a new one]")
    ] = None,
    priority: Annotated[PriorityName, typer.Option("--priority", help="How urgent it is.")] = PriorityName.NORMAL,
    max_retries: Annotated[int | None, typer.Option("--max-retries", min=0, help="Attempts after the first one.")] = None,
    run_timeout: Annotated[
        float | None, typer.Option("--run-timeout", min=0, metavar="SECONDS", help="Fail an attempt that runs longer.")
    ] = None,
    progress_timeout: Annotated[
        float | None,
        typer.Option("--progress-timeout", min=0, metavar="SECONDS", help="Fail an attempt that makes no progress for this long."),
    ] = None,
    delay: Annotated[float | None, typer.Option("--delay", min=0, metavar="SECONDS", help="Begin no sooner than this from now.")] = None,
    not_before: Annotated[
        str | None, typer.Option("--not-before", metavar="DATE", help="Begin no sooner: 2027-01-31T09:00, in local time or with +00:00.")
    ] = None,
    queue_timeout: Annotated[
        float | None,
        typer.Option(
            "--queue-timeout", min=0, metavar="SECONDS", help="Fail it unless an agent gets it within this of its becoming ready."
        ),
    ] = None,
    deadline: Annotated[
        float | None, typer.Option("--deadline", min=0, metavar="SECONDS", help="Fail it if it hasn't ended this long after it was taken.")
    ] = None,
    key: Annotated[str, typer.Option("--key", help="Fairness key: keys share agents by weight, however much each submits.")] = "",
    cost: Annotated[float | None, typer.Option("--cost", help="What the task costs its fairness key. [default: 1]")] = None,
    slots: Annotated[int, typer.Option("--slots", min=1, help="How many of an agent's slots it takes.")] = 1,
    needs: Annotated[
        list[str] | None,
        typer.Option(
            "--needs", metavar="SELECTOR", help="A label that the agent must have: gpu=a100,h100, zone!=eu, gpu or !gpu. May be repeated."
        ),
    ] = None,
    min_version: Annotated[int, typer.Option("--min-version", min=0, help="The least version of the agent's handler.")] = 0,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="A label to find the task by. May be repeated.")
    ] = None,
    sticky: Annotated[str, typer.Option("--sticky", metavar="KEY", help="Prefer the agent that served this key last.")] = "",
    concurrency_key: Annotated[
        str, typer.Option("--concurrency-key", metavar="KEY", help="Run only so many of this key at a time as its limit says.")
    ] = "",
    rate_key: Annotated[
        str, typer.Option("--rate-key", metavar="KEY", help="Begin only so many of this key in a period as its limit says.")
    ] = "",
    webhook: Annotated[
        str | None, typer.Option("--webhook", metavar="URL", help="Tell this URL of the task's end, beside the namespace's webhooks.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end and print the result; exit 1 if the task fails.")] = False,
    stream: Annotated[bool, typer.Option("--stream", "-s", help="Wait, and print partial output as it arrives.")] = False,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout", min=0, metavar="SECONDS", help="Wait no longer than this: then exit 6, the task lives on.")
    ] = None,
) -> ExitCode:
    """Submit a task.

    Prints its id as soon as it is durable; with --wait its result, with --stream its output while it is produced.
    """
    from agent_node.client.scheduling import Scheduling
    from agent_node.client.tasks import Priority

    asked = Scheduling(
        fairness_key=key,
        cost=cost,
        slots=slots,
        selectors=needs or (),
        min_version=min_version,
        sticky_key=sticky,
        concurrency_key=concurrency_key,
        rate_key=rate_key,
    )
    try:
        asked.message()
    except ValueError as error:
        raise CommandFailure(f"{error}.", ExitCode.USAGE) from None
    if delay is not None and not_before is not None:
        raise CommandFailure("give --delay or --not-before, not both.", ExitCode.USAGE)
    begins = None if not_before is None else read_date(not_before)
    labels = read_labels(label or ())
    content = read_payload(payload, file)
    handle = None
    async with invocation.connect() as client:
        try:
            async with asyncio.timeout(timeout_s):
                note = asyncio.get_running_loop().call_later(PATIENCE_S, _say_that_it_is_not_taken)
                try:
                    handle = await client.submit(
                        task_type,
                        content,
                        task_id=task_id,
                        content_type=content_type or guess_content_type(content),
                        priority=Priority[priority.name],
                        max_retries=max_retries,
                        run_timeout_s=run_timeout,
                        progress_timeout_s=progress_timeout,
                        not_before=begins,
                        delay_s=delay,
                        queue_timeout_s=queue_timeout,
                        deadline_s=deadline,
                        scheduling=None if asked == Scheduling() else asked,
                        labels=labels,
                        webhook=webhook,
                        want_result=wait or stream,
                    )
                finally:
                    note.cancel()
                if not (wait or stream):
                    _print_id(handle.task_id, invocation)
                    return ExitCode.OK
                if stream:
                    return await _follow_output(handle, invocation)
                return await _wait_for_result(client, handle, invocation)
        except TimeoutError:
            raise CommandFailure(_what_goes_on(handle, timeout_s or 0.0), ExitCode.TIMED_OUT) from None


def _say_that_it_is_not_taken() -> None:
    print("The coordinator has not taken the task yet: its store may be out. Waiting for it; Ctrl-C gives up.", file=sys.stderr)


def _what_goes_on(handle: "TaskHandle | None", timeout_s: float) -> str:
    if handle is None:
        return f"the task was not acknowledged within {timeout_s:g} s, and may be taken all the same; `muster list` shows it then."
    return f"task {handle.task_id} has not ended within {timeout_s:g} s; it goes on: `muster watch {handle.task_id}` follows it."


def read_date(text: str) -> datetime:
    """A date as ISO 8601 writes it, in local time unless it names a zone. Raises CommandFailure for anything else."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise CommandFailure(
            f"--not-before {text!r} is no date: write it as 2027-01-31T09:00 or 2027-01-31T08:00Z.", ExitCode.USAGE
        ) from None


def read_labels(texts: "Sequence[str]") -> dict[str, str]:
    """Labels as they are typed: name=value. Raises CommandFailure for what isn't one, and for a name that comes twice."""
    labels: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (name and sign):
            raise CommandFailure(f"{text!r} is no label: write NAME=VALUE.", ExitCode.USAGE)
        if name in labels:
            raise CommandFailure(f"the label {name} is given twice.", ExitCode.USAGE)
        labels[name] = value
    return labels


def read_payload(argument: str | None, file: Path | None) -> bytes:
    """The task's input, from whichever place was named. Raises CommandFailure for two places, and for a file that can't be read."""
    if argument is not None and file is not None:
        raise CommandFailure("give the payload as an argument or with --file, not both.", ExitCode.USAGE)
    if argument == STDIN or (file is not None and str(file) == STDIN):
        return sys.stdin.buffer.read()
    if file is not None:
        try:
            return file.read_bytes()
        except OSError as error:
            raise CommandFailure(f"can't read {file}: {error.strerror or error}.", ExitCode.USAGE) from None
    return argument.encode(errors="surrogateescape") if argument is not None else b""


def _print_id(task_id: str, invocation: Invocation) -> None:
    if invocation.as_json:
        from agent_node.cli.records import print_record

        print_record({"task_id": task_id})
    else:
        print(task_id)


async def _wait_for_result(client: "Client", handle: "TaskHandle", invocation: Invocation) -> ExitCode:
    from agent_node.cli.terminal import progress_bar

    async with AsyncExitStack() as stack:
        bar = stack.enter_context(progress_bar(f"waiting for {handle.task_id}", None))
        if sys.stderr.isatty():
            follower = asyncio.create_task(_show_progress(client, handle.task_id, bar))
            stack.push_async_callback(_stop, follower)
        explainer = asyncio.create_task(say_why_it_waits(client, handle, after_s=PATIENCE_S))
        stack.push_async_callback(_stop, explainer)
        return_code, output = await _ended(handle, invocation)
    if output is not None:
        _print_result(handle.task_id, output, invocation)
    return return_code


async def say_why_it_waits(client: "Client", handle: "TaskHandle", *, after_s: float) -> None:
    """A note on stderr when the task still waits for an agent after `after_s`: nobody should have to guess."""
    from agent_node.errors import MusterError

    ended, _ = await asyncio.wait([handle.when_ended()], timeout=after_s)
    if ended:
        return
    try:
        explanation = await client.explain(handle.task_id)
    except MusterError:  # a note only: the wait itself reports what is wrong
        return
    if explanation.task.HasField("waits_for"):
        print(explanation.summary, file=sys.stderr)


async def _show_progress(client: "Client", task_id: str, bar: "Bar") -> None:
    from muster.v1 import common_pb2

    from agent_node.cli.tables import progress_text, short_name
    from agent_node.errors import MusterError

    try:
        async for watched in client.watch([task_id], progress=True):
            event = watched.event
            if event.HasField("progress"):
                bar.show(description=progress_text(event.progress), completed=event.progress.current, total=event.progress.total or None)
            elif event.HasField("task"):
                state = short_name(common_pb2.TaskState.Name(event.task.state), "TASK_STATE_")
                bar.show(description=f"{task_id} {state}")
    except MusterError:  # decoration only: the wait itself reports what is wrong
        return


async def _stop(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])


async def _ended(handle: "TaskHandle", invocation: Invocation) -> tuple[ExitCode, "TaskOutput | None"]:
    """The task's result. A failed or cancelled task raises, but with --json its end is printed as well."""
    try:
        return ExitCode.OK, await handle.result()
    except (TaskFailedError, TaskCancelledError) as error:
        if invocation.as_json:
            from agent_node.cli.records import end_record, print_record

            print_record(end_record(error))
        raise


def _print_result(task_id: str, output: "TaskOutput", invocation: Invocation) -> None:
    if invocation.as_json:
        from agent_node.cli.records import print_record, result_record

        print_record(result_record(task_id, output.payload, output.content_type))
        return
    _write_bytes(output.payload)
    _end_line(output.payload)


async def _follow_output(handle: "TaskHandle", invocation: Invocation) -> ExitCode:
    last = b""
    async for chunk in handle.chunks():
        if invocation.as_json:
            from agent_node.cli.records import chunk_record, print_record

            print_record({"task_id": handle.task_id, "chunk": chunk_record(chunk)})
        else:
            _write_bytes(chunk.data)
        last = chunk.data or last
    code, output = await _ended(handle, invocation)
    if output is not None and (invocation.as_json or not last):
        _print_result(handle.task_id, output, invocation)
    else:
        _end_line(last)
    return code


def _write_bytes(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _end_line(written: bytes) -> None:
    """Leaves a terminal's cursor at the start of a line; what goes into a pipe or a file stays byte for byte."""
    if sys.stdout.isatty() and written and not written.endswith(b"\n"):
        _write_bytes(b"\n")
