"""`muster cancel`, `reprioritise`, `redrive` and `purge` of many tasks, and `muster dead-letters`, on a scripted client."""

import contextlib
import json
import os
import pty
import subprocess
import sys
from types import SimpleNamespace

import pytest
from muster.v1 import bulk_pb2, common_pb2, task_pb2

from agent_node import Client, Priority, RefusedError, UnavailableError
from agent_node.cli import terminal
from agent_node.testing import local_coordinator
from tests.support.eventually import eventually

COMMANDS = [("cancel",), ("reprioritise", "--priority", "high"), ("redrive",), ("purge",)]
CALLS = {"cancel": "cancel_matching", "reprioritise": "reprioritise", "redrive": "redrive", "purge": "purge"}


def progress(changed=0, *, sample=(), **skipped):
    left = [
        bulk_pb2.SkippedTasks(reason=f"SKIP_REASON_{reason}", count=len(ids), message=f"because {reason}", task_ids=ids)
        for reason, ids in skipped.items()
    ]
    tasks = [task_pb2.Task(task_id=task_id, state="TASK_STATE_FAILED") for task_id in sample]
    return bulk_pb2.OperationProgress(matched=changed + sum(one.count for one in left), changed=changed, sample=tasks, skipped=left)


@pytest.fixture
def person(monkeypatch):
    """Somebody at the terminal, who says what `says` holds, and remembers what was asked."""

    somebody = SimpleNamespace(says=True, asked=[])

    async def ask(question):
        somebody.asked.append(question)
        return somebody.says

    monkeypatch.setattr(terminal, "can_ask", lambda: True)
    monkeypatch.setattr(terminal, "ask", ask)
    return somebody


def how(client):
    """How each call was made, without who is told of its progress."""
    return [(name, {key: value for key, value in options.items() if key != "on_progress"}) for name, _, options in client.calls]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("choice", [(), ("a", "--all"), ("--filter", "state = FAILED", "--all"), ("a", "-f", "x = y"), ("--filter", " ")])
def test_a_choice_of_nothing_or_of_two_kinds_is_wrong(muster, client, command, choice):
    result = muster(*command, *choice, "--yes")
    assert (result.exit_code, client.calls) == (2, [])
    assert "--all" in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_filter_chooses_is_counted_shown_and_asked_about(muster, client, person, command):
    name = CALLS[command[0]]
    client.answers[name] = progress(3, sample=["t-1"])
    result = muster(*command, "--filter", "state = FAILED")
    assert result.exit_code == 0
    assert [(call, options["filter"], options["dry_run"]) for call, options in how(client)] == [
        (name, "state = FAILED", True),
        (name, "state = FAILED", False),
    ]
    assert len(person.asked) == 1
    assert "3 tasks" in person.asked[0]
    assert "t-1" in result.stderr
    assert result.stdout.splitlines()[-1].startswith("3 tasks ")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_no_changes_nothing(muster, client, person, command):
    person.says = False
    client.answers[CALLS[command[0]]] = progress(1)
    result = muster(*command, "--all")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "1 task?" in person.asked[0]
    assert [options["dry_run"] for _, options in how(client)] == [True]


@pytest.mark.parametrize("command", COMMANDS)
def test_where_nobody_can_be_asked_yes_is_needed(muster, client, command):
    client.answers[CALLS[command[0]]] = progress(2)
    result = muster(*command, "--all")
    assert (result.exit_code, [options["dry_run"] for _, options in how(client)]) == (2, [True])
    assert "--yes" in result.stderr
    assert muster(*command, "--all", "--yes").exit_code == 0
    assert [options["dry_run"] for _, options in how(client)] == [True, False]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_dry_run_asks_nobody_and_changes_nothing(muster, client, command):
    client.answers[CALLS[command[0]]] = progress(12, sample=["t-1", "t-2"], TOO_YOUNG=["t-3"])
    result = muster(*command, "--all", "--dry-run")
    assert result.exit_code == 0
    assert [(options["all"], options["dry_run"]) for _, options in how(client)] == [(True, True)]
    for text in ("12 tasks would", "t-1", "t-2", "t-3", "because TOO_YOUNG"):
        assert text in result.stdout
    record = json.loads(muster(*command, "--all", "--dry-run", "--json").stdout)
    assert (record["dry_run"], record["matched"], record["changed"]) == (True, "13", "12")
    assert record["sample"][1]["task_id"] == "t-2"
    assert record["skipped"][0] == {"reason": "SKIP_REASON_TOO_YOUNG", "count": "1", "message": "because TOO_YOUNG", "task_ids": ["t-3"]}
    assert "next_page_token" not in record


@pytest.mark.parametrize("command", [command for command in COMMANDS if command[0] not in ("cancel", "purge")])
def test_what_is_named_is_done_without_a_question(muster, client, person, command):
    client.answers[CALLS[command[0]]] = progress(2)
    assert muster(*command, "t-1", "t-2").exit_code == 0
    assert [(options["task_ids"], options["dry_run"]) for _, options in how(client)] == [(["t-1", "t-2"], False)]
    assert not person.asked


def test_a_purge_always_asks(muster, client, person):
    client.answers["purge"] = progress(1)
    assert muster("purge", "t-1").exit_code == 0
    assert person.asked == ["Forget, for good, 1 task?"]
    assert [options["dry_run"] for _, options in how(client)] == [True, False]


def test_nobody_is_asked_about_nothing(muster, client, person):
    client.answers["redrive"] = progress()
    result = muster("redrive", "--filter", "state = FAILED")
    assert (result.exit_code, result.stdout, person.asked) == (0, "No task matches.\n", [])
    assert muster("redrive", "--all").stdout == "No tasks.\n"


@pytest.mark.parametrize(
    "reasons,code",
    [
        ({}, 0),
        ({"SAME_PRIORITY": ["a"], "CANCEL_REQUESTED": ["b"], "ALREADY_REDRIVEN": ["c"]}, 0),
        ({"COMPLETED": ["a"]}, 1),
        ({"NO_ROOM": ["a"]}, 1),
        ({"NOT_FOUND": ["a"], "LIVE": ["b"]}, 3),
    ],
)
def test_tasks_that_were_named_end_with_the_worst(muster, client, reasons, code):
    client.answers["redrive"] = progress(1, **reasons)
    result = muster("redrive", "a", "b", "c")
    assert result.exit_code == code
    assert all(f"because {reason}" in result.stdout for reason in reasons)
    assert muster("redrive", "--filter", "task_id = a", "--yes").exit_code == 0, "a filter takes what there is"


def test_reasons_and_priorities_go_along(muster, client):
    for name in ("cancel_matching", "reprioritise", "redrive"):
        client.answers[name] = progress(1)
    muster("cancel", "--all", "--yes", "--reason", "enough")
    muster("reprioritise", "a", "--priority", "critical", "--reason", "urgent")
    muster("redrive", "a", "--priority", "low", "--reason", "mended", "--request-id", "once")
    muster("redrive", "a")
    assert [(options.get("priority", "-"), options["reason"]) for _, options in how(client)] == [
        ("-", "enough"),
        (Priority.CRITICAL, "urgent"),
        (Priority.LOW, "mended"),
        (None, "redriven from the command line"),
    ]
    assert [options["request_id"] for name, options in how(client) if name == "redrive"] == ["once", ""]


def test_what_was_done_before_an_error_is_said(muster, client):
    async def fails_midway(_client, **options):
        options["on_progress"](progress(3000))
        raise UnavailableError("the store is out")

    client.answers["redrive"] = None
    client.redrive = lambda **options: fails_midway(client, **options)
    result = muster("redrive", "--all", "--yes")
    assert result.exit_code == 5
    assert result.stderr.splitlines()[0] == "3000 tasks run again; then it failed."


def test_a_bad_filter_says_where(muster, client):
    client.answers["purge"] = RefusedError("filter is wrong at character 9: ...", reason="INVALID_FIELD", field="filter")
    result = muster("purge", "--filter", "state = BROKEN", "--yes")
    assert (result.exit_code, "at character 9" in result.stderr) == (4, True)


@pytest.mark.parametrize("command", COMMANDS)
def test_also_where_nobody_can_be_asked(muster, client, command):
    client.answers[CALLS[command[0]]] = RefusedError("filter is wrong at character 9: ...", reason="INVALID_FIELD", field="filter")
    result = muster(*command, "--filter", "state = BROKEN")
    assert (result.exit_code, "at character 9" in result.stderr, "--yes" in result.stderr) == (4, True, False)


# --- dead letters -------------------------------------------------------------------------------------------------------------


def dead(task_id="t-1", **fields):
    task = task_pb2.Task(task_id=task_id, task_type="mail", state="TASK_STATE_FAILED", attempt=4, run=1, **fields)
    task.last_failure.CopyFrom(common_pb2.Failure(kind="FAILURE_KIND_APPLICATION", type="OSError", message="no route"))
    task.last_failure.stack_trace = 'File "mail.py", line 3\n'
    task.end_time.seconds = 1_700_000_000
    return task


def test_dead_letters_say_why_and_after_how_many_attempts(muster, client):
    second = dead("t-2")
    second.run = 2
    client.answers["list"] = [dead(), second]
    result = muster("dead-letters")
    for text in ("t-1", "mail", "4 in run 2", "application", "OSError: no route", "2023-11-1"):
        assert text in result.stdout
    assert client.calls[0][2]["filter"] == "state = FAILED"
    assert [json.loads(line)["task_id"] for line in muster("dead-letters", "--json").stdout.splitlines()] == ["t-1", "t-2"]
    assert "The latest 2" in muster("dead-letters", "--limit", "2").stdout
    client.answers["list"] = []
    assert muster("dead-letters").stdout == "No dead letters.\n"


def test_a_filter_narrows_them_and_keeps_its_places(muster, client):
    client.answers["list"] = []
    assert muster("dead-letters", "--filter", "task_type = mail OR task_type = fax").stdout == "No dead letter matches.\n"
    assert client.calls[0][2]["filter"] == "task_type = mail OR task_type = fax AND state = FAILED"


def test_one_is_shown_with_its_whole_history(muster, client):
    task = dead(spec=common_pb2.TaskSpec(payload=b"hello", content_type="text/plain"))
    task.create_time.seconds = 1_699_999_990
    for kind, reason in (("SUBMITTED", ""), ("ATTEMPT_STARTED", ""), ("ATTEMPT_FAILED", "")):
        entry = task.history.add(kind=f"TASK_HISTORY_KIND_{kind}", fence=5, attempt=1, reason=reason)
        entry.event_time.seconds = 1_699_999_990 + len(task.history)
    task.history[2].state = common_pb2.TASK_STATE_FAILED
    task.history[2].failure.CopyFrom(task.last_failure)
    client.answers["get"] = task
    result = muster("dead-letters", "t-1")
    for text in ("hello", 'File "mail.py", line 3', "attempt 1", "no tries left", "OSError: no route"):
        assert text in result.stdout
    record = json.loads(muster("dead-letters", "t-1", "--json").stdout)
    assert (record["spec"]["payload"], len(record["history"])) == ("hello", 3)


def test_one_that_has_not_failed_is_no_dead_letter(muster, client):
    client.answers["get"] = task_pb2.Task(task_id="t-1", state="TASK_STATE_COMPLETED")
    result = muster("dead-letters", "t-1")
    assert (result.exit_code, "it is completed" in result.stderr) == (1, True)
    assert muster("dead-letters", "t-1", "--filter", "state = FAILED").exit_code == 2


def test_a_history_tells_of_redrives_and_priorities_in_their_order(muster, client):
    task = task_pb2.Task(task_id="t-1", state="TASK_STATE_RUNNING", run=2, fence=9)
    moments = [("SUBMITTED", 0), ("REPRIORITISED", 5), ("CANCEL_REQUESTED", 9), ("REDRIVEN", 20), ("ATTEMPT_STARTED", 23)]
    for kind, after_s in moments:
        entry = task.history.add(kind=f"TASK_HISTORY_KIND_{kind}", fence=9, attempt=1, run=2, reason=f"why {kind}", priority=4)
        entry.event_time.seconds = 1_700_000_000 + after_s
    task.history[2].state = common_pb2.TASK_STATE_CANCELLED
    task.create_time.seconds = 1_700_000_000
    client.answers["get"] = task
    shown = muster("history", "t-1").stdout
    rows = ("waited", "priority critical", "cancelled", "redriven: run 2", "waited", "attempt 1")
    places, start = [], 0
    for text in rows:
        start = shown.index(text, start) + 1
        places.append(start)
    assert places == sorted(places)
    assert "why REDRIVEN" in shown
    assert "3.0 s" in shown


# --- a terminal ---------------------------------------------------------------------------------------------------------------


AT_TERMINAL = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C there is a signal
from agent_node.cli.__main__ import main
main()
"""


@pytest.mark.parametrize("answer,code,left", [(b"y\n", 0, 0), (b"\n", 1, 2), (b"\x04", 1, 2), (b"\x03", 130, 2)])
async def test_a_person_is_asked_at_a_terminal(answer, code, left):
    """y, Enter, Ctrl-D and Ctrl-C."""
    async with local_coordinator() as address, Client(address) as client:
        for number in range(2):
            await client.submit("nobody", task_id=f"t-{number}", want_result=False)
        controller, far_end = pty.openpty()
        command = [sys.executable, "-c", AT_TERMINAL, "cancel", "--all", "--address", address]
        with subprocess.Popen(command, stdin=far_end, stdout=subprocess.PIPE, stderr=far_end, start_new_session=True) as process:
            os.close(far_end)
            os.set_blocking(controller, False)
            said = bytearray()

            def is_asked():
                with contextlib.suppress(OSError):
                    said.extend(os.read(controller, 65536))
                return b"Cancel 2 tasks? [y/N]" in said

            await eventually(is_asked, within_s=30, message="the question")
            os.write(controller, answer)
            await eventually(lambda: process.poll() is not None, within_s=30, message="the command to end")
        os.close(controller)
        assert process.returncode == code
        assert (await client.queue_stats()).pending == left
