"""TCP proxies before the servers of a test, so that what passes between any two processes can be held up, delayed or broken off.

Whoever connects is told by the process that owns the other end of the connection, as Linux's /proc has it: so one proxy before a server is
enough, whoever comes through it, and servers may tell each other its address. Elsewhere nobody is told apart, and a rule between two holds
for everybody who comes to the one that listens.
"""

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.support.ports import lasting_port

T = TypeVar("T")

ANYBODY = "*"
"""Who can't be told, and in a rule: whoever it is."""

_HELD_BYTES = 1 << 20  # in one direction of a connection, before it isn't read any more


class Weather:
    """What happens to everything between two processes.

    Attributes:
        cut: nothing arrives, and nobody is told: what is sent meanwhile arrives when it is over, as TCP sends it again.
        delay_s: each way.
    """

    def __init__(self, *, cut: bool = False, delay_s: float = 0.0) -> None:
        self.cut = cut
        self.delay_s = delay_s


_CALM = Weather()


class Proxies:
    """Proxies in a thread of their own, each before one server. A context manager; all methods may be called from any thread.

    Args:
        processes: the processes that may connect, by id, asked anew for each connection: their names.
    """

    def __init__(self, processes: Callable[[], dict[int, str]]) -> None:
        self._processes = processes
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._servers: list[asyncio.Server] = []
        self._links: set[_Link] = set()
        self.transports: set[asyncio.Transport] = set()  # all that are open
        self._weather: dict[frozenset[str], Weather] = {}
        self._asked: dict[tuple[int, int], asyncio.Future[str]] = {}  # whose connections these are
        self._asking: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def before(self, name: str, *, port: int) -> int:
        """Puts a proxy before the server `name` on `port` of 127.0.0.1. Answers the proxy's port."""

        async def listening() -> int:
            at = lasting_port()
            self._servers.append(await self._loop.create_server(lambda: _Near(self, name, port), "127.0.0.1", at))
            return at

        return asyncio.run_coroutine_threadsafe(listening(), self._loop).result()

    def cut(self, one: str, other: str) -> None:
        """Nothing passes between these two until `heal`. `ANYBODY` stands for all others."""
        self._change(one, other, Weather(cut=True))

    def delay(self, one: str, other: str, delay_s: float) -> None:
        """What passes between these two takes so long more, each way, until `heal`."""
        self._change(one, other, Weather(delay_s=delay_s))

    def heal(self, one: str, other: str) -> None:
        """All is well between these two."""
        self._change(one, other, None)

    def heal_all(self) -> None:
        """All is well."""

        def heal() -> None:
            self._weather.clear()
            self._flush()

        self._run(heal)

    def break_off(self, one: str, other: str) -> int:
        """Resets every connection between these two. Answers how many there were."""

        def reset() -> int:
            links = [link for link in self._links if {one, other} - {ANYBODY} <= link.ends]
            for link in links:
                link.abort()
            return len(links)

        return self._run(reset)

    def links(self) -> list[tuple[str, str]]:
        """Who is connected to whom, one pair for each connection."""
        return self._run(lambda: [(link.caller, link.server) for link in self._links])

    # in the thread

    def _run(self, what: Callable[[], T]) -> T:
        async def run() -> T:
            return what()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def _change(self, one: str, other: str, weather: Weather | None) -> None:
        def change() -> None:
            if weather is None:
                self._weather.pop(frozenset((one, other)), None)
            else:
                self._weather[frozenset((one, other))] = weather
            self._flush()

        self._run(change)

    def _flush(self) -> None:
        for link in list(self._links):
            link.flush()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        connecting = asyncio.all_tasks() - {asyncio.current_task()}
        for task in connecting:
            task.cancel()
        await asyncio.gather(*connecting, return_exceptions=True)
        for transport in list(self.transports):
            transport.abort()
        while self.transports:
            await asyncio.sleep(0)

    def weather(self, caller: str, server: str) -> Weather:
        """What it is like between these two now."""
        if not self._weather:
            return _CALM
        pairs: list[frozenset[str]] = [frozenset(pair) for pair in ((caller, server), (caller, ANYBODY), (ANYBODY, server))]
        if caller == ANYBODY:  # nobody is told apart here
            pairs += [pair for pair in self._weather if server in pair]
        return next((self._weather[pair] for pair in pairs if pair in self._weather), _CALM)

    async def caller(self, ours: int, theirs: int) -> str:
        """The name of the process at the other end of a connection between these ports."""
        asked: asyncio.Future[str] = self._loop.create_future()
        self._asked[ours, theirs] = asked
        if self._asking is None:
            self._asking = self._loop.create_task(self._ask())
        return await asked

    async def _ask(self) -> None:
        """In a thread, and for all at once that have connected meanwhile: it takes some milliseconds, and a hundred on a busy machine."""
        while self._asked:
            some, self._asked = self._asked, {}
            names = self._processes()
            owners = await self._loop.run_in_executor(None, _owners, list(some), list(names))
            for ports, asked in some.items():
                if not asked.done():
                    asked.set_result(names.get(owners.get(ports, 0), ANYBODY))
        self._asking = None

    def opened(self, link: "_Link") -> None:
        """A connection began."""
        self._links.add(link)

    def closed(self, link: "_Link") -> None:
        """A connection is over."""
        self._links.discard(link)


def _owners(connections: Collection[tuple[int, int]], pids: Iterable[int]) -> dict[tuple[int, int], int]:
    """Which of these processes has the socket at the other end of each connection, given by our port and theirs on 127.0.0.1."""
    wanted = {(f"0100007F:{theirs:04X}", f"0100007F:{ours:04X}"): (ours, theirs) for ours, theirs in connections}
    try:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    except OSError:
        return {}
    sockets = {f"socket:[{row[9]}]": wanted[row[1], row[2]] for row in rows if (row[1], row[2]) in wanted}
    found: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            opened = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - with pathlib it takes five times as long
        except OSError:  # it has ended
            continue
        for number in opened:
            try:
                connection = sockets.get(os.readlink(f"/proc/{pid}/fd/{number}"))  # noqa: PTH115 - likewise
            except OSError:  # closed meanwhile
                continue
            if connection is not None:
                found[connection] = pid
    return found


class _Link:
    """One connection through a proxy: two ways."""

    def __init__(self, proxies: Proxies, caller: str, server: str, near: asyncio.Transport) -> None:
        self.caller, self.server = caller, server
        self.ends = {caller, server}
        self.there = _Way(self, near)
        self.back = _Way(self, None)
        self.back.sink = near
        self._is_connected = False
        self._proxies = proxies
        proxies.opened(self)

    def called_by(self, caller: str) -> None:
        """Who it is has been found out."""
        self.caller = caller
        self.ends.add(caller)

    def weather(self) -> Weather:
        return self._proxies.weather(self.caller, self.server)

    def connected(self, far: asyncio.Transport) -> None:
        """The server has answered."""
        self._is_connected = True
        self.there.sink = self.back.source = far
        self.flush()

    def flush(self) -> None:
        self.there.flush()
        self.back.flush()

    def lost(self, way: "_Way") -> None:
        """The source of this way is gone: the other end hears of it behind all that was sent."""
        way.source = None
        way.take(b"")
        if self._is_connected and self.there.source is None and self.back.source is None:
            self._proxies.closed(self)

    def abort(self) -> None:
        """Resets both ends."""
        self._proxies.closed(self)
        for way in (self.there, self.back):
            way.end()


class _Way:
    """One direction of a connection: what comes from `source` goes to `sink`, when it is due."""

    def __init__(self, link: _Link, source: asyncio.Transport | None) -> None:
        self.source = source
        self.sink: asyncio.Transport | None = None
        self._link = link
        self._held: deque[tuple[float, bytes]] = deque()  # b"" is the end
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        self._sink_is_full = False

    def take(self, data: bytes) -> None:
        if self._ended:
            return
        weather = self._link.weather()
        if self.sink is not None and not self._held and not weather.cut and not weather.delay_s:
            self._give(data)
            return
        self._held.append((asyncio.get_running_loop().time() + weather.delay_s, data))
        self._bytes += len(data)
        if self._bytes > _HELD_BYTES:
            self._read(on=False)
        self.flush()

    def flush(self) -> None:
        """Gives what is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        while self._held and self.sink is not None and not self._ended and not self._link.weather().cut:
            due_s, data = self._held[0]
            if due_s > loop.time():
                self._timer = loop.call_at(due_s, self.flush)
                return
            self._held.popleft()
            self._bytes -= len(data)
            self._give(data)
        if self._bytes <= _HELD_BYTES and not self._sink_is_full:
            self._read(on=True)

    def full(self, is_full: bool) -> None:
        """The sink has as much as it should hold."""
        self._sink_is_full = is_full
        self._read(on=not is_full and self._bytes <= _HELD_BYTES)

    def end(self) -> None:
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        for transport in (self.source, self.sink):
            if transport is not None:
                transport.abort()

    def _give(self, data: bytes) -> None:
        assert self.sink is not None
        if data:
            self.sink.write(data)
        else:
            self.sink.close()  # what it has is sent before
            self._ended = True

    def _read(self, *, on: bool) -> None:
        if self.source is None or self.source.is_closing():
            return
        if on:
            self.source.resume_reading()
        else:
            self.source.pause_reading()


class _Near(asyncio.Protocol):
    """The end towards the caller."""

    def __init__(self, proxies: Proxies, server: str, port: int) -> None:
        self._proxies = proxies
        self._server = server
        self._port = port
        self._link: _Link | None = None
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[Any] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._proxies.transports.add(transport)
        self._link = _Link(self._proxies, ANYBODY, self._server, transport)
        self._connecting = asyncio.get_running_loop().create_task(self._connect(self._link, transport))

    async def _connect(self, link: _Link, near: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = near.get_extra_info("sockname")[1], near.get_extra_info("peername")[1]
        link.called_by(await self._proxies.caller(ours, theirs))
        try:
            await loop.create_connection(lambda: _Far(self._proxies, link), "127.0.0.1", self._port)
        except OSError:
            link.abort()

    def data_received(self, data: bytes) -> None:
        if self._link is not None:
            self._link.there.take(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is not None:
            self._proxies.transports.discard(self._transport)
        if self._link is not None:
            self._link.lost(self._link.there)

    def pause_writing(self) -> None:
        if self._link is not None:
            self._link.back.full(True)

    def resume_writing(self) -> None:
        if self._link is not None:
            self._link.back.full(False)


class _Far(asyncio.Protocol):
    """The end towards the server."""

    def __init__(self, proxies: Proxies, link: _Link) -> None:
        self._proxies = proxies
        self._link = link
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._proxies.transports.add(transport)
        self._link.connected(transport)

    def data_received(self, data: bytes) -> None:
        self._link.back.take(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is not None:
            self._proxies.transports.discard(self._transport)
        self._link.lost(self._link.back)

    def pause_writing(self) -> None:
        self._link.there.full(True)

    def resume_writing(self) -> None:
        self._link.there.full(False)
