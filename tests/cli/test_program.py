"""The console script as a process: what only a real one shows."""

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE
from importlib.metadata import version
from pathlib import Path

import pytest

from agent_node import Client
from agent_node.testing import local_coordinator
from tests.support.eventually import eventually

FULL = Path("/dev/full")
HOLD = """
import asyncio, typer
from agent_node.cli.bench.loop import loop_factory
from agent_node.cli.invocation import command

async def hold(invocation):
    print("holding", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("cleaned up", flush=True)

app = typer.Typer(add_completion=False)
command(app, loop_factory=loop_factory)(hold)
app()
"""
CHATTER = """
import typer
from agent_node.cli.invocation import command

async def chatter(invocation):
    while True:
        print("x" * 1000)

app = typer.Typer(add_completion=False)
command(app)(chatter)
app()
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number,code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_cleans_up_and_says_nothing(children, loop, number, code):
    program = HOLD if loop == "uvloop" else HOLD.replace("loop_factory=loop_factory", "loop_factory=None")
    process = children.start([sys.executable, "-c", program], name="hold")
    await process.wait_for_line("holding")
    process.send(number)
    assert await process.wait_for_exit() == code
    assert process.output() == "holding\ncleaned up\n"


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full, where every write fails as on a full disk")
def test_output_that_cant_be_written_is_said_in_a_sentence():
    with FULL.open("w") as full:
        ended = subprocess.run([sys.executable, "-c", CHATTER], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (7, "muster: the output can't be written: No space left on device.\n")


async def test_a_reader_that_goes_away_ends_the_command_quietly():
    with subprocess.Popen([sys.executable, "-c", CHATTER], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        await eventually(lambda: process.poll() is not None, within_s=15, message="the command to end")
        assert process.stderr.read() == b""
        assert process.returncode == 141


def test_without_the_extra_it_says_what_to_install():
    program = "import sys; sys.modules['typer'] = None; from agent_node.cli.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "pip install 'muster-agents[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_version_is_printed_without_a_coordinator():
    done = subprocess.run([sys.executable, "-m", "agent_node.cli", "--version"], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"muster {version('muster-agents')}\n", "")


async def test_characters_that_stdout_cannot_show_are_escaped():
    async with local_coordinator() as address, Client(address) as client:
        await client.submit("work", task_id="idé")
        command = [sys.executable, "-m", "agent_node.cli", "get", "idé", "--address", address]
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=os.environ | {"PYTHONIOENCODING": "ascii"})
        out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert rb"id\xe9" in out


def test_an_address_where_nobody_listens_is_one_sentence():
    command = [sys.executable, "-m", "agent_node.cli", "agents", "--address", "127.0.0.1:1"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 5
    assert done.stdout == ""
    assert done.stderr == (
        "muster: no coordinator answers on 127.0.0.1:1; start one with `muster-coordinator`, "
        "or name another with --address or MUSTER_ADDRESS.\n"
    )
