import json

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from muster.v1 import admin_pb2, agent_pb2, common_pb2, task_pb2

from agent_node.client.watch import WatchedEvent
from agent_node.errors import LimitError, NotFoundError, UnavailableError


def a_task(task_id="t-1", state="COMPLETED", **fields):
    return task_pb2.Task(
        task_id=task_id,
        task_type="summarise",
        state=f"TASK_STATE_{state}",
        priority="PRIORITY_HIGH",
        agent_name="writer-1",
        attempt=1,
        run=1,
        max_retries=3,
        create_time=Timestamp(seconds=1_700_000_000),
        **fields,
    )


def lines(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


# --- the shared options ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments,env,expected",
    [
        (["agents"], {}, ("127.0.0.1:7450", "default")),
        (["agents"], {"MUSTER_ADDRESS": "a:1", "MUSTER_NAMESPACE": "blue"}, ("a:1", "blue")),
        (["--address", "b:2", "--namespace", "red", "agents"], {"MUSTER_ADDRESS": "a:1"}, ("b:2", "red")),
        (["--address", "b:2", "agents", "--address", "c:3"], {}, ("c:3", "default")),
    ],
)
def test_where_the_coordinator_is_said_to_be(muster, client, arguments, env, expected):
    client.answers["agents"] = []
    result = muster(*arguments, env=env)
    assert result.exit_code == 0, result.output
    assert (client.invocation.coordinator_address, client.invocation.namespace) == expected


@pytest.mark.parametrize("arguments", [["--json", "namespaces", "list"], ["namespaces", "list", "--json"]])
def test_json_is_asked_for_before_or_after_the_command(muster, client, arguments):
    client.answers["namespaces"] = [admin_pb2.Namespace(name="default", shard=3)]
    assert lines(muster(*arguments)) == [{"name": "default", "shard": 3}]


@pytest.mark.parametrize(
    "error,code,words",
    [
        (UnavailableError("failed to connect"), 5, "no coordinator answers on 127.0.0.1:7450"),
        (NotFoundError("task t-1 is not known", reason="TASK_NOT_FOUND"), 3, "task t-1 is not known."),
        (LimitError("too many", reason="RATE", retry_after_s=1.0), 4, "try again in 1 s"),
        (ExceptionGroup("", [UnavailableError("failed to connect")]), 5, "no coordinator answers"),
    ],
)
def test_an_error_is_one_sentence_on_stderr_and_a_code(muster, client, error, code, words):
    client.answers["get"] = error
    result = muster("get", "t-1")
    assert result.exit_code == code
    assert result.stdout == ""
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_bug_is_said_to_be_one_without_a_traceback(muster, client, monkeypatch):
    monkeypatch.delenv("MUSTER_DEBUG", raising=False)
    client.answers["get"] = KeyError("oops")
    result = muster("get", "t-1")
    assert result.exit_code == 70
    assert "this is a bug of muster: KeyError" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_interrupt_ends_quietly(muster, client):
    client.answers["get"] = KeyboardInterrupt()
    result = muster("get", "t-1")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "")


@pytest.mark.parametrize("arguments", [["no-such-command"], ["get"], ["list", "--limit", "-1"], ["submit", "x", "--priority", "urgent"]])
def test_wrong_usage_is_exit_code_2(muster, arguments):
    assert muster(*arguments).exit_code == 2


# --- get, list, watch, cancel, explain --------------------------------------------------------------------------------------------------


def test_get_shows_payload_result_and_failure(muster, client):
    client.answers["get"] = a_task(
        state="FAILED",
        spec=common_pb2.TaskSpec(payload=b"[bold]hello[/bold]", content_type="text/plain"),
        last_failure=common_pb2.Failure(kind="FAILURE_KIND_APPLICATION", type="ValueError", message="no paper"),
    )
    result = muster("get", "t-1")
    assert result.exit_code == 0
    for expected in ("t-1", "failed", "high", "[bold]hello[/bold]", "ValueError: no paper", "0 of 3"):
        assert expected in result.stdout


def test_get_with_json_decodes_payload_and_result(muster, client):
    success = common_pb2.Success(payload=b"{}", content_type="application/json")
    client.answers["get"] = a_task(
        spec=common_pb2.TaskSpec(payload=b"hi", content_type="text/plain"), outcome=common_pb2.Outcome(success=success), fence=2**60
    )
    [record] = lines(muster("get", "t-1", "--json"))
    assert record["state"] == "TASK_STATE_COMPLETED"
    assert record["spec"]["payload"] == "hi"
    assert record["outcome"]["success"] == {"content_type": "application/json", "payload": {}}
    assert record["fence"] == str(2**60)
    assert record["retry_count"] == 0  # defaults are printed too


def test_list_stops_at_the_limit(muster, client):
    client.answers["list"] = (a_task(f"t-{number}") for number in range(10))
    result = muster("list", "--limit", "3", "--filter", "state = RUNNING", "--json")
    assert [record["task_id"] for record in lines(result)] == ["t-0", "t-1", "t-2"]
    assert client.calls[0][2] == {"filter": "state = RUNNING", "page_size": 3}


def test_list_is_a_table_that_keeps_long_ids_whole(muster, client):
    long_id = "x" * 90
    client.answers["list"] = [a_task(long_id, "RUNNING", progress=common_pb2.Progress(current=3, total=8, message="page 3"))]
    result = muster("list")
    assert long_id in result.stdout
    assert "38 % page 3" in result.stdout
    assert "more" not in result.stdout


def test_an_empty_list_says_so(muster, client):
    client.answers["list"] = []
    assert muster("list").stdout == "No tasks.\n"
    assert muster("list", "--json").stdout == ""


@pytest.mark.parametrize("arguments", [[], ["t-1", "--filter", "state = RUNNING"]])
def test_watch_wants_ids_or_a_filter(muster, client, arguments):
    assert muster("watch", *arguments).exit_code == 2


def watched(**event):
    return WatchedEvent(task_pb2.TaskEvent(task_id="t-1", event_time=Timestamp(seconds=1_700_000_000), **event), "cursor")


@pytest.mark.parametrize(
    "events,code",
    [
        ([watched(task=a_task(state="RUNNING")), watched(task=a_task(state="COMPLETED"))], 0),
        ([watched(task=a_task(state="FAILED")), watched(task=a_task(state="COMPLETED"))], 1),
        ([watched(missing=common_pb2.Refusal(code=5, message="t-1 is not known")), watched(task=a_task(state="CANCELLED"))], 3),
    ],
)
def test_watch_ends_with_the_worst_of_its_tasks(muster, client, events, code):
    client.answers["watch"] = events
    assert muster("watch", "t-1").exit_code == code


def test_watch_prints_a_line_for_each_event(muster, client):
    client.answers["watch"] = [
        watched(task=a_task(state="RUNNING")),
        watched(progress=common_pb2.Progress(current=1, total=4)),
        watched(chunk=task_pb2.TaskChunk(attempt=1, data=b"some output")),
        watched(missing=common_pb2.Refusal(message="t-1 is not known")),
    ]
    shown = muster("watch", "t-1", "--chunks").stdout.splitlines()
    assert [line.split("t-1 ", 1)[1].strip() for line in shown] == [
        "running on writer-1, attempt 1",
        "progress 25 %",
        "some output",
        "t-1 is not known",
    ]
    _, arguments, options = client.calls[0]
    assert (arguments, options["chunks"], options["progress"]) == ((["t-1"],), True, True)


def test_watch_says_on_stderr_that_it_connects_again(muster, client, capsys):
    client.answers["watch"] = [watched(task=a_task(state="COMPLETED"))]
    assert muster("watch", "t-1").stderr == ""
    client.calls[-1][2]["on_break"](UnavailableError("the watch broke: \x1b[2Jno route"))
    said = capsys.readouterr().err
    assert said.startswith("muster: the watch broke: ")
    assert said.endswith("no route; connecting again.\n")
    assert "\x1b" not in said


def test_watch_of_everything_with_json(muster, client):
    client.answers["watch"] = [watched(chunk=task_pb2.TaskChunk(attempt=1, offset=4, data=b"x")), watched(task=a_task(state="FAILED"))]
    chunk, task = lines(muster("watch", "--filter", "", "--json"))
    assert chunk["chunk"] == {"attempt": 1, "offset": "4", "data": "x"}
    assert task["task"]["state"] == "TASK_STATE_FAILED"
    assert client.calls[0][2]["filter"] == 'task_id = "*"'


def test_a_watch_that_missed_changes_says_so_on_stderr(muster, client):
    client.answers["watch"] = [WatchedEvent(task_pb2.TaskEvent(task_id="t-1", task=a_task()), "c", compacted=True)]
    assert "changes were missed" in muster("watch", "t-1").stderr


@pytest.mark.parametrize(
    "verdicts,code",
    [(["CANCELLED", "REQUESTED"], 0), (["CANCELLED", "ALREADY_ENDED"], 1), (["NOT_FOUND", "ALREADY_ENDED", "CANCELLED"], 3)],
)
def test_cancel_ends_with_the_worst_verdict(muster, client, verdicts, code):
    client.answers["cancel"] = [
        task_pb2.CancelledTask(task_id=f"t-{place}", verdict=f"CANCEL_VERDICT_{verdict}") for place, verdict in enumerate(verdicts)
    ]
    result = muster("cancel", *[f"t-{place}" for place in range(len(verdicts))], "--reason", "enough")
    assert result.exit_code == code
    assert verdicts[0].lower().replace("_", " ") in result.stdout
    assert client.calls[0][1][1] == "enough"


def test_cancel_asks_in_batches(muster, client):
    client.answers["cancel"] = lambda ids, _reason: [task_pb2.CancelledTask(task_id=task_id, verdict=1) for task_id in ids]
    result = muster("cancel", *[f"t-{number}" for number in range(2_300)], "--json")
    assert [len(arguments[0]) for _, arguments, _ in client.calls] == [1000, 1000, 300]
    assert len(lines(result)) == 2_300


def test_explain_names_what_rules_each_agent_out(muster, client):
    full = task_pb2.RuledOut(kind="RULED_OUT_KIND_AT_CAPACITY", message="10 of 10 slots in use")
    client.answers["explain"] = task_pb2.ExplainTaskResponse(
        task=a_task(state="PENDING"),
        ahead=4,
        summary="Every capable agent is full.",
        agents=[task_pb2.AgentVerdict(agent_name="writer-1", ruled_out=[full], running=10, max_concurrent_tasks=10)],
    )
    result = muster("explain", "t-1")
    for expected in ("Every capable agent is full.", "4 tasks", "writer-1", "10/10", "no", "10 of 10 slots in use"):
        assert expected in result.stdout
    [record] = lines(muster("explain", "t-1", "--json"))
    assert record["agents"][0]["ruled_out"][0]["kind"] == "RULED_OUT_KIND_AT_CAPACITY"


# --- agents, drain, stats, namespaces ---------------------------------------------------------------------------------------------------


AGENT = agent_pb2.AgentInfo(
    agent_name="writer-1",
    state="AGENT_STATE_CONNECTED",
    capabilities=[agent_pb2.Capability(task_type="summarise")],
    labels={"zone": "a"},
    max_concurrent_tasks=10,
    running=2,
    loop_lag=Duration(nanos=3_000_000),
    sdk="muster-python/0.1.0",
)


def test_agents_are_a_table_or_lines(muster, client):
    client.answers["agents"] = [AGENT]
    result = muster("agents")
    for expected in ("writer-1", "connected", "2/10", "summarise", "zone=a", "3 ms", "muster-python/0.1.0"):
        assert expected in result.stdout
    assert [record["agent_name"] for record in lines(muster("agents", "--json"))] == ["writer-1"]


def test_no_agents_says_how_to_start_one(muster, client):
    client.answers["agents"] = []
    assert "muster-agent" in muster("agents").stdout


def test_drain_says_what_is_left(muster, client):
    client.answers["drain_agent"] = agent_pb2.DrainAgentResponse(agent=AGENT)
    result = muster("drain", "writer-1", "--deadline", "5", "--reason", "deploy")
    assert result.stdout == "writer-1 is draining, with 2 tasks to finish within 5 s.\n"
    assert client.calls == [("drain_agent", ("writer-1",), {"deadline_s": 5.0, "reason": "deploy"})]


def test_stats_show_queues_and_totals(muster, client):
    queue = admin_pb2.QueueStats(
        task_type="summarise", priority="PRIORITY_LOW", ready=7, oldest_wait=Duration(seconds=200), waits_for="no capable agent"
    )
    client.answers["queue_stats"] = admin_pb2.GetQueueStatsResponse(queues=[queue], pending=7, completed_total=3, max_live_tasks=1_000)
    client.answers["load_map"] = admin_pb2.GetLoadMapResponse(agents=[AGENT], capacity=10, running=2)
    client.answers["coordinator"] = admin_pb2.GetCoordinatorResponse(version="0.1.0", store="embedded valkey 9.1.2", store_available=False)
    result = muster("stats")
    for expected in ("7 of 1000", "3 completed", "no capable agent", "3 min 20 s", "1 connected, 2 of 10", "(not answering)"):
        assert expected in result.stdout
    [record] = lines(muster("stats", "--json"))
    assert record["coordinator"]["version"] == "0.1.0"
    assert record["load"] == {"capacity": "10", "running": "2"}
    assert record["queues"][0]["ready"] == "7"
    assert "webhooks" not in result.stdout
    client.answers["queue_stats"].webhooks_given_up = 2
    assert "0 wait, 2 given up" in muster("stats").stdout


def test_a_namespace_is_created(muster, client):
    client.answers["create_namespace"] = admin_pb2.Namespace(name="blue", shard=4)
    assert muster("namespaces", "create", "blue").stdout == "Namespace blue is there, in shard 4.\n"


def test_an_ended_task_no_longer_says_that_its_cancel_was_requested(muster, client):
    client.answers["get"] = a_task(state="CANCELLED", cancel_requested=True)
    assert "requested" not in muster("get", "t-1").stdout
    client.answers["get"] = a_task(state="RUNNING", cancel_requested=True)
    assert "cancel requested" in muster("get", "t-1").stdout


def test_facts_that_are_not_there_yet_are_left_out(muster, client):
    client.answers["get"] = a_task(state="PENDING")
    shown = muster("get", "t-1").stdout
    assert "created" in shown
    assert "started" not in shown
    assert "ended" not in shown


@pytest.mark.parametrize("command", [("get", "t-1"), ("list",)])
def test_control_characters_do_not_reach_the_terminal(muster, client, command):
    task = task_pb2.Task(task_id="t-1", task_type="work", state=common_pb2.TASK_STATE_FAILED)
    task.last_failure.message = "first\nsecond \x1b[2J"
    client.answers |= {"get": task, "list": [task]}
    result = muster(*command)
    assert result.exit_code == 0
    assert "second [2J" in result.stdout
    assert "\x1b" not in result.stdout
