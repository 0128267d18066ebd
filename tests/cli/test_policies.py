"""`muster policies`."""

import json

from muster.v1 import common_pb2, policy_pb2

WEIGHT = policy_pb2.Policy(weight=policy_pb2.WeightPolicy(fairness_key="team", weight=2.5))
NAME = policy_pb2.PolicyName(kind=policy_pb2.POLICY_KIND_WEIGHT, key="team")


def test_they_are_listed(muster, client):
    client.answers["policies"] = [WEIGHT]
    shown = muster("policies", "list").stdout
    assert "team" in shown
    assert "weight 2.5" in shown
    record = json.loads(muster("policies", "list", "--kind", "weight", "--json").stdout)
    assert record["weight"] == {"fairness_key": "team", "weight": 2.5}
    assert client.calls[-1] == ("policies", (policy_pb2.POLICY_KIND_WEIGHT,), {})
    client.answers["policies"] = []
    assert muster("policies", "list").stdout == "No policies.\n"


def test_a_weight_is_set(muster, client):
    client.answers["set_policies"] = [WEIGHT]
    assert "weight 2.5" in muster("policies", "weight", "team", "2.5").stdout
    assert client.calls[-1] == ("set_policies", ([WEIGHT],), {})


def test_a_type_s_retries_are_set(muster, client):
    retry = common_pb2.RetryPolicy(max_retries=0, initial_backoff={"nanos": 500_000_000}, backoff_multiplier=3)
    policy = policy_pb2.Policy(retry_defaults=policy_pb2.RetryDefaultsPolicy(task_type="work", retry_policy=retry))
    client.answers["set_policies"] = [policy]
    shown = muster("policies", "retry-defaults", "work", "--max-retries", "0", "--initial-backoff", "0.5", "--multiplier", "3").stdout
    assert client.calls[-1] == ("set_policies", ([policy],), {})
    assert "max_retries 0, initial_backoff 0.5 s, backoff_multiplier 3" in shown


def test_a_type_s_retries_need_something_to_say(muster):
    result = muster("policies", "retry-defaults", "work")
    assert result.exit_code == 2
    assert "at least one option" in result.stderr


def test_one_is_deleted(muster, client):
    client.answers["delete_policies"] = [NAME]
    assert muster("policies", "delete", "weight", "team").stdout == "Policy weight 'team' is deleted.\n"
    client.answers["delete_policies"] = []
    result = muster("policies", "delete", "weight", "team")
    assert result.exit_code == 3
    assert "no policy weight 'team'" in result.stderr


def test_an_unknown_kind_is_told_which_there_are(muster):
    result = muster("policies", "delete", "speed", "team")
    assert result.exit_code == 2
    assert "use weight" in result.stderr
