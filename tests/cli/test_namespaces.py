"""`muster namespaces delete` and `limit`, on a scripted client."""

import json

from muster.v1 import admin_pb2, policy_pb2


def test_delete_says_what_went(muster, client):
    client.answers["delete_namespace"] = admin_pb2.DeleteNamespaceResponse(live_tasks=2, retained_tasks=5, agents=1)
    result = muster("namespaces", "delete", "blue", "--force")
    assert result.stdout == "Namespace blue is deleted, with 2 live and 5 ended tasks, and 1 agents.\n"
    assert client.calls == [("delete_namespace", ("blue",), {"force": True, "dry_run": False})]
    assert "would be deleted" in muster("namespaces", "delete", "blue", "--dry-run").stdout
    record = json.loads(muster("namespaces", "delete", "blue", "--dry-run", "--json").stdout)
    assert (record["name"], record["dry_run"], record["live_tasks"]) == ("blue", True, "2")


def test_limits_are_set_in_the_namespace_that_is_named(muster, client):
    client.answers["set_policies"] = lambda policies: policies
    result = muster("namespaces", "limit", "blue", "--max-live-tasks", "10", "--retain-for", "3600", "--max-retained-tasks", "0")
    assert result.exit_code == 0
    assert client.invocation.namespace == "blue"
    [(_, ([policy],), _)] = client.calls
    limits = policy_pb2.NamespaceLimitsPolicy(max_live_tasks=10, max_retained_tasks=0)
    limits.retain_for.seconds = 3600
    assert policy == policy_pb2.Policy(namespace_limits=limits)
    assert "at most 10 live tasks, ended tasks for 1 h 0 min, 0 ended tasks" in result.stdout
