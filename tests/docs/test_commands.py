"""Every command that the documents show is one that the programs take."""

import re
import shlex
import tomllib
from itertools import dropwhile

import pytest
import typer.main

from agent_node.__main__ import _parser as agent_parser
from agent_node.cli.app import build_app
from agent_node.cli.exits import ExitCode
from coordinator import filters
from coordinator.__main__ import _parser as coordinator_parser
from coordinator.errors import InvalidRequest
from tests.support.documents import DOCUMENTS, blocks
from tests.support.tree import ROOT

_EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"])
_TARGETS = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
_KNOWN_ELSEWHERE = {"curl", "cp", "echo", "export", "jq", "kill", "python", "wait"}
_SHELL_BLOCKS = [
    block for document in [*DOCUMENTS, ROOT / "examples" / "README.md"] if document.exists() for block in blocks(document, "sh")
]
_ASSIGNMENT = re.compile(r"[A-Z_]+=")
_INLINE = re.compile(r"`((?:muster|muster-agent|muster-coordinator|make) [^`]+)`")


def _commands(line):
    """The commands of a line of shell, as lists of words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    words = []
    for word in lexer:
        if set(word) <= set("|&;"):
            yield words
            words = []
        else:
            words.append(word)
    yield words


def _muster(words):
    """Parses with typer's own commands, and runs nothing."""
    command = typer.main.get_command(build_app())
    try:
        context = command.make_context("muster", list(words))
        while hasattr(command, "resolve_command"):
            name, command, rest = command.resolve_command(context, context._protected_args + context.args)
            context = command.make_context(name, rest, parent=context)
    except Exception as error:
        if hasattr(error, "format_message"):  # click's ClickException, or that of the click inside typer
            raise AssertionError(error.format_message()) from error
        raise
    if context.params.get("filter_text"):
        filters.parse(context.params["filter_text"])


def _check_line(line):
    for words in _commands(line):
        command = list(dropwhile(_ASSIGNMENT.match, words))
        if command:
            _check(command)


def _check(words):
    program, rest = words[0], words[1:]
    match program:
        case "muster":
            _muster(rest)
        case "muster-agent":
            agent_parser().parse_args(rest)
        case "muster-coordinator":
            coordinator_parser().parse_args(rest)
        case "make":
            wanted = {word for word in rest if "=" not in word}
            assert wanted <= _TARGETS, wanted - _TARGETS
        case "pip":
            extras = {extra for found in re.findall(r"\[([\w,]+)\]", " ".join(rest)) for extra in found.split(",")}
            assert rest[0] == "install"
            assert extras <= _EXTRAS, extras - _EXTRAS
        case _:
            assert program in _KNOWN_ELSEWHERE, f"{program} is not known here"


@pytest.mark.parametrize("block", _SHELL_BLOCKS, ids=lambda block: block.name)
def test_the_shell_blocks_are_taken(block):
    for line in block.text.replace("\\\n", " ").splitlines():
        _check_line(line)


@pytest.mark.parametrize(
    "line",
    [
        "muster submit",
        "muster submit greet --prioriti high",
        "muster submit greet --priority urgent",
        "muster frobnicate",
        "muster list --filter 'state = BROKEN'",
        "muster bench despatch",
        "muster-agent greeter:agent --adress x",
        "muster-coordinator --lease soon",
        "make demmo",
        "pip install '.[cly]'",
        "rm -rf x",
    ],
)
def test_a_wrong_line_is_found(line):
    with pytest.raises((AssertionError, SystemExit, InvalidRequest)):
        _check_line(line)


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if document.parent.name == "docs" or document.name == "README.md"])
def test_commands_within_sentences_are_taken(document):
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for found in _INLINE.findall(text):
        if not re.search(r"[A-Z]{2,}|\.\.\.|…|\.$", found):  # forms, such as muster get TASK_ID...
            _check_line(found)


def _group_names(command):
    for name, one in sorted(command.commands.items()):
        if hasattr(one, "commands"):
            yield from (f"{name} {below}" for below in _group_names(one))
        else:
            yield name


def test_the_command_line_page_has_every_command():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    missing = [name for name in _group_names(typer.main.get_command(build_app())) if f"`muster {name}" not in page]
    assert not missing


def test_the_command_line_page_has_every_exit_code():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    table = page.partition("## Exit codes")[2].partition("\n## ")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == {code.value for code in ExitCode}


def test_the_coordinator_page_has_every_option_and_its_default():
    page = (ROOT / "docs" / "coordinator.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(--[a-z-]+)[^|]*\|([^|]*)\|", page.partition("## Stores")[0], re.MULTILINE))
    options = {action.option_strings[-1]: action for action in coordinator_parser()._actions if action.dest != "help"}
    assert set(rows) == set(options)
    for name, action in options.items():
        said = re.search(r"\(default ([^)]*)\)", action.help or "")
        if said:
            assert said[1] == rows[name].strip(" `"), name
