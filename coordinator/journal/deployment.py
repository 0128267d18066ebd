"""The record of what a store was made for. Made at the first start, checked at every other."""

from dataclasses import dataclass, field, replace
from typing import cast

from redis.asyncio import Redis

from coordinator.journal.errors import StoreStartError
from coordinator.journal.ids import new_secret
from coordinator.journal.layout import FORMAT_VERSION, deployment_key

IMPORTING = b"importing"
"""The field that names the shards of an unfinished import, with spaces between; absent otherwise."""

_RAISE = """#!lua flags=allow-oom
redis.call('HSET', KEYS[1], 'format_version', ARGV[1])
"""

_SHARE = """#!lua flags=allow-oom
redis.call('HSETNX', KEYS[1], 'peer_secret', ARGV[1])
return redis.call('HGET', KEYS[1], 'peer_secret')
"""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What can't change once a store holds something.

    Args:
        format_version: of its keys.
        shards: that namespaces are spread over.
        importing: shards that an import is writing, or left half written: no coordinator may start.
        peer_secret: what its coordinators know each other by. Whoever can read the store could write to it just as well.
    """

    format_version: int
    shards: int
    importing: tuple[int, ...] = ()
    peer_secret: bytes = field(default=b"", repr=False)


async def open_deployment(client: Redis, *, prefix: str, shards: int) -> Deployment:
    """The store's record, made now if it has none. A store of an older format is one of this format from now on: older releases refuse it.

    Args:
        client: answers bytes.
        prefix: of the keys.
        shards: as configured.

    Raises:
        StoreStartError: the store was made by a newer release, or for another number of shards, or an import isn't finished.
        redis.exceptions.RedisError: it doesn't answer.
    """
    key = deployment_key(prefix)
    if await read_deployment(client, prefix=prefix) is None:  # a full store refuses writes, but can be opened again
        async with client.pipeline(transaction=True) as transaction:
            transaction.hsetnx(key, "format_version", str(FORMAT_VERSION))
            transaction.hsetnx(key, "shards", str(shards))
            await transaction.execute()
    deployment = await read_deployment(client, prefix=prefix)
    if deployment is None:
        raise StoreStartError(f"the store's {key} was removed just now: start again")
    if deployment.importing:
        raise StoreStartError(
            "an import into the store isn't finished: wait until it is, or if it was interrupted, repeat it with "
            "`muster admin import --discard-unfinished`"
        )
    if deployment.shards != shards:
        raise StoreStartError(
            f"the store was made with {deployment.shards} shards, and this coordinator is set to {shards}: "
            f"start it with --shards {deployment.shards}, or use another store or key prefix"
        )
    if deployment.format_version < FORMAT_VERSION:
        await client.eval(_RAISE, 1, key, str(FORMAT_VERSION))
        deployment = replace(deployment, format_version=FORMAT_VERSION)
    if deployment.peer_secret:
        return deployment
    secret = await client.eval(_SHARE, 1, key, new_secret())  # of whoever comes first
    return replace(deployment, peer_secret=cast("bytes", secret))


async def read_deployment(client: Redis, *, prefix: str) -> Deployment | None:
    """The store's record as it is; None when it has none.

    Args:
        client: answers bytes.
        prefix: of the keys.

    Raises:
        StoreStartError: the store was made by a newer release, or the record can't be read.
        redis.exceptions.RedisError: it doesn't answer.
    """
    key = deployment_key(prefix)
    fields = await client.hgetall(key)
    if not fields:
        return None
    try:
        deployment = Deployment(
            format_version=int(fields[b"format_version"]),
            shards=int(fields[b"shards"]),
            importing=tuple(map(int, fields.get(IMPORTING, b"").split())),
            peer_secret=cast("bytes", fields.get(b"peer_secret", b"")),
        )
    except (KeyError, ValueError) as error:
        raise StoreStartError(f"the store's {key} can't be read: is {prefix!r} the key prefix of something else?") from error
    if deployment.format_version > FORMAT_VERSION:
        raise StoreStartError(
            f"the store was written by a newer release of Muster (format {deployment.format_version}; "
            f"this one reads up to {FORMAT_VERSION}): upgrade this coordinator"
        )
    return deployment
