"""The documents' code blocks: found, and run as their reader would.

A Python block whose first line is a comment with a file's name is that file, and the agents in it serve from then on. Every other block
is a fragment: the fragments of one document share their names and an event loop, and may `await`. What a fragment prints is compared with
the comments behind its print calls.
"""

import ast
import asyncio
import contextlib
import importlib
import io
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any, TypeVar

from agent_node import Agent, BlockingClient, Client
from tests.support.tree import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE_NAME = re.compile(r"# (\w+\.\w+)$")
_EXPECTED = re.compile(r"\bprint\(.*\)  # (.*)$", re.MULTILINE)
_WITHIN_S = 60.0

Served = TypeVar("Served")


@dataclass(frozen=True)
class Block:
    """One code block.

    Args:
        document: where it is.
        line: of its first line, from 1.
        language: as written behind the backquotes.
        text: what it holds.
    """

    document: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """Where to find it."""
        return f"{self.document.relative_to(ROOT)}:{self.line}"

    @property
    def file_name(self) -> str | None:
        """The file that it is, by its first line."""
        found = _FILE_NAME.match(self.text.partition("\n")[0])
        return found[1] if found else None

    def compiled(self) -> CodeType:
        """A Python block's code. Raises SyntaxError, naming the document's line."""
        text = "\n" * (self.line - 1) + self.text
        code: CodeType = compile(text, str(self.document), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        return code


def blocks(document: Path, *languages: str) -> list[Block]:
    """A document's code blocks in these languages, in their order."""
    text = document.read_text(encoding="utf-8")
    return [
        Block(document, text.count("\n", 0, found.start()) + 2, found[1], found[2])
        for found in _BLOCK.finditer(text)
        if found[1] in languages
    ]


class Story:
    """Runs one document's Python blocks against a coordinator.

    Args:
        address: the coordinator's.
        folder: for the files that the document shows.
    """

    def __init__(self, *, address: str, folder: Path) -> None:
        self._address = address
        self._folder = folder
        self._names: dict[str, Any] = {"__name__": "story"}
        self._agents: list[Agent] = []
        self._modules: list[str] = []
        self._runner = asyncio.Runner()

    def tell(self, block: Block) -> None:
        """Runs one block, and the test functions that it defines."""
        if block.file_name is not None:
            (self._folder / block.file_name).write_text(block.text, encoding="utf-8")
        if block.language == "python":
            if block.file_name is None:
                self._run(block)
            else:
                self._import(block.file_name.removesuffix(".py"))

    def end(self) -> None:
        """Forgets the files' modules, and closes the loop."""
        for module in self._modules:
            sys.modules.pop(module, None)
        self._runner.close()

    def _import(self, module: str) -> None:
        found = importlib.import_module(module)
        self._modules.append(module)
        self._agents += [value for value in vars(found).values() if isinstance(value, Agent)]

    def _run(self, block: Block) -> None:
        before = set(self._names)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), self._serving():
            running = eval(block.compiled(), self._names)
            if running is not None:
                self._runner.run(asyncio.wait_for(running, _WITHIN_S))
        said = iter(printed.getvalue().splitlines())
        for expected in _EXPECTED.findall(block.text):
            assert expected in said, f"{block.name}: {expected!r} was not printed, or not in this order: {printed.getvalue()!r}"
        for name in [name for name in self._names if name.startswith("test_") and name not in before]:
            self._runner.run(asyncio.wait_for(self._names[name](), _WITHIN_S))

    @contextlib.contextmanager
    def _serving(self) -> Iterator[None]:
        """The files' agents serve, each in a thread of its own."""
        threads = []
        for agent in self._agents:
            agent.override(address=self._address)
            threads.append(threading.Thread(target=agent.run, name=f"agent {agent.name}"))
            threads[-1].start()
        try:
            yield
        finally:
            for agent, thread in zip(self._agents, threads, strict=True):
                while thread.is_alive():  # it may only be about to serve
                    agent.stop()
                    thread.join(0.05)


@contextlib.contextmanager
def in_a_thread(context: contextlib.AbstractAsyncContextManager[Served]) -> Iterator[Served]:
    """What serves while the block runs, in an event loop of its own, so that what blocks can talk to it."""
    opened: Future[tuple[Served, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        over = asyncio.Event()
        async with context as served:
            opened.set_result((served, asyncio.get_running_loop(), over))
            await over.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except Exception as error:  # the thread's root: whoever waits for it is told
            if opened.done():
                raise
            opened.set_exception(error)

    thread = threading.Thread(target=run, name="served")
    thread.start()
    served, loop, over = opened.result(_WITHIN_S)
    try:
        yield served
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(_WITHIN_S)


def use_address(set_attribute: Callable[[object, str, object], None], address: str) -> None:
    """Has clients and agents that name no address, or the usual one, find the coordinator at `address`.

    Args:
        set_attribute: monkeypatch's, which undoes it.
        address: the coordinator's.
    """
    for client in (Client, BlockingClient):
        original = client.__init__

        def connect(self: object, given: str = "", *, original: Callable[..., None] = original, **options: Any) -> None:
            usual = given in ("", "127.0.0.1:7450")
            original(self, address if usual else given, **options)

        set_attribute(client, "__init__", connect)
    set_attribute(Agent.__init__, "__kwdefaults__", {**(Agent.__init__.__kwdefaults__ or {}), "address": address})
