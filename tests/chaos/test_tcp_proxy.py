"""The proxy between processes: what it passes on, holds up, delays and breaks off, and that it tells processes apart."""

import asyncio
import contextlib
import os
import sys

import pytest

from tests.support.eventually import eventually
from tests.support.tcp_proxy import ANYBODY, Proxies

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says who owns the other end of a connection")

CALLER = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    print("connected", flush=True)
    for line in sys.stdin:
        connection.sendall(line.encode())
        print(connection.recv(100).decode().strip(), flush=True)
"""


@pytest.fixture
async def echo():
    """The port of a server that answers what it hears, and ends when its caller does."""

    served: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(writer)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        served.discard(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for writer in served:
        writer.transport.abort()
    await eventually(lambda: not served, message="the server's connections to end")


@pytest.fixture
def proxies():
    with Proxies(lambda: {os.getpid(): "test"}) as running:
        yield running


async def said(reader: asyncio.StreamReader, size: int, *, within_s: float = 5.0) -> bytes:
    return await asyncio.wait_for(reader.readexactly(size), within_s)


async def test_it_passes_everything_on_in_order(proxies: Proxies, echo: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxies.before("server", port=echo))
    sent = b"".join(number.to_bytes(4) for number in range(1_000_000))  # more than anything on the way holds
    writer.write(sent)
    assert await said(reader, len(sent), within_s=30) == sent
    assert proxies.links() == [("test", "server")] or sys.platform != "linux"
    writer.close()
    await eventually(lambda: not proxies.links(), message="the connection to be forgotten")


async def test_nothing_passes_a_cut_and_all_of_it_arrives_afterwards(proxies: Proxies, echo: int) -> None:
    port = proxies.before("server", port=echo)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    proxies.cut("server", "test")
    writer.write(b"before")
    late_reader, late_writer = await asyncio.open_connection("127.0.0.1", port)  # nobody is told
    late_writer.write(b"late")
    with pytest.raises(TimeoutError):
        await said(reader, 1, within_s=0.2)
    with pytest.raises(TimeoutError):
        await said(late_reader, 1, within_s=0.05)
    proxies.heal("test", "server")
    assert await said(reader, 6) == b"before"
    assert await said(late_reader, 4) == b"late"
    writer.close()
    late_writer.close()


async def test_who_leaves_during_a_cut_is_missed_when_it_is_over(proxies: Proxies) -> None:
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b"last words"
        ended.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = proxies.before("server", port=server.sockets[0].getsockname()[1])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    await eventually(proxies.links)
    proxies.cut("test", "server")
    writer.write(b"last words")
    writer.close()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ended.wait(), 0.1)
    proxies.heal_all()
    await asyncio.wait_for(ended.wait(), 5)
    await eventually(lambda: not proxies.links(), message="the connection to be forgotten")
    server.close()


async def test_it_delays_each_way(proxies: Proxies, echo: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxies.before("server", port=echo))
    loop = asyncio.get_running_loop()
    proxies.delay("test", "server", 0.1)
    begun_s = loop.time()
    writer.write(b"slow")
    assert await said(reader, 4) == b"slow"
    assert loop.time() - begun_s >= 0.2
    proxies.heal("test", "server")
    writer.write(b"fast")
    assert await said(reader, 4) == b"fast"
    writer.close()


async def test_it_breaks_off(proxies: Proxies, echo: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxies.before("server", port=echo))
    await eventually(proxies.links)
    assert proxies.break_off("test", "other") == 0
    assert proxies.break_off("server", ANYBODY) == 1
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await said(reader, 1)
    writer.close()


async def test_a_server_that_isnt_there_is_a_broken_connection(proxies: Proxies) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxies.before("server", port=1))
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await said(reader, 1)
    writer.close()


@LINUX
async def test_it_tells_processes_apart(echo: int) -> None:
    names = {os.getpid(): "test"}
    with Proxies(lambda: names) as proxies:
        port = proxies.before("server", port=echo)
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CALLER, str(port), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        names[other.pid] = "other"
        assert other.stdin is not None
        assert other.stdout is not None
        assert await other.stdout.readline() == b"connected\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await eventually(lambda: sorted(proxies.links()) == [("other", "server"), ("test", "server")])
        proxies.cut("other", "server")
        other.stdin.write(b"held\n")
        writer.write(b"passes")
        assert await said(reader, 6) == b"passes"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting := asyncio.ensure_future(other.stdout.readline())), 0.2)
        proxies.heal("other", "server")
        assert await asyncio.wait_for(waiting, 5) == b"held\n"
        other.stdin.close()
        await other.wait()
        writer.close()
