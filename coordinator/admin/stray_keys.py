"""Looks for keys that no shard knows of: a record without a line, a part of a namespace that isn't there."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Protocol

from coordinator.admin.access import OpenStore
from coordinator.admin.ended_check import EndedTasks
from coordinator.admin.findings import Report
from coordinator.admin.journal_check import REPORT
from coordinator.admin.shard_reads import ShardReads
from coordinator.journal.layout import MARKER_BYTES
from coordinator.state.layout import PARTS

_PER_SCAN: Final = 1000
_SHARD_KEYS: Final = ("head", "journal", "snapshot:a", "snapshot:b")


class CheckedShard(Protocol):
    """What is known of a shard that was checked."""

    @property
    def reads(self) -> ShardReads:
        """Of it."""

    @property
    def sequence(self) -> int:
        """The journal's last entry then."""

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Those that are there."""

    @property
    def deleted(self) -> tuple[str, ...]:
        """Those of which something may be left."""

    @property
    def ended(self) -> Mapping[str, EndedTasks]:
        """Their ended tasks, by namespace, as far as they were read."""


async def check_keys(store: OpenStore, shards: Mapping[int, CheckedShard], reports: Mapping[int, Report]) -> None:
    """Goes over all keys of a deployment once, and reports those that shouldn't be there."""
    prefixes = {store.keys(number).head.removesuffix("head").encode(): number for number in shards}
    async for client, key in keys_of(store, list(shards)):
        begin = key[: key.find(b"}:") + 2]
        number = prefixes.get(begin)
        if number is None:
            continue
        reports[number].looked("keys in the store")
        rest = key[len(begin) :].decode(errors="backslashreplace")
        if await _is_stray(client, key, rest, shards[number]):
            reports[number].wrong("stray key", f"the key {begin.decode()}{rest} belongs to nothing that the shard knows of: {REPORT}")


async def keys_of(store: OpenStore, shards: Sequence[int]) -> AsyncIterator[tuple[Any, bytes]]:
    """All keys of these shards, and at most those of others, each with a client of the server that has it."""
    prefix = "".join(f"\\{letter}" if letter in "*?[]^\\" else letter for letter in store.where.key_prefix)
    for server in store.servers(shards):
        client: Any = server
        async for key in client.scan_iter(match=f"{prefix}:{{s*", count=_PER_SCAN):
            yield client, key


async def _is_stray(client: Any, key: bytes, rest: str, shard: CheckedShard) -> bool:
    kind, _, name_and_more = rest.partition(":")
    if rest in _SHARD_KEYS:
        return False
    name, _, more = name_and_more.partition(":")
    if kind not in ("task", "ended", "counters", "term", "terms", "state"):
        return True
    if name in shard.deleted:
        return False
    if name not in shard.namespaces:
        return not await _came_since(client, key, shard)
    if kind == "state":
        return more not in PARTS
    if kind == "task":
        return await _is_stray_record(client, key, more, shard.ended.get(name), shard)
    return False  # what the other keys hold was gone over, but for lists of terms that no task has any more: they are told of by name


async def _came_since(client: Any, key: bytes, shard: CheckedShard) -> bool:
    """Whether the shard has been written to since it was checked: a namespace may be new, or have gone with this key."""
    return not await client.exists(key) or await shard_moved(shard)


async def shard_moved(shard: CheckedShard) -> bool:
    """Whether the shard has been written to since it was checked."""
    return (await shard.reads.point([], elements=0)).sequence != shard.sequence


async def _is_stray_record(client: Any, key: bytes, task_id: str, ended: EndedTasks | None, shard: CheckedShard) -> bool:
    if ended is None or task_id in ended.current:
        return False
    value: bytes | None = await client.getrange(key, 0, MARKER_BYTES - 1)
    if not value or int.from_bytes(value) > max(ended.lines, default=0):
        return False  # it has expired, or has come since
    return not await shard_moved(shard) or int.from_bytes(value) not in ended.lines
