"""`muster history`: a task's life as a timeline, and as JSON."""

import json

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from muster.v1 import common_pb2, task_pb2

from agent_node.cli.timeline import rows_of

BEGAN_S = 1_700_000_000


def at(seconds):
    stamp = Timestamp()
    stamp.FromMilliseconds(round((BEGAN_S + seconds) * 1000))
    return stamp


def entry(kind, seconds, attempt=0, *, state="RUNNING", **fields):
    return task_pb2.TaskHistoryEntry(
        kind=f"TASK_HISTORY_KIND_{kind}",
        event_time=at(seconds),
        state=f"TASK_STATE_{state}",
        run=1,
        attempt=attempt,
        fence=attempt,
        agent_name=f"a{attempt}" if attempt else "",
        **fields,
    )


def a_task(*entries, state="RUNNING", read_s=20.0, **fields):
    history = [entry("SUBMITTED", 0, state="PENDING"), *entries]
    return task_pb2.Task(
        task_id="t-1",
        task_type="summarise",
        state=f"TASK_STATE_{state}",
        create_time=at(0),
        read_time=at(read_s),
        fence=max(one.fence for one in history),
        history=history,
        **fields,
    )


BROKE = common_pb2.Failure(kind="FAILURE_KIND_APPLICATION", type="ValueError", message="[red]no paper")
LOST = common_pb2.Failure(kind="FAILURE_KIND_LEASE_LOST", message="agent a2 went away")
FAILED_ONCE = [
    entry("ATTEMPT_STARTED", 1.2, 1),
    entry("ATTEMPT_FAILED", 1.54, 1, state="RETRYING", failure=BROKE, cost="ATTEMPT_COST_RETRY", ready_time=at(3.54)),
]


def told(task):
    """What the rows say, with when and for how long in seconds."""
    rows = []
    for row in rows_of(task):
        start_s = row.start.ToMilliseconds() / 1000 - BEGAN_S
        took_s = None if row.end is None else round(row.end.ToMilliseconds() / 1000 - BEGAN_S - start_s, 3)
        rows.append((round(start_s, 3), took_s, row.what, row.how.plain))
    return rows


WAITED = (0, 1.2, "waited", "")
BROKEN = (1.2, 0.34, "attempt 1 on a1", "failed: ValueError: [red]no paper; costs a retry")


def test_a_running_task_is_told_up_to_now():
    task = a_task(*FAILED_ONCE, entry("ATTEMPT_STARTED", 4, 2), progress=common_pb2.Progress(current=4, total=10, message="page 4"))
    assert told(task) == [
        WAITED,
        BROKEN,
        (1.54, 2.46, "waited", "2.0 s of it as backoff"),
        (4, 16, "attempt 2 on a2", "running, 40 % page 4"),
    ]


def test_a_delay_is_told_as_part_of_the_wait():
    task = a_task(entry("ATTEMPT_STARTED", 4, 1))
    task.history[0].ready_time.CopyFrom(at(3))
    assert told(task)[0] == (0, 4, "waited", "3.0 s of it delayed")


@pytest.mark.parametrize("delivered,words", [(False, "running, not yet told to stop"), (True, "running, told to stop")])
def test_a_cancel_that_has_not_ended_a_task_shows_where_it_is(delivered, words):
    task = a_task(
        entry("ATTEMPT_STARTED", 0, 1),
        entry("CANCEL_REQUESTED", 5, 1, reason="too late"),
        cancel_requested=True,
        cancel_delivered=delivered,
    )
    assert told(task) == [(0, 20, "attempt 1 on a1", words), (5, None, "cancel requested", "too late")]


def test_a_waiting_task_says_why_and_until_when():
    waits_for = task_pb2.WaitReason(message="its backoff hasn't ended", until_time=at(23.5))
    task = a_task(*FAILED_ONCE, state="RETRYING", waits_for=waits_for)
    assert told(task)[2:] == [(1.54, 18.46, "waits", "its backoff hasn't ended, for another 3.5 s")]


@pytest.mark.parametrize(
    "end,how",
    [
        (entry("ATTEMPT_SUCCEEDED", 9, 1, state="COMPLETED"), "succeeded"),
        (entry("ATTEMPT_FAILED", 9, 1, state="FAILED", failure=BROKE), "failed: ValueError: [red]no paper; no tries left"),
        (
            entry("ATTEMPT_FAILED", 9, 1, state="FAILED", failure=common_pb2.Failure(type="E", message="m", non_retryable=True)),
            "failed: E: m; not to be retried",
        ),
        (entry("ATTEMPT_FAILED", 9, 1, state="CANCELLED", failure=BROKE), "failed: ValueError: [red]no paper; cancelled"),
        (
            entry("ATTEMPT_FAILED", 9, 1, state="RETRYING", failure=LOST, cost="ATTEMPT_COST_CRASH"),
            "failed: lease lost: agent a2 went away; counts as a crash",
        ),
        (
            entry("ATTEMPT_RETURNED", 9, 1, state="PENDING", reason="never arrived", cost="ATTEMPT_COST_DELIVERY"),
            "returned: never arrived; counts as a delivery",
        ),
        (entry("ATTEMPT_RETURNED", 9, 1, state="PENDING", cost="ATTEMPT_COST_NONE"), "returned; costs nothing"),
    ],
)
def test_how_an_attempt_ended(end, how):
    state = common_pb2.TaskState.Name(end.state).removeprefix("TASK_STATE_")
    assert told(a_task(entry("ATTEMPT_STARTED", 0, 1), end, state=state))[0] == (0, 9, "attempt 1 on a1", how)


def test_what_happens_between():
    task = a_task(
        entry("ATTEMPT_STARTED", 0, 1),
        entry("CHECKPOINTS_STORED", 3, 1, checkpoints=1),
        entry("CHECKPOINTS_STORED", 5, 1, checkpoints=7),
        entry("ATTEMPT_RETURNED", 6, 1, state="PENDING", reason="draining"),
        entry("CANCEL_REQUESTED", 8, state="CANCELLED", reason="too late"),
        state="CANCELLED",
        end_time=at(8),
    )
    assert told(task)[1:] == [
        (3, None, "checkpoint", ""),
        (5, None, "7 checkpoints, the last", ""),
        (6, 2, "waited", ""),
        (8, None, "cancelled", "too late"),
    ]


def test_a_task_that_was_given_up_while_it_waited():
    task = a_task(entry("GIVEN_UP", 8, state="FAILED", failure=LOST), state="FAILED", end_time=at(8))
    assert told(task) == [(0, 8, "waited", ""), (8, None, "given up", "lease lost: agent a2 went away")]


def test_what_is_left_out_is_said_and_nothing_is_made_up_for_it():
    task = a_task(*FAILED_ONCE, entry("ATTEMPT_STARTED", 15, 9, omitted=7))
    assert told(task)[2:] == [(15, None, "…", "7 entries before this one are not kept"), (15, 5, "attempt 9 on a9", "running")]


def test_a_kind_of_a_newer_coordinator_shows_its_state():
    newer = entry("SUBMITTED", 5, state="PENDING")
    newer.kind = 99
    assert told(a_task(newer, state="PENDING"))[0] == (5, None, "pending", "")


def test_the_timeline_as_it_is_printed(muster, client):
    client.answers["get"] = a_task(*FAILED_ONCE, entry("ATTEMPT_STARTED", 4, 2), max_retries=3, retry_count=1)
    result = muster("history", "t-1")
    assert result.exit_code == 0
    assert client.calls == [("get", ("t-1",), {"full": True})]
    for expected in ("t-1", "running, after 20.0 s so far", "1 of 3", "340 ms", "attempt 1 on a1", "[red]no paper", "16.0 s"):
        assert expected in result.stdout


def test_json_is_the_task_with_its_history_and_without_what_it_carries(muster, client):
    carried = {"spec": common_pb2.TaskSpec(payload=b"secret"), "outcome": common_pb2.Outcome(), "checkpoint": b"secret"}
    client.answers["get"] = a_task(*FAILED_ONCE, **carried)
    record = json.loads(muster("history", "t-1", "--json").stdout)
    assert record["task_id"] == "t-1"
    assert not carried.keys() & record.keys()
    assert [one["kind"] for one in record["history"]] == [
        "TASK_HISTORY_KIND_SUBMITTED",
        "TASK_HISTORY_KIND_ATTEMPT_STARTED",
        "TASK_HISTORY_KIND_ATTEMPT_FAILED",
    ]
    assert record["history"][2]["failure"]["message"] == "[red]no paper"
    assert record["history"][2]["cost"] == "ATTEMPT_COST_RETRY"
    assert record["read_time"]
