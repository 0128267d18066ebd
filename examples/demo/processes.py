"""The demo's processes: started with a log each, waited for until they say they are ready, and ended by their ids, whatever happens."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_READY_WITHIN_S: Final = 20.0
_ENDS_WITHIN_S: Final = 6.0  # after SIGTERM; then SIGKILL
_LOG_TAIL_LINES: Final = 6


class ProcessError(Exception):
    """A process didn't start, or ended by itself; the message holds the end of its log."""


@dataclass
class Child:
    """A process of the demo."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    expected_to_end: bool = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def log_tail(self) -> str:
        """The last lines it wrote."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-_LOG_TAIL_LINES:]) or "    (it wrote nothing)"


class Processes:
    """All children; leaving the context ends every one of them.

    Args:
        logs: the folder for their logs.
        cwd: their working directory.
    """

    def __init__(self, *, logs: Path, cwd: Path) -> None:
        self._logs = logs
        self._cwd = cwd
        self._children: list[Child] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        ending = asyncio.ensure_future(self._end_all())
        interrupted: asyncio.CancelledError | None = None
        while not ending.done():
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError as cancelled:
                interrupted = cancelled  # whoever is impatient still leaves no process behind
        if interrupted is not None:
            raise interrupted

    async def start(self, name: str, arguments: Sequence[str], *, environment: Mapping[str, str]) -> Child:
        """Starts a Python program in the demo's own interpreter; its output goes to `<name>.log`."""
        log = self._logs / f"{name}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                cwd=self._cwd,
                env=dict(environment),
                start_new_session=True,  # a Ctrl-C is for the demo, which then ends them in order
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    async def ready_line(self, child: Child, opening: str) -> str:
        """Waits for the line of a child's output that begins with `opening`, and answers the rest of it.

        Raises:
            ProcessError: it ended, or said nothing of the kind in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _READY_WITHIN_S
        while True:
            for line in child.log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
                if line.startswith(opening) and line.endswith("\n"):
                    return line.removeprefix(opening).strip()
            if child.process.returncode is not None:
                raise ProcessError(f"{child.name} ended with {child.process.returncode} instead of starting:\n{child.log_tail()}")
            if loop.time() > deadline:
                raise ProcessError(f"{child.name} was not ready within {_READY_WITHIN_S:g} s:\n{child.log_tail()}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.process.wait(), 0.05)

    async def kill(self, child: Child) -> None:
        """Ends a child as a crash would, with kill -9."""
        child.expected_to_end = True
        os.kill(child.pid, signal.SIGKILL)
        await child.process.wait()

    async def watch(self) -> None:
        """Runs until a child that shouldn't have ended has.

        Raises:
            ProcessError: that happened.
        """
        ends = {asyncio.ensure_future(child.process.wait()): child for child in self._children}
        try:
            while ends:
                done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                for end in done:
                    child = ends.pop(end)
                    if not child.expected_to_end:
                        raise ProcessError(f"{child.name} ended with {child.process.returncode}:\n{child.log_tail()}")
        finally:
            for end in ends:
                end.cancel()

    async def _end_all(self) -> None:
        """The first child last, since it is the coordinator: agents say goodbye to it."""
        for group in (self._children[1:], self._children[:1]):
            for child in group:
                child.expected_to_end = True
                if child.process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        child.process.terminate()
            await asyncio.gather(*(_gone(child) for child in group))


async def _gone(child: Child) -> None:
    try:
        await asyncio.wait_for(child.process.wait(), _ENDS_WITHIN_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            child.process.kill()
        await child.process.wait()
