"""What only shared state in Redis has to withstand: kills, full memory, lost answers, a newer layout, foreign bytes, a cluster's rules."""

from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from coordinator.ports import JournalTooNew, StoreCorrupt, StoreOutage
from coordinator.state.layout import PARTS, StateKeys
from coordinator.state.model import (
    AcquireLock,
    Compact,
    Delete,
    ExpireDue,
    GrantLease,
    KeepLease,
    Limits,
    Origin,
    Outcome,
    Put,
    Read,
    ReleaseLock,
    RevokeLease,
    Transaction,
)
from coordinator.state.ports import WriteAnswer
from coordinator.state.redis_store import RedisStateStore
from tests.support.eventually import eventually
from tests.support.shard_backings import KEYS
from tests.support.state_backings import ServerStateBacking, StateClock, StateWriter

NAMES = StateKeys(shard=KEYS)
BIG = b"B" * 5000


def puts(count, *, value=b"v", first=0):
    return [Transaction((Put(f"k/{number:05}", value),)) for number in range(first, first + count)]


async def fill(writer):
    """Something of everything that there is."""
    origin = Origin(b"me", "client", 1)
    (lease,) = (await writer.batch(GrantLease(60_000))).verdicts
    await writer.batch(
        Transaction((Put("a", b"1", lease_id=lease.revision), Put("big", BIG), Put("short", b"", ttl_ms=60_000)), origin=origin),
        AcquireLock("l", "holder", 60_000, wait=True),
        AcquireLock("l", "waiter", 60_000, wait=True),
        KeepLease(lease.revision),
    )


async def dumps(backing):
    return {key: await backing.client.dump(key) for key in sorted(await backing.client.keys("*state*"))}


async def test_all_keys_of_a_namespace_are_declared_and_share_the_tag_of_its_shard(server_state, server_writer):
    await fill(server_writer)
    names = {name.decode() for name in await server_state.client.keys("*state*")}
    assert names == set(NAMES.parts("default")) - {NAMES.part("default", part) for part in ("kept:1", "clients:1")}
    assert all(name.startswith("muster:{s3}:state:default:") for name in names)


async def test_a_namespace_that_is_dropped_leaves_no_key(server_state, server_writer):
    await fill(server_writer)
    await server_writer.store.drop("default", limit=10)
    assert await server_state.client.keys("*state*") == []


async def test_what_ended_leaves_nothing_in_any_index(server_state, server_writer):
    await fill(server_writer)
    await server_writer.do(RevokeLease(1))
    await server_writer.delete("", prefix=True)
    await server_writer.do(ReleaseLock("l", waiter_id="waiter"))
    await server_writer.do(ReleaseLock("l", waiter_id="holder"))
    await server_writer.do(Compact((await server_writer.facts()).revision, 100))
    left = {name.decode() for name in await server_state.client.keys("*state*")}
    assert left == {NAMES.part("default", part) for part in ("meta", "events", "history", "kept:0", "clients:0", "last")}
    assert await server_state.client.xlen(NAMES.part("default", "events")) == 2
    assert await server_state.client.zcard(NAMES.part("default", "history")) == 2


async def test_a_large_value_that_was_replaced_by_a_small_one_is_gone(server_state, server_writer):
    await server_writer.put("k", BIG)
    assert await server_state.client.hlen(NAMES.part("default", "values")) == 1
    await server_writer.put("k", b"small")
    assert await server_state.client.hlen(NAMES.part("default", "values")) == 0
    assert await server_writer.value("k") == b"small"


@pytest.mark.parametrize("kill", [True, False])
async def test_what_was_answered_survives_the_server(server_state, server_writer, kill):
    await fill(server_writer)
    before = (await server_writer.facts(), await server_writer.events(), await server_writer.lock())
    if kill:
        async with server_state.server.outage():
            with pytest.raises(StoreOutage):
                await server_writer.batch(*puts(1))
    else:
        await server_state.server.stop()
        await server_state.server.start()
    writer = StateWriter(store=await server_state.open(), clock=server_state.clock)
    assert (await writer.facts(), await writer.events(), await writer.lock()) == before
    assert await writer.value("big") == BIG


async def test_a_lost_answer_comes_again(server_state, server_writer):
    commands = (*puts(2), Transaction((Read(("k/00000",)),)))
    impatient = server_state.open_impatient()
    async with server_state.server.lost_answers():
        with pytest.raises(StoreOutage):
            await impatient.write("default", commands, nonce="mine", limits=Limits())

    async def answered():
        try:
            return await server_writer.batch(*commands, nonce="mine")
        except StoreOutage:
            return None

    written = await eventually(answered)
    assert [verdict.revision for verdict in written.verdicts] == [1, 2, 0]
    assert written.verdicts[2].entries[0].key == "k/00000"
    assert (await server_writer.facts()).revision == 2


async def test_a_full_store_leaves_nothing_of_what_it_refuses(server_state, server_writer):
    await fill(server_writer)
    await server_writer.batch(*puts(1), nonce="before")
    await server_state.client.config_set("maxmemory", 1)
    before = await dumps(server_state)
    again = await server_writer.batch(*puts(1), nonce="before")
    assert (again.answer, again.verdicts[0].outcome) == (WriteAnswer.ALREADY_MINE, Outcome.DONE)
    assert await dumps(server_state) == before
    written = await server_writer.batch(*puts(3), GrantLease(1000), AcquireLock("m", "w", 1000, wait=True))
    assert {verdict.outcome for verdict in written.verdicts} == {Outcome.STORE_FULL}
    after = await dumps(server_state)
    for part in set(PARTS) - {"meta", "last"}:
        name = NAMES.part("default", part).encode()
        assert after.get(name) == before.get(name), part
    await server_state.client.config_set("maxmemory", 0)
    assert (await server_writer.batch(*puts(3))).verdicts[2].outcome is Outcome.DONE


async def test_a_server_that_forgot_the_scripts_is_taught_them(server_state, server_writer):
    await server_writer.put("k")
    await server_state.client.script_flush()
    await server_writer.put("k")
    await server_state.client.script_flush()
    assert await server_writer.value("k") == b"v"


async def test_state_of_a_newer_layout_is_refused_by_every_call(server_state, server_writer):
    await fill(server_writer)
    await server_state.client.hset(NAMES.part("default", "meta"), "version", 2)
    before = await dumps(server_state)
    store = server_writer.store
    for call in (
        server_writer.put("k"),
        server_writer.get("k"),
        server_writer.keys(),
        server_writer.events(),
        store.history("default", "k", after=0, limit=1, max_bytes=1),
        store.entry_at("default", "k", 1),
        store.locks("default", prefix="", after="", limit=1),
        server_writer.facts(),
    ):
        with pytest.raises(JournalTooNew, match="format 2, and this release reads up to 1: start the newer one"):
            await call
    assert await dumps(server_state) == before


async def test_foreign_bytes_are_corrupt(server_state, server_writer):
    await fill(server_writer)
    await server_state.client.hset(NAMES.part("default", "entries"), "a", "nonsense")
    with pytest.raises(StoreCorrupt):
        await server_writer.get("a")
    await server_state.client.xadd(NAMES.part("default", "events"), {"e": b"\x07"}, id="900-0")
    with pytest.raises(StoreCorrupt):
        await server_writer.events()


async def test_events_that_go_on_above_the_revision_stop_the_writer_before_it_writes(server_state, server_writer):
    await fill(server_writer)
    await server_state.client.hset(NAMES.part("default", "meta"), "revision", 1)
    before = await dumps(server_state)
    with pytest.raises(StoreCorrupt):
        await server_writer.put("k")
    assert await dumps(server_state) == before


async def calls_of(backing, call):
    """How often the server carried out each command in a call, and what was answered."""
    await backing.client.config_resetstat()
    answer = await call
    stats = await backing.client.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): one["calls"] for name, one in stats.items()}
    return {name: count for name, count in calls.items() if "|" not in name}, answer


async def test_a_page_of_keys_costs_the_same_however_many_there_are(server_state, server_writer):
    await server_writer.batch(*puts(300))
    page = {"prefix": "k/", "after": "k/00099", "limit": 100, "max_bytes": 10**9, "keys_only": False}
    await server_writer.store.list("default", **page)
    few, first = await calls_of(server_state, server_writer.store.list("default", **page))
    for start in range(300, 10_300, 1000):
        await server_writer.batch(*puts(1000, first=start))
    many, second = await calls_of(server_state, server_writer.store.list("default", **page))
    assert first.entries == second.entries
    assert len(first.entries) == 100
    assert few == many
    assert many == {"evalsha": 1, "hmget": 3, "zrangebylex": 2}


async def test_a_put_takes_few_commands(server_state, server_writer):
    await server_writer.batch(*puts(100))
    calls, _ = await calls_of(server_state, server_writer.batch(*puts(100)))
    assert {name: count for name, count in calls.items() if count >= 100} == {"hget": 101, "xadd": 100, "zadd": 100, "hset": 101}


@pytest.mark.parametrize("way", ["a prefix", "a lease"])
async def test_many_keys_go_at_once_with_few_commands(server_state, server_writer, way):
    """Of every kind, more than go with one command, in one revision; and nothing is left of them in any index."""
    await server_writer.put("other")
    lease = await server_writer.lease(60_000)
    operations = [Put(f"p/{number:04}", BIG if number % 3 else b"v", lease_id=lease) for number in range(1_203)]
    if way == "a prefix":
        operations[7::9] = [replace(each, lease_id=0, ttl_ms=5_000) for each in operations[7::9]]
    await server_writer.batch(Transaction(tuple(operations)))
    end = Transaction((Delete("p/", prefix=True),)) if way == "a prefix" else RevokeLease(lease)
    calls, written = await calls_of(server_state, server_writer.batch(end))
    assert (written.verdicts[0].revision, await server_writer.keys()) == (written.revision, ["other"])
    assert calls["xadd"] == 1_203
    assert all(count < 20 for name, count in calls.items() if name != "xadd")
    events = (await server_writer.events(after=written.revision - 1)).events
    assert [event.key for event in events] == [each.key for each in operations]
    assert (await server_writer.facts()).bytes == len("other") + 1
    if way == "a prefix":
        await server_writer.do(RevokeLease(lease))
    last = await server_writer.put("other")
    await server_writer.do(Compact(last, 10_000))
    parts = {
        part: await sizes_of(server_state, part) for part in ("entries", "index", "values", "deadlines", "lease_keys", "history", "events")
    }
    assert parts == {"entries": 1, "index": 1, "values": 0, "deadlines": 0, "lease_keys": 0, "history": 1, "events": 1}


async def sizes_of(backing, part):
    """How many things are in a part of the namespace's state."""
    name = NAMES.part("default", part)
    count = {b"hash": backing.client.hlen, b"zset": backing.client.zcard, b"stream": backing.client.xlen}.get(
        await backing.client.type(name)
    )
    return await count(name) if count else 0


async def test_time_is_the_stores(server_state):
    async with AsyncExitStack() as closing:
        backing = ServerStateBacking(server=server_state.server, closing=closing, clock=None)
        writer = StateWriter(store=await backing.open(), clock=StateClock())
        seconds, _ = await backing.client.time()
        await writer.put("k", ttl_ms=1)
        entry = await writer.get("k")
        assert seconds * 1000 <= entry.write_ms < seconds * 1000 + 60_000

        async def ended():
            return (await writer.do(ExpireDue(10, entry.write_ms + 10**6))).number

        assert await eventually(ended) == 1
        assert await writer.value("k") is None


def test_the_scripts_are_what_the_tests_run_but_for_the_time():
    for script in RedisStateStore.write_scripts:
        assert script.source.count("call('TIME')") == 1
