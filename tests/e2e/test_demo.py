"""The demo as its users run it, without a terminal: real processes, a real kill, a report on disk, and nothing left behind."""

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.support.eventually import eventually

pytestmark = pytest.mark.e2e

PROJECT = Path(__file__).resolve().parents[2]
PROVIDER = ("MUSTER_LLM_BASE_URL", "MUSTER_LLM_API_KEY", "MUSTER_LLM_MODEL", "INPUT")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in PROVIDER}
TEXT = """
# The flock of hill {n}

A shepherd keeps a flock of sheep on hill {n}, and the flock eats grass on that hill from morning to evening. At night the shepherd leads
the flock of hill {n} home and counts each sheep at the gate. A dog guards the gate because wolves live behind the hill. When a sheep is
missing, the dog and the shepherd search the hill until it is found. Clouds over the hill tell the shepherd when the flock must go home.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    documents = tmp_path / "documents"
    documents.mkdir()
    for number in range(6):
        (documents / f"hill-{number}.md").write_text(TEXT.format(n=number) * 3, encoding="utf-8")
    return documents


class Demo:
    """The demo's process and what it has printed."""

    def __init__(self, process: asyncio.subprocess.Process, output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def output(self) -> str:
        return self._output.read_text(encoding="utf-8")

    def children(self) -> list[int]:
        tasks = Path(f"/proc/{self.process.pid}/task")
        return [int(pid) for children in tasks.glob("*/children") for pid in children.read_text().split()]

    async def ended(self) -> int:
        return await asyncio.wait_for(self.process.wait(), 60)


async def start(tmp_path: Path, *arguments: str, **environment: str) -> Demo:
    output = tmp_path / "output.txt"
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *["-m", "examples.demo", "--out", str(tmp_path / "report.md"), *arguments],
            cwd=PROJECT,
            env={**ENVIRONMENT, **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=asyncio.subprocess.STDOUT,
        )
    return Demo(process, output)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_the_demo_survives_a_killed_agent_and_leaves_a_report(tmp_path: Path, folder: Path) -> None:
    demo = await start(tmp_path, INPUT=str(folder))
    assert await demo.ended() == 0, demo.output
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert report.startswith("# What 6 documents say\n\n12 sections of 6 documents.\n")
    for number in range(6):
        assert f"## hill-{number}.md" in report
    assert "of 3 claims are supported by the source." in report
    killed = re.search(r"kill -9 (\d+): analyst-1 dies", demo.output)
    assert killed is not None
    if "dies at work on" in demo.output:
        assert "moved from analyst-1 to analyst-2" in demo.output
    summary = demo.output[demo.output.index("Where everything ran") :]
    pids = [int(pid) for pid in re.findall(r"^│ \S+ +│ +(\d+) │", summary, re.MULTILINE)]
    assert len(pids) == 5
    assert int(killed[1]) in pids
    assert not any(alive(pid) for pid in pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_interrupted_demo_ends_all_it_started_and_leaves_no_report(tmp_path: Path, folder: Path, number: signal.Signals) -> None:
    demo = await start(tmp_path, str(folder))
    await eventually(lambda: "completed at analyst" in demo.output, within_s=30, message="work in progress")
    children = demo.children()
    demo.process.send_signal(number)
    assert await demo.ended() == 128 + number, demo.output
    assert f"interrupted by {number.name}" in demo.output
    assert not any(alive(pid) for pid in children)
    assert not (tmp_path / "report.md").exists()


async def test_a_provider_that_refuses_ends_the_demo_with_what_it_said_and_without_the_key(tmp_path: Path, folder: Path) -> None:
    from tests.support.provider import says, serve

    key = "sk-test-0123456789"
    (tmp_path / "report.md").write_text("an earlier report", encoding="utf-8")
    async with serve(says(401, f"no account for {key}", content_type="text/plain")) as provider:
        environment = {"MUSTER_LLM_BASE_URL": provider.base_url, "MUSTER_LLM_API_KEY": key, "MUSTER_LLM_MODEL": "tiny"}
        demo = await start(tmp_path, str(folder), **environment)
        assert await demo.ended() == 1, demo.output
    assert "401 Unauthorized: no account for [secret]" in demo.output
    assert "Traceback" not in demo.output
    written = demo.output + "".join(log.read_text(encoding="utf-8") for log in (tmp_path / "logs").iterdir())
    assert key not in written
    assert not (tmp_path / "report.md").exists()


async def test_nothing_to_read_is_said_in_one_sentence(tmp_path: Path) -> None:
    demo = await start(tmp_path, str(tmp_path / "missing"))
    assert await demo.ended() == 2
    assert demo.output.count("\n") == 1
    assert "is not a folder" in demo.output
