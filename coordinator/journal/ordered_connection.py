"""One connection that sends one command at a time, in the order of the calls. It connects when it is needed, and never retries."""

import asyncio
from collections.abc import Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import NoScriptError, ResponseError

from coordinator.journal.scripts import Script


class OrderedConnection:
    """A connection of its own, outside any pool, that speaks RESP2.

    A pool may hand two commands in a row to two connections, where the second can overtake the first. And its layers cost: redis-py packs
    an asyncio command in Python, which takes 1.7 ms for the 3,000 arguments of an append that ends 1,000 tasks; hiredis takes 0.4 ms.

    Args:
        pool: makes the connection, which has no time-out of its own but for connecting; it doesn't keep it.
        call_timeout_s: how long a call may take, connecting included.
    """

    def __init__(self, *, pool: ConnectionPool, call_timeout_s: float) -> None:
        self._connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
        self._call_timeout_s = call_timeout_s
        self._turn = asyncio.Lock()

    async def run(self, script: Script, *, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Runs a script and answers what it returned. Raises as `call` does."""
        async with self._turn:
            try:
                return await self._call(("EVALSHA", script.digest, len(keys), *keys, *arguments))
            except NoScriptError:
                return await self._call(("EVAL", script.source, len(keys), *keys, *arguments))

    async def call(self, *command: str | bytes | int) -> Any:
        """Sends one command, a word an argument, and answers the reply as the protocol has it.

        Raises what redis-py raises, and TimeoutError. The next call starts on a new connection if it must.
        """
        async with self._turn:
            return await self._call(command)

    async def _call(self, command: tuple[Any, ...]) -> Any:
        connection = self._connection
        try:
            # redis-py's own time-out on sending starts a task for each command, and under Python 3.11 it can swallow a cancellation.
            async with asyncio.timeout(self._call_timeout_s):
                if not connection.is_connected:
                    await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_packed_command(hiredis.pack_command(command), check_health=False)
                return await connection.read_response()
        except ResponseError:
            raise
        except BaseException:
            # Also when cancelled: an answer that arrives later must not be taken for the next command's.
            await connection.disconnect(nowait=True)
            raise

    async def close(self) -> None:
        """Disconnects. A later call would connect again."""
        await self._connection.disconnect()
