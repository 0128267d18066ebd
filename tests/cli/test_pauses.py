"""`muster pause`, `resume`, `cordon` and `uncordon`, and where what they did is shown."""

import json

import pytest
from muster.v1 import admin_pb2, agent_pb2, policy_pb2

from agent_node.cli.queue_tables import queue_report
from agent_node.cli.terminal import stdout_console

PAUSE, CORDON = policy_pb2.POLICY_KIND_PAUSE, policy_pb2.POLICY_KIND_CORDON


def paused(task_type, reason="", end_s=0):
    policy = policy_pb2.Policy(pause=policy_pb2.PausePolicy(task_type=task_type, reason=reason))
    if end_s:
        policy.pause.end_time.seconds = end_s
    return policy


def cordoned(name, reason=""):
    return policy_pb2.Policy(cordon=policy_pb2.CordonPolicy(agent_name=name, reason=reason))


def queues(**running):
    return admin_pb2.GetQueueStatsResponse(
        queues=[admin_pb2.QueueStats(task_type=name, running=number) for name, number in running.items()]
    )


@pytest.mark.parametrize(
    "arguments, call, answer, says",
    [
        (
            ["work"],
            (("work",), {"reason": "", "for_s": None}),
            paused("work"),
            "Task type work is paused until it is resumed. 2 tasks run on.\n",
        ),
        (
            ["w*", "--reason", "a bill", "--for", "60"],
            (("w*",), {"reason": "a bill", "for_s": 60.0}),
            paused("w*", "a bill", 1_800_000_000),
            "Every task type that begins with w is paused until 2027-01-15",
        ),
        (["--all"], (("",), {"reason": "", "for_s": None}), paused(""), "The namespace is paused until it is resumed. 3 tasks run on.\n"),
        (["idle"], (("idle",), {"reason": "", "for_s": None}), paused("idle"), "Task type idle is paused until it is resumed.\n"),
    ],
)
def test_a_pause_is_set_and_says_what_runs_on(muster, client, arguments, call, answer, says):
    client.answers = {"pause": answer, "queue_stats": queues(work=2, other=1)}
    assert muster("pause", *arguments).stdout.startswith(says)
    assert client.calls[0] == ("pause", *call)
    assert json.loads(muster("pause", *arguments, "--json").stdout)["pause"]["reason"] == answer.pause.reason


@pytest.mark.parametrize("name", ["pause", "resume"])
@pytest.mark.parametrize("arguments", [[], ["work", "--all"]])
def test_a_type_or_all_is_needed_and_not_both(muster, name, arguments):
    result = muster(name, *arguments)
    assert (result.exit_code, "give a task type, or --all" in result.stderr) == (2, True)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_a_time_that_cannot_be_is_refused(muster, seconds):
    result = muster("pause", "work", "--for", seconds)
    assert (result.exit_code, "--for" in result.stderr, "give a number" in result.stderr or "above 0" in result.stderr) == (2, True, True)


def test_a_pause_is_lifted(muster, client):
    client.answers = {"resume": True, "policies": []}
    assert muster("resume", "work").stdout == "Task type work goes on.\n"
    assert client.calls[0] == ("resume", ("work",), {})
    assert muster("resume", "--all").stdout == "The namespace goes on.\n"
    assert json.loads(muster("resume", "work", "--json").stdout) == {"kind": "POLICY_KIND_PAUSE", "key": "work"}


def test_what_is_still_paused_says_so(muster, client):
    client.answers = {"resume": True, "policies": [paused("w*"), paused("other"), paused("")]}
    said = muster("resume", "work").stdout
    assert said == "This pause of task type work is lifted; task type work is paused by the pause of w* and the whole namespace.\n"


def test_what_is_not_paused_by_that_name_says_what_pauses_it(muster, client):
    client.answers = {"resume": False, "policies": [paused("w*")]}
    result = muster("resume", "work")
    assert result.exit_code == 3
    assert "no pause of task type work; task type work is paused by the pause of w*: `muster resume 'w*'` lifts that" in result.stderr
    client.answers["policies"] = [paused("")]
    assert "`muster resume --all`" in muster("resume", "work").stderr
    client.answers["policies"] = []
    result = muster("resume", "--all")
    assert (result.exit_code, "no pause of the namespace; `muster policies list --kind pause`" in result.stderr) == (3, True)


@pytest.mark.parametrize(
    "agents, says",
    [
        ([], "ann is cordoned, and isn't connected: it will get nothing when it comes.\n"),
        ([agent_pb2.AgentInfo(agent_name="ann")], "ann is cordoned, and runs nothing.\n"),
        ([agent_pb2.AgentInfo(agent_name="ann", running=1)], "ann is cordoned, with 1 task to finish.\n"),
        ([agent_pb2.AgentInfo(agent_name="ann", running=2)], "ann is cordoned, with 2 tasks to finish.\n"),
    ],
)
def test_an_agent_is_cordoned(muster, client, agents, says):
    client.answers = {"cordon": cordoned("ann"), "agents": agents}
    assert muster("cordon", "ann", "--reason", "a new disk").stdout == says
    assert client.calls[0] == ("cordon", ("ann",), {"reason": "a new disk"})
    assert json.loads(muster("cordon", "ann", "--json").stdout)["cordon"]["agent_name"] == "ann"


def test_an_agent_is_uncordoned(muster, client):
    client.answers = {"uncordon": True}
    assert muster("uncordon", "ann").stdout == "ann isn't cordoned any more.\n"
    assert json.loads(muster("uncordon", "ann", "--json").stdout) == {"kind": "POLICY_KIND_CORDON", "key": "ann"}
    client.answers = {"uncordon": False}
    result = muster("uncordon", "ann")
    assert (result.exit_code, "ann isn't cordoned;" in result.stderr) == (3, True)


def test_policies_and_agents_show_them(muster, client):
    client.answers["policies"] = [paused("llm.*", "the provider is down", 1_800_000_000), cordoned("ann", "a new disk")]
    shown = " ".join(muster("policies", "list").stdout.split())
    assert "llm.* paused until 2027-01-15" in shown
    assert "cordoned: a new disk" in shown
    client.answers["agents"] = [
        agent_pb2.AgentInfo(agent_name="ann", state=agent_pb2.AGENT_STATE_CORDONED, cordon_reason="a new disk"),
        agent_pb2.AgentInfo(agent_name="bob", state=agent_pb2.AGENT_STATE_DISCONNECTED, cordon_reason="likewise"),
    ]
    shown = muster("agents").stdout
    assert "cordoned (a new disk)" in " ".join(shown.split())
    assert "likewise" not in shown


def test_queues_and_top_show_them(muster, client):
    by_kind = {PAUSE: [paused("llm.*", "no money"), paused("")], CORDON: [cordoned("ann", "a new disk"), cordoned("bob")]}
    client.answers = {
        "queue_stats": queues(work=1),
        "queue_history": admin_pb2.GetQueueHistoryResponse(),
        "policies": lambda kind: by_kind[kind],
    }
    for command in (["queues"], ["top", "--rounds", "1"]):
        shown = muster(*command).stdout
        assert "llm.* (no money), the namespace" in shown
        assert "ann (a new disk), bob" in shown
        record = json.loads(muster(*command, "--json").stdout)
        assert [one["pause"]["task_type"] for one in record["pauses"]] == ["llm.*", ""]
        assert [one["cordon"]["agent_name"] for one in record["cordons"]] == ["ann", "bob"]


def test_where_nothing_is_paused_nothing_is_said_of_it():
    console = stdout_console()
    with console.capture() as capture:
        console.print(queue_report(queues(work=1), admin_pb2.GetQueueHistoryResponse()))
    assert "paused" not in capture.get()
    assert "cordoned" not in capture.get()
