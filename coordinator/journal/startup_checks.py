"""Whether a server that someone else runs can keep Muster's promises, and which. Asks once, at start; changes nothing."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from coordinator.journal.errors import StoreStartError

MIN_REDIS_VERSION = (7, 0)

_ALWAYS = "every acknowledged write survives a killed server and a power cut"
_EVERYSEC = "acknowledged writes survive a killed server; a power cut can lose about the last second of them (appendfsync everysec)"
_NO_FSYNC = "acknowledged writes survive a killed server; a power cut can lose the last half minute of them (appendfsync no)"
_UNKNOWN_FSYNC = "acknowledged writes survive a killed server; how many a power cut can lose depends on appendfsync, which it doesn't show"
_SNAPSHOTS = "a server that stops without warning loses every write since its last RDB snapshot, acknowledged or not"
_NOTHING = "nothing survives a server that stops: it keeps everything in memory alone"
_NOT_SHOWN = "the server doesn't show how it keeps data on disk: assume what its operator promises, and no more"
_FROM_BEST = (_ALWAYS, _EVERYSEC, _NO_FSYNC, _UNKNOWN_FSYNC, _NOT_SHOWN, _SNAPSHOTS, _NOTHING)
_FSYNC_SENTENCES = {"always": _ALWAYS, "everysec": _EVERYSEC, "no": _NO_FSYNC}


@dataclass(frozen=True, slots=True)
class StoreReport:
    """What a store is, and what it can promise.

    Attributes:
        product: "Redis" or "Valkey".
        version: as it says itself.
        durability: a sentence about what an acknowledged write survives.
        warnings: sentences an operator should read.
    """

    product: str
    version: str
    durability: str
    warnings: tuple[str, ...]


def weakest(reports: Sequence[StoreReport]) -> StoreReport:
    """What a store of several servers is and can promise: what the one that promises least does."""
    warnings = dict.fromkeys(warning for report in reports for warning in report.warnings)
    return replace(max(reports, key=lambda report: _FROM_BEST.index(report.durability)), warnings=tuple(warnings))


async def check_store(client: Redis) -> StoreReport:
    """Looks at the server's version, role, eviction policy and persistence.

    Raises:
        StoreStartError: it is too old, a replica, or would evict what it was given to keep.
        redis.exceptions.RedisError: it doesn't answer.
    """
    warnings: list[str] = []
    info = await _info(client)
    if not info:
        warnings.append("the server denies INFO: its version, role and persistence were not checked")
    product, version = _check_version(info)
    if info.get("role") == "slave":
        raise StoreStartError("the store is a read-only replica: give the address of its primary")
    policy, fsync = await configured(client, "maxmemory-policy"), await configured(client, "appendfsync")
    if policy is None or fsync is None:
        warnings.append("the server denies CONFIG GET: make sure that its maxmemory-policy is noeviction and appendfsync is always")
    policy = policy or info.get("maxmemory_policy")
    if policy is not None and policy != "noeviction":
        raise StoreStartError(
            f"the store's maxmemory-policy is {policy}, by which it would drop acknowledged tasks when memory is full: set it to noeviction"
        )
    durability = await _durability(client, info, fsync)
    if durability in (_SNAPSHOTS, _NOTHING):
        warnings.append("acknowledged tasks can be lost: set appendonly yes and appendfsync always on the store")
    return StoreReport(product=product, version=version, durability=durability, warnings=tuple(warnings))


async def _info(client: Redis) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = await client.info("all")
    except ResponseError:
        return {}
    return found


def _check_version(info: Mapping[str, Any]) -> tuple[str, str]:
    if "valkey_version" in info:
        return "Valkey", str(info["valkey_version"])
    version = str(info.get("redis_version", "of unknown version"))
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers and numbers < MIN_REDIS_VERSION:
        raise StoreStartError(f"the store is Redis {version}: Muster needs Redis 7.0 or later, or Valkey")
    return "Redis", version


async def configured(client: Redis, name: str) -> str | None:
    """What a setting of the server is; None when the server won't say."""
    try:
        found = await client.config_get(name)
    except ResponseError:
        return None
    value = found.get(name)
    return None if value is None else str(value)


async def _durability(client: Redis, info: Mapping[str, Any], fsync: str | None) -> str:
    aof = info.get("aof_enabled")
    if aof is None:
        return _NOT_SHOWN
    if str(aof) == "1":
        return _UNKNOWN_FSYNC if fsync is None else _FSYNC_SENTENCES.get(fsync, _UNKNOWN_FSYNC)
    save = await configured(client, "save")
    return _NOTHING if save == "" else _SNAPSHOTS
