"""Opening a store: what is accepted, what is refused in one sentence, and what is said of its promises."""

import shutil
from pathlib import Path

import pytest

from coordinator.journal.deployment import open_deployment
from coordinator.journal.errors import StoreStartError
from coordinator.journal.layout import FORMAT_VERSION
from coordinator.journal.opening import open_store
from coordinator.journal.server_binary import find_server_binary
from coordinator.journal.startup_checks import check_store
from coordinator.ports import AppendAnswer, StoreOutage
from tests.support.ports import free_port
from tests.support.shard_backings import first_of, running_server


@pytest.fixture(params=["valkey", pytest.param("redis", marks=pytest.mark.redis)])
async def server(request, tmp_path):
    binary = find_server_binary() if request.param == "valkey" else Path(shutil.which("redis-server"))
    async with running_server(binary=binary, directory=tmp_path / "server") as backing:
        yield backing


@pytest.fixture
def raw(server):
    return server.client()


@pytest.fixture
async def open_it():
    opened = []

    async def open_one(*, data_dir=None, redis_url=None, shards=16, **settings):
        store = await open_store(data_dir=data_dir, redis_url=redis_url, shards=shards, **settings)
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()


def url(server, user=""):
    return f"unix://{user}{server.socket}"


class TestOpening:
    async def test_a_data_directory_gets_a_store_that_keeps_everything(self, open_it, tmp_path):
        store = await open_it(data_dir=tmp_path / "data")
        assert store.report.product == "Valkey"
        assert store.report.durability == "every acknowledged write survives a killed server and a power cut"
        assert store.report.warnings == ()
        await store.fullness()

    async def test_each_shard_is_a_journal_of_its_own(self, open_it, server):
        store = await open_it(redis_url=url(server))
        for number in (0, 15):
            shard = store.shard(number)
            assert shard is store.shard(number)
            await shard.claim()
            appended = await shard.append(sequence=1, commit_nonce="n", blob=b"%d" % number, ended=())
            assert appended.answer is AppendAnswer.APPLIED
        assert await store.shard(15).read(after=0, limit=10) == [(1, b"15")]

    async def test_two_coordinators_of_one_store_fence_each_other(self, open_it, server):
        first, second = await open_it(redis_url=url(server)), await open_it(redis_url=url(server))
        await first.shard(0).claim()
        await second.shard(0).claim()
        appended = await first.shard(0).append(sequence=1, commit_nonce="n", blob=b"", ended=())
        assert appended.answer is AppendAnswer.FENCED

    async def test_another_key_prefix_is_another_deployment(self, open_it, server):
        first, second = await open_it(redis_url=url(server)), await open_it(redis_url=url(server), key_prefix="other", shards=1)
        for store in (first, second):
            await store.shard(0).claim()
            await store.shard(0).append(sequence=1, commit_nonce="n", blob=b"", ended=())
        assert await first_of(second.shard(0)) == 1

    async def test_coordinators_of_one_deployment_share_a_secret(self, open_it, server):
        first, second, other = [await open_it(redis_url=url(server), key_prefix=prefix) for prefix in ("muster", "muster", "other")]
        assert len(first.peer_secret) == 64
        assert first.peer_secret == second.peer_secret != other.peer_secret
        assert first.peer_secret.decode() not in repr(await open_deployment(server.client(), prefix="muster", shards=16))

    async def test_a_store_of_an_older_release_gets_a_secret_though_it_is_full(self, open_it, server, raw):
        await raw.hset("muster:deployment", mapping={"format_version": FORMAT_VERSION, "shards": 16})
        await raw.config_set("maxmemory", 1)
        first, second = await open_it(redis_url=url(server)), await open_it(redis_url=url(server))
        assert first.peer_secret == second.peer_secret != b""

    async def test_how_full_it_is(self, open_it, tmp_path):
        store = await open_it(data_dir=tmp_path, memory_limit_bytes=64_000_000)
        memory = await store.fullness()
        assert memory.limit_bytes == 64_000_000
        assert 0 < memory.used_bytes < 64_000_000

    async def test_an_outage_shows(self, open_it, server):
        store = await open_it(redis_url=url(server))
        async with server.outage():
            with pytest.raises(StoreOutage, match="can't be reached"):
                await store.fullness()

    async def test_nothing_hides_an_outage_by_trying_again(self, open_it, server):
        store = await open_it(redis_url=f"{url(server)}?retry_on_timeout=yes")
        assert store.topology.pool("any").make_connection().retry.get_retries() == 0

    async def test_a_full_store_can_be_opened_again(self, open_it, server, raw):
        await open_it(redis_url=url(server))
        await raw.config_set("maxmemory", 1)
        await open_it(redis_url=url(server))

    async def test_data_survive_from_one_opening_to_the_next(self, tmp_path):
        for sequence in (1, 2, 3):
            store = await open_store(data_dir=tmp_path, redis_url=None, shards=4)
            assert (await store.shard(2).claim()).sequence == sequence - 1
            await store.shard(2).append(sequence=sequence, commit_nonce="n", blob=b"", ended=())
            await store.close()


class TestRefusals:
    @pytest.mark.parametrize("settings", [{}, {"data_dir": Path("x"), "redis_url": "redis://localhost"}], ids=["neither", "both"])
    async def test_not_exactly_one_place(self, open_it, settings):
        with pytest.raises(ValueError, match="either a data directory or the address"):
            await open_it(**settings)

    async def test_no_shards(self, open_it, tmp_path):
        with pytest.raises(ValueError, match="at least one shard"):
            await open_it(data_dir=tmp_path, shards=0)

    @pytest.mark.parametrize("prefix", ["", "a{b", "a}b"])
    async def test_a_prefix_that_would_break_the_keys(self, open_it, tmp_path, prefix):
        with pytest.raises(ValueError, match="must not be empty or contain braces"):
            await open_it(data_dir=tmp_path / "unused", key_prefix=prefix)
        assert not (tmp_path / "unused").exists()

    @pytest.mark.parametrize(
        "address", ["localhost:6379", "http://localhost", "redis://localhost:port", "redis://localhost?nonsense=1", ""]
    )
    async def test_an_address_that_is_none(self, open_it, address):
        with pytest.raises(StoreStartError, match="give redis://host:port/db"):
            await open_it(redis_url=address)

    async def test_nobody_listens_and_the_password_is_not_shown(self, open_it):
        port = free_port()
        with pytest.raises(StoreStartError, match="can't be used") as refused:
            await open_it(redis_url=f"redis://user:hunter2@127.0.0.1:{port}/0?client_name=hunter2")
        assert f"redis://127.0.0.1:{port}/0" in str(refused.value)
        assert "hunter2" not in str(refused.value)

    async def test_a_password_is_wanted(self, open_it, server, raw):
        await raw.config_set("requirepass", "secret")
        with pytest.raises(StoreStartError, match="refused the credentials"):
            await open_it(redis_url=url(server))

    async def test_another_number_of_shards(self, open_it, server):
        await open_it(redis_url=url(server), shards=16)
        with pytest.raises(StoreStartError, match=r"made with 16 shards.*set to 8.*--shards 16"):
            await open_it(redis_url=url(server), shards=8)

    async def test_a_newer_format(self, raw):
        await raw.hset("muster:deployment", mapping={"format_version": FORMAT_VERSION + 1, "shards": 16})
        with pytest.raises(StoreStartError, match=r"newer release of Muster.*upgrade this coordinator"):
            await open_deployment(raw, prefix="muster", shards=16)

    @pytest.mark.parametrize("fields", [{"shards": 16}, {"format_version": 1, "shards": "many"}])
    async def test_a_record_that_cannot_be_read(self, raw, fields):
        await raw.hset("muster:deployment", mapping=fields)
        with pytest.raises(StoreStartError, match="can't be read"):
            await open_deployment(raw, prefix="muster", shards=16)

    async def test_what_evicts(self, open_it, server, raw):
        await raw.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(StoreStartError, match=r"maxmemory-policy is allkeys-lru.*set it to noeviction"):
            await open_it(redis_url=url(server))

    async def test_what_evicts_though_it_denies_config(self, open_it, server, raw):
        await raw.config_set("maxmemory-policy", "allkeys-lru")
        await raw.execute_command("ACL", "SETUSER", "limited", "on", ">pw", "~*", "+@all", "-config")
        with pytest.raises(StoreStartError, match="allkeys-lru"):
            await open_it(redis_url=f"unix://limited@{server.socket}?password=pw")

    async def test_a_replica(self, open_it, server, raw):
        await raw.execute_command("REPLICAOF", "127.0.0.1", free_port())
        with pytest.raises(StoreStartError, match="read-only replica"):
            await open_it(redis_url=url(server))


class TestReport:
    @pytest.mark.parametrize(
        "settings,durability,warns",
        [
            ({}, "every acknowledged write survives", False),
            ({"appendfsync": "everysec"}, "a power cut can lose about the last second", False),
            ({"appendfsync": "no"}, "a power cut can lose the last half minute", False),
            ({"appendonly": "no", "save": "60 1"}, "since its last RDB snapshot", True),
            ({"appendonly": "no"}, "nothing survives a server that stops", True),
        ],
        ids=["always", "everysec", "no fsync", "snapshots", "nothing"],
    )
    async def test_it_says_which_promise_can_be_kept(self, raw, settings, durability, warns):
        for name, value in settings.items():
            await raw.config_set(name, value)
        report = await check_store(raw)
        assert durability in report.durability
        assert bool(report.warnings) is warns

    async def test_a_server_that_denies_config_is_warned_about_and_not_refused(self, open_it, server, raw):
        await raw.execute_command("ACL", "SETUSER", "limited", "on", ">pw", "~*", "+@all", "-config")
        store = await open_it(redis_url=f"unix://limited@{server.socket}?password=pw")
        assert "denies CONFIG GET" in " ".join(store.report.warnings)
        assert "depends on appendfsync" in store.report.durability

    async def test_a_server_that_denies_config_and_info_is_warned_about_and_not_refused(self, open_it, server, raw):
        await raw.execute_command("ACL", "SETUSER", "limited", "on", ">pw", "~*", "+@all", "-config", "-info")
        store = await open_it(redis_url=f"unix://limited@{server.socket}?password=pw")
        assert "denies INFO" in " ".join(store.report.warnings)

    @pytest.mark.parametrize("version", ["6.2.14", "5.0.7", "2.8"])
    async def test_an_old_redis_is_refused(self, version):
        with pytest.raises(StoreStartError, match=f"Redis {version}: Muster needs Redis 7.0"):
            await check_store(Pretender({"redis_version": version}))


class Pretender:
    """A client of a server that this machine doesn't have."""

    def __init__(self, info):
        self._info = info

    async def info(self, section):
        return self._info
