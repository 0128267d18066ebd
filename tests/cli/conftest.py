"""A command line under test, with a client that answers from a script instead of a coordinator."""

from contextlib import asynccontextmanager

import pytest
from typer.testing import CliRunner

from agent_node.cli.app import build_app
from agent_node.cli.invocation import Invocation


class ScriptedClient:
    """Stands in for the SDK's client: `answers` maps a method's name to what it returns, yields or raises."""

    def __init__(self):
        self.answers = {}
        self.calls = []
        self.invocation = None

    def __getattr__(self, name):
        async def answer(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            return self._answer(name, *args)

        async def iterate(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            for item in self._answer(name, *args):
                yield item

        return iterate if name in ("list", "watch") else answer

    def _answer(self, name, *args):
        answer = self.answers[name]
        if callable(answer):
            answer = answer(*args)
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture
def client(monkeypatch):
    scripted = ScriptedClient()

    @asynccontextmanager
    async def connect(self):
        scripted.invocation = self
        yield scripted

    monkeypatch.setattr(Invocation, "connect", connect)
    return scripted


@pytest.fixture
def muster(monkeypatch):
    """Runs `muster` with arguments, and returns click's result: exit_code, stdout, stderr."""
    monkeypatch.delenv("MUSTER_ADDRESS", raising=False)
    monkeypatch.delenv("MUSTER_NAMESPACE", raising=False)

    def run(*arguments, stdin=None, env=None):
        return CliRunner().invoke(build_app(), list(arguments), input=stdin, env=env, prog_name="muster")

    return run
