"""What is exported and imported is what was there, and a check finds nothing wrong with either."""

import asyncio

import pytest
from muster.v1 import common_pb2

from agent_node import NotFoundError
from coordinator.admin.errors import BadExport, ToolError, ToolRefused
from coordinator.admin.state_import import REVISION_GAP
from coordinator.journal.errors import StoreStartError
from coordinator.journal.layout import deployment_key
from tests.support.admin_stores import HERE, LiveStore, fill, fleet
from tests.support.state_recording import record as held

STATES = common_pb2.TaskState


async def clean(store: LiveStore, **options):
    """Checks a store, which must be found to be as it should."""
    findings = await store.check(**options)
    assert not findings.violations
    assert not findings.skipped
    return findings.looked_at


async def facts(client):
    """What a client sees of everything, but for what is made anew."""
    tasks = {}
    async for task in client.list(full=True):
        tasks[task.task_id] = task
    entries = {entry.key: (entry.value, entry.revision) async for entry in client.state.list() if not entry.key.startswith("agents/")}
    return tasks, entries


@pytest.mark.parametrize("snapshot_after", [10**9, 2000])
async def test_all_of_it_comes_back(store, tmp_path, snapshot_after):
    async with store.coordinator(snapshot_after=snapshot_after) as running, fleet(running) as client:
        await fill(client)
        lock = client.state.lock("held", ttl_s=60.0)
        await lock.__aenter__()
        lease = await client.state.lease(60.0)
        await client.state.put("leased", "x", lease=lease)
        waiting = asyncio.create_task(client.state.lock("held", ttl_s=60.0).__aenter__())
        await asyncio.wait([waiting], timeout=0.2)
        before = await facts(client)
        exported = await store.export(tmp_path / "file")
        token = lock.token
        waiting.cancel()
        looked_at = await clean(store)
        assert looked_at["locks"] == 1
        assert looked_at["records"] >= 12
    elsewhere = store.under("elsewhere")
    imported = await elsewhere.import_from(tmp_path / "file")
    assert imported.shards == (0, 1)
    (there,) = [one for one in exported if one.shard == HERE]
    assert imported.contents.shards[HERE].ended == there.ended
    looked_at = await clean(elsewhere)
    assert looked_at["locks"] == 1
    assert looked_at["term lists"] >= 5
    source, target = store.server.client(), elsewhere.server.client()
    epochs = [int(await one.hget(of.keys.head, "epoch")) for one, of in ((source, store), (target, elsewhere))]
    assert epochs[0] == epochs[1]
    async with elsewhere.coordinator() as running:
        assert int(await target.hget(elsewhere.keys.head, "epoch")) > epochs[0]
        async with fleet(running) as client:
            after = await facts(client)
            assert after[1] == before[1]
            assert after[0].keys() == before[0].keys()
            for task_id, task in before[0].items():
                if task.state != STATES.TASK_STATE_RUNNING:
                    assert after[0][task_id] == task
            assert {task.task_id async for task in client.list('labels.team = "blue"')} == {f"failed-{number}" for number in range(4)}
            (held_lock,) = await client.state.locks()
            assert (held_lock.name, held_lock.holder.token) == ("held", token)
            async with client.state.lock("other") as other:
                assert other.token > REVISION_GAP
            await client.submit("answers", task_id="done-1", payload=b"1", labels={"team": "red"})  # it is known
        await clean(elsewhere)


async def test_one_shard_alone(valkey, tmp_path):
    async with valkey.coordinator() as running, fleet(running) as client:
        await fill(client, tasks=1)
    await valkey.export(tmp_path / "all")
    await valkey.export(tmp_path / "one", shards=[HERE])
    for number, name in enumerate(("all", "one")):
        elsewhere = valkey.under(f"elsewhere-{number}")
        assert (await elsewhere.import_from(tmp_path / name, shards=[HERE])).shards == (HERE,)
        async with elsewhere.coordinator() as running, fleet(running) as client:
            assert (await client.get("done-0")).state == STATES.TASK_STATE_COMPLETED
    with pytest.raises(ToolError, match="the export holds no shard"):
        await valkey.under("nowhere").import_from(tmp_path / "one", shards=[1 - HERE])
    with pytest.raises(ToolError, match="there is no shard 7"):
        await valkey.export(tmp_path / "none", shards=[7])


async def test_a_deployment_that_never_did_anything(valkey, tmp_path):
    async with valkey.coordinator():
        pass
    await valkey.export(tmp_path / "file")
    await valkey.under("elsewhere").import_from(tmp_path / "file")
    async with valkey.under("elsewhere").coordinator() as running, fleet(running) as client:
        await (await client.submit("answers")).result()


async def test_a_store_that_holds_something_is_left_alone(valkey, tmp_path):
    async with valkey.coordinator() as running, fleet(running) as client:
        await fill(client, tasks=1)
        await valkey.export(tmp_path / "file")
        with pytest.raises(ToolRefused, match="isn't empty"):
            await valkey.import_from(tmp_path / "file")
        await (await client.submit("answers")).result()
    await clean(valkey)


async def test_another_number_of_shards_is_refused(valkey, tmp_path):
    async with valkey.coordinator():
        pass
    await valkey.export(tmp_path / "file")
    other = valkey.under("other")
    await other.server.client().hset(deployment_key("other"), mapping={"format_version": 2, "shards": 3})
    with pytest.raises(ToolRefused, match=r"with 2 shards, and the store .* was made for 3"):
        await other.import_from(tmp_path / "file")


async def test_a_damaged_file_changes_nothing(valkey, tmp_path):
    async with valkey.coordinator() as running, fleet(running) as client:
        await fill(client, tasks=1)
    await valkey.export(tmp_path / "file")
    blob = bytearray((tmp_path / "file").read_bytes())
    blob[len(blob) // 2] ^= 1
    (tmp_path / "damaged").write_bytes(blob)
    (tmp_path / "short").write_bytes(blob[:-5])
    for name in ("damaged", "short"):
        with pytest.raises(BadExport):
            await valkey.under("elsewhere").import_from(tmp_path / name)
    assert not await valkey.server.client().keys("elsewhere*")


async def test_half_an_import_is_nothing_to_a_coordinator(valkey, tmp_path, monkeypatch):
    async with valkey.coordinator() as running, fleet(running) as client:
        await fill(client)
    await valkey.export(tmp_path / "file")
    elsewhere = valkey.under("elsewhere")

    async def breaks(*_arguments):
        raise ConnectionError("the store went away")

    with monkeypatch.context() as patch:
        patch.setattr("coordinator.admin.importing._finish", breaks)
        with pytest.raises(ConnectionError):
            await elsewhere.import_from(tmp_path / "file")
    client = elsewhere.server.client()
    assert await client.exists(elsewhere.keys.journal)
    assert not await client.exists(elsewhere.keys.head)
    with pytest.raises(StoreStartError, match="an import into the store isn't finished"):
        async with elsewhere.coordinator():
            pass
    with pytest.raises(ToolRefused, match="--discard-unfinished"):
        await elsewhere.import_from(tmp_path / "file")
    await elsewhere.import_from(tmp_path / "file", discard_unfinished=True)
    await clean(elsewhere)
    async with elsewhere.coordinator() as running, fleet(running) as client:
        assert (await client.get("done-0")).state == STATES.TASK_STATE_COMPLETED


async def test_no_head_takes_the_place_of_a_coordinators(valkey, tmp_path, monkeypatch):
    """One that opened the store before the import began to write."""
    async with valkey.coordinator() as running, fleet(running) as client:
        await fill(client, tasks=1)
    await valkey.export(tmp_path / "file")
    elsewhere = valkey.under("elsewhere")
    client = elsewhere.server.client()
    from coordinator.admin import importing

    finish = importing._finish

    async def late(*arguments):
        await client.hset(elsewhere.keys.head, "epoch", "1")
        await finish(*arguments)

    monkeypatch.setattr(importing, "_finish", late)
    with pytest.raises(ToolRefused, match=f"a coordinator took shard {HERE} meanwhile"):
        await elsewhere.import_from(tmp_path / "file")
    assert await client.hgetall(elsewhere.keys.head) == {b"epoch": b"1"}


async def test_what_is_imported_lies_as_a_coordinator_writes_it(valkey, tmp_path):
    """Key by key, but for what is meant to differ: positions begin anew, and shared state has another incarnation."""
    async with valkey.coordinator() as running, fleet(running) as client:
        await fill(client)
    await valkey.export(tmp_path / "file")
    elsewhere = valkey.under("elsewhere")
    await elsewhere.import_from(tmp_path / "file")
    client = valkey.server.client()
    kinds = (
        "entries",
        "values",
        "index",
        "events",
        "history",
        "deadlines",
        "kept:0",
        "kept:1",
        "clients:0",
        "clients:1",
        "leases",
        "locks",
    )
    for kind in kinds:
        names = [store.keys.state("default") + kind for store in (valkey, elsewhere)]
        found = [await held(client, (name,)) for name in names]
        assert found[0].get(names[0]) == found[1].get(names[1]), kind
    metas = [await client.hgetall(store.keys.state("default") + "meta") for store in (valkey, elsewhere)]
    assert int(metas[1][b"revision"]) == int(metas[0][b"revision"]) + REVISION_GAP
    assert metas[1][b"incarnation"] != metas[0][b"incarnation"]
    changed = (b"revision", b"incarnation", b"nonce")
    assert {k: v for k, v in metas[0].items() if k not in changed} == {k: v for k, v in metas[1].items() if k not in changed}
    journals = [await client.xrange(store.keys.journal) for store in (valkey, elsewhere)]
    assert journals[0] == journals[1]
    for task_id in ("done-0", "failed-0", "failed-1"):
        records = [await client.get(store.keys.tasks("default") + task_id) for store in (valkey, elsewhere)]
        assert records[0] == records[1] is not None


async def test_the_export_of_a_namespace_that_is_gone_has_nothing_of_it(valkey, tmp_path):
    async with valkey.coordinator() as running, fleet(running) as client:
        await client.create_namespace("tenant")
        async with await client_in(running, "tenant") as other:
            await other.submit("nobody-can", task_id="theirs")
        await client.delete_namespace("tenant", force=True)
    await valkey.export(tmp_path / "file")
    elsewhere = valkey.under("elsewhere")
    await elsewhere.import_from(tmp_path / "file")
    async with elsewhere.coordinator() as running, fleet(running) as client:
        assert [namespace.name for namespace in await client.namespaces()] == ["default"]
        with pytest.raises(NotFoundError):
            await client.get("theirs")


async def client_in(running, namespace):
    from agent_node import Client

    return Client(f"127.0.0.1:{running.port}", namespace=namespace)
