"""`muster queues` and `muster top`, on a scripted client."""

import json

from muster.v1 import admin_pb2, common_pb2

from agent_node.cli.queue_tables import queue_report, sparkline
from agent_node.cli.terminal import stdout_console

STATS = admin_pb2.GetQueueStatsResponse(
    pending=7,
    running=2,
    queues=[
        admin_pb2.QueueStats(task_type="llm.chat", priority=common_pb2.PRIORITY_HIGH, ready=7, running=2, waits_for="all agents are full")
    ],
)


def window(completed, *, start_s=60, **fields):
    one = admin_pb2.QueueWindow(completed=completed, started=completed, submitted=completed + 1, **fields)
    one.start_time.seconds = start_s
    one.length.seconds = 60
    one.wait.p50.nanos = 250_000_000
    one.wait.p99.seconds = 3
    return one


HISTORY = admin_pb2.GetQueueHistoryResponse(
    total=admin_pb2.QueueHistory(
        minute=window(120), five_minutes=window(500), hour=window(600), series=[window(10), window(600, start_s=240)]
    ),
    queues=[
        admin_pb2.QueueHistory(task_type="llm.chat", priority=common_pb2.PRIORITY_HIGH, minute=window(120, failed=3, retried=2)),
        admin_pb2.QueueHistory(task_type="llm.embed", priority=common_pb2.PRIORITY_LOW, minute=window(0)),
    ],
)


def scripted(client):
    client.answers["queue_stats"] = STATS
    client.answers["queue_history"] = HISTORY
    client.answers["policies"] = []


def test_queues_show_now_and_lately(muster, client):
    scripted(client)
    result = muster("queues")
    assert result.exit_code == 0
    for words in ("7 pending, 2 running", "llm.chat", "2", "250 ms / 3.0 s", "all agents are full", "llm.embed", "120 completed (2/s)"):
        assert words in result.stdout, words


def test_one_type_is_shown_minute_by_minute(muster, client):
    scripted(client)
    result = muster("queues", "--type", "llm.chat")
    assert ("queue_history", ("llm.chat",), {}) in client.calls
    assert "minute" in result.stdout
    assert "600" in result.stdout


def test_queues_as_json(muster, client):
    scripted(client)
    (line,) = muster("queues", "--json").stdout.splitlines()
    record = json.loads(line)
    assert record["stats"]["pending"] == "7"
    assert record["history"]["queues"][0]["minute"]["wait"]["p50"] == "0.250s"


def test_top_goes_on_for_so_many_rounds(muster, client):
    scripted(client)
    result = muster("top", "--rounds", "2", "--every", "0.2")
    assert (result.exit_code, result.stdout.count("last hour")) == (0, 2)
    assert len(muster("top", "--rounds", "2", "--every", "0.2", "--json").stdout.splitlines()) == 2


def test_a_line_of_bars_has_a_character_for_each_minute():
    assert sparkline([window(10), window(0, start_s=120), window(80, start_s=240)]) == "▁  █"[:1] + "  " + "█"
    assert sparkline([window(0)]) == " "


def test_what_does_not_fit_is_counted():
    console = stdout_console()
    with console.capture() as capture:
        console.print(queue_report(STATS, HISTORY, most_rows=1))
    assert "and 1 more" in capture.get()
    assert "llm.embed" not in capture.get()
