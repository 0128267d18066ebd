"""`muster admin`: what it says when it can't, and that it leaves nothing half done."""

import json
import sys

import pytest
from typer.testing import CliRunner

from agent_node.cli.app import build_app

RUN = CliRunner()


def said(*arguments, code):
    result = RUN.invoke(build_app(), ["admin", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize("command", [("export", "file"), ("check",)])
def test_a_directory_without_a_store_is_left_alone(tmp_path, command):
    arguments = [tmp_path / one if one == "file" else one for one in command]
    output = said(*arguments, "--data-dir", tmp_path / "nothing", code=4).output
    assert "there is no store in" in output
    assert not list(tmp_path.iterdir())


def test_no_store_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("MUSTER_REDIS_URL", raising=False)
    assert "name the store" in said("export", tmp_path / "file", code=5).output


def test_a_file_that_is_there_is_not_written_over(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    assert "is there already" in said("export", tmp_path / "file", "--data-dir", tmp_path, code=2).output
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_what_is_no_export_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"something else")
    assert "no export of Muster's" in said("import", tmp_path / "file", "--data-dir", tmp_path / "data", code=4).output
    assert "can't be read" in said("import", tmp_path / "missing", "--data-dir", tmp_path / "data", code=2).output


def test_without_what_a_coordinator_needs_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "coordinator.admin.tools", None)
    monkeypatch.delattr("coordinator.admin.tools", raising=False)
    assert "muster-agents[coordinator,cli]" in said("check", "--data-dir", tmp_path, code=2).output


def test_a_fresh_import_is_checked_as_json(tmp_path):
    from tests.admin.test_recorded import RECORDED

    data = tmp_path / "data"
    answer = json.loads(said("import", RECORDED[0], "--data-dir", data, "--json", code=0).output.splitlines()[-1])
    assert answer["shards"] == [0, 1]
    found = json.loads(said("check", "--data-dir", data, "--json", code=0).output.splitlines()[-1])
    assert (found["violations"], found["found"], found["skipped"]) == ([], 0, [])
    assert found["looked_at"]["shards"] == 2
    again = said("export", tmp_path / "again.gz", "--data-dir", data, "--json", code=0)
    assert json.loads(again.output.splitlines()[-1])["shards"][1]["ended"] == answer["ended"]
    said("import", tmp_path / "again.gz", "--data-dir", tmp_path / "third", code=0)
    assert not list(tmp_path.glob("*.part"))
