"""Reads what lies in the store at the end: journals, records of ended tasks, changes of shared state. It changes nothing."""

from muster.v1 import event_pb2
from redis.asyncio import Redis

from coordinator.core.events import Commit
from coordinator.journal import codec
from coordinator.journal.layout import JOURNAL_FIELD, MARKER_BYTES, ShardKeys
from coordinator.state.layout import StateKeys
from coordinator.state.packing import unpack_event
from tests.chaos.evidence import Change, Evidence

_PAGE = 500


async def read_store(store: Redis, seen: Evidence, *, namespaces: list[str]) -> None:
    """Adds to the evidence.

    Args:
        store: of the primary.
        seen: what is added to.
        namespaces: one of each shard, in the shards' order.
    """
    for shard, namespace in enumerate(namespaces):
        keys = ShardKeys(prefix="muster", shard=shard)
        seen.journals[shard] = await _journal(store, keys)
        await _records(store, keys, namespace, seen)
        await _changes(store, StateKeys(shard=keys), namespace, seen)


async def _journal(store: Redis, keys: ShardKeys) -> list[Commit]:
    commits: list[Commit] = []
    last = "0"
    while page := await store.xrange(keys.journal, f"({last}", "+", count=_PAGE):
        commits += [codec.decode(fields[JOURNAL_FIELD]) for _, fields in page]
        last = page[-1][0].decode()
    return commits


async def _records(store: Redis, keys: ShardKeys, namespace: str, seen: Evidence) -> None:
    prefix = keys.tasks(namespace)
    found = [key async for key in store.scan_iter(match=f"{prefix}*", count=_PAGE)]
    for start in range(0, len(found), _PAGE):
        some = found[start : start + _PAGE]
        for key, value in zip(some, await store.mget(some), strict=True):
            seen.records[namespace, key.decode().removeprefix(prefix)] = event_pb2.TaskRecord.FromString(value[MARKER_BYTES:])


async def _changes(store: Redis, keys: StateKeys, namespace: str, seen: Evidence) -> None:
    meta = keys.part(namespace, "meta")
    seen.kept_from[namespace] = int(await store.hget(meta, "compact") or 1)  # type: ignore[misc]
    changes = seen.changes[namespace] = []
    last = "0"
    while page := await store.xrange(keys.part(namespace, "events"), f"({last}", "+", count=_PAGE):
        for event_id, fields in page:
            event = unpack_event(event_id, next(iter(fields.values())))
            changes.append(Change(event.revision, event.key, None if event.entry is None else event.entry.value))
        last = page[-1][0].decode()
