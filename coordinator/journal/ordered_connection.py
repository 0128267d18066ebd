"""One connection that sends one command at a time, in the order of the calls. It connects when it is needed, and never retries."""

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, ResponseError

from coordinator.journal.scripts import Script


class OrderedConnection:
    """A connection of its own, outside any pool.

    A pool may hand two commands in a row to two connections, where the second can overtake the first; and its layers cost a command as
    much again as the round trip over a unix socket.

    Args:
        connection: not yet connected, and without a time-out of its own; owned by this object from here on.
        call_timeout_s: how long a call may take, connecting included.
    """

    def __init__(self, *, connection: AbstractConnection, call_timeout_s: float) -> None:
        self._connection = connection
        self._call_timeout_s = call_timeout_s
        self._turn = asyncio.Lock()

    async def run(self, script: Script, *, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Runs a script and answers what it returned. Raises what redis-py raises; the next call starts on a new connection if it must."""
        async with self._turn:
            try:
                return await self._call("EVALSHA", script.digest, len(keys), *keys, *arguments)
            except NoScriptError:
                return await self._call("EVAL", script.source, len(keys), *keys, *arguments)

    async def _call(self, *command: Any) -> Any:
        connection = self._connection
        try:
            # redis-py's own time-out on sending starts a task for each command, and under Python 3.11 it can swallow a cancellation.
            async with asyncio.timeout(self._call_timeout_s):
                if not connection.is_connected:
                    await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_command(*command, check_health=False)
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
