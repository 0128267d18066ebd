"""A namespace that is deleted in full use, over kill -9: nothing of it is left in the store, and nothing shows up under its name."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from agent_node import Client, MusterError, NotFoundError, UnavailableError
from tests.e2e.deployment import Deployment, client_of, deployed
from tests.support.eventually import eventually
from tests.support.receiver import answers, receiving

pytestmark = pytest.mark.e2e

NAME = "passing"


@pytest.fixture
async def deployment(children, tmp_path: Path) -> AsyncIterator[Deployment]:
    """A coordinator whose webhooks may go to loopback."""
    async with deployed(children, tmp_path, "--webhook-allow", "127.0.0.1", "--log-level", "info") as running:
        yield running


async def keys_of(deployment: Deployment, name: str) -> list[bytes]:
    """The store's keys that hold anything of a namespace."""
    store = Redis(unix_socket_path=str(deployment.store_socket), protocol=2)
    try:
        return [key async for key in store.scan_iter(count=1000) if name.encode() in key]
    finally:
        await store.aclose()


async def make_again(client: Client) -> None:
    """Creates the namespace as soon as nothing of the old one is left."""

    async def made() -> bool:
        try:
            await client.create_namespace(NAME)
        except UnavailableError:
            return False
        return True

    await eventually(made, within_s=30, message="the name to be free")


@pytest.mark.parametrize("kills", [False, True])
async def test_nothing_of_a_deleted_namespace_is_left(deployment: Deployment, *, kills: bool) -> None:
    from muster.v1.policy_pb2 import Policy, WeightPolicy

    async with client_of(deployment) as operator, receiving(answers(500)) as receiver:
        await operator.create_namespace(NAME)
        await (await operator.submit("nobody-does-this", task_id="other", labels={"team": "red"})).status()
        async with Client(deployment.address, namespace=NAME, connect_timeout_s=60.0) as client:
            deployment.start_agent("agent", capacity=300, env={"MUSTER_NAMESPACE": NAME})
            await client.set_policies([Policy(weight=WeightPolicy(fairness_key="gold", weight=5))])
            ended = [await client.submit("digest", f"{number}", task_id=f"own-{number}", labels={"team": "red"}) for number in range(1500)]
            for handle in ended:
                await handle.result(timeout_s=30)
            told = await client.submit("digest", "told", webhook=receiver.url)
            await told.result(timeout_s=20)
            await eventually(lambda: receiver.requests, within_s=10, message="a webhook to fail, and to be due again")
            running = [await client.submit("at-gate", "never", task_id=f"running-{number}") for number in range(3)]
            await deployment.until_recorded("started", count=3)
            await client.submit("nobody-does-this", labels={"team": "red"})
            await client.submit("digest", "later", delay_s=3600)
            waiting = [asyncio.create_task(handle.result()) for handle in running]
            watching = asyncio.create_task(watch_to_its_end(client))
            assert await keys_of(deployment, NAME)

            with pytest.raises(MusterError, match="live tasks"):
                await operator.delete_namespace(NAME)
            await operator.delete_namespace(NAME, force=True)
            if kills:
                await deployment.kill_coordinator()

            # Whoever is in it is told so, and none goes on as if nothing were.
            async with asyncio.timeout(30):
                for error in await asyncio.gather(*waiting, watching, return_exceptions=True):
                    assert isinstance(error, NotFoundError), error
                with pytest.raises(NotFoundError):
                    await client.submit("digest", "too late")
            await deployment.until_recorded("cancelled", count=3, within_s=30)
            if kills:
                await deployment.kill_coordinator()

        await eventually(lambda: gone(deployment), within_s=30, message="no key of it to be left")
        attempts = len(receiver.requests)
        await make_again(operator)
        assert not await keys_of(deployment, NAME)
        async with Client(deployment.address, namespace=NAME, connect_timeout_s=60.0) as client:
            assert [task async for task in client.list()] == []
            assert [task async for task in client.list('labels.team = "red"')] == []
            assert list(await client.policies()) == []
            assert (await client.webhook_deliveries()).pending == 0
            stats = await client.queue_stats()
            assert stats.pending + stats.running + stats.retrying == 0
            with pytest.raises(NotFoundError):
                await client.get("own-1")
            await deployment.agent_connected(client, "agent")  # it waited for somebody to make its namespace again
            [agent] = await client.agents()
            assert agent.running == 0
            again = await client.submit("digest", "another content", task_id="own-1")
            await again.result(timeout_s=20)
            renewed = await client.get("own-1")
            assert renewed.attempt == 1
        assert len(receiver.requests) == attempts, "a webhook of the old one was sent"
        assert (await operator.get("other")).task_id == "other", "another namespace lost nothing"


async def gone(deployment: Deployment) -> bool:
    return not await keys_of(deployment, NAME)


async def watch_to_its_end(client: Client) -> None:
    async for _ in client.watch(filter='task_type = "at-gate"'):
        pass
