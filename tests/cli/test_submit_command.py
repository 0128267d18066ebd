import asyncio
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from agent_node.cli import submit_command
from agent_node.client.scheduling import Scheduling
from agent_node.client.tasks import Chunk, Priority, TaskOutput
from agent_node.errors import TaskCancelledError, TaskFailedError


@dataclass
class ScriptedHandle:
    task_id: str = "t-1"
    end: object = field(default_factory=lambda: TaskOutput(b'{"words": 3}', "application/json"))
    pieces: tuple = ()

    async def result(self, timeout_s=None):
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end

    async def chunks(self):
        offset = 0
        for piece in self.pieces:
            yield Chunk(1, offset, piece)
            offset += len(piece)


def lines(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_submit_prints_the_id_alone(muster, client):
    client.answers["submit"] = ScriptedHandle("t-9")
    result = muster("submit", "summarise", "hello", "--priority", "critical", "--max-retries", "0", "--run-timeout", "2.5")
    assert (result.exit_code, result.stdout) == (0, "t-9\n")
    [(_, arguments, options)] = client.calls
    assert arguments == ("summarise", b"hello")
    assert options == {
        "task_id": None,
        "content_type": "text/plain",
        "priority": Priority.CRITICAL,
        "max_retries": 0,
        "run_timeout_s": 2.5,
        "progress_timeout_s": None,
        "not_before": None,
        "delay_s": None,
        "queue_timeout_s": None,
        "deadline_s": None,
        "scheduling": None,
        "labels": {},
        "webhook": None,
        "want_result": False,
    }


def test_submit_gives_labels(muster, client):
    client.answers["submit"] = ScriptedHandle("t-9")
    assert muster("submit", "summarise", "--label", "team=red", "--label", "note=a=b", "--label", "empty=").exit_code == 0
    [(_, _, options)] = client.calls
    assert options["labels"] == {"team": "red", "note": "a=b", "empty": ""}


@pytest.mark.parametrize(
    "labels, says", [(["team"], "'team' is no label: write NAME=VALUE."), (["=red"], "is no label"), (["a=1", "a=2"], "given twice")]
)
def test_what_is_no_label_is_told(muster, client, labels, says):
    result = muster("submit", "summarise", *(word for label in labels for word in ("--label", label)))
    assert (result.exit_code, says in result.stderr, client.calls) == (2, True, [])


def test_submit_says_what_it_asks_of_the_scheduler(muster, client):
    client.answers["submit"] = ScriptedHandle("t-9")
    words = ["--key", "tenant", "--cost", "2.5", "--slots", "2", "--needs", "gpu=a,b", "--needs", "!spot"]
    words += ["--min-version", "3", "--sticky", "chat", "--concurrency-key", "user", "--rate-key", "api"]
    assert muster("submit", "summarise", "hello", *words).exit_code == 0
    [(_, _, options)] = client.calls
    assert options["scheduling"] == Scheduling(
        fairness_key="tenant",
        cost=2.5,
        slots=2,
        selectors=["gpu=a,b", "!spot"],
        min_version=3,
        sticky_key="chat",
        concurrency_key="user",
        rate_key="api",
    )


@pytest.mark.parametrize(
    "words, options",
    [
        (["--delay", "1.5", "--deadline", "60"], {"delay_s": 1.5, "deadline_s": 60.0}),
        (
            ["--not-before", "2027-01-31T09:00Z", "--queue-timeout", "5"],
            {"not_before": datetime(2027, 1, 31, 9, tzinfo=UTC), "queue_timeout_s": 5.0},
        ),
        (["--not-before", "2027-01-31 09:00"], {"not_before": datetime(2027, 1, 31, 9).astimezone()}),
    ],
)
def test_submit_says_when_it_is_to_run(muster, client, words, options):
    client.answers["submit"] = ScriptedHandle("t-9")
    assert muster("submit", "summarise", "hello", *words).exit_code == 0
    [(_, _, given)] = client.calls
    assert options.items() <= given.items()


@pytest.mark.parametrize(
    "words, says",
    [(["--not-before", "noon"], "is no date"), (["--not-before", "2027-01-31", "--delay", "1"], "not both"), (["--delay", "-1"], "")],
)
def test_submit_refuses_dates_that_are_none(muster, client, words, says):
    result = muster("submit", "summarise", "hello", *words)
    assert result.exit_code == 2
    assert says in result.stderr
    assert not client.calls


def test_submit_says_who_is_told(muster, client):
    client.answers["submit"] = ScriptedHandle("t-9")
    assert muster("submit", "summarise", "hello", "--webhook", "https://example.com/hook").exit_code == 0
    [(_, _, options)] = client.calls
    assert options["webhook"] == "https://example.com/hook"


@pytest.mark.parametrize("wrong", [("--needs", "=x"), ("--needs", "!a=b"), ("--needs", ""), ("--cost", "0"), ("--cost", "nan")])
def test_submit_refuses_what_makes_no_sense(muster, client, wrong):
    result = muster("submit", "summarise", "hello", *wrong)
    assert result.exit_code == 2
    assert not client.calls


@pytest.mark.parametrize("flag", ["--delay", "--deadline", "--queue-timeout", "--run-timeout", "--timeout", "--cost"])
def test_a_number_that_is_none_is_told_by_its_flag(muster, client, flag):
    result = muster("submit", "summarise", "hello", flag, "nan")
    assert (result.exit_code, flag in result.stderr) == (2, True)
    assert not client.calls


def test_submit_with_json_prints_an_object(muster, client):
    client.answers["submit"] = ScriptedHandle("t-9")
    assert lines(muster("submit", "x", "--json")) == [{"task_id": "t-9"}]


@pytest.mark.parametrize("arguments", [["-"], ["--file", "-"]])
def test_submit_reads_stdin(muster, client, arguments):
    client.answers["submit"] = ScriptedHandle()
    assert muster("submit", "x", *arguments, stdin=b"\xff\x00").exit_code == 0
    assert client.calls[0][1] == ("x", b"\xff\x00")
    assert client.calls[0][2]["content_type"] == "application/octet-stream"


def test_submit_reads_a_file(muster, client, tmp_path):
    (tmp_path / "in.json").write_bytes(b"[1]")
    client.answers["submit"] = ScriptedHandle()
    assert muster("submit", "x", "--file", str(tmp_path / "in.json")).exit_code == 0
    assert client.calls[0][1] == ("x", b"[1]")
    assert client.calls[0][2]["content_type"] == "application/json"


def test_submit_of_a_file_that_is_not_there_is_wrong_usage(muster, client):
    result = muster("submit", "x", "--file", "no-such-file")
    assert result.exit_code == 2
    assert "no-such-file" in result.stderr
    assert client.calls == []


def test_submit_takes_one_payload_only(muster, client, tmp_path):
    result = muster("submit", "x", "payload", "--file", str(tmp_path))
    assert result.exit_code == 2
    assert "not both" in result.stderr


def test_submit_and_wait_prints_the_result_as_it_is(muster, client):
    client.answers["submit"] = ScriptedHandle(end=TaskOutput(b"\xff\x00", ""))
    result = muster("submit", "x", "--wait")
    assert result.exit_code == 0
    assert result.stdout_bytes == b"\xff\x00"
    assert client.calls[0][2]["want_result"] is True


def test_submit_and_wait_with_json(muster, client):
    client.answers["submit"] = ScriptedHandle()
    assert lines(muster("submit", "x", "--wait", "--json")) == [
        {"task_id": "t-1", "state": "TASK_STATE_COMPLETED", "content_type": "application/json", "payload": {"words": 3}}
    ]


@pytest.mark.parametrize(
    "end,record",
    [
        (
            TaskFailedError("t-1", "no paper", kind="APPLICATION", error_type="ValueError"),
            {
                "task_id": "t-1",
                "state": "TASK_STATE_FAILED",
                "failure": {"kind": "APPLICATION", "message": "no paper", "type": "ValueError", "stack_trace": ""},
            },
        ),
        (TaskCancelledError("t-1", "enough"), {"task_id": "t-1", "state": "TASK_STATE_CANCELLED", "reason": "enough"}),
    ],
)
@pytest.mark.parametrize("follow", ["--wait", "--stream"])
def test_a_task_that_does_not_complete_is_exit_code_1(muster, client, end, record, follow):
    client.answers["submit"] = ScriptedHandle(end=end)
    result = muster("submit", "x", follow)
    assert result.exit_code == 1
    assert str(end) in result.stderr
    assert lines(muster("submit", "x", follow, "--json")) == [record]


def test_submit_and_stream_prints_the_output_once(muster, client):
    client.answers["submit"] = ScriptedHandle(pieces=(b"Once ", b"upon"), end=TaskOutput(b"Once upon", "text/plain"))
    assert muster("submit", "x", "--stream").stdout == "Once upon"


def test_submit_and_stream_prints_the_result_when_nothing_was_streamed(muster, client):
    client.answers["submit"] = ScriptedHandle(end=TaskOutput(b"the result", "text/plain"))
    assert muster("submit", "x", "--stream").stdout == "the result"


def test_submit_and_stream_with_json_ends_with_the_result(muster, client):
    client.answers["submit"] = ScriptedHandle(pieces=(b"a", b"\xff"))
    first, second, last = lines(muster("submit", "x", "--stream", "--json"))
    assert first == {"task_id": "t-1", "chunk": {"attempt": 1, "offset": "0", "data": "a"}}
    assert second == {"task_id": "t-1", "chunk": {"attempt": 1, "offset": "1", "data_base64": "/w=="}}
    assert last["payload"] == {"words": 3}


def test_a_wait_that_takes_too_long_says_how_to_go_on(muster, client):
    handle = ScriptedHandle(end=TimeoutError())
    client.answers["submit"] = handle
    result = muster("submit", "x", "--wait", "--timeout", "0")
    assert result.exit_code == 6, "a script can tell it from a task that failed"
    assert "muster watch t-1" in result.stderr


def test_a_submit_that_nobody_acknowledges_is_bounded_too_and_says_why_it_hangs(muster, client, monkeypatch):
    async def never(*_args, **_options):
        await asyncio.Event().wait()

    monkeypatch.setattr(submit_command, "PATIENCE_S", 0.0)
    monkeypatch.setattr(type(client), "submit", never, raising=False)
    result = muster("submit", "x", "--timeout", "0.05")
    assert (result.exit_code, result.stdout) == (6, "")
    hint, sentence = result.stderr.splitlines()
    assert hint.startswith("The coordinator has not taken the task yet")
    assert sentence.startswith("muster: the task was not acknowledged within 0.05 s, and may be taken all the same")


def test_an_argument_that_is_no_text_is_wrong_usage(muster, client):
    client.answers["submit"] = lambda task_type, payload: task_type.encode()
    result = muster("submit", "caf\udce9")
    assert (result.exit_code, result.stderr.splitlines()) == (
        2,
        ["muster: an argument isn't UTF-8 text; only a payload may be anything, from --file or stdin too."],
    )


def test_what_an_agent_said_cannot_steer_the_terminal(muster, client):
    client.answers["submit"] = ScriptedHandle(end=TaskFailedError("t-1", "\x1b]0;mine\x07\x9b2J no", kind="APPLICATION"))
    result = muster("submit", "work", "--wait")
    assert result.stderr.endswith(" failed: ]0;mine2J no.\n")
