import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from agent_node.cli.bench import fleet
from agent_node.cli.bench.fleet import (
    IDLE_TYPE,
    TASK_TYPE,
    AgentProcesses,
    AgentProcessPlan,
    Children,
    last_words,
    plan_agents,
    python_command,
    running_coordinator,
)
from agent_node.cli.bench.measures import process_table
from agent_node.cli.exits import CommandFailure, ExitCode
from tests.support.eventually import eventually


def plans_for(agents, idle):
    return plan_agents(agents=agents, idle=idle, capacity=10, address="127.0.0.1:1", namespace="default", prefix="bench-7")


@pytest.mark.parametrize("agents,sizes", [(1, [1]), (3, [1, 1, 1]), (4, [1, 1, 1, 1]), (10, [3, 3, 2, 2]), (50, [13, 13, 12, 12])])
def test_agents_are_spread_over_at_most_four_processes(agents, sizes):
    plans = plans_for(agents, idle=0)
    assert [len(plan.agent_names) for plan in plans] == sizes
    assert {plan.task_type for plan in plans} == {TASK_TYPE}
    assert len({name for plan in plans for name in plan.agent_names}) == agents


def test_idle_agents_share_a_process_of_their_own():
    *working, idle = plans_for(10, idle=990)
    assert len(working) == 4
    assert len(idle.agent_names) == 990
    assert idle.task_type == IDLE_TYPE
    assert not set(idle.agent_names) & {name for plan in working for name in plan.agent_names}


def test_a_plan_survives_the_command_line():
    plan = plans_for(5, idle=0)[0]
    assert AgentProcessPlan.from_argument(plan.to_argument()) == plan


def test_a_profiled_command_runs_the_same_module():
    assert python_command("coordinator", ["--x"], profile=None) == [sys.executable, "-m", "coordinator", "--x"]
    profiled = python_command("coordinator", ["--x"], profile=Path("p"))
    assert profiled == [sys.executable, "-m", "agent_node.cli.bench.profiled", "p", "coordinator", "--x"]


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_children_end_with_the_context_whatever_ends_it(tmp_path):
    process = None

    async def fail():
        nonlocal process
        async with Children() as children:
            process = await children.start([sys.executable, "-c", "import time; time.sleep(60)"], log=tmp_path / "log")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert process.returncode == -signal.SIGTERM
    assert gone(process.pid)


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(fleet, "_END_TIMEOUT_S", 0.1)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    async with Children() as children:
        process = await children.start([sys.executable, "-c", deaf], log=tmp_path / "log")
        await eventually(lambda: (tmp_path / "log").read_text() == "deaf\n", message="the child to be deaf")
    assert process.returncode == -signal.SIGKILL


async def test_children_are_ended_when_the_run_is_cancelled(tmp_path):
    started = asyncio.get_running_loop().create_future()

    async def run():
        async with Children() as children:
            started.set_result(await children.start([sys.executable, "-c", "import time; time.sleep(60)"], log=tmp_path / "log"))
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    process = await started
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone(process.pid)


async def test_an_agent_process_that_ends_by_itself_is_reported_with_its_last_words(tmp_path):
    log = tmp_path / "log"
    plan = plans_for(1, idle=0)[0]
    async with Children() as children:
        process = await children.start([sys.executable, "-c", "raise SystemExit('no such handler')"], log=log)
        agents = AgentProcesses(children, [plan], [log])
        assert agents.working_pids == [process.pid]
        assert agents.idle_pids == []
        await eventually(lambda: process.returncode is not None, message="the process to end")
        with pytest.raises(CommandFailure, match="no such handler"):
            agents.raise_if_ended()


async def test_a_coordinator_is_found_by_the_line_that_it_prints(tmp_path, monkeypatch):
    serving = "print('muster-coordinator serving on 127.0.0.1:4711 (embedded valkey)', flush=True); import sys; sys.stdin.read()"
    monkeypatch.setattr(fleet, "python_command", lambda *_args, **_kwargs: [sys.executable, "-c", serving])
    async with running_coordinator(tmp_path) as coordinator:
        assert coordinator.address == "127.0.0.1:4711"
        assert 0 < coordinator.start_s < 30
        assert coordinator.store_pids == ()
    assert gone(coordinator.pid)


async def test_a_coordinator_that_talks_a_lot_is_not_held_up(tmp_path, monkeypatch):
    talkative = (
        "import sys; print('serving on 127.0.0.1:1', flush=True); print('x' * 5_000_000, flush=True); "
        f"open({str(tmp_path / 'done')!r}, 'w').close(); sys.stdin.read()"
    )
    monkeypatch.setattr(fleet, "python_command", lambda *_args, **_kwargs: [sys.executable, "-c", talkative])
    async with running_coordinator(tmp_path):
        await eventually((tmp_path / "done").exists, message="five megabytes to be printed")


async def test_the_store_of_a_killed_coordinator_is_ended_too(tmp_path, monkeypatch):
    monkeypatch.setattr(fleet, "_END_TIMEOUT_S", 0.2)
    monkeypatch.setattr(fleet, "STORE_NAME", re.compile("sleep"))
    deaf = (
        "import signal, subprocess, time; signal.signal(signal.SIGTERM, lambda *_: None); subprocess.Popen(['sleep', '60']); "
        "print('serving on 127.0.0.1:1', flush=True); time.sleep(60)"
    )
    monkeypatch.setattr(fleet, "python_command", lambda *_args, **_kwargs: [sys.executable, "-c", deaf])
    async with running_coordinator(tmp_path) as coordinator:
        [store] = coordinator.store_pids
    await eventually(lambda: gone(store) or process_table()[store].rss_mb == 0, message="the orphan to end")


async def test_a_coordinator_that_ends_at_once_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(fleet, "python_command", lambda *_args, **_kwargs: [sys.executable, "-c", "raise SystemExit('port in use')"])
    with pytest.raises(CommandFailure, match="port in use") as failure:
        async with running_coordinator(tmp_path):
            pass
    assert failure.value.code is ExitCode.UNAVAILABLE


def test_a_child_does_not_inherit_the_settings_of_what_is_in_use():
    inherited = fleet.child_environment({"MUSTER_REDIS_URL": "redis://production", "MUSTER_LISTEN": "0.0.0.0:1", "PATH": "/bin"})
    assert inherited == {"PATH": "/bin", "PYTHONUNBUFFERED": "1"}


def test_the_last_words_of_a_silent_process(tmp_path):
    (tmp_path / "log").write_text("\n \n")
    assert last_words(tmp_path / "log") == "it said nothing."
