"""The store's primary changes under load: with `wait-replicas` nothing acknowledged is lost, and without it what is lost is said."""

import asyncio
from pathlib import Path

import pytest

from agent_node import Client, NotFoundError
from coordinator.journal.finding import find_store
from coordinator.journal.layout import ShardKeys, shard_of
from tests.e2e.deployment import client_of, deployed
from tests.e2e.journal_audit import audit
from tests.e2e.workers import answer_to
from tests.support.eventually import eventually
from tests.support.processes import Children
from tests.support.redis_servers import clustered, replicated, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

_TIMING = ("--lease", "2", "--session-grace", "3", "--log-level", "info")
_LANES = 20


class Load:
    """Tasks and counted writes of shared state, from many lanes, until they are told to stop."""

    def __init__(self, client: Client) -> None:
        self.acknowledged: set[str] = set()
        self.added = 0
        self._client = client
        self._stop = asyncio.Event()
        self._lanes = [asyncio.create_task(self._tasks(lane)) for lane in range(_LANES)]
        self._lanes.append(asyncio.create_task(self._state()))

    async def _tasks(self, lane: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            payload = f"{lane}-{number}".encode()
            handle = await self._client.submit("digest", payload)
            self.acknowledged.add(handle.task_id)
            output = await handle.result(timeout_s=90)
            assert output.payload == answer_to(payload)

    async def _state(self) -> None:
        while not self._stop.is_set():
            await self._client.state.add("counter", 1)
            self.added += 1

    async def goes_on(self) -> None:
        """Returns when more has been acknowledged."""
        before = len(self.acknowledged), self.added
        await eventually(
            lambda: len(self.acknowledged) > before[0] + 2 * _LANES and self.added > before[1],
            within_s=60,
            message="the load to go on",
        )

    async def finish(self) -> None:
        """Returns when everything that was begun has its end. Raises what went wrong."""
        self._stop.set()
        await asyncio.gather(*self._lanes)


async def available(client: Client) -> bool:
    """Whether the store answers all shards."""
    return (await client.coordinator()).store_available


async def test_failovers_under_load_lose_nothing_that_replicas_were_waited_for(children: Children, tmp_path: Path) -> None:
    async with replicated(children, tmp_path / "store") as servers:
        store = ("--redis-url", servers.url, "--durability", "wait-replicas:1")
        async with deployed(children, tmp_path, *_TIMING, store=store) as deployment, client_of(deployment) as client:
            assert "on the disks of a replica" in (await client.coordinator()).durability
            deployment.start_agent("agent", capacity=50)
            load = Load(client)
            await load.goes_on()
            await servers.fail_over()  # the old primary is well, and goes on as one for some seconds
            await load.goes_on()
            await servers.until_formed()
            killed = await servers.primary()
            killed.kill()
            await servers.promoted(instead_of=killed)
            await killed.start()
            await load.goes_on()
            await load.finish()
            assert int((await client.state.get("counter")).value) == load.added
            await until(lambda: available(client), message="the shards at rest to have noticed that the replica is back")
            assert (await client.coordinator()).lost_writes == 0
            assert deployment.coordinator.exit_code is None
            found = await audit((await servers.primary()).client())
            found.check(ended=load.acknowledged)


async def test_a_primary_of_a_cluster_that_is_killed_under_load(children: Children, tmp_path: Path) -> None:
    async with clustered(children, tmp_path / "store", with_replicas=True) as servers:
        store = ("--redis-url", servers.url, "--durability", "wait-replicas:1")
        async with deployed(children, tmp_path, *_TIMING, store=store) as deployment, client_of(deployment) as client:
            deployment.start_agent("agent", capacity=50)
            load = Load(client)
            await load.goes_on()
            head = ShardKeys(prefix="muster", shard=shard_of("default", shards=16)).head
            topology = await find_store(servers.url, connect_timeout_s=2.0, call_timeout_s=10.0)
            place = topology.place(head)
            primary = next(node for node in servers.primaries if ("127.0.0.1", node.port) == place)
            primary.kill()

            async def moved() -> bool:
                return topology.place(head) != place

            await until(moved, message="the replica to take over")
            await primary.start()  # which follows it now: without a replica nothing is acknowledged
            await load.goes_on()
            await load.finish()
            assert int((await client.state.get("counter")).value) == load.added
            assert (await client.coordinator()).lost_writes == 0
            found = await audit(topology.client(head))
            found.check(ended=load.acknowledged)
            await topology.close()


@pytest.mark.parametrize("shards", [1, 16])
async def test_a_failover_that_loses_acknowledged_writes_is_said(children: Children, tmp_path: Path, shards: int) -> None:
    async with (
        replicated(children, tmp_path / "store") as servers,
        deployed(children, tmp_path, *_TIMING, "--shards", str(shards), store=("--redis-url", servers.url)) as deployment,
        client_of(deployment) as client,
    ):
        primary, replica = servers.servers
        kept = await client.submit("digest", "kept")
        await client.state.put("key", "kept")
        await servers.until_replicated()
        with replica.stopped():
            await primary.ask("CLIENT", "KILL", "TYPE", "replica")  # so that nothing is on its way to it
            lost = [await client.submit("digest", f"lost {number}") for number in range(5)]
            for number in range(3):
                written = await client.state.put("key", f"lost {number}")
            primary.kill()
        await servers.promoted(instead_of=primary)
        line = await deployment.coordinator.wait_for_line(
            r"store\.lost_writes shard=(\d+) entries=(\d+) had=\d+ has=\d+ epoch=\d+: .*", within_s=60
        )
        assert int(line[2]) >= 1
        await deployment.coordinator.wait_for_line(r"state\.lost namespace=default revisions=3 ", within_s=30)

        async def stands():
            try:
                return (await client.state.get("key")).value == b"kept"
            except Exception:  # noqa: BLE001 - the shard is being rebuilt
                return False

        await until(stands, message="what is left to be read")
        again = await client.state.put("key", "again")
        assert again > written, "a revision that was shown isn't used again"
        for handle in lost:
            with pytest.raises(NotFoundError):
                await handle.status()
        deployment.start_agent("agent")
        assert (await kept.result(timeout_s=30)).payload == answer_to(b"kept")
        await (await client.submit("digest", "new")).result(timeout_s=30)
        about = await client.coordinator()
        assert about.lost_writes == int(line[2]) + 3
        assert ShardKeys(prefix="muster", shard=shard_of("default", shards=shards)).shard == int(line[1])
