"""Whether a store has the replicas that acknowledgements are to mean, and how they are waited for. Asks once, at start."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from coordinator.journal.errors import StoreStartError
from coordinator.journal.ordered_connection import OrderedConnection
from coordinator.journal.replica_wait import ReplicaWait, TooFewReplicasError
from coordinator.journal.scripts import Script
from coordinator.journal.startup_checks import StoreReport, configured

_PROBE: Final = Script("""#!lua flags=allow-oom
-- Writes something that is gone at once. KEYS: it.
return redis.call('SET', KEYS[1], '', 'PX', 1)
""")

_ON_DISK = "acknowledged writes are on the disks of {}, too"
_IN_MEMORY = "acknowledged writes are in the memory of {}, too"


async def check_replicas(
    primaries: Sequence[tuple[Redis, str]], report: StoreReport, *, replicas: int, call_timeout_s: float
) -> tuple[ReplicaWait, StoreReport]:
    """How writes are waited for, and the report with what that promises.

    They are waited for until they are on disk (WAITAOF) where every primary knows that, has `appendfsync always`, and has enough replicas
    that keep a log on disk; with another `appendfsync` each write would take up to a second. Else until they are in memory (WAIT).

    Args:
        primaries: a client of each, and a key that it has.
        report: what they promise by themselves.
        replicas: how many are to have each write.
        call_timeout_s: how long a call may take.

    Raises:
        StoreStartError: a primary has fewer.
        redis.exceptions.RedisError: one doesn't answer.
    """
    on_disk = all([await configured(client, "appendfsync") == "always" for client, _ in primaries])
    warnings = list(report.warnings)
    for wait in (ReplicaWait(replicas=replicas, on_disk=True), ReplicaWait(replicas=replicas, on_disk=False)):
        if wait.on_disk and not on_disk:
            continue
        try:
            for client, key in primaries:
                await _probe(client, key, wait, call_timeout_s)
        except TooFewReplicasError as error:
            if not wait.on_disk:
                raise StoreStartError(await _too_few(primaries, replicas)) from error
            warnings.append("the replicas keep no log on disk (appendonly yes, appendfsync always): they are waited for in memory alone")
        except ResponseError:
            if not wait.on_disk:
                raise
            # It has no WAITAOF, or no log on disk itself, of which the report tells.
        else:
            break
    who = "a replica" if replicas == 1 else f"{replicas} replicas"
    sentence = (_ON_DISK if wait.on_disk else _IN_MEMORY).format(who)
    return wait, replace(report, durability=f"{report.durability}; {sentence}", warnings=tuple(warnings))


async def _probe(client: Redis, key: str, wait: ReplicaWait, call_timeout_s: float) -> None:
    connection = OrderedConnection(pool=client.connection_pool, call_timeout_s=call_timeout_s)
    try:
        await connection.run(_PROBE, keys=(key,), arguments=(), wait=wait)
    finally:
        await connection.close()


async def _too_few(primaries: Sequence[tuple[Redis, str]], wanted: int) -> str:
    try:
        found = min([int((await client.info("replication"))["connected_slaves"]) for client, _ in primaries])
        has = "no replica" if found == 0 else "1 replica" if found == 1 else f"{found} replicas"
    except (ResponseError, KeyError):
        has = "fewer replicas"
    if has.startswith(str(wanted)):
        has += ", which don't follow closely enough,"
    return f"a primary of the store has {has}, and --durability wait-replicas:{wanted} needs {wanted}: start more, or wait for fewer"
