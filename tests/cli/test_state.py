"""`muster state`, against a coordinator's side of shared state in memory."""

import json
import os
import pty
import subprocess
import sys

import pytest
from muster.v1 import state_pb2 as pb
from typer.testing import CliRunner

from agent_node.cli.app import build_app
from tests.support.documents import in_a_thread
from tests.support.fake_state_service import FakeLock, FakeStateService, serving


@pytest.fixture
def service():
    return FakeStateService()


@pytest.fixture
def run(service, monkeypatch):
    monkeypatch.delenv("MUSTER_NAMESPACE", raising=False)
    with in_a_thread(serving(service)) as address:

        def run(*arguments, stdin=None):
            return CliRunner().invoke(build_app(), ["--address", address, "state", *arguments], input=stdin, prog_name="muster")

        yield run


def _records(result):
    assert result.exit_code in (0, 1), result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_put_and_get(run):
    assert run("put", "a", '{"x": 1}').stdout == "1\n"
    assert run("get", "a").stdout == '{"x": 1}'
    [record] = _records(run("get", "a", "--json"))
    assert (record["key"], record["revision"], record["version"], record["payload"]) == ("a", "1", "1", {"x": 1})
    assert run("put", "a", "-", "--content-type", "text/x", "--json", stdin="hello").stdout == '{"key": "a", "revision": "2"}\n'
    assert _records(run("get", "a", "--json"))[0]["payload"] == "hello"
    assert "hello" in run("get", "a", "a").stdout
    missing = run("get", "b")
    assert missing.exit_code == 3
    assert "no key 'b'" in missing.stderr


@pytest.mark.parametrize(
    "value, shown",
    [
        (b"text\n", b"text\r\n"),
        (b"\x1b[31mred\x07", b"[31mred\r\n"),
        (b"\x00\xff\x1b", b"3 bytes of application/octet-stream: redirect them"),
    ],
)
def test_a_value_cannot_steer_a_terminal(service, value, shown):
    """In a pipe it is what it is, byte for byte."""
    service.write("k", value)
    controller, far_end = pty.openpty()
    with in_a_thread(serving(service)) as address:
        command = [sys.executable, "-m", "agent_node.cli", "--address", address, "state", "get", "k"]
        assert subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=30).stdout == value
        subprocess.run(command, stdout=far_end, check=True, timeout=30)
    os.close(far_end)
    assert os.read(controller, 65536).startswith(shown)
    os.close(controller)


def test_conditions_and_leases(run, service):
    assert run("put", "a", "1", "--if-revision", "0", "--ttl", "60").exit_code == 0
    assert service.ops[0].put.ttl.seconds == 60
    refused = run("put", "a", "2", "--if-revision", "0")
    assert refused.exit_code == 4
    assert "another revision" in refused.stderr
    assert run("delete", "a", "--if-revision", "9").exit_code == 4


def test_delete(run):
    for key in ("a/1", "a/2", "b"):
        run("put", key, "1")
    assert run("delete", "b").stdout == "1 deleted.\n"
    assert run("delete", "b").exit_code == 3
    assert _records(run("delete", "a/", "--prefix", "--json")) == [{"key": "a/", "deleted": 2}]
    assert run("delete", "", "--prefix").exit_code == 2


def test_list(run):
    for number in range(4):
        run("put", f"k/{number}", str(number))
    assert run("list", "k/", "--keys-only").stdout.split() == ["k/0", "k/1", "k/2", "k/3"]
    limited = run("list", "--limit", "2", "--json")
    assert [record["key"] for record in _records(limited)] == ["k/0", "k/1"]
    assert "more than 2" in limited.stderr
    assert "k/3" in run("list").stdout
    assert run("list", "none").stdout == "No keys.\n"


def test_history_diff_and_restore(run, service):
    author = pb.WriteOptions(author=pb.StateAuthor(agent_name="worker", task_id="t-1", attempt=2))
    for value in (b'{"a": 1}', b'{"a": 2}'):
        service.revision += 1
        service._change("k", service.revision, pb.PutRequest(key="k", value=value, content_type="application/json", options=author))
    run("delete", "k")
    told = run("history", "k").stdout
    assert "worker, task t-1 attempt 2" in told
    assert "deleted" in told
    events = _records(run("history", "k", "--json"))
    assert [event["kind"] for event in events] == ["PUT", "PUT", "DELETED"]
    assert events[0]["author"] == {"agent": "worker", "task_id": "t-1", "attempt": 2, "client": ""}
    difference = run("diff", "k", "1", "2")
    assert difference.exit_code == 1
    assert '-  "a": 1\n+  "a": 2\n' in difference.stdout
    assert '-  "a": 2' in run("diff", "k", "2").stdout
    assert run("diff", "k", "2", "2").exit_code == 0
    assert _records(run("diff", "k", "2", "2", "--json")) == [{"key": "k", "diff": []}]
    assert run("restore", "k", "1").stdout == "k is as at revision 1 again, since revision 4.\n"
    assert run("get", "k").stdout == '{"a": 1}'
    assert run("restore", "k", "3").stdout == "k is deleted, as at revision 3.\n"
    assert run("get", "k").exit_code == 3
    assert run("history", "none").exit_code == 3
    service.compact_revision = 3
    gone = run("restore", "k", "2")
    assert gone.exit_code == 3
    assert "no longer kept" in gone.stderr


def test_a_revision_that_has_not_come_or_is_no_longer_kept_is_no_state_of_a_key(run, service):
    run("put", "k", "1")
    run("put", "k", "2")
    for arguments in (("restore", "k", "9"), ("diff", "k", "9"), ("diff", "k", "1", "9"), ("restore", "k", "99999999999999999999")):
        refused = run(*arguments)
        assert (refused.exit_code, refused.stdout) == (4, "")
        assert "hasn't come yet: the namespace is at 2" in refused.stderr
    service.compact_revision = 2
    gone = run("diff", "k", "1")
    assert gone.exit_code == 3
    assert "no longer kept" in gone.stderr


def test_numbers_that_are_none_are_refused(run, service):
    for arguments in (("--ttl", "nan"), ("--if-revision", "99999999999999999999")):
        assert run("put", "k", "1", *arguments).exit_code == 2
    assert run("watch", "k", "--from", "99999999999999999999").exit_code == 2
    assert not service.ops


def test_names_that_are_no_text_are_wrong_usage(run, service):
    for arguments in (
        ("put", "caf\udce9", "1"),
        ("get", "caf\udce9"),
        ("list", "caf\udce9"),
        ("watch", "caf\udce9"),
        ("locks", "caf\udce9"),
    ):
        refused = run(*arguments)
        assert (refused.exit_code, "give text that UTF-8 can hold" in refused.stderr) == (2, True)
    assert not service.ops


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"key": ""}, "1 to 1024 are allowed"),
        ({"key": "k" * 1025}, "1 to 1024 are allowed"),
        ({"key": "a\nb"}, "control character"),
        ({"key": "\ud800"}, "key has half a surrogate pair"),
        ({"key": 5}, "key is 5 (int): give a str"),
        ({"text": "\ud800"}, "text has half a surrogate pair"),
        ({"text": None}, "text is None"),
        ({"content_type": "\ud800"}, "content_type has half a surrogate pair"),
    ],
)
def test_an_import_with_a_line_that_none_can_be_sets_nothing(run, service, wrong, says):
    lines = [json.dumps({"key": "k", "text": "1"} | each) for each in ({}, wrong)]
    refused = run("import", "-", stdin="\n".join(lines))
    assert refused.exit_code == 2
    assert "line 2 " in refused.stderr
    assert says in refused.stderr
    assert not service.entries


def test_an_import_that_is_refused_says_how_much_is_set(run):
    lines = [json.dumps({"key": f"k/{number}", "text": "x" * (5_000_000 if number == 1 else 1)}) for number in range(3)]
    refused = run("import", "-", stdin="\n".join(lines))
    assert refused.exit_code == 4
    assert "'k/1' is refused" in refused.stderr
    assert "2 others are imported" in refused.stderr
    assert run("list", "--keys-only").stdout.split() == ["k/0", "k/2"]


def test_restore_is_refused_when_the_key_changes_meanwhile(run, service, monkeypatch):
    run("put", "k", "1")
    run("put", "k", "2")
    read = service._do_get
    monkeypatch.setattr(service, "_do_get", lambda request, answer: (read(request, answer), service.write("k")))
    assert run("restore", "k", "1").exit_code == 4


def test_locks(run, service):
    lock = service.locks.setdefault("l", FakeLock())
    lock.token, lock.author = 17, pb.StateAuthor(agent_name="worker", task_id="t-1", attempt=1)
    lock.waiters = [("w-1", pb.StateAuthor(agent_name="other"), None), ("w-2", pb.StateAuthor(), None)]
    shown = run("locks").stdout
    assert "17" in shown
    assert "worker, task t-1 attempt 1" in shown
    assert "other; w-2" in shown
    [record] = _records(run("locks", "--json"))
    assert (record["holder"]["token"], [each["waiter_id"] for each in record["waiters"]]) == ("17", ["w-1", "w-2"])
    service.locks.clear()
    assert run("locks").stdout == "No locks.\n"


def test_what_is_exported_can_be_imported(run, service, tmp_path):
    run("put", "a", "grüße")
    service.write("b", b"\xff\x00")
    run("put", "c", '{"x": 1}')
    service.write("agents/worker/presence", b'{"capabilities": []}')  # its coordinator's to say
    exported = run("export").stdout
    service.entries.pop("agents/worker/presence")
    assert len(exported.splitlines()) == 3
    before = {key: (entry.value, entry.content_type) for key, entry in service.entries.items()}
    service.entries.clear()
    assert run("import", "-", stdin=exported).stdout == "3 imported.\n"
    assert {key: (entry.value, entry.content_type) for key, entry in service.entries.items()} == before
    (tmp_path / "lines").write_text(exported + '{"key": "d", "text": "new"}\n')
    assert _records(run("import", str(tmp_path / "lines"), "--missing-only", "--json")) == [{"imported": 1, "left": 3}]


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"text": "x"}', '{"key": "a"}', '{"key": 1, "text": "x"}', '{"key": "a", "base64": "%"}', "\xff"]
)
def test_one_wrong_line_imports_nothing(run, service, line):
    result = run("import", "-", stdin=f'{{"key": "a", "text": "x"}}\n{line}\n')
    assert result.exit_code == 2
    assert "line 2" in result.stderr
    assert not service.entries


def test_watch(run, service):
    for value in (b"1", b"2"):
        service.write("k", value)
    service.compact_revision = 2
    late = run("watch", "k", "--from", "1")
    assert late.exit_code == 4
    assert "list the keys, and watch from revision 3" in late.stderr
