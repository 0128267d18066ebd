"""The tests' own tools fail when they should."""

import asyncio
import os
import signal
import sys

import pytest

from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.processes import ChildExitedError

_SLEEP = "import signal; print('ready on 7', flush=True); signal.pause()"


async def test_eventually_returns_the_answer_once_truthy():
    answers = iter([0, "", None, 42])
    assert await eventually(lambda: next(answers)) == 42


async def test_eventually_awaits_async_predicates():
    async def answer():
        return "yes"

    assert await eventually(answer) == "yes"


async def test_eventually_fails_with_the_message_and_the_last_answer():
    with pytest.raises(AssertionError, match=r"not within 0.02 s: rain \(last answer: 0\)"):
        await eventually(lambda: 0, within_s=0.02, message="rain")


async def test_eventually_gives_up_on_a_predicate_that_hangs():
    async with asyncio.timeout(5):
        with pytest.raises(AssertionError, match="not within"):
            await eventually(asyncio.Event().wait, within_s=0.02)


async def test_eventually_passes_errors_of_the_predicate_on():
    async def timed_out():
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await eventually(timed_out)


async def test_a_child_is_ready_when_it_says_so_and_dies_by_kill(children):
    child = children.start([sys.executable, "-c", _SLEEP], name="sleeper")
    assert (await child.wait_for_line(r"^ready on (\d)$")).group(1) == "7"
    child.kill()
    assert child.exit_code == -signal.SIGKILL


async def test_a_child_that_ends_early_is_reported_with_its_output(children):
    child = children.start([sys.executable, "-c", "raise SystemExit('no data directory')"], name="quitter")
    with pytest.raises(ChildExitedError, match="no data directory"):
        await child.wait_for_line("ready")
    with pytest.raises(ChildExitedError):
        await child.wait_for_port(free_port())


async def test_children_end_with_the_test_even_when_stopped_or_deaf(children):
    deaf = children.start([sys.executable, "-c", f"import signal; signal.signal(15, signal.SIG_IGN); {_SLEEP}"], name="deaf")
    await deaf.wait_for_line("ready")
    frozen = children.start([sys.executable, "-c", _SLEEP], name="frozen")
    await frozen.wait_for_line("ready")
    frozen.send(signal.SIGSTOP)
    await children.stop_all()
    assert frozen.exit_code == -signal.SIGTERM
    assert deaf.exit_code == -signal.SIGKILL


async def test_a_run_that_is_terminated_leaves_no_process(children):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-s", "tests/support/hanging.py"]
    run = children.start(command, name="run")
    started = await run.wait_for_line(r"started (\d+)", within_s=60)
    run.send(signal.SIGTERM)
    assert await run.wait_for_exit(within_s=60) == pytest.ExitCode.INTERRUPTED
    with pytest.raises(ProcessLookupError):
        os.kill(int(started[1]), 0)
