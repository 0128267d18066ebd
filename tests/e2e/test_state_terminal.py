"""`muster state` and programs with locks as people use them: interrupted, killed, stopped, beside a coordinator that comes and goes."""

import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path

import pytest

from agent_node import Client, NotFoundError, RefusedError, UnavailableError
from agent_node.cli.state_records import export_line
from tests.e2e.deployment import Deployment
from tests.support.eventually import eventually

pytestmark = pytest.mark.e2e

MUSTER = [sys.executable, "-m", "agent_node.cli"]
LINES = 20_000

HOLDER = """
import asyncio, sys
from agent_node import Client

async def main():
    async with Client(sys.argv[1]) as client:
        async with client.state.lock("l", ttl_s=60):
            await client.state.put("held", sys.argv[2])
            await asyncio.Event().wait()

asyncio.run(main())
"""


def start(children, deployment: Deployment, *arguments: str):
    """One command of `muster state`."""
    return children.start([*MUSTER, "state", *arguments, "--address", deployment.address], name=f"muster state {arguments[0]}")


def write_lines(folder: Path) -> Path:
    """A file to import."""
    path = folder / "lines"
    path.write_text("".join(json.dumps({"key": f"k/{number:05}", "text": f"value {number}"}) + "\n" for number in range(LINES)))
    return path


async def exported(client: Client) -> list[str]:
    """What `muster state export k/` prints."""
    return [export_line(entry) async for entry in client.state.list("k/")]


def wanted() -> list[str]:
    """The same when all is imported."""
    return [json.dumps({"key": f"k/{number:05}", "content_type": "", "text": f"value {number}"}) for number in range(LINES)]


async def test_a_watch_ends_with_ctrl_c(deployment: Deployment, client: Client, children) -> None:
    watch = start(children, deployment, "watch", "k", "--prefix")

    async def seen() -> bool:
        await client.state.put("k1", "\x1b[31mred")
        return "red" in watch.output()

    await eventually(seen, within_s=20, message="the watch to see it")
    watch.send(signal.SIGINT)
    assert await watch.wait_for_exit(within_s=10) == 130
    assert "Traceback" not in watch.output()
    assert "\x1b" not in watch.output()


async def test_a_watch_of_deletes_alone(deployment: Deployment, client: Client, children) -> None:
    for number in range(3):
        await client.state.put(f"k{number}", number)
    await client.state.delete_prefix("k")
    await client.state.put("k", "ends soon", ttl_s=0.1)
    watch = start(children, deployment, "watch", "k", "--prefix", "--from", "1", "--only", "deleted", "--only", "expired")
    await watch.wait_for_line(r"expired")
    shown = [line.split()[:3] for line in watch.output().splitlines()]
    assert shown == [["4", "k0", "deleted"], ["4", "k1", "deleted"], ["4", "k2", "deleted"], ["6", "k", "expired"]]


async def test_an_import_goes_on_over_a_killed_coordinator(deployment: Deployment, client: Client, children, tmp_path) -> None:
    importing = start(children, deployment, "import", str(write_lines(tmp_path)))

    async def begun() -> bool:
        return (await client.state.stats()).keys > 500

    await eventually(begun, within_s=20, message="the import to begin")
    await deployment.kill_coordinator()
    assert await importing.wait_for_exit(within_s=60) == 0, importing.output()
    assert f"{LINES} imported." in importing.output()
    assert await exported(client) == wanted()
    assert (await client.state.get("k/00000")).version == 1


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
async def test_an_import_that_was_broken_off_can_be_made_again(deployment: Deployment, client: Client, children, tmp_path, end) -> None:
    path = write_lines(tmp_path)
    importing = start(children, deployment, "import", str(path))

    async def begun() -> bool:
        return (await client.state.stats()).keys > 500

    await eventually(begun, within_s=20, message="the import to begin")
    importing.send(end)
    code = await importing.wait_for_exit(within_s=10)
    if end is signal.SIGINT:
        assert code == 130
        assert f"of {LINES} lines are imported" in importing.output()
        assert "Traceback" not in importing.output()
    assert 500 < (await client.state.stats()).keys < LINES
    again = start(children, deployment, "import", str(path), "--missing-only")
    assert await again.wait_for_exit(within_s=60) == 0, again.output()
    assert await exported(client) == wanted()


async def test_a_watch_that_comes_too_late_says_where_to_begin(deployment: Deployment, client: Client, children) -> None:
    for number in range(20):
        await client.state.put("k", number)
    await client.state.compact(15)
    watch = start(children, deployment, "watch", "k", "--from", "3")
    assert await watch.wait_for_exit(within_s=20) == 4
    assert "revisions before 15 are no longer kept: list the keys, and watch from revision 21" in watch.output()


async def test_compaction_takes_nothing_from_a_watch_that_keeps_up(deployment: Deployment, client: Client) -> None:
    stopping = False

    async def compact() -> None:
        while not stopping:
            revision = (await client.state.stats()).revision
            if revision > 1:
                await client.state.compact(revision)
            await asyncio.sleep(0)

    async with client.state.watch("n") as watch:
        compacting = asyncio.ensure_future(compact())
        await asyncio.gather(*(client.state.add("n") for _ in range(2_000)))
        seen = [(await asyncio.wait_for(anext(watch), 20)).entry.json() for _ in range(2_000)]
        stopping = True
        await compacting
    assert seen == list(range(1, 2_001))


async def test_a_holder_that_is_interrupted_lets_its_lock_go_at_once(deployment: Deployment, client: Client, children) -> None:
    """Not only when its minute is over, as one that is killed does."""
    holders = [
        children.start([sys.executable, "-c", HOLDER, deployment.address, str(number)], name=f"holder {number}") for number in (1, 2)
    ]

    async def holder() -> str:
        entry = await client.state.get("held")
        [lock] = await client.state.locks("l") or [None]
        return entry.text() if entry and lock and lock.holder and lock.waiter_count == 1 else ""

    first = await eventually(holder, within_s=20, message="one to hold the lock and one to wait")
    holders[int(first) - 1].send(signal.SIGINT)
    second = str(3 - int(first))

    async def passed_on() -> bool:
        return (await client.state.get("held")).text() == second

    await eventually(passed_on, within_s=10, message="the other one to hold it")


async def test_a_namespace_that_is_made_again_has_nothing_of_the_old_state(deployment: Deployment, client: Client) -> None:
    await client.create_namespace("team")
    async with Client(deployment.address, namespace="team") as team:
        await team.state.put("k", 1)
        watch = team.state.watch("k")
        await watch.started()
        async with await team.state.lease(30) as lease:
            await team.state.put("leased", 1, lease=lease)
            await client.delete_namespace("team")
            with pytest.raises(NotFoundError, match="team"):
                await asyncio.wait_for(anext(watch), 10)
            lease.stop()
            lease.lost.set()

    async def made() -> bool:
        with contextlib.suppress(RefusedError, UnavailableError):
            await client.create_namespace("team")
            return True
        return False

    await eventually(made, within_s=20, message="the namespace to be gone")
    async with Client(deployment.address, namespace="team") as team:
        assert [entry async for entry in team.state.list()] == []
        assert (await team.state.stats()).revision == 0
        assert [event async for event in team.state.history("k")] == []
        assert await team.state.put("k", 2, if_revision=0) == 1
        assert (await team.state.get("k")).version == 1
