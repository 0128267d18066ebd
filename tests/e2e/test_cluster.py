"""Several coordinators over one Redis: they share the shards, and take over from those that end, die, or are held up."""

import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from muster.v1 import common_pb2

from agent_node import Client, UnavailableError
from coordinator.journal.layout import shard_of
from tests.e2e.deployment import START_S, Deployment
from tests.e2e.journal_audit import audit
from tests.e2e.shared_store import Coordinators, SharedStore
from tests.e2e.test_ownership import refused
from tests.support.eventually import eventually
from tests.support.processes import Child, Children

pytestmark = pytest.mark.e2e

SHARDS = 4
HOME = shard_of("default", shards=SHARDS)
FAILOVER_S = 5.0  # wanted, at the default TTL
HANDOVER_S = 0.5  # wanted, of a clean end


@asynccontextmanager
async def cluster(children: Children, folder: Path, *options: str) -> AsyncIterator[Coordinators]:
    store = SharedStore(children=children, folder=folder)
    await store.until_ready()
    coordinators = Coordinators(deployment=Deployment(children=children, folder=folder), store=store, shards=SHARDS, options=options)
    try:
        yield coordinators
    finally:
        await coordinators.redis.aclose()
        await children.stop_all()


async def shown(client: Client, coordinators: Coordinators) -> bool:
    """Whether a coordinator says of all what the store says."""
    view = await client.cluster()
    owners = [shard.coordinator_id for shard in view.shards if shard.serving and shard.claim_time.seconds]
    addresses = {one.coordinator_id: one.address for one in view.coordinators}
    epochs = [int((await coordinators.head(shard.number))["epoch"]) for shard in view.shards]
    return (
        owners == await coordinators.owners()
        and epochs == [shard.epoch for shard in view.shards]
        and addresses == {name: coordinators.address(name) for name in coordinators.running}
    )


@contextlib.contextmanager
def stopped(child: Child) -> Iterator[None]:
    """Meanwhile it does nothing."""
    child.send(signal.SIGSTOP)
    try:
        yield
    finally:
        child.send(signal.SIGCONT)


async def cancelled(client: Client, task_id: str) -> bool:
    """Cancels a task. False when it isn't known whether that was done."""
    try:
        await client.cancel([task_id])
    except UnavailableError:
        return False
    return True


async def submit_until_answered(address: str, *, within_s: float = 20.0) -> float:
    """Submits by way of a coordinator until it is acknowledged. Answers in how many seconds it was."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    async with Client(address, give_up_s=within_s) as client:
        await client.submit("nobody", want_result=False)
    return loop.time() - began_s


async def test_they_share_the_shards_and_a_third_gets_its_part(children: Children, tmp_path: Path) -> None:
    async with cluster(children, tmp_path) as coordinators:
        await coordinators.start("one")
        assert await coordinators.owners() == ["one"] * SHARDS
        await coordinators.start("two")
        await coordinators.until_even("one", "two")
        await coordinators.start("three")
        await coordinators.until_even("one", "two", "three")
        for name in ("one", "two", "three"):
            async with Client(coordinators.address(name)) as client:
                await eventually(lambda: shown(client, coordinators), message=f"{name} to say what the store says")
            assert await submit_until_answered(coordinators.address(name)) < START_S
        assert all(child.exit_code is None for child in coordinators.running.values())


async def test_when_the_owner_is_killed_another_takes_over_and_running_work_goes_on(children: Children, tmp_path: Path) -> None:
    async with cluster(children, tmp_path) as coordinators:
        await coordinators.start("one", "two")
        owner = (await coordinators.until_even("one", "two"))[HOME]
        other = "two" if owner == "one" else "one"
        deployment = coordinators.deployment
        deployment.start_agent("worker", address=coordinators.address(other))
        async with Client(coordinators.address(other), give_up_s=30) as client:
            running = await client.submit("at-gate", "taken over", want_result=False)
            await deployment.until_recorded("started")
            before = await coordinators.head(HOME)
            coordinators.running[owner].kill()
            took_s = await submit_until_answered(coordinators.address(other))
            print(f"served again {took_s:.2f} s after kill -9")
            assert took_s < 2 * FAILOVER_S, "wanted are 5 s on a quiet machine"
            after = await coordinators.head(HOME)
            assert after["owner"] == other
            assert int(after["epoch"]) > int(before["epoch"])
            deployment.open_gate("taken over")
            result = await client.attach(running.task_id).result(timeout_s=30)
            assert result.agent_name == "worker"
        assert len(deployment.recorded("started")) == 1, "running work isn't started again"
        await coordinators.until_even(other)


async def test_a_clean_end_hands_over_at_once(children: Children, tmp_path: Path) -> None:
    async with cluster(children, tmp_path) as coordinators:
        await coordinators.start("one", "two")
        owner = (await coordinators.until_even("one", "two"))[HOME]
        other = "two" if owner == "one" else "one"
        gaps: list[float] = []
        stop = asyncio.Event()
        async with Client(coordinators.address(other), give_up_s=30) as client:

            async def keep_submitting() -> None:
                loop = asyncio.get_running_loop()
                last_s = loop.time()
                while not stop.is_set():
                    await client.submit("nobody", want_result=False)
                    gaps.append(loop.time() - last_s)
                    last_s = loop.time()

            submitting = asyncio.create_task(keep_submitting())
            await eventually(lambda: len(gaps) > 10, message="some submits")
            coordinators.running[owner].send(signal.SIGTERM)
            assert await coordinators.running[owner].wait_for_exit(within_s=START_S) == 0
            await coordinators.until_even(other)
            count = len(gaps)
            await eventually(lambda: len(gaps) > count + 10, message="more submits")
            stop.set()
            await submitting
        print(f"the longest gap between two answers is {max(gaps) * 1000:.0f} ms of {len(gaps)}")
        assert max(gaps) < 4 * HANDOVER_S, "wanted are 500 ms on a quiet machine"
        assert "owner" not in await coordinators.head(HOME) or (await coordinators.head(HOME))["owner"] == other


async def test_an_owner_that_was_stopped_past_its_lease_writes_and_answers_nothing_stale(children: Children, tmp_path: Path) -> None:
    """The two-epoch test: the old owner goes on when another has long decided other things, and ends nothing but its own streams."""
    async with cluster(children, tmp_path, "--ownership-ttl", "1") as coordinators:
        await coordinators.start("one", "two")
        owner = (await coordinators.until_even("one", "two"))[HOME]
        other = "two" if owner == "one" else "one"
        async with Client(coordinators.address(owner), give_up_s=2) as stale, Client(coordinators.address(other), give_up_s=30) as fresh:
            task = await stale.submit("nobody", want_result=False)
            with stopped(coordinators.running[owner]):
                asking = [asyncio.create_task(stale.get(task.task_id)) for _ in range(5)]
                await eventually(lambda: cancelled(fresh, task.task_id), within_s=START_S, message="another to take over")
                assert (await coordinators.head(HOME))["owner"] == other
            for answer in await asyncio.gather(*asking, return_exceptions=True):
                if not isinstance(answer, BaseException):
                    assert answer.state == common_pb2.TASK_STATE_CANCELLED, "what the old owner knew isn't told any more"
            with contextlib.suppress(UnavailableError):
                await stale.submit("nobody", want_result=False)
            await coordinators.until_even(owner, other)  # it lives, and gets its share again
        assert coordinators.running[owner].exit_code is None
        found = await audit(coordinators.store.socket, shards=SHARDS)
        assert not found.faults
        assert len(found.epochs) >= 2
        assert found.epochs == sorted(found.epochs), "whoever came later wrote last"


@pytest.mark.parametrize(
    "options, sentence",
    [
        (("--coordinator-id", "one"), r"a coordinator with the id 'one' serves at 127\.0\.0\.1:\d+ already: give each .* --coordinator-id"),
        (("--shards", "5"), r"the store was made with 4 shards, and this coordinator is set to 5: start it with --shards 4, .*"),
    ],
    ids=["an id used twice", "another number of shards"],
)
async def test_what_would_not_fit_is_refused_at_once(children: Children, tmp_path: Path, options: tuple[str, ...], sentence: str) -> None:
    async with cluster(children, tmp_path) as coordinators:
        await coordinators.start("one")
        second = coordinators.deployment.spawn_coordinator(*coordinators.store.options, "--shards", str(SHARDS), *options)
        await refused(second, sentence)
        assert await coordinators.owners() == ["one"] * SHARDS
        await submit_until_answered(coordinators.address("one"))


async def test_a_coordinator_that_was_killed_is_back_at_once(children: Children, tmp_path: Path) -> None:
    """It has bound its address again, so nobody need wait for a lease to end."""
    async with cluster(children, tmp_path, "--ownership-ttl", "60") as coordinators:
        await coordinators.start("one")
        await submit_until_answered(coordinators.address("one"))
        coordinators.running["one"].kill()
        await coordinators.start("one")
        assert await submit_until_answered(coordinators.address("one")) < START_S
        assert re.search(r"serving on", coordinators.running["one"].output())
