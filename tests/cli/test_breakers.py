"""`muster breakers`, and where breakers are shown."""

import json

import pytest
from muster.v1 import agent_pb2, policy_pb2

from agent_node.cli.breaker_tables import failing_everywhere
from agent_node.cli.tables import agents_table, policies_table
from agent_node.cli.terminal import stdout_console

OPEN, HALF_OPEN, TOLERATED = agent_pb2.BREAKER_STATE_OPEN, agent_pb2.BREAKER_STATE_HALF_OPEN, agent_pb2.BREAKER_STATE_TOLERATED


def breaker(agent, task_type, state=OPEN, **fields):
    message = agent_pb2.Breaker(agent_name=agent, task_type=task_type, state=state, reason="5 tasks in a row failed there", **fields)
    message.since_time.seconds = 1_800_000_000
    message.until_time.seconds = 1_800_000_030
    return message


def agent(name, *breakers, offers=("work",), state=agent_pb2.AGENT_STATE_CONNECTED):
    capabilities = [agent_pb2.Capability(task_type=one) for one in offers]
    return agent_pb2.AgentInfo(agent_name=name, capabilities=capabilities, breakers=breakers, state=state)


def test_those_that_are_not_closed_are_listed(muster, client):
    client.answers["agents"] = [
        agent("ann", breaker("ann", "work"), breaker("ann", "", HALF_OPEN, probe_task_id="task-7")),
        agent("bob", breaker("bob", "work", HALF_OPEN)),
    ]
    shown = muster("breakers", "list", env={"COLUMNS": "200"}).stdout
    assert [word in shown for word in ("ann", "open", "2027-01-15", "task-7", "the next task", "5 tasks in a row")] == [True] * 6
    assert "work fails at all 2 agents that offer it, so it is hardly the agents' fault." in shown
    lines = [json.loads(line) for line in muster("breakers", "list", "--json").stdout.splitlines()]
    states = [(line["agent_name"], line["state"].removeprefix("BREAKER_STATE_")) for line in lines]
    assert states == [("ann", "OPEN"), ("ann", "HALF_OPEN"), ("bob", "HALF_OPEN")]


def test_nothing_to_list(muster, client):
    client.answers["agents"] = [agent("ann")]
    assert muster("breakers", "list").stdout == "All circuit breakers are closed.\n"


def test_only_agents_that_take_work_are_asked_whether_a_type_fails_everywhere():
    draining = agent("cai", state=agent_pb2.AGENT_STATE_DRAINING)
    failing = [agent("ann", breaker("ann", "work")), agent("bob", breaker("bob", "work", TOLERATED)), draining]
    assert len(failing_everywhere(failing)) == 1
    assert not failing_everywhere([*failing, agent("dan")])
    assert not failing_everywhere(failing[:1]), "one agent says nothing of others"


@pytest.mark.parametrize(
    "arguments, call, closed, says",
    [
        (["ann"], ("ann", ""), [breaker("ann", ""), breaker("ann", "work")], "2 of its circuit breakers are closed now: its own, work."),
        (["ann", "--capability", "work"], ("ann", "work"), [breaker("ann", "work")], "1 of its circuit breakers is closed now: work."),
        (["ann"], ("ann", ""), [], "none was open."),
    ],
)
def test_an_agents_are_closed(muster, client, arguments, call, closed, says):
    client.answers["reset_breakers"] = closed
    assert muster("breakers", "reset", *arguments).stdout == f"ann: {says}\n"
    assert client.calls == [("reset_breakers", call, {})]
    assert len(muster("breakers", "reset", *arguments, "--json").stdout.splitlines()) == len(closed)


def test_rules_are_set(muster, client):
    client.answers["set_policies"] = lambda policies: policies
    options = ["--in-a-row", "3", "--rate", "0", "--min-results", "9", "--window", "30", "--open-for", "1.5", "--max-open-for", "60"]
    assert muster("breakers", "set", "llm.*", *options, "--max-share", "1").exit_code == 0
    [policy] = client.calls[0][1][0]
    given = policy.breaker
    assert (given.task_type, given.consecutive_failures, given.failure_rate, given.min_results) == ("llm.*", 3, 0, 9)
    assert given.HasField("failure_rate")
    assert (given.window.seconds, given.open_for.ToMilliseconds(), given.max_open_for.seconds, given.max_open_share) == (30, 1500, 60, 1)
    assert muster("breakers", "set", "--open-for", "0").exit_code == 2


def test_they_are_shown_beside_their_agent_and_as_policies(capsys):
    shown = [agent("ann", breaker("ann", "work"), breaker("ann", "", HALF_OPEN), breaker("ann", "play", TOLERATED))]
    policy = policy_pb2.Policy(breaker=policy_pb2.BreakerPolicy(task_type="work", consecutive_failures=3))
    policy.breaker.open_for.seconds = 7
    console = stdout_console()
    console.width = 200
    console.print(agents_table(shown), policies_table([policy]))
    said = capsys.readouterr().out
    assert "connected (breakers: work open, all half-open)" in said
    assert "consecutive_failures 3, open_for 7 s" in said
