"""A namespace's shared state as it lies on a server, key by key, so that a later release can be shown that it still reads it."""

from typing import Any

Recording = dict[str, Any]

# The client is redis-py's, whose types leave open whether it answers bytes.


async def record(client: Any, names: tuple[str, ...]) -> Recording:
    """All that is under these names, as JSON can hold it."""
    found: Recording = {}
    for name in names:
        match await client.type(name):
            case b"hash":
                found[name] = {"hash": {field.hex(): value.hex() for field, value in sorted((await client.hgetall(name)).items())}}
            case b"zset":
                found[name] = {"zset": [[member.hex(), score] for member, score in await client.zrange(name, 0, -1, withscores=True)]}
            case b"stream":
                found[name] = {"stream": [[at.decode(), fields[b"e"].hex()] for at, fields in await client.xrange(name)]}
            case b"string":
                found[name] = {"string": (await client.get(name)).hex()}
            case kind:
                assert kind == b"none", kind
    return found


async def restore(client: Any, recording: Recording) -> None:
    """Puts it onto a server that has nothing of it."""
    for name, held in recording.items():
        for field, value in held.get("hash", {}).items():
            await client.hset(name, bytes.fromhex(field), bytes.fromhex(value))
        for member, score in held.get("zset", []):
            await client.zadd(name, {bytes.fromhex(member): score})
        for at, event in held.get("stream", []):
            await client.xadd(name, {"e": bytes.fromhex(event)}, id=at)
        if "string" in held:
            await client.set(name, bytes.fromhex(held["string"]))
