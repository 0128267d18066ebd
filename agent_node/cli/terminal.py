"""The terminal: rich's consoles and progress bars, loaded only by what needs them.

Answers go to stdout, and everything else (progress, notes) to stderr, where it doesn't disturb a pipe.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from agent_node.cli.exits import without_controls

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PIPE_WIDTH = 250  # columns when the output isn't a terminal: nothing there wraps, so ids stay whole


class Bar(Protocol):
    """A progress bar in use."""

    def advance(self, count: int = 1) -> None:
        """Counts further."""
        ...

    def show(self, *, description: str | None = None, completed: float | None = None, total: float | None = None) -> None:
        """Sets what is given."""
        ...


def stdout_console() -> "Console":
    """Where answers go."""
    return _console(to_stderr=False)


def stderr_console() -> "Console":
    """Where progress and notes go."""
    return _console(to_stderr=True)


def _console(*, to_stderr: bool) -> "Console":
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class PlainSpokenConsole(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else without_controls(text), style, control)

    console = PlainSpokenConsole(stderr=to_stderr, highlight=False, soft_wrap=False, emoji=False, markup=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def can_ask() -> bool:
    """Whether somebody is there to be asked."""
    return sys.stdin.isatty()


async def ask(question: str) -> bool:
    """Asks on stderr, and reads a line of stdin. Anything but yes is no, the end of the input too. Ctrl-C and SIGTERM end it at once."""
    console = stderr_console()
    console.print(f"{question} [y/N] ", end="")
    loop = asyncio.get_running_loop()
    answered = asyncio.Event()
    loop.add_reader(sys.stdin, answered.set)
    try:
        await answered.wait()
    finally:
        loop.remove_reader(sys.stdin)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


@contextmanager
def progress_bar(description: str, total: float | None) -> Iterator[Bar]:
    """A bar on stderr for something long; a spinner while `total` is None. Without a terminal it stays silent."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = stderr_console()
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task_id = progress.add_task(description, total=total)

        class ProgressBar:
            def advance(self, count: int = 1) -> None:
                progress.advance(task_id, count)

            def show(self, *, description: str | None = None, completed: float | None = None, total: float | None = None) -> None:
                progress.update(task_id, description=description, completed=completed, total=total)

        yield ProgressBar()


class Screen:
    """Part of the terminal that is shown anew again and again.

    Args:
        console: where.
        show: replaces what is there.
    """

    def __init__(self, console: "Console", show: "Callable[[RenderableType], None]") -> None:
        self._console = console
        self.show = show

    def rows(self) -> int | None:
        """How many rows of a table fit beside a dozen lines of facts; None for any number, without a terminal."""
        return max(self._console.height - 12, 3) if self._console.is_terminal else None


@contextmanager
def live_screen() -> Iterator[Screen]:
    """A screen on stdout, left as it was shown last. Without a terminal all that is shown comes one below the other."""
    from rich.live import Live

    console = stdout_console()
    if not console.is_terminal:
        yield Screen(console, console.print)
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        yield Screen(console, lambda shown: live.update(shown, refresh=True))
