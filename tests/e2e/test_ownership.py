"""One writer (G8), and starts that fail with one sentence: whose store, directory or port is taken, and by whom."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from agent_node import Client, NotFoundError
from tests.e2e.deployment import START_S, Deployment, deployed
from tests.support.processes import Child, Children

pytestmark = pytest.mark.e2e


async def refused(child: Child, pattern: str, *, exit_code: int = 1) -> None:
    """It must end, with this code, having said one sentence that fits and nothing else."""
    assert await child.wait_for_exit(within_s=START_S) == exit_code
    lines = child.output().splitlines()
    assert len(lines) == 1, child.output()
    assert re.fullmatch(rf"muster-coordinator: {pattern}", lines[0]), lines[0]


async def test_the_second_on_one_directory_is_refused(deployment: Deployment, client: Client) -> None:
    second = deployment.spawn_coordinator("--data-dir", str(deployment.data_dir))
    await refused(second, rf"another coordinator uses the data directory {deployment.data_dir}: .+")
    await client.submit("digest")  # the first serves on


async def test_a_port_in_use_is_said(deployment: Deployment, tmp_path: Path) -> None:
    second = deployment.spawn_coordinator("--data-dir", str(tmp_path / "other"), port=deployment.port)
    await refused(second, rf"can't listen on 127\.0\.0\.1:{deployment.port}: it is in use.*")
    assert deployment.coordinator.exit_code is None


@pytest.mark.parametrize("place", ["below a file", "read only"])
async def test_a_directory_that_cant_be_written_is_said(children: Children, tmp_path: Path, place: str) -> None:
    if place == "below a file":
        (tmp_path / "file").touch()
        path = tmp_path / "file" / "data"
    else:
        path = Path("/proc/data") if Path("/proc/self").exists() else tmp_path / "locked" / "data"  # also root can't write there
        if not Path("/proc/self").exists():
            (tmp_path / "locked").mkdir(mode=0o500)
    command = [sys.executable, "-m", "coordinator", "--data-dir", str(path), "--listen", "127.0.0.1:0"]
    await refused(children.start(command, name="coordinator"), rf"the data directory {path} .+: give another with --data-dir")


async def test_it_serves_soon_after_its_start(children: Children, tmp_path: Path) -> None:
    """From the start of the process to the first answer, with an empty store. Wanted are 1.5 s on a quiet machine."""
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    async with deployed(children, tmp_path) as deployment:
        async with Client(deployment.address) as client:
            with pytest.raises(NotFoundError):
                await client.get("the first call")
        took_s = loop.time() - begun_s
        print(f"served {took_s:.2f} s after the start")
        again_s = loop.time()
        await deployment.kill_coordinator()
        async with Client(deployment.address) as client:
            await client.queue_stats()
        print(f"served again {loop.time() - again_s:.2f} s after kill -9")
    assert took_s < 5
    assert loop.time() - again_s < 10
