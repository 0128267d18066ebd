"""What only a shard in Redis has to withstand: full memory, foreign keys, lost scripts, a cluster's rules."""

import asyncio
import shutil
from pathlib import Path

import pytest
from redis import exceptions as redis_errors
from redis.asyncio import Redis

from coordinator.journal.ordered_connection import OrderedConnection
from coordinator.journal.redis_errors import as_store_errors
from coordinator.journal.redis_store import RedisShardStore
from coordinator.journal.server_binary import find_server_binary
from coordinator.ports import AppendAnswer, EndedTask, Retention, StoreCorrupt, StoreOutage
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.shard_backings import KEYS, first_of, running_server

ENDED = [EndedTask("default", "t", b"record", 1), EndedTask("other", "t", b"record", 1)]
LONG_AGO = [EndedTask("default", f"old-{i}", b"r" * 1000, 1) for i in range(10)]


@pytest.fixture(params=["valkey", pytest.param("redis", marks=pytest.mark.redis)])
async def server(request, tmp_path):
    binary = find_server_binary() if request.param == "valkey" else Path(shutil.which("redis-server"))
    async with running_server(binary=binary, directory=tmp_path / "store") as backing:
        yield backing


@pytest.fixture
async def owner(server):
    store = server.open()
    await store.claim()
    return store


@pytest.fixture
def raw(server):
    return server.client()


async def append(store, sequence, nonce="n", *, ended=()):
    return (await store.append(sequence=sequence, commit_nonce=nonce, blob=b"blob", ended=ended)).answer


async def everything(raw):
    return {key: await raw.execute_command("DUMP", key) for key in sorted(await raw.keys())}


async def test_full_memory_is_an_outage_that_leaves_nothing_and_ends(server, owner, raw):
    before = await everything(raw)
    await raw.config_set("maxmemory", 1)
    with pytest.raises(StoreOutage, match="memory"):
        await append(owner, 1, ended=ENDED)
    assert await everything(raw) == before
    await raw.config_set("maxmemory", 0)
    assert await append(owner, 1, ended=ENDED) is AppendAnswer.APPLIED


async def test_a_full_store_can_be_made_roomier(owner, raw):
    await append(owner, 1, ended=LONG_AGO)
    await raw.config_set("maxmemory", 1)
    assert await owner.slim_ended("default", lambda record: record[:1], limit=100) == len(LONG_AGO)


async def test_a_full_store_can_be_claimed_and_emptied(server, owner, raw):
    await append(owner, 1, ended=LONG_AGO)
    await raw.config_set("maxmemory", 1)
    successor = server.open()
    await successor.claim()
    assert await successor.expire_ended("default", Retention(0, 0, 0), limit=100) == len(LONG_AGO)


async def test_a_full_store_takes_no_piece_and_makes_one_current_that_is_whole_and_can_be_trimmed(owner, raw):
    await append(owner, 1)
    await owner.write_snapshot(sequence=1, nonce="n", place=0, piece=b"piece")
    await raw.config_set("maxmemory", 1)
    with pytest.raises(StoreOutage, match="memory"):
        await owner.write_snapshot(sequence=1, nonce="n", place=1, piece=b"piece")
    assert await owner.finish_snapshot(sequence=1, nonce="n", pieces=1, size_bytes=5)
    assert await owner.trim_journal(limit=10) == 1


async def test_there_are_never_more_than_two_snapshots(server, owner, raw):
    for sequence in range(1, 6):
        await append(owner, sequence, f"n{sequence}")
        await owner.write_snapshot(sequence=sequence, nonce="given up", place=0, piece=b"piece")
        await owner.write_snapshot(sequence=sequence, nonce="n", place=0, piece=b"piece")
        assert await raw.exists(*KEYS.snapshots) == min(sequence, 2)
        await owner.finish_snapshot(sequence=sequence, nonce="n", pieces=1, size_bytes=5)
        assert await raw.exists(*KEYS.snapshots) == 1
    await owner.write_snapshot(sequence=5, nonce="half", place=0, piece=b"piece")
    await server.open().claim()
    assert await raw.exists(*KEYS.snapshots) == 1


async def test_a_shard_whose_snapshot_is_gone_or_cut_cannot_be_claimed(server, owner, raw):
    await append(owner, 1)
    for place in (0, 1):
        await owner.write_snapshot(sequence=1, nonce="n", place=place, piece=b"piece")
    await owner.finish_snapshot(sequence=1, nonce="n", pieces=2, size_bytes=10)
    for pieces in (1, 0):
        await raw.rpop(KEYS.snapshots[0])
        with pytest.raises(StoreCorrupt, match=f"the snapshot at 1 has {pieces} pieces, but had 2"):
            await server.open().claim()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: raw.set(KEYS.ended("other"), "not a list"),
        lambda raw: raw.set(KEYS.counters("other"), "not a hash"),
        lambda raw: raw.hset(KEYS.counters("other"), "bytes", "many"),
        lambda raw: raw.set(KEYS.journal, "not a stream"),
        lambda raw: raw.xadd(KEYS.journal, {"c": b"someone else's"}, id="1-0"),
        lambda raw: raw.xadd(KEYS.journal, {"c": b"someone else's"}, id="7-0"),
    ],
    ids=["index", "counters", "bytes", "journal's type", "journal is there", "journal is ahead"],
)
async def test_a_script_that_fails_leaves_nothing(owner, raw, spoil):
    await spoil(raw)
    before = await everything(raw)
    with pytest.raises(StoreCorrupt):
        await append(owner, 1, ended=ENDED)
    assert await everything(raw) == before


async def test_a_journal_that_does_not_end_where_the_head_says_cannot_be_claimed(server, owner, raw):
    await append(owner, 1)
    await raw.xadd(KEYS.journal, {"c": b"half a commit"}, id="2-0")
    with pytest.raises(StoreCorrupt, match="head is at 1-0, but the journal ends at 2-0"):
        await server.open().claim()


async def test_a_journal_that_was_trimmed_empty_is_claimed_where_it_ended(server, owner, raw):
    await append(owner, 1)
    await append(owner, 2, "m")
    await raw.xtrim(KEYS.journal, minid="3-0")
    successor = server.open()
    assert (await successor.claim()).sequence == 2
    assert await append(successor, 3) is AppendAnswer.APPLIED
    assert await first_of(successor) == 3


async def test_a_journal_that_is_gone_while_its_head_is_there_cannot_be_claimed(server, owner, raw):
    await append(owner, 1)
    await raw.delete(KEYS.journal)
    with pytest.raises(StoreCorrupt):
        await server.open().claim()


async def test_a_journal_entry_that_is_no_commit_is_corrupt(owner, raw):
    await raw.xadd(KEYS.journal, {"x": b""}, id="1-0")
    with pytest.raises(StoreCorrupt):
        await owner.read(after=0, limit=1)


async def test_an_index_line_that_is_none_is_corrupt(owner, raw):
    await raw.rpush(KEYS.ended("default"), b"short")
    with pytest.raises(StoreCorrupt):
        await owner.list_ended("default", before=None, limit=1)


async def test_a_server_that_forgot_the_scripts_is_taught_them(owner, raw):
    await append(owner, 1, ended=LONG_AGO)
    await owner.list_ended("default", before=None, limit=1)
    await raw.script_flush()
    assert await append(owner, 2, "m") is AppendAnswer.APPLIED
    assert len(await owner.list_ended("default", before=None, limit=1)) == 1


async def test_a_connection_that_the_server_closed_is_replaced(owner, raw):
    await append(owner, 1)
    await raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    answers = []

    async def repeat():
        try:
            answers.append(await append(owner, 2, "m"))
        except StoreOutage:
            return False
        return True

    await eventually(repeat)
    assert answers == [AppendAnswer.APPLIED]


async def test_a_cancelled_append_does_not_leave_its_answer_to_the_next(server, owner):
    await append(owner, 1)
    async with server.lost_answers():
        waiting = asyncio.create_task(append(owner, 2, "m"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert await append(owner, 9, "x") is AppendAnswer.DIVERGED
    assert (await owner.claim()).sequence in (1, 2)


@pytest.mark.parametrize("error", [asyncio.CancelledError, redis_errors.ConnectionError, ZeroDivisionError])
async def test_a_connection_that_may_still_get_an_answer_is_not_used_again(error):
    class Connection:
        is_connected = True
        sent = 0

        async def send_packed_command(self, command, check_health):
            self.sent += 1

        async def read_response(self):
            raise error

        async def disconnect(self, nowait):
            self.is_connected = False

    class Pool:
        connection = Connection()

        def make_connection(self):
            return self.connection

    with pytest.raises(error):
        await OrderedConnection(pool=Pool(), call_timeout_s=1.0).call("PING")
    assert not Pool.connection.is_connected


async def test_an_index_that_moved_on_since_it_was_read_is_left_alone(owner, monkeypatch):
    await append(owner, 1, ended=LONG_AGO)
    read = owner._reads.run

    async def read_and_be_overtaken(*arguments, **keywords):
        answer = await read(*arguments, **keywords)
        monkeypatch.undo()
        assert await owner.expire_ended("default", Retention(0, 0, 0), limit=4) == 4
        return answer

    monkeypatch.setattr(owner._reads, "run", read_and_be_overtaken)
    assert await owner.expire_ended("default", Retention(0, 0, 0), limit=4) == 0
    listed = [entry.task_id for entry in await owner.list_ended("default", before=None, limit=100)]
    assert listed == [f"old-{i}" for i in reversed(range(4, 10))]
    assert None not in await owner.get_records("default", listed)


async def test_what_is_sent_together_is_done_in_order(owner):
    answers = await asyncio.gather(*(append(owner, sequence, f"n{sequence}") for sequence in range(1, 30)))
    assert set(answers) == {AppendAnswer.APPLIED}


async def test_what_was_acknowledged_survives_a_killed_server(server, owner):
    await append(owner, 1, ended=ENDED)
    async with server.outage():
        pass
    successor = server.open()
    assert (await successor.claim()).sequence == 1
    assert await successor.get_records("default", ["t"]) == [b"record"]
    assert await successor.read(after=0, limit=2) == [(1, b"blob")]


async def test_a_cluster_takes_every_call(children, tmp_path):
    port = free_port()
    flags = {"cluster-enabled": "yes", "dir": tmp_path, "bind": "127.0.0.1", "port": port, "cluster-port": free_port()}
    child = children.start(
        [str(find_server_binary()), *(part for name, value in flags.items() for part in (f"--{name}", str(value)))], name="cluster"
    )
    await child.wait_for_port(port)
    client = Redis(port=port, protocol=2, socket_timeout=None)
    await client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)

    store = RedisShardStore(pool=client.connection_pool, keys=KEYS, new_nonce=lambda: "nonce")
    try:

        async def claimed():
            try:
                return await store.claim()
            except StoreOutage:  # CLUSTERDOWN, for a moment
                return None

        await eventually(claimed)
        assert await append(store, 1, ended=[*ENDED, *LONG_AGO]) is AppendAnswer.APPLIED
        assert await store.get_records("other", ["t"]) == [b"record"]
        assert len(await store.list_ended("default", before=None, limit=100)) == 11
        assert await store.expire_ended("default", Retention(0, 0, 0), limit=100) == 11
        assert await store.count_ended("default") == 0
        assert await store.write_snapshot(sequence=1, nonce="n", place=0, piece=b"piece")
        assert await store.finish_snapshot(sequence=1, nonce="n", pieces=1, size_bytes=5)
        assert await store.read_snapshot(sequence=1, place=0) == b"piece"
        assert await store.trim_journal(limit=10) == 1
        assert (await store.claim()).snapshot is not None
    finally:
        await store.close()
        await client.aclose()


@pytest.mark.parametrize(
    "error",
    [
        redis_errors.ConnectionError("refused"),
        redis_errors.TimeoutError("no answer"),
        redis_errors.BusyLoadingError("loading"),
        redis_errors.OutOfMemoryError("command not allowed when used memory > 'maxmemory'"),
        redis_errors.ReadOnlyError("You can't write against a read only replica."),
        redis_errors.ClusterDownError("The cluster is down"),
        redis_errors.TryAgainError("Multiple keys request during rehashing of slot"),
        redis_errors.ResponseError("MISCONF Errors writing to the AOF file: No space left on device"),
        redis_errors.ResponseError("NOREPLICAS Not enough good replicas to write."),
        redis_errors.ResponseError("BUSY Redis is busy running a script."),
        redis_errors.ResponseError("LOADING Redis is loading the dataset in memory"),
        ConnectionRefusedError(),
        TimeoutError(),
    ],
    ids=repr,
)
def test_these_errors_are_outages(error):
    with pytest.raises(StoreOutage), as_store_errors():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        redis_errors.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
        redis_errors.ResponseError("ERR user_script:3: something"),
        redis_errors.ResponseError("CORRUPT the head is at 1-0, but the journal ends at 2-0"),
        redis_errors.DataError("Invalid input"),
    ],
    ids=repr,
)
def test_these_errors_mean_corruption(error):
    with pytest.raises(StoreCorrupt), as_store_errors():
        raise error


def test_other_errors_are_left_alone():
    with pytest.raises(ZeroDivisionError), as_store_errors():
        raise ZeroDivisionError
