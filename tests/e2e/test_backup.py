"""A fleet that runs is exported, and goes on elsewhere as it was at that moment."""

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest
from muster.v1 import common_pb2

from agent_node import Client
from tests.e2e.deployment import START_S, client_of, deployed
from tests.support.processes import Child, Children

pytestmark = pytest.mark.e2e


def muster(children: Children, *arguments: str) -> Child:
    """Runs the command line."""
    return children.start([sys.executable, "-m", "agent_node.cli", *arguments], name=f"muster-{arguments[1]}")


async def succeeded(child: Child) -> str:
    """What it printed, if it ended well."""
    assert await child.wait_for_exit(within_s=60.0) == 0, child.output()
    return child.output()


async def refused(child: Child, pattern: str, *, exit_code: int = 4) -> None:
    """It must end, with this code, having said one sentence that fits and nothing else."""
    assert await child.wait_for_exit(within_s=START_S) == exit_code, child.output()
    assert re.fullmatch(rf"muster: {pattern}\n", child.output()), child.output()


async def test_it_goes_on_elsewhere(children: Children, tmp_path: Path) -> None:
    file, elsewhere = tmp_path / "backup", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "here").mkdir()
    async with deployed(children, tmp_path / "here", "--snapshot-after", "20000") as deployment, client_of(deployment) as client:
        deployment.start_agent("ann")
        await deployment.agent_connected(client, "ann")
        done = [await client.submit("digest", str(number).encode(), labels={"team": "red"}) for number in range(200)]
        for handle in done:
            await handle.result()
        waits = [await client.submit("nobody-can", b"waits") for _ in range(20)]
        await client.state.put("held", "a value")
        await client.state.put("large", "x" * 10_000)
        async with client.state.lock("lock") as lock:
            busy = asyncio.create_task(keep_busy(client))
            output = await succeeded(muster(children, "admin", "export", str(file), "--data-dir", str(deployment.data_dir), "--json"))
            busy.cancel()
            token = lock.token
        exported = json.loads(output.splitlines()[-1])
        assert len(exported["shards"]) == 16
        print(
            await succeeded(
                muster(children, "admin", "check", "--data-dir", str(deployment.data_dir), "--live", "--address", deployment.address)
            )
        )
    await succeeded(muster(children, "admin", "import", str(file), "--data-dir", str(elsewhere / "data")))
    print(await succeeded(muster(children, "admin", "check", "--data-dir", str(elsewhere / "data"))))
    async with deployed(children, elsewhere) as deployment, client_of(deployment) as client:
        for handle in done:
            task = await client.get(handle.task_id)
            assert task.state == common_pb2.TASK_STATE_COMPLETED
        for handle in waits:
            assert (await client.get(handle.task_id)).state == common_pb2.TASK_STATE_PENDING
        found = {task.task_id async for task in client.list('labels.team = "red"')}
        assert found >= {handle.task_id for handle in done}
        entry = await client.state.get("held")
        assert entry is not None
        large = await client.state.get("large")
        assert large is not None
        (held,) = await client.state.locks()
        assert held.name == "lock"
        async with client.state.lock("other") as other:
            assert other.token > token


async def keep_busy(client: Client) -> None:
    number = 0
    while True:
        number += 1
        await client.submit("digest", str(number).encode())
        await client.state.put(f"busy-{number % 10}", str(number))
