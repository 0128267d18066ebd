"""Child processes of a test: logged to a file, awaited without sleeping, and gone when the test ends."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tests.support.eventually import eventually
from tests.support.ports import is_listening

T = TypeVar("T")

_TERMINATE_S = 5.0
_LOG_TAIL_LINES = 30


class ChildExitedError(AssertionError):
    """A process ended although the test still waited for it to be ready; holds the end of its log."""


class Child:
    """One running process. `pid` is its id, `log` the file with all it wrote on stdout and stderr."""

    def __init__(self, *, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def output(self) -> str:
        """All that it wrote so far."""
        return self.log.read_text(errors="replace")

    async def wait_for_line(self, pattern: str, *, within_s: float = 15.0) -> re.Match[str]:
        """Waits for a line of its output that matches `pattern` (a regular expression), and returns the match."""
        expression = re.compile(pattern, re.MULTILINE)
        found = await eventually(
            lambda: self._unless_ended(lambda: expression.search(self.output())),
            within_s=within_s,
            message=f"{self.name} to print {pattern!r}; see {self.log}",
        )
        assert found is not None
        return found

    async def wait_for_port(self, port: int, *, within_s: float = 15.0) -> None:
        """Waits until it accepts connections on `port` of 127.0.0.1."""
        await eventually(
            lambda: self._unless_ended(lambda: is_listening(port)),
            within_s=within_s,
            message=f"{self.name} to listen on port {port}; see {self.log}",
        )

    async def wait_for_exit(self, *, within_s: float = 15.0) -> int:
        """Waits for its end, and returns the exit code."""
        await eventually(lambda: self.exit_code is not None, within_s=within_s, message=f"{self.name} to exit; see {self.log}")
        return self._process.returncode

    def send(self, sent: signal.Signals) -> None:
        """Sends it a signal, such as SIGTERM, SIGSTOP or SIGCONT."""
        self._process.send_signal(sent)

    def kill(self) -> None:
        """kill -9: to this process alone, and it is gone on return."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ends it politely, or else by force; then whatever it left behind in its process group."""
        if self.exit_code is None:
            self._process.send_signal(signal.SIGCONT)  # a stopped process would not see the next signal
            self._process.terminate()
            try:
                self._process.wait(_TERMINATE_S)
            except subprocess.TimeoutExpired:
                self.kill()
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it left nothing, in Linux's words and in macOS's
            os.killpg(self.pid, signal.SIGKILL)

    def _unless_ended(self, ready: Callable[[], T]) -> T:
        ended = self.exit_code is not None  # asked first: what it printed before its end counts
        answer = ready()
        if ended and not answer:
            tail = "\n".join(self.output().splitlines()[-_LOG_TAIL_LINES:])
            raise ChildExitedError(f"{self.name} exited with {self.exit_code} before it was ready. Its output ended with:\n{tail}")
        return answer


class Children:
    """Starts processes, and stops those that still run when the `with` block ends, the latest first.

    Args:
        folder: where their logs go, one file each.
    """

    def __init__(self, *, folder: Path) -> None:
        self._folder = folder
        self._children: list[Child] = []

    def start(self, command: Sequence[str], *, name: str, env: Mapping[str, str] | None = None) -> Child:
        """Starts `command` in a process group of its own, with `env` added to the environment."""
        log = self._folder / f"{len(self._children):02}-{name}.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
                start_new_session=True,
            )
        child = Child(name=name, process=process, log=log)
        self._children.append(child)
        return child

    def names(self) -> dict[int, str]:
        """The names of those that run, by process id."""
        return {child.pid: child.name for child in tuple(self._children) if child.exit_code is None}

    async def stop_all(self) -> None:
        """Stops every process without blocking the event loop."""
        await asyncio.to_thread(self._stop_all)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stop_all()

    def _stop_all(self) -> None:
        while self._children:
            self._children.pop().stop()
