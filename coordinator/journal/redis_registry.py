"""The register of coordinators in Redis or Valkey, and the nudge by which they wake each other."""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection

from coordinator.cluster.ports import HeldShard, IdInUse, LiveMember, Member, id_in_use
from coordinator.journal.layout import members_key, nudge_channel
from coordinator.journal.member_scripts import LEAVE, RENEW_MEMBER
from coordinator.journal.ordered_connection import OrderedConnection
from coordinator.journal.redis_errors import as_store_errors


class RedisMemberRegistry:
    """Implements `coordinator.cluster.ports.MemberRegistry`.

    Args:
        pool: makes the connections, as for a shard's store.
        key_prefix: of the deployment.
        call_timeout_s: how long a call may take.
    """

    def __init__(self, *, pool: ConnectionPool, key_prefix: str, call_timeout_s: float) -> None:
        self._key = members_key(key_prefix)
        self._channel = nudge_channel(key_prefix)
        self._calls = OrderedConnection(pool=pool, call_timeout_s=call_timeout_s)
        self._ear: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
        self._joined = False

    async def renew(self, me: Member, *, ttl_s: float) -> Sequence[LiveMember]:
        """See MemberRegistry."""
        with as_store_errors():
            answer = await self._calls.run(
                RENEW_MEMBER,
                keys=(self._key,),
                arguments=(
                    me.coordinator_id,
                    me.incarnation,
                    round(ttl_s * 1000),
                    json.dumps(asdict(me)),
                    "0" if self._joined else "1",
                    me.host,
                    me.listen,
                ),
            )
        if answer[0] == b"TAKEN":
            raise IdInUse(id_in_use(_member(answer[1])))
        self._joined = True
        return [LiveMember(_member(said), left / 1000) for left, said in zip(answer[::2], answer[1::2], strict=True)]

    async def leave(self, me: Member) -> None:
        """See MemberRegistry."""
        with as_store_errors():
            await self._calls.run(LEAVE, keys=(self._key,), arguments=(me.coordinator_id, me.incarnation))

    async def nudge(self) -> None:
        """See MemberRegistry."""
        with as_store_errors():
            await self._calls.call("PUBLISH", self._channel, "")

    async def nudged(self) -> None:
        """See MemberRegistry."""
        ear = self._ear
        try:
            with as_store_errors():
                if not ear.is_connected:
                    await ear.connect()  # type: ignore[no-untyped-call]
                    await ear.send_command("SUBSCRIBE", self._channel)
                    await ear.read_response()
                    return  # there may have been one meanwhile
                await ear.read_response()
        except BaseException:
            await ear.disconnect(nowait=True)
            raise

    async def close(self) -> None:
        """See MemberRegistry."""
        await self._calls.close()
        await self._ear.disconnect()


def _member(said: bytes) -> Member:
    """What a member says of itself. What a newer release says beyond that is left out."""
    read: dict[str, Any] = json.loads(said)
    shards = tuple(HeldShard(**_known(HeldShard, held)) for held in read.get("shards", ()))
    return Member(**(_known(Member, read) | {"shards": shards}))


def _known(made: type, read: dict[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(made)}
    return {name: value for name, value in read.items() if name in names}
