"""A state engine over the memory store, on a virtual clock: a minute of waiting takes no time."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from coordinator.errors import MusterError
from coordinator.ids import Entropy
from coordinator.journal.memory_store import Fault
from coordinator.ports import MAX_READ_BYTES
from coordinator.state.engine import Header, StateEngine, WatchStream
from coordinator.state.memory_store import MemoryState, MemoryStateStore, StateCall
from coordinator.state.model import AcquireLock, Command, Compare, CompareTarget, Entry, Limits, Origin, Put, Transaction, Verdict
from coordinator.state.ports import EventPage, Written
from coordinator.state.updates import Add, Change, Update
from coordinator.state.watch import News
from tests.support.virtual_loop import VirtualLoop, run_virtually

T = TypeVar("T")

NAMESPACE = "default"
START_MS = 1_700_000_000_000


class Clock:
    """The loop's time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.ahead_s = 0.0

    def now_s(self) -> float:
        return self._loop.now_s + self.ahead_s


class WatchedStore(MemoryStateStore):
    """Counts calls, keeps what was written, and takes time for each call: `write_s` and `read_s`."""

    write_s = 0.001
    read_s = 0.0005

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.calls: list[tuple[str, ...]] = []
        self.batches: list[tuple[str, Sequence[Command]]] = []
        self.gate: asyncio.Event | None = None  # a write waits for it

    async def write(self, namespace: str, commands: Sequence[Command], **arguments: Any) -> Written:
        self.batches.append((arguments["nonce"], list(commands)))
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(self.write_s / 2)
        written = await super().write(namespace, commands, **arguments)
        await asyncio.sleep(self.write_s / 2)
        return written

    async def get(self, namespace: str, keys: Sequence[str], *, max_bytes: int = MAX_READ_BYTES) -> tuple[int, Sequence[Entry | None]]:
        self.calls.append(("get", *keys))
        await asyncio.sleep(self.read_s)
        return await super().get(namespace, keys, max_bytes=max_bytes)

    async def events(self, namespace: str, *, after: int, limit: int, max_bytes: int) -> EventPage:
        self.calls.append(("events", str(after)))
        await asyncio.sleep(self.read_s)
        page = await super().events(namespace, after=after, limit=limit, max_bytes=max_bytes)
        await asyncio.sleep(0)  # what was read may be old by now
        return page


class StateWorld:
    """One engine, its store, and what a test says to them."""

    def __init__(self, loop: VirtualLoop, *, limits: Limits | None = None) -> None:
        self.loop = loop
        self.clock = Clock(loop)
        self.state = MemoryState()
        self.owner = 1
        self.faults: list[tuple[StateCall, Fault]] = []  # the next calls of each kind
        self.down = False
        self.limits = limits or Limits()
        self.store, self.engine = self._engine(1)
        self.serving: asyncio.Task[None] | None = None

    def _engine(self, owner: int) -> tuple[WatchedStore, StateEngine]:
        store = WatchedStore(state=self.state, owns=lambda: self.owner == owner, now_ms=self.now_ms, fault=self._fault)
        return store, StateEngine(store=store, clock=self.clock, entropy=Entropy(seed=owner), limits=lambda _: self.limits)

    def now_ms(self) -> int:
        """The store's."""
        return START_MS + int(self.loop.now_s * 1000)

    async def _fault(self, call: StateCall) -> Fault:
        if self.down:
            return Fault.BEFORE
        for place, (kind, fault) in enumerate(self.faults):
            if kind is call:
                del self.faults[place]
                return fault
        return Fault.NONE

    async def start(self) -> None:
        """The engine serves, and the namespace is open."""
        self.serving = asyncio.get_running_loop().create_task(self.engine.run([NAMESPACE]))
        await asyncio.sleep(0)

    async def take_over(self) -> None:
        """Another coordinator has the shard from now on; this one is dead."""
        await self.stop()
        self.owner += 1
        self.store, self.engine = self._engine(self.owner)
        await self.start()

    async def stop(self) -> None:
        """The engine ends."""
        assert self.serving is not None
        self.serving.cancel()
        await asyncio.gather(self.serving, return_exceptions=True)

    # --- what clients say -----------------------------------------------------------------------------------------------------------

    def send(self, command: Command | Update) -> "asyncio.Future[Verdict]":
        """Writes a command, and answers what will come of it."""
        future: asyncio.Future[Verdict] = self.loop.create_future()
        say = self.engine.update if isinstance(command, Update) else self.engine.write
        say(NAMESPACE, command, functools.partial(_settle, future))  # type: ignore[arg-type]
        return future

    async def put(self, key: str, value: bytes = b"", **options: Any) -> Verdict:
        """Sets a key."""
        return await self.send(put(key, value, **options))

    async def get(self, *keys: str, behind: int = 0) -> "Sequence[Entry | None]":
        """Reads keys."""
        future: asyncio.Future[Sequence[Entry | None]] = self.loop.create_future()
        self.engine.get(NAMESPACE, keys, functools.partial(_settle, future), behind=behind)
        return await future

    async def value(self, key: str) -> bytes | None:
        """What a key has."""
        (entry,) = await self.get(key)
        return None if entry is None else entry.value

    def lock(self, name: str, waiter_id: str, *, wait_s: float = 0, ttl_ms: int = 10_000) -> "asyncio.Future[Verdict]":
        """Takes a lock."""
        future: asyncio.Future[Verdict] = self.loop.create_future()
        acquire = AcquireLock(name, waiter_id, ttl_ms, wait=wait_s > 0)
        wait = self.engine.lock(NAMESPACE, acquire, wait_s, functools.partial(_settle, future))
        future.add_done_callback(lambda done: wait.forget() if done.cancelled() else None)
        return future


def _settle(future: "asyncio.Future[Any]", answer: Any, header: Header) -> None:
    assert isinstance(header, Header)
    if future.cancelled():
        return
    if isinstance(answer, MusterError):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def put(key: str, value: bytes = b"", *, origin: Origin | None = None, if_version: int | None = None, **options: Any) -> Transaction:
    """A command that sets a key."""
    compares = () if if_version is None else (Compare(key, CompareTarget.VERSION, if_version),)
    return Transaction((Put(key, value, **options),), compares, origin=origin or Origin())


def add(key: str, number: str = "1", **options: Any) -> Update:
    """A command that adds to a key."""
    return Update(key, Add(number), **options)


def change(key: str, what: Change, **options: Any) -> Update:
    """A command that changes a key."""
    return Update(key, what, **options)


class Told:
    """Takes all news of a stream."""

    def __init__(self, stream: WatchStream) -> None:
        self.stream = stream
        self.news: list[News] = []
        self.headers: list[Header] = []
        self.task = asyncio.get_running_loop().create_task(self._take())

    async def _take(self) -> None:
        while True:
            header, news = await self.stream.take()
            self.headers.append(header)
            self.news += news

    def revisions(self, watch_id: int = 1) -> list[int]:
        """What a watch was told."""
        return [event.revision for news in self.news if news.watch_id == watch_id for event in news.events]

    def of(self, watch_id: int = 1) -> list[News]:
        """News of one watch."""
        return [news for news in self.news if news.watch_id == watch_id]

    def end(self) -> None:
        """The client goes away."""
        self.task.cancel()
        self.stream.close()


def in_world(story: Callable[[StateWorld], Awaitable[None]] | None = None, **options: Any) -> Any:
    """Makes a test of a story that is told to a world."""
    if story is None:
        return functools.partial(in_world, **options)

    @functools.wraps(story)
    def test() -> None:
        async def main(loop: VirtualLoop) -> None:
            world = StateWorld(loop, **options)
            await world.start()
            await story(world)
            if world.serving is not None and not world.serving.done():
                await world.stop()

        run_virtually(main)

    del test.__wrapped__  # else pytest asks for a fixture `world`
    return test


async def all_of(futures: Iterable["asyncio.Future[T]"]) -> list[T]:
    """The answers."""
    return list(await asyncio.gather(*futures))


Story = Coroutine[Any, Any, None]
