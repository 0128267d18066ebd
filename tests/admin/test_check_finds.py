"""Each of many things that can be wrong with a store, seeded into one that is as it should be, is found; and nothing else is said."""

import pytest
from muster.v1 import event_pb2

from coordinator.journal.redis_store import RedisShardStore
from coordinator.ports import JournalTooNew
from coordinator.state.layout import ENTRY
from tests.admin.seeded_faults import FAULTS, Broken
from tests.support.admin_stores import HERE, fill, fleet
from tests.support.eventually import eventually


async def filled(store):
    async with store.coordinator() as running, fleet(running) as client:
        await fill(client, tasks=6)
        await client.state.lock("held", ttl_s=600.0).__aenter__()
        await client.state.put("leased", "x", lease=await client.state.lease(600.0))
    findings = await store.check()
    assert not findings.violations
    assert not findings.skipped


async def filled_with_a_snapshot(store):
    async with store.coordinator(snapshot_after=1000) as running, fleet(running) as client:
        await fill(client, tasks=6)
        server = store.server.client()

        async def is_there():
            return await server.hexists(store.keys.head, "snapshot_key")

        await eventually(is_there, message="a snapshot")


async def test_each_fault_is_found(valkey):
    """All of them in one store, each put right again: a server for each would take minutes."""
    await filled(valkey)
    broken = Broken(valkey)
    dump = {key: await broken.client.dump(key) for key in await broken.client.keys()}
    missed = {}
    for name, (seed, kinds) in FAULTS.items():
        await seed(broken)
        findings = await valkey.check(shards=[HERE])
        found = {one.kind for one in findings.violations}
        if not found or not found <= kinds:
            missed[name] = (found, [one.message for one in findings.violations])
        await broken.client.flushall()
        for key, value in dump.items():
            await broken.client.restore(key, 0, value)
    for name, (found, messages) in missed.items():
        print(name, found or "nothing", *messages[:5], sep="\n    ")
    assert not missed.keys()
    assert not (await valkey.check()).violations


async def test_a_lost_piece_of_a_snapshot_is_found(valkey):
    await filled_with_a_snapshot(valkey)
    broken = Broken(valkey)
    assert not (await valkey.check()).violations
    place = (await broken.client.hget(broken.keys.head, "snapshot_key")).decode()
    key = broken.keys.snapshots["ab".index(place)]
    piece = await broken.client.lindex(key, 0)
    for change, kinds in (
        (lambda: broken.client.lset(key, 0, piece + b"\x12\x00"), {"snapshot", "journal"}),
        (lambda: broken.client.delete(key), {"snapshot", "journal"}),
        (lambda: broken.client.rpush(key, piece, piece), {"snapshot", "journal"}),
    ):
        await change()
        assert {one.kind for one in (await valkey.check(shards=[HERE])).violations} <= kinds
        assert (await valkey.check(shards=[HERE])).violations
        await broken.client.delete(key)
        await broken.client.rpush(key, piece)
    assert not (await valkey.check()).violations


async def test_a_snapshot_that_tells_another_story_is_found(valkey, monkeypatch):
    """As long as the journal still has everything."""

    async def trims_nothing(_self, *, limit):
        return 0 * limit

    monkeypatch.setattr(RedisShardStore, "trim_journal", trims_nothing)
    await filled_with_a_snapshot(valkey)
    broken = Broken(valkey)
    head = await broken.client.hgetall(broken.keys.head)
    assert head[b"snapshot_key"]
    assert len(await broken.client.xrange(broken.keys.journal)) == int(head[b"sequence"])
    assert not (await valkey.check()).violations
    key = broken.keys.snapshots["ab".index(head[b"snapshot_key"].decode())]
    chunk = event_pb2.SnapshotChunk.FromString(await broken.client.lindex(key, 0))
    chunk.parts[0].queued.create_ms[0] += 1
    await broken.client.lset(key, 0, chunk.SerializeToString())
    assert [(one.kind, "by the snapshot than by the journal" in one.message) for one in (await valkey.check()).violations] == [
        ("snapshot", True)
    ]


async def test_a_newer_journal_is_refused(valkey):
    await filled(valkey)
    broken = Broken(valkey)
    await broken.rewrite(3, lambda commit: setattr(commit, "format_version", 99))
    with pytest.raises(JournalTooNew, match="format 99"):
        await valkey.check()


def test_an_entry_has_its_places():
    """What the faults above rely on."""
    assert ENTRY.size == 53
