"""Rules for the project's own files that no linter holds."""

import re
import tomllib

import pytest

from tests.support.tree import ROOT, own_files

_MOST_LINES = 450
_CODE = (".py", ".ts", ".go", ".sh", ".lua")
_BINARY = {".png", ".gif", ".ico", ".bin", ".woff2", ".journal"}

# Joined here, so that this file passes its own test.
_LEFT_OVER = re.compile("|".join(["TO" + "DO", "FIX" + "ME", "X" * 3 + r"\b", r"raise Not" + "Implemented"]))
_MACHINE = re.compile(
    "|".join(
        [
            r"/(?:ro" + r"ot|wo" + r"rk|ho" + r"me/\w+|Us" + r"ers/\w+)/",
            r"\b(?:py" + r"pi\.org|pythonhosted\.org|registry\.npm" + r"js\.org|proxy\.gol" + r"ang\.org|registry\.yarn" + r"pkg\.com)",
        ]
    )
)


def _lines(path):
    return path.read_text(encoding="utf-8").splitlines()


def _name(path):
    return str(path.relative_to(ROOT))


def test_no_source_file_is_too_long():
    too_long = {_name(path): count for path in own_files(*_CODE) if (count := len(_lines(path))) > _MOST_LINES}
    assert not too_long, f"split by concern what is longer than {_MOST_LINES} lines"


@pytest.mark.parametrize(
    "pattern,why",
    [(_LEFT_OVER, "unfinished work"), (_MACHINE, "a path or a package index of one machine")],
    ids=["left-over", "machine"],
)
def test_no_file_holds(pattern, why):
    found = [
        f"{_name(path)}:{number}: {line.strip()[:100]}"
        for path in own_files()
        if path.suffix not in _BINARY
        for number, line in enumerate(_lines(path), start=1)
        if pattern.search(line)
    ]
    assert not found, why


def test_every_package_ships_its_types():
    assert (ROOT / "coordinator" / "py.typed").is_file()
    assert (ROOT / "agent_node" / "py.typed").is_file()


def test_every_lint_exception_in_code_names_its_rule():
    blanket = re.compile(r"#\s*(?:no" + r"qa(?!:)|type:\s*ig" + r"nore(?!\[))|ruff:\s*no" + r"qa")
    found = [f"{_name(path)}:{n}" for path in own_files(".py") for n, line in enumerate(_lines(path), start=1) if blanket.search(line)]
    assert not found


def test_the_code_blocks_of_the_documents_compile():
    for path in own_files(".md"):
        for block in re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            compile(block, _name(path), "exec", flags=0x2000)  # PyCF_ALLOW_TOP_LEVEL_AWAIT


def test_the_documents_link_to_files_that_exist():
    broken = [
        f"{_name(path)}: {target}"
        for path in own_files(".md")
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
        if "://" not in target and not target.startswith("mailto:") and not (path.parent / target).exists()
    ]
    assert not broken


def test_the_changelog_has_a_place_for_what_comes():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in text
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", text, re.MULTILINE)
    assert not released or released[0] == version
