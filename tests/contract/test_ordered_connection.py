"""A connection to the store that breaks while nobody uses it is an outage, and nothing worse; on uvloop, as coordinators run."""

import asyncio
import socket
import struct

import hiredis
import pytest
import uvloop
from redis.asyncio import ConnectionPool

from coordinator.journal.ordered_connection import OrderedConnection
from tests.support.eventually import eventually


async def _reset_while_idle() -> None:
    served = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        commands = hiredis.Reader()
        command: list[bytes] = []
        while command != [b"PING"]:  # redis-py introduces itself first
            commands.feed(await reader.read(1000))
            while some := commands.gets():
                command = some
                writer.write(b"+PONG\r\n" if command == [b"PING"] else b"+OK\r\n")
        await writer.drain()
        served += 1
        if served == 1:  # closed with a reset, as the kernel does for a process that was killed
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    pool = ConnectionPool(host="127.0.0.1", port=server.sockets[0].getsockname()[1], protocol=2)
    connection = OrderedConnection(pool=pool, call_timeout_s=5.0)
    try:
        assert await connection.call("PING") == b"PONG"
        await _is_reset(connection)
        with pytest.raises(ConnectionError, match="while it was idle"):
            await connection.call("PING")
        assert await connection.call("PING") == b"PONG"  # on a new one
    finally:
        await connection.close()
        server.close()


async def _is_reset(connection: OrderedConnection) -> None:
    writer = connection._connection._writer  # what redis-py would be asked for, if it could be
    await eventually(writer.transport.is_closing, message="the reset to arrive")


def test_a_connection_that_is_reset_while_idle_is_an_outage() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_reset_while_idle())
