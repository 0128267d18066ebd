"""Runs the demo: python -m examples.demo [FOLDER], or make demo INPUT=FOLDER.

Exit codes: 0 a finished report, 1 no report, 2 nothing to read or wrong usage, 130 or 143 interrupted.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from muster.v1.task_pb2 import Task
from rich.console import Console

from agent_node import Client, MusterError
from examples.demo.board import Board, Sighting, State
from examples.demo.documents import PROJECT, DocumentsError, Found, find_documents
from examples.demo.fleet import VICTIM, Fleet, ProviderError, start_fleet
from examples.demo.pipeline import Job
from examples.demo.processes import ProcessError, Processes
from examples.demo.screen import choose_screen, summary
from examples.demo.work import SUMMARISE, TERMS

_LAST_NEWS_S = 5.0  # for the watch to see what the results have told already
_REPORT = Path("build/demo/report.md")


def main() -> None:
    """The command. Exits the process."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("input", nargs="?", help="a folder of documents (default: $INPUT, else the project's own)")
    parser.add_argument("--out", type=Path, default=_REPORT, help="where the report goes (default: %(default)s)")
    parser.add_argument("--sections", type=int, default=24, help="analyse at most this many (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.sections < 1:
        parser.error("--sections is at least 1")
    folder = arguments.input or os.environ.get("INPUT") or None
    console = Console()
    try:
        found = find_documents(Path(folder) if folder else None)
        _make_room(arguments.out)
    except (DocumentsError, _OutputError) as error:
        sys.exit(_fail(console, error, 2))
    try:
        asyncio.run(_interruptible(_run(found, out=arguments.out, most_sections=arguments.sections, console=console)))
    except _Interrupted as interrupted:
        sys.exit(_fail(console, interrupted, 128 + interrupted.number))
    except DocumentsError as error:
        sys.exit(_fail(console, error, 2))
    except (ProcessError, ProviderError, MusterError, OSError) as error:
        sys.exit(_fail(console, error, 1))


def _make_room(out: Path) -> None:
    """Makes the report's folder, and removes an earlier report: where one is found afterwards, it is this run's."""
    try:
        (out.parent / "logs").mkdir(parents=True, exist_ok=True)
        out.unlink(missing_ok=True)
    except OSError as error:
        raise _OutputError(f"{out} can't be written: {error.strerror or type(error).__name__}") from error


async def _run(found: Found, *, out: Path, most_sections: int, console: Console) -> None:
    loop = asyncio.get_running_loop()
    board = Board(now_s=loop.time)
    with tempfile.TemporaryDirectory(prefix="muster-demo-") as folder:
        async with Processes(logs=(out.parent / "logs").resolve(), cwd=PROJECT) as processes:
            showing = asyncio.ensure_future(choose_screen(console).follow(board))
            try:
                fleet = await start_fleet(processes, folder=Path(folder), environment=os.environ, board=board)
                report = await _work(found, fleet=fleet, processes=processes, board=board, most_sections=most_sections)
            finally:
                showing.cancel()
                await asyncio.wait([showing])
            out.write_text(report, encoding="utf-8")
            console.print()
            console.print(summary(board))
            console.print(f"{len(board.tasks)} tasks in {board.elapsed_s:.1f} s. The report: {out}", markup=False, highlight=False)


async def _work(found: Found, *, fleet: Fleet, processes: Processes, board: Board, most_sections: int) -> str:
    async with Client(fleet.address) as client:
        job = Job(client=client, board=board, most_sections=most_sections)
        crash = asyncio.ensure_future(_crash_halfway(job, fleet=fleet, processes=processes, board=board))
        beside = [asyncio.ensure_future(_watch(client, board)), asyncio.ensure_future(processes.watch()), crash]
        working = asyncio.ensure_future(job.run(found.documents, left_out=found.left_out))
        try:
            pending: set[asyncio.Future[Any]] = {working, *beside}
            while not working.done():
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    each.result()  # whatever fails beside the job ends it
            async with asyncio.timeout(_LAST_NEWS_S):
                await crash
                await board.until(lambda: all(row.state.ended for row in board.tasks.values()))
            return working.result()
        finally:
            for each in (working, *beside):
                each.cancel()
            await asyncio.wait([working, *beside])


async def _watch(client: Client, board: Board) -> None:
    async for watched in client.watch(filter='task_type = "demo.*"'):
        if watched.event.WhichOneof("event") == "task":
            board.see(_sighting(watched.event.task))


def _sighting(task: Task) -> Sighting:
    from muster.v1.common_pb2 import TaskState

    return Sighting(
        task_id=task.task_id,
        task_type=task.task_type,
        state=State(TaskState.Name(task.state).removeprefix("TASK_STATE_")),
        agent=task.agent_name,
        crashes=task.crash_count,
        input_tokens=sum(usage.input_tokens for usage in task.usage),
        output_tokens=sum(usage.output_tokens for usage in task.usage),
    )


async def _crash_halfway(job: Job, *, fleet: Fleet, processes: Processes, board: Board) -> None:
    """Ends one analyst with kill -9, once half of the analyses are done and it is at work on others."""

    def analysed() -> int:
        return sum(board.counts(task_type)[State.COMPLETED] for task_type in (SUMMARISE, TERMS))

    def due() -> bool:
        planned = job.analyses_planned
        return planned > 0 and analysed() >= planned // 2 and (bool(board.held_by(VICTIM)) or analysed() >= planned)

    await board.until(due)
    held = [board.describe(task_id) for task_id in board.held_by(VICTIM)]
    victim = fleet.agents[VICTIM]
    await processes.kill(victim)
    board.mark_killed(VICTIM)
    board.tell(f"kill -9 {victim.pid}: {VICTIM} dies {'at work on ' + '; '.join(held) if held else 'idle'}")


class _OutputError(Exception):
    """The report can't be written where it is asked for."""


class _Interrupted(Exception):
    """A signal asked the demo to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number


async def _interruptible(work: Coroutine[Any, Any, None]) -> None:
    """Runs `work`, and cancels it on a signal: it cleans up, and then _Interrupted is raised."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    received: list[int] = []

    def interrupt(number: int) -> None:
        received.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, interrupt, number)
    try:
        await task
    except asyncio.CancelledError:
        if received:
            raise _Interrupted(received[0]) from None
        raise


def _fail(console: Console, error: Exception, code: int) -> int:
    console.print(f"demo: {error}", markup=False, highlight=False, soft_wrap=True, style="red" if console.is_terminal else None)
    return code


if __name__ == "__main__":
    main()
