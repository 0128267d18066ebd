"""One connection that sends one command at a time, in the order of the calls. It connects when it is needed, and never retries."""

import asyncio
from collections.abc import Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import NoScriptError, ResponseError

from coordinator.journal.replica_wait import ReplicaWait, TooFewReplicasError
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

    async def run(self, script: Script, *, keys: Sequence[str], arguments: Sequence[Any], wait: ReplicaWait | None = None) -> Any:
        """Runs a script and answers what it returned, if asked to once replicas have what it wrote.

        Raises as `call` does, and TooFewReplicasError: then the next call is made on a new connection, to whatever is the primary by then.
        """
        async with self._turn:
            try:
                return await self._call(("EVALSHA", script.digest, len(keys), *keys, *arguments), wait)
            except NoScriptError:
                return await self._call(("EVAL", script.source, len(keys), *keys, *arguments), wait)

    async def call(self, *command: str | bytes | int) -> Any:
        """Sends one command, a word an argument, and answers the reply as the protocol has it.

        Raises what redis-py raises, TimeoutError, and ConnectionError. The next call starts on a new connection if it must.
        """
        async with self._turn:
            return await self._call(command)

    async def _call(self, command: tuple[Any, ...], wait: ReplicaWait | None = None) -> Any:
        connection = self._connection
        try:
            # redis-py's own time-out on sending starts a task for each command, and under Python 3.11 it can swallow a cancellation.
            async with asyncio.timeout(self._call_timeout_s):
                if not connection.is_connected:
                    await connection.connect()  # type: ignore[no-untyped-call]
                packed = hiredis.pack_command(command)
                if wait is not None:
                    return await self._send_and_wait(packed, wait)
                await connection.send_packed_command(packed, check_health=False)
                return await connection.read_response()
        except TooFewReplicasError:
            await connection.disconnect(nowait=True)
            raise
        except ResponseError:
            raise
        except RuntimeError as error:  # uvloop's word for a connection that was reset while nobody used it
            await connection.disconnect(nowait=True)
            raise ConnectionError(f"the connection broke while it was idle: {error}") from error
        except BaseException:
            # Also when cancelled: an answer that arrives later must not be taken for the next command's.
            await connection.disconnect(nowait=True)
            raise

    async def _send_and_wait(self, packed: bytes, wait: ReplicaWait) -> Any:
        connection = self._connection
        await connection.send_packed_command((packed, wait.packed), check_health=False)
        failure: ResponseError | None = None
        answers: list[Any] = []
        for _ in range(1 + wait.answers):
            try:
                answers.append(await connection.read_response())
            except ResponseError as error:
                failure = failure or error
                if not connection.is_connected:
                    break
        if failure is not None:
            raise failure
        answer, *waited = answers
        wait.check(waited)
        return answer

    async def close(self) -> None:
        """Disconnects. A later call would connect again."""
        await self._connection.disconnect()
