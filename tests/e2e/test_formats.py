"""What a newer release wrote is refused with one sentence and exit code 1, and left as it is: journal, snapshot, keys, shared state."""

import re
import sys

import pytest
from muster.v1 import event_pb2

from coordinator.journal.layout import JOURNAL_FIELD, deployment_key
from coordinator.journal.server_binary import find_server_binary
from tests.e2e.deployment import START_S
from tests.support.admin_stores import SHARDS, LiveStore, fill, fleet
from tests.support.eventually import eventually
from tests.support.shard_backings import running_server

pytestmark = pytest.mark.e2e


@pytest.fixture
async def store(tmp_path):
    """A store that nobody uses."""
    async with running_server(binary=find_server_binary(), directory=tmp_path / "store") as server:
        yield LiveStore(server)


async def filled(store, *, snapshot):
    """Something of everything, with a snapshot or without."""
    async with store.coordinator(snapshot_after=1000 if snapshot else 10**9) as running, fleet(running) as client:
        await fill(client, tasks=2)
        head = store.server.client()

        async def has_snapshot():
            return not snapshot or await head.hexists(store.keys.head, "snapshot_key")

        await eventually(has_snapshot, message="a snapshot")


async def journal(store, client):
    """The last entry is of a newer format."""
    ((entry_id, fields),) = await client.xrevrange(store.keys.journal, count=1)
    commit = event_pb2.Commit.FromString(fields[JOURNAL_FIELD])
    commit.format_version = 99
    await client.xdel(store.keys.journal, entry_id)
    rest = await client.xrange(store.keys.journal)
    await client.delete(store.keys.journal)
    for one_id, one in [*rest, (entry_id, {JOURNAL_FIELD: commit.SerializeToString()})]:
        await client.xadd(store.keys.journal, one, id=one_id)


async def event(store, client):
    """The last entry holds an event of a newer release."""
    ((entry_id, fields),) = await client.xrevrange(store.keys.journal, count=1)
    commit = event_pb2.Commit.FromString(fields[JOURNAL_FIELD])
    del commit.records[:]
    commit.records.add(namespace="default").MergeFromString(b"\xea\x3e\x00")  # field 1005
    await client.xdel(store.keys.journal, entry_id)
    rest = await client.xrange(store.keys.journal)
    await client.delete(store.keys.journal)
    for one_id, one in [*rest, (entry_id, {JOURNAL_FIELD: commit.SerializeToString()})]:
        await client.xadd(store.keys.journal, one, id=one_id)


async def snapshot(store, client):
    """A piece of the snapshot is of a newer format."""
    key = store.keys.snapshots["ab".index((await client.hget(store.keys.head, "snapshot_key")).decode())]
    chunk = event_pb2.SnapshotChunk.FromString(await client.lindex(key, 0))
    chunk.format_version = 99
    await client.lset(key, 0, chunk.SerializeToString())


async def layout(store, client):
    """The keys are of a newer layout."""
    await client.hset(deployment_key("muster"), "format_version", 99)


async def shared_state(store, client):
    """Shared state is of a newer layout."""
    await client.hset(store.keys.state("default") + "meta", "version", 99)


REFUSALS = {
    journal: r"the journal has format 99, and this release reads up to \d: start the newer release again",
    event: r"the journal has an event that this release doesn't know \(.*\): start the newer release again",
    snapshot: r"the snapshot has format 99, and this release reads up to \d: start the newer release again",
    layout: r"the store was written by a newer release of Muster \(format 99; this one reads up to \d\): upgrade this coordinator",
    shared_state: r"shared state has format 99, and this release reads up to \d: start the newer one again",
}


@pytest.mark.parametrize("change", REFUSALS, ids=lambda change: change.__name__)
async def test_what_a_newer_release_wrote_is_refused(children, store, change):
    await filled(store, snapshot=change is snapshot)
    client = store.server.client()
    await change(store, client)
    before = await held(client)
    arguments = ["--redis-url", store.url, "--shards", str(SHARDS), "--listen", "127.0.0.1:0"]
    child = children.start([sys.executable, "-m", "coordinator", *arguments], name="coordinator")
    assert await child.wait_for_exit(within_s=START_S) == 1, child.output()
    (line,) = [one for one in child.output().splitlines() if one.startswith("muster-coordinator: ")]
    assert re.fullmatch(rf"muster-coordinator: {REFUSALS[change]}.*", line), line
    assert "Traceback" not in child.output()
    assert await held(client) == before


async def held(client):
    """Everything but who owns what, and since when."""
    keys = [key for key in await client.keys() if not key.endswith((b":head", b":members", b"deployment"))]
    return {key: await client.dump(key) for key in sorted(keys)}
