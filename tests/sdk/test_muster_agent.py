"""The command muster-agent, as a process."""

import os
import re
import signal
import subprocess
import sys

import pytest
from muster.v1.common_pb2 import TaskSpec

from agent_node.__main__ import main
from tests.support.eventually import eventually

AGENT = """
import asyncio, threading
from agent_node import Agent

agent = Agent("mine", drain_deadline_s=0.2)

@agent.handler("work")
async def work(ctx):
    await asyncio.Event().wait()

@agent.handler("block")
async def block(ctx):
    threading.Event().wait()

something = 1
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(AGENT)
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "needy.py").write_text("import no_such_thing_anywhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("mine", "broken", "needy"):
        sys.modules.pop(name, None)


@pytest.fixture
def process(module, coordinator):
    command = [sys.executable, "-m", "agent_node", "mine:agent", "--address", coordinator.address, "--name", "theirs", "--capacity", "3"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as started:
        try:
            yield started
        finally:
            started.kill()


async def exit_code(process):
    await eventually(lambda: process.poll() is not None, within_s=10, message="the end of the process")
    return process.returncode


async def test_it_runs_a_module_s_agent_and_sigterm_drains_it(process, coordinator):
    await eventually(lambda: coordinator.streams, within_s=10)
    assert (coordinator.stream.hello.agent_name, coordinator.stream.hello.max_concurrent_tasks) == ("theirs", 3)
    coordinator.assign(TaskSpec(task_id="a", task_type="work"))
    await eventually(lambda: coordinator.renews and coordinator.renews[-1].attempts)
    process.send_signal(signal.SIGTERM)
    assert await exit_code(process) == 0
    assert coordinator.outcome_of("a") == "returned"
    assert any(message.drain.reason == "SIGTERM" for message in coordinator.said)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once_even_with_a_blocked_loop(process, coordinator, number):
    await eventually(lambda: coordinator.streams, within_s=10)
    coordinator.assign(TaskSpec(task_id="a", task_type="block"))
    await eventually(lambda: coordinator.renews and coordinator.renews[-1].attempts)
    process.send_signal(number)
    await eventually(lambda: any(message.HasField("drain") for message in coordinator.said))
    process.send_signal(number)
    assert await exit_code(process) == 128 + number


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["mine"], "'mine' doesn't say where the agent is: write module:attribute"),
        (["nowhere:agent"], "there is no module 'nowhere'"),
        (["mine.sub:agent"], "there is no module 'mine.sub'"),
        (["needy:agent"], "module 'needy' imports 'no_such_thing_anywhere', which is not installed"),
        (["broken:agent"], "module 'broken' can't be imported: ZeroDivisionError"),
        (["mine:other"], "module 'mine' has no 'other'"),
        (["mine:something"], "mine:something is a int, not an agent_node.Agent"),
        (["mine:agent", "--capacity", "0"], "capacity must be 1 to 10,000, not 0"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(module, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"muster-agent: {re.escape(sentence)}", line)


def test_importing_the_sdk_is_quick_and_starts_nothing():
    code = "import time; t = time.perf_counter(); import agent_node, threading; print(time.perf_counter() - t, threading.active_count())"
    best = min(
        (
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ).stdout.split()
            for _ in range(3)
        ),
        key=lambda answer: float(answer[0]),
    )
    assert best[1] == "1"
    assert float(best[0]) < 0.3


async def test_the_environment_says_where_the_coordinator_is(module, coordinator, monkeypatch):
    monkeypatch.setenv("MUSTER_ADDRESS", coordinator.address)
    with subprocess.Popen([sys.executable, "-m", "agent_node", "mine:agent"], stderr=subprocess.DEVNULL) as started:
        try:
            await eventually(lambda: coordinator.streams, within_s=10, message="its stream")
        finally:
            started.kill()


def test_an_address_that_cant_be_one_is_said_before_anything_is_tried(module, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["mine:agent", "--address", "nonsense"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "muster-agent: 'nonsense' isn't an address of a coordinator: give HOST:PORT, such as 127.0.0.1:7450\n"
    )
