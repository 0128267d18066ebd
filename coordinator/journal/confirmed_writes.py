"""A shard's writes that replicas are waited for, and reads that show nothing that they don't have.

The primary answers a read from what it has itself. But only the shard's owner writes to it, in order, and its claim was waited for: so
everything that a read can have seen is confirmed once the last write is that had begun when the answer came.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from coordinator.journal.ordered_connection import OrderedConnection
from coordinator.journal.replica_wait import ReplicaWait, TooFewReplicasError
from coordinator.journal.scripts import Script

TOUCH: Final = Script("""#!lua flags=allow-oom
-- Writes what is there, for replicas can be waited for behind a write alone. KEYS: head. ARGV: token. Answers 1 for the shard's owner.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'token', ARGV[1])
return 1
""")


class ConfirmedWrites:
    """The writes of one connection, in order.

    Args:
        connection: where they go.
        wait: how many replicas are waited for; None for none, and then reads aren't held up either.
        head: the key of the shard's head.
        token: of the shard's claim.
        timeout_s: how long a read waits for what is under way.
    """

    def __init__(
        self, *, connection: OrderedConnection, wait: ReplicaWait | None, head: str, token: Callable[[], str], timeout_s: float
    ) -> None:
        self._connection = connection
        self._wait = wait
        self._head = head
        self._token = token
        self._timeout_s = timeout_s
        self._begun = 0
        self._confirmed = 0
        self._under_way = 0
        self._changed = asyncio.Event()

    async def run(self, script: Script, *, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Runs a script, as OrderedConnection does, and answers once replicas have what it wrote. It is repeated if this raises."""
        if self._wait is None:
            return await self._connection.run(script, keys=keys, arguments=arguments)
        self._begun += 1
        number = self._begun
        self._under_way += 1
        try:
            answer = await self._connection.run(script, keys=keys, arguments=arguments, wait=self._wait)
            self._confirmed = max(self._confirmed, number)  # and all that came before it
        finally:
            self._under_way -= 1
            self._changed.set()
            self._changed = asyncio.Event()
        return answer

    async def settle(self) -> None:
        """After a read: returns once replicas have everything that it can have seen. Raises what redis-py raises, and TimeoutError."""
        seen = self._begun
        if self._confirmed >= seen:
            return
        async with asyncio.timeout(self._timeout_s):
            while self._under_way and self._confirmed < seen:
                await self._changed.wait()
            if self._confirmed >= seen:
                return
            # Whoever wrote it has given up, or rests until it tries again.
            if not await self.run(TOUCH, keys=(self._head,), arguments=(self._token(),)):
                raise TooFewReplicasError("NOREPLICAS another coordinator has the shard")
