"""The stores of more than one server that other tests use do what is said of them."""

import pytest

from tests.support.eventually import eventually
from tests.support.redis_servers import clustered, replicated

KINDS = ["valkey", pytest.param("redis", marks=pytest.mark.redis)]


@pytest.mark.parametrize("kind", KINDS)
async def test_sentinels_promote_a_replica(kind, children, tmp_path):
    async with replicated(children, tmp_path / "store", kind=kind) as store:
        first = await store.primary()
        second = await store.fail_over()
        assert second is not first
        await store.until_formed()
        second.kill()
        assert await store.promoted(instead_of=second) is first
        await second.start()
        await store.until_formed()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cluster_promotes_a_replica(kind, children, tmp_path):
    async with clustered(children, tmp_path / "store", kind=kind, with_replicas=True) as store:
        store.primaries[1].kill()

        async def promoted():
            return (await store.replicas[1].info())["role"] == "master"

        await eventually(promoted, within_s=20, message="the replica to take its primary's place")
        await store.until_formed(nodes=6)
