"""Tables in the documents against the code that they speak of."""

import re
import tomllib
from dataclasses import fields

import pytest
from google.rpc import code_pb2

from agent_node.llm.payload import _OPTIONS, _OWN_FIELDS, read_request
from agent_node.llm.settings import LLMSettings, load_settings
from coordinator.convert import Bounds
from coordinator.core.model import RetryPolicy, Settings
from coordinator.rpc.status import CODES
from coordinator.settings import CoordinatorSettings
from tests.support.documents import DOCUMENTS, blocks
from tests.support.tree import ROOT, own_files

_KIB = 1024


def _page(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def _section(name, heading):
    return _page(name).partition(f"## {heading}\n")[2].partition("\n## ")[0]


def _rows(text):
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("block", [block for document in DOCUMENTS for block in blocks(document, "toml")], ids=lambda block: block.name)
def test_the_toml_blocks_are_settings(block, tmp_path):
    file = tmp_path / "llm.toml"
    file.write_text(block.text, encoding="utf-8")
    assert load_settings(file, environment={}).model


def test_the_settings_of_the_llm_agent_are_listed_with_their_defaults():
    rows = {row[0].strip("`"): row[1].strip("`") for row in _rows(_section("llm.md", "Settings"))[2:]}
    assert set(rows) == {field.name for field in fields(LLMSettings)}
    defaults = LLMSettings(base_url="http://x", model="y")
    for name, said in rows.items():
        if said not in ("required", "none"):
            value = getattr(defaults, name)
            assert tomllib.loads(f"x = {said}")["x"] == (list(value) if isinstance(value, tuple) else value), name


def test_the_payloads_of_the_llm_page_are_read():
    section = _section("llm.md", "The task's payload")
    for payload in re.findall(r"```json\n(.*?)```", section, re.DOTALL):
        assert read_request(payload.encode(), default_model="m").messages
    named = set(re.findall(r"`(\w+)`", section))
    assert named >= _OPTIONS | _OWN_FIELDS


def test_every_reason_of_an_error_is_listed_with_its_code():
    table = {}
    for row in _rows(_section("protocol.md", "Errors"))[2:]:
        table |= dict.fromkeys(re.findall(r"`([A-Z_]+)`", row[0]), row[1])
    source = "".join(path.read_text(encoding="utf-8") for path in own_files(".py") if path.is_relative_to(ROOT / "coordinator"))
    used = set(re.findall(r"reason(?:: str)? ?= ?\"([A-Z_]+)\"", source)) | {"INVALID_PAGE_TOKEN"}
    assert set(table) == used - {"INTERNAL"}
    assert set(table.values()) == {code_pb2.Code.Name(code) for code in CODES.values()}


def test_every_event_of_the_log_is_listed_with_its_level():
    source = "".join(path.read_text(encoding="utf-8") for path in own_files(".py") if path.is_relative_to(ROOT / "coordinator"))
    logged = {
        event: "error" if level == "exception" else level
        for level, event in re.findall(r"log\.(\w+)\(\s*\"([a-z]+\.[a-z_]+)", source)
        if level != "debug"
    }
    assert {row[0].strip("`"): row[1] for row in _rows(_section("coordinator.md", "The log"))[2:]} == logged


def _anchors(document):
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", own_files(".md"), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_headings_lead_there(document):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert anchor in _anchors((document.parent / target) if target else document), f"{target}#{anchor}"


def test_the_files_that_the_architecture_names_are_there():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]*(?:\.py)?)`", text))
    assert len(named) > 20
    assert not [name for name in named if not (ROOT / name).exists() and not (ROOT / "coordinator" / name).exists()]


def test_the_numbers_that_the_pages_give_are_the_defaults():
    core, bounds, retry, retention = Settings(), Bounds(), RetryPolicy(), CoordinatorSettings().retention
    assert (core.max_chunk_bytes, bounds.max_checkpoint_bytes, bounds.max_payload_bytes) == (256 * _KIB, 256 * _KIB, _KIB * _KIB)
    assert (retry.max_retries, retry.max_crashes, retry.initial_backoff_s, retry.max_backoff_s, retry.multiplier) == (3, 3, 1.0, 60.0, 2.0)
    assert (retention.max_age_ms, retention.max_count, retention.max_bytes) == (24 * 3600 * 1000, 1_000_000, 1024**3)
    assert (core.lease_s / core.renew_period_s, core.max_deliveries) == (3, 5)
