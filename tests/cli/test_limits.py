"""`muster limits`."""

import json

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from muster.v1 import admin_pb2, policy_pb2

RUNNING = policy_pb2.Policy(
    concurrency_limit=policy_pb2.ConcurrencyLimitPolicy(
        concurrency_key="user:*", max_running=2, when_full=policy_pb2.WHEN_FULL_CANCEL_OLDEST
    )
)
STARTS = policy_pb2.Policy(
    rate_limit=policy_pb2.RateLimitPolicy(task_type="work", count=500, period=Duration(seconds=1, nanos=500_000_000))
)


def test_they_are_listed_with_their_use(muster, client):
    client.answers["limits"] = [
        admin_pb2.LimitUse(policy=RUNNING, key="user:7", running=2, waiting=31),
        admin_pb2.LimitUse(policy=STARTS, key="work", started=499, next_time=Timestamp(seconds=1)),
    ]
    shown = muster("limits", "list").stdout
    for part in ("user:*", "user:7", "2 running", "cancel-oldest", "31", "task_type=work", "500 in 1.5 s", "499"):
        assert part in shown
    record = json.loads(muster("limits", "list", "--json").stdout.splitlines()[0])
    assert (record["key"], record["running"]) == ("user:7", 2)
    client.answers["limits"] = []
    assert muster("limits", "list").stdout == "No limits.\n"


def test_they_are_set(muster, client):
    client.answers["set_policies"] = [RUNNING]
    assert "2 running" in muster("limits", "set", "user:*", "--running", "2", "--when-full", "cancel-oldest").stdout
    assert client.calls[-1] == ("set_policies", ([RUNNING],), {})
    client.answers["set_policies"] = [STARTS]
    assert "500 in 1.5 s" in muster("limits", "set", "task_type=work", "--starts", "500", "--period", "1.5").stdout
    assert client.calls[-1] == ("set_policies", ([STARTS],), {})


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        ("--running", "1", "--starts", "1", "--period", "1"),
        ("--starts", "1"),
        ("--period", "1"),
        ("--starts", "1", "--period", "1", "--when-full", "reject"),
        ("--starts", "1", "--period", "0"),
        ("--starts", "1", "--period", "nan"),
        ("--running", "-1"),
    ],
)
def test_what_is_no_limit_is_told(muster, client, wrong):
    assert muster("limits", "set", "key", *wrong).exit_code == 2
    assert not client.calls


def test_one_is_deleted(muster, client):
    name = policy_pb2.PolicyName(kind=policy_pb2.POLICY_KIND_CONCURRENCY_LIMIT, key="gpu")
    client.answers["delete_policies"] = [name]
    assert muster("limits", "delete", "concurrency", "gpu").exit_code == 0
    assert client.calls[-1] == ("delete_policies", ([name],), {})
