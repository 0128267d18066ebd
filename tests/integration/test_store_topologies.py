"""Stores of several servers: they are found, their failovers are outages that end, and what can't be one is refused in one sentence."""

import contextlib
from weakref import WeakSet

import pytest
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from coordinator.journal.errors import StoreStartError
from coordinator.journal.finding_connections import FindingConnection
from coordinator.journal.layout import ShardKeys
from coordinator.journal.opening import open_store
from coordinator.journal.redis_store import RedisShardStore
from coordinator.ports import AppendAnswer, StoreOutage
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.redis_servers import SERVICE, clustered, replicated, until

FAILOVERS, FAILOVER_S = 4, 6.0  # the server itself gives one up after five seconds
KINDS = ["valkey", pytest.param("redis", marks=pytest.mark.redis)]


@pytest.fixture
async def open_it():
    opened = []

    async def open_one(url, *, shards=4, **settings):
        opened.append(await open_store(data_dir=None, redis_url=url, shards=shards, **settings))
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


async def append(store, number, sequence, *, nonce="n"):
    """What a shard's append answers in the end: an outage is waited out, as a shard does."""
    answers = []

    async def answered():
        try:
            answers.append(await store.shard(number).append(sequence=sequence, commit_nonce=f"{nonce}{sequence}", blob=b"b", ended=()))
        except StoreOutage:
            return False
        return True

    await until(answered, message="the store to answer an append")
    return answers[0].answer


class TestSentinel:
    async def test_a_failover_is_an_outage_that_ends(self, open_it, kind, children, tmp_path):
        async with replicated(children, tmp_path / "store", kind=kind) as servers:
            store = await open_it(servers.url)
            shard = store.shard(0)
            await shard.claim()
            assert await append(store, 0, 1) is AppendAnswer.APPLIED
            assert await append(store, 0, 1) is AppendAnswer.ALREADY_MINE
            await servers.until_replicated()
            replica = await servers.fail_over()

            async def moved():
                return store.topology.place("any")[1] == replica.port

            await until(moved, message="the store to notice")
            assert await append(store, 0, 2) is AppendAnswer.APPLIED
            assert await shard.read(after=1, limit=5) == [(2, b"b")]
            assert await replica.ask("XLEN", ShardKeys(prefix="muster", shard=0).journal) == 2
            await store.fullness()

    async def test_a_primary_that_is_killed(self, open_it, children, tmp_path):
        async with replicated(children, tmp_path / "store") as servers:
            store = await open_it(servers.url)
            await store.shard(0).claim()
            await append(store, 0, 1)
            await servers.until_replicated()
            (await servers.primary()).kill()
            assert await append(store, 0, 2) is AppendAnswer.APPLIED

    async def test_a_primary_that_hangs_is_left_long_before_a_call_gives_up(self, open_it, children, tmp_path):
        async with replicated(children, tmp_path / "store") as servers:
            store = await open_it(servers.url, call_timeout_s=300.0)
            await store.shard(0).claim()
            await append(store, 0, 1)
            await servers.until_replicated()
            with (await servers.primary()).stopped():
                assert await append(store, 0, 2) is AppendAnswer.APPLIED

    async def test_sentinels_that_hang_or_are_gone_are_done_without(self, open_it, children, tmp_path):
        async with replicated(children, tmp_path / "store") as servers:
            servers.sentinels[0].kill()
            with servers.sentinels[1].stopped():
                store = await open_it(servers.url)
                await store.shard(0).claim()

    async def test_a_server_that_is_no_primary_any_more_answers_no_reads(self, children, tmp_path):
        async with replicated(children, tmp_path / "store", sentinels=0) as servers:
            address = ("127.0.0.1", servers.servers[1].port)

            async def find(way):
                return address

            options = {"way": 0, "find": find, "asks_role": True, "connections": WeakSet(), "retry": Retry(NoBackoff(), 0)}
            pool = ConnectionPool(connection_class=FindingConnection, **options)
            store = RedisShardStore(pool=pool, keys=ShardKeys(prefix="muster", shard=0), new_nonce=str)
            with pytest.raises(StoreOutage, match="isn't a primary any more"):
                await store.read(after=0, limit=1)
            await store.close()

    async def test_no_sentinel_knows_the_service(self, open_it, children, tmp_path):
        async with replicated(children, tmp_path / "store") as servers:
            with pytest.raises(StoreStartError, match=f"know no service 'nonsense': they know '{SERVICE}'"):
                await open_it(servers.url.replace(f"/{SERVICE}", "/nonsense"))

    async def test_no_sentinel_answers(self, open_it):
        with pytest.raises(StoreStartError, match=r"no sentinel says where the primary of 'muster' is"):
            await open_it(f"redis+sentinel://127.0.0.1:{free_port()}/muster")

    async def test_passwords_of_servers_and_of_sentinels(self, open_it, children, tmp_path):
        settings = {"requirepass": "secret", "masterauth": "secret"}
        async with replicated(children, tmp_path / "store", settings=settings, sentinel_settings={"requirepass": "watch"}) as servers:
            with pytest.raises(StoreStartError, match=r"sentinels refused the credentials: add \?sentinel_password"):
                await open_it(servers.url)
            with pytest.raises(StoreStartError, match="refused the credentials: give user and password") as refused:
                await open_it(f"{servers.url}?sentinel_password=watch")
            assert "watch" not in str(refused.value)
            url = servers.url.replace("://", "://:secret@")
            store = await open_it(f"{url}/0?sentinel_password=watch")
            await store.shard(0).claim()

    @pytest.mark.parametrize(
        "url",
        [
            "redis+sentinel://localhost",
            "redis+sentinel://localhost/",
            "redis+sentinel://localhost/muster/x",
            "redis+sentinel://a:b:c/m",
            "redis+sentinel://:99999/muster",
            "redis+sentinel://localhost:1/muster?nonsense=1",
        ],
    )
    async def test_an_address_that_is_none(self, open_it, url):
        with pytest.raises(StoreStartError, match=r"give redis\+sentinel://host:port,host:port/service"):
            await open_it(url)


class TestCluster:
    async def test_each_shard_lies_on_its_primary_and_follows_it(self, open_it, kind, children, tmp_path):
        async with clustered(children, tmp_path / "store", kind=kind, with_replicas=True) as servers:
            store = await open_it(servers.url, shards=8)
            places = {store.topology.place(ShardKeys(prefix="muster", shard=number).head) for number in range(8)}
            assert places == {("127.0.0.1", server.port) for server in servers.primaries}
            for number in range(8):
                await store.shard(number).claim()
                assert await append(store, number, 1) is AppendAnswer.APPLIED
            await store.fullness()
            for replica in servers.replicas:  # one at a time: each needs the votes of the other primaries

                async def promoted(replica=replica):
                    return (await replica.info()).get("role") == "master"

                for _ in range(FAILOVERS):  # a busy server lets one time out
                    await replica.ask("CLUSTER", "FAILOVER")
                    with contextlib.suppress(AssertionError):
                        await eventually(promoted, within_s=FAILOVER_S, message="the replica to be promoted")
                        break
            for number in range(8):
                assert await append(store, number, 2) is AppendAnswer.APPLIED

            async def moved():
                now = {store.topology.place(ShardKeys(prefix="muster", shard=number).head) for number in range(8)}
                return now == {("127.0.0.1", server.port) for server in servers.replicas}

            await until(moved, message="the store to know the new primaries")
            assert [await store.shard(number).read(after=0, limit=5) for number in range(8)] == [[(1, b"b"), (2, b"b")]] * 8

    async def test_a_primary_that_is_killed(self, open_it, children, tmp_path):
        async with clustered(children, tmp_path / "store", with_replicas=True) as servers:
            store = await open_it(servers.url, shards=8)
            for number in range(8):
                await store.shard(number).claim()
            servers.primaries[0].kill()  # the one that was given as the store's address
            for number in range(8):
                assert await append(store, number, 1) is AppendAnswer.APPLIED

    async def test_what_lies_beside_the_shards_has_a_client_for_each_key(self, open_it, children, tmp_path):
        async with clustered(children, tmp_path / "store") as servers:
            store = await open_it(servers.url)
            for key in (f"muster:cluster:{number}" for number in range(20)):
                client = store.topology.client(key)
                assert await client.eval("return redis.call('SET', KEYS[1], ARGV[1])", 1, key, "v") == b"OK"
                assert await store.topology.client(key).get(key) == b"v"

    async def test_a_database_number(self, open_it, children, tmp_path):
        async with clustered(children, tmp_path / "store", primaries=1) as servers:
            with pytest.raises(StoreStartError, match="Redis Cluster, which has no database 3: leave the number out"):
                await open_it(f"{servers.url}/3")

    async def test_slots_that_nobody_serves(self, open_it, children, tmp_path):
        async with clustered(children, tmp_path / "store") as servers:
            await servers.primaries[2].client().execute_command("CLUSTER", "DELSLOTSRANGE", 16000, 16383)

            async def known():
                return all([b"cluster_slots_assigned:16000" in await node.ask("CLUSTER", "INFO") for node in servers.primaries[2:]])

            await until(known, message="the slots to be nobody's")
            with pytest.raises(StoreStartError, match=r"nobody serves 384 of 16384 slots|is down"):
                await open_it(f"redis://127.0.0.1:{servers.primaries[2].port}")

    async def test_one_primary_that_evicts(self, open_it, children, tmp_path):
        async with clustered(children, tmp_path / "store") as servers:
            await servers.primaries[1].client().config_set("maxmemory-policy", "allkeys-lru")
            with pytest.raises(StoreStartError, match=r"maxmemory-policy is allkeys-lru"):
                await open_it(servers.url, shards=16)
