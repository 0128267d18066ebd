"""One writer (G8), and starts that fail with one sentence: whose store, directory or port is taken, and by whom."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest
from redis.asyncio import Redis

from agent_node import Client, NotFoundError
from coordinator.journal.server_binary import find_server_binary
from tests.e2e.deployment import START_S, Deployment, deployed, serving_port
from tests.e2e.journal_audit import audit
from tests.support.eventually import eventually
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


class SharedStore:
    """A Redis that no coordinator started."""

    def __init__(self, *, children: Children, folder: Path) -> None:
        self.socket = folder / "shared.sock"
        flags = ["--port", "0", "--unixsocket", str(self.socket), "--dir", str(folder), "--appendonly", "yes", "--appendfsync", "always"]
        self._child = children.start([str(find_server_binary()), *flags, "--save", "", "--maxmemory-policy", "noeviction"], name="redis")

    @property
    def options(self) -> tuple[str, ...]:
        return ("--redis-url", f"unix://{self.socket}")

    async def until_ready(self) -> None:
        async def ready() -> bool:
            if not self.socket.exists():
                return False
            client = Redis(unix_socket_path=str(self.socket))
            try:
                return bool(await client.ping())
            finally:
                await client.aclose()

        await eventually(ready, within_s=START_S, message="the shared store to answer")


async def test_the_second_on_one_store_takes_over_and_nothing_is_lost(children: Children, tmp_path: Path) -> None:
    short = tmp_path if len(os.fsencode(tmp_path)) < 80 else Path("/tmp")
    store = SharedStore(children=children, folder=short)
    await store.until_ready()
    deployment = Deployment(children=children, folder=tmp_path)
    timing = ("--lease", "2", "--session-grace", "2")
    first = deployment.spawn_coordinator(*store.options, *timing)
    deployment.port = await serving_port(first)
    stranded = deployment.start_agent("agent-of-first")
    async with Client(deployment.address, give_up_s=1) as client:
        running = [await client.submit("at-gate", "taken over", want_result=False) for _ in range(3)]
        waiting = [await client.submit("nobody-yet", want_result=False) for _ in range(3)]
        ended = await client.submit("digest", b"ended before")
        output = await ended.result(timeout_s=20)
        await deployment.until_recorded("started", count=3)

        second = deployment.spawn_coordinator(*store.options, *timing)
        second_port = await serving_port(second)
    # It has nothing to write, and notices all the same.
    assert await first.wait_for_exit(within_s=START_S) == 1
    sentence = first.output().splitlines()[-1]
    assert re.fullmatch(r"muster-coordinator: shard \d+ was taken over by another coordinator.*", sentence), first.output()
    assert "Traceback" not in first.output()

    deployment.port = second_port
    deployment.start_agent("agent-of-second")
    async with Client(deployment.address) as client:
        assert (await client.attach(ended.task_id).result(timeout_s=20)).payload == output.payload
        await deployment.until_recorded("started", count=6, within_s=20)  # the first agent knows no other address
        stranded.kill()
        deployment.open_gate("taken over")
        for handle in running:
            assert (await client.attach(handle.task_id).result(timeout_s=20)).agent_name == "agent-of-second"
        await client.cancel([handle.task_id for handle in waiting])
        found = await audit(store.socket)
    known = {handle.task_id for handle in [*running, *waiting, ended]}
    assert known <= found.lives.keys()
    found.check(ended=known)
    assert len(found.epochs) == 2
