"""What the demo shows while it runs: a live picture on a terminal, plain lines anywhere else, and the summary at the end."""

import asyncio
import contextlib
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from examples.demo.board import AgentRow, Board, State
from examples.demo.work import STAGES

_NEWS_LINES = 8
_PICTURES_PER_S = 8


class Screen(Protocol):
    """Shows a board."""

    async def follow(self, board: Board) -> None:
        """Shows it, and every change of it, until cancelled."""


def choose_screen(console: Console) -> Screen:
    """The live picture for a terminal, lines for anything else."""
    return LiveScreen(console) if console.is_terminal else PlainScreen(console)


class PlainScreen:
    """One line for each piece of news."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown = 0

    async def follow(self, board: Board) -> None:
        """Prints news as it comes; what is left when it is cancelled, too."""
        try:
            while True:
                self._show(board)
                await board.change()
        finally:
            self._show(board)

    def _show(self, board: Board) -> None:
        for at_s, line in board.news[self._shown :]:
            self._console.print(f"{at_s:6.1f} s  {line}", markup=False, highlight=False, soft_wrap=True)
        self._shown = len(board.news)


class LiveScreen:
    """A picture of stages and agents that redraws itself, with the latest news below."""

    def __init__(self, console: Console) -> None:
        self._console = console

    async def follow(self, board: Board) -> None:
        """Redraws until cancelled, and leaves the last picture standing."""
        with Live(picture(board), console=self._console, auto_refresh=False) as live:
            try:
                while True:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(board.change(), 1.0)  # the clock in the title moves on its own
                    await asyncio.sleep(1 / _PICTURES_PER_S)
                    live.update(picture(board), refresh=True)
            finally:
                live.update(picture(board), refresh=True)


def picture(board: Board) -> Group:
    """The board as a terminal shows it."""
    news = Text("\n".join(f"{at_s:6.1f} s  {line}" for at_s, line in board.news[-_NEWS_LINES:]), no_wrap=True, overflow="ellipsis")
    return Group(
        Panel(_stages(board), title=f"tasks · {board.elapsed_s:.0f} s", title_align="left"),
        Panel(_agents(board), title="agents", title_align="left"),
        Panel(news, title="news", title_align="left", height=_NEWS_LINES + 2),
    )


def summary(board: Board) -> Table:
    """Where everything ran."""
    table = Table(title="Where everything ran", title_justify="left")
    table.add_column("agent", no_wrap=True)
    for column in ("pid", "done", "taken over", "tokens in", "out"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("at the end", no_wrap=True)
    for agent in board.agents.values():
        done = board.completed_by(agent.name)
        table.add_row(
            agent.name,
            str(agent.pid),
            str(len(done)),
            str(sum(len(row.agents) > 1 for row in done)),
            f"{sum(row.input_tokens for row in done):,}",
            f"{sum(row.output_tokens for row in done):,}",
            "killed with -9" if agent.killed else "running",
        )
    return table


def _stages(board: Board) -> Table:
    table = Table.grid(padding=(0, 2))
    for stage in STAGES:
        counts = board.counts(stage)
        total = sum(counts.values())
        table.add_row(
            stage.rpartition(".")[2],
            ProgressBar(total=max(total, 1), completed=counts[State.COMPLETED], width=30),
            f"{counts[State.COMPLETED]}/{total}",
            Text(f"{counts[State.RUNNING]} running", style="cyan" if counts[State.RUNNING] else "dim"),
            Text(f"{counts[State.PENDING] + counts[State.RETRYING]} waiting", style="yellow" if counts[State.PENDING] else "dim"),
        )
    return table


def _agents(board: Board) -> Table:
    table = Table.grid(padding=(0, 2))
    for agent in board.agents.values():
        table.add_row(agent.name, f"pid {agent.pid}", f"{len(board.completed_by(agent.name))} done", _now(board, agent))
    return table


def _now(board: Board, agent: AgentRow) -> Text:
    held = board.held_by(agent.name)
    text = ", ".join(board.describe(task_id) for task_id in held)
    if agent.killed:
        return Text(f"killed with -9{f', its lease holds {text}' if text else ''}", style="bold red", no_wrap=True, overflow="ellipsis")
    return Text(text or "idle", style="" if text else "dim", no_wrap=True, overflow="ellipsis")
