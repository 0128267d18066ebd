"""Where shared state can lie in a contract test: in memory and on real servers, with a clock that the test moves."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from coordinator.journal.memory_store import Fault, MemoryShard, MemoryShardStore
from coordinator.journal.redis_errors import as_store_errors
from coordinator.journal.scripts import Script
from coordinator.state.layout import StateKeys
from coordinator.state.memory_store import MemoryState, MemoryStateStore, StateCall
from coordinator.state.model import (
    AcquireLock,
    Command,
    Delete,
    Entry,
    ExpireDue,
    GrantLease,
    Limits,
    Outcome,
    Put,
    Transaction,
    Verdict,
)
from coordinator.state.ports import EventPage, Facts, StateStore, WriteAnswer, Written
from coordinator.state.redis_store import RedisStateStore
from coordinator.state.scripts import WRITE, WRITE_FULL
from tests.support.shard_backings import KEYS, ServerBacking
from tests.support.topology_backings import TopologyBacking

START_MS = 1_800_000_000_000
_TIME = "call('TIME')"
_CLOCK = "muster:{s3}:clock"
_TEST_TIME = f"(function() local ms = tonumber(call('GET', '{_CLOCK}')); return {{floor(ms / 1000), ms % 1000 * 1000}} end)()"
_SET_TIME = Script("#!lua flags=allow-oom\nreturn redis.call('SET', KEYS[1], ARGV[1])")


class StateClock:
    """The store's time. It stands still until the test moves it."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def pass_ms(self, duration_ms: int) -> None:
        """Time goes on."""
        self.now_ms += duration_ms


class MemoryStateBacking:
    """In this process."""

    def __init__(self) -> None:
        self.clock = StateClock()
        self.fault = Fault.NONE
        self._shard = MemoryShard()
        self._state = MemoryState()

    async def open(self) -> StateStore:
        """Another coordinator, which takes the shard."""
        shard = MemoryShardStore(shard=self._shard, now_ms=lambda: self.clock.now_ms)
        await shard.claim()
        return MemoryStateStore(state=self._state, owns=shard.owns, now_ms=lambda: self.clock.now_ms, fault=self._next_fault)

    async def fill(self) -> None:
        """The store has no memory left."""
        self._state.full = True

    async def _next_fault(self, call: StateCall) -> Fault:
        return self.fault


class ServerStateBacking:
    """On a server. The scripts are the real ones, but for the one word by which they read the time.

    Args:
        server: a running one.
        closing: what closes the stores that are opened.
        clock: None leaves the scripts as they are.
    """

    def __init__(self, *, server: ServerBacking | TopologyBacking, closing: AsyncExitStack, clock: StateClock | None) -> None:
        self.server = server
        self._closing = closing
        self._clock = clock
        self._token: Callable[[], str] = str
        self.client = server.client()

    @property
    def clock(self) -> StateClock:
        """The test's."""
        assert self._clock is not None
        return self._clock

    async def open(self) -> StateStore:
        """Another coordinator, which takes the shard."""
        shard = self.server.open()
        await shard.claim()
        self._token = shard.token
        return self._open(call_timeout_s=10.0)

    def open_impatient(self) -> StateStore:
        """The same coordinator's way, but it gives up soon."""
        return self._open(call_timeout_s=0.2)

    def _open(self, *, call_timeout_s: float) -> StateStore:
        kind = RedisStateStore if self._clock is None else _ClockedStateStore
        store = kind(
            pool=self.server.client().connection_pool, keys=StateKeys(shard=KEYS), token=self._token, call_timeout_s=call_timeout_s
        )
        if self._clock is not None and isinstance(store, _ClockedStateStore):
            store.clock = self._clock
        self._closing.push_async_callback(store.close)
        return store

    async def fill(self) -> None:
        """The store has no memory left."""
        await self.client.config_set("maxmemory", "1mb")


def _at_test_time(script: Script) -> Script:
    assert script.source.count(_TIME) == 1
    return Script(script.source.replace(_TIME, _TEST_TIME))


class _ClockedStateStore(RedisStateStore):
    """Writes at the test's time."""

    write_scripts = (_at_test_time(WRITE), _at_test_time(WRITE_FULL))
    clock = StateClock()

    async def write(self, namespace: str, commands: Sequence[Command], *, nonce: str, limits: Limits, known_revision: int = 0) -> Written:
        """Tells the server what time it is, first."""
        with as_store_errors():
            await self._writes.run(_SET_TIME, keys=(_CLOCK,), arguments=(self.clock.now_ms,))
        return await super().write(namespace, commands, nonce=nonce, limits=limits, known_revision=known_revision)


class StateWriter:
    """A coordinator's writes and reads of one namespace, in short."""

    def __init__(self, *, store: StateStore, clock: StateClock, namespace: str = "default") -> None:
        self.store = store
        self.clock = clock
        self.namespace = namespace
        self.limits = Limits()
        self._writes = 0

    async def batch(self, *commands: Command, nonce: str = "", known_revision: int = 0) -> Written:
        """Writes commands in one call, each with a nonce of its own if none is given."""
        self._writes += 1
        nonce = nonce or f"{id(self)}-{self._writes}"
        return await self.store.write(self.namespace, commands, nonce=nonce, limits=self.limits, known_revision=known_revision)

    async def do(self, command: Command) -> Verdict:
        """One command, applied."""
        written = await self.batch(command)
        assert written.answer is WriteAnswer.APPLIED
        return written.verdicts[0]

    async def put(self, key: str, value: bytes = b"v", **options: Any) -> int:
        """A put, which must be done: answers its revision."""
        verdict = await self.do(Transaction((Put(key, value, **options),)))
        assert verdict.outcome is Outcome.DONE
        return verdict.revision

    async def delete(self, key: str, *, prefix: bool = False) -> Verdict:
        """Deletes."""
        return await self.do(Transaction((Delete(key, prefix=prefix),)))

    async def get(self, key: str) -> Entry | None:
        """What is there."""
        _, (entry,) = await self.store.get(self.namespace, [key])
        return entry

    async def value(self, key: str) -> bytes | None:
        """The value that is there."""
        entry = await self.get(key)
        return None if entry is None else entry.value

    async def lease(self, ttl_ms: int) -> int:
        """A new lease."""
        return (await self.do(GrantLease(ttl_ms))).revision

    async def acquire(self, waiter_id: str, *, name: str = "l", ttl_ms: int = 10_000, wait: bool = True) -> Verdict:
        """Asks for a lock."""
        return await self.do(AcquireLock(name, waiter_id, ttl_ms, wait, author=waiter_id.encode()))

    async def expire(self, *, limit: int = 1000) -> Verdict:
        """Ends what is due now."""
        return await self.do(ExpireDue(limit, self.clock.now_ms))

    async def events(self, *, after: int = 0, limit: int = 10_000, max_bytes: int = 10**9) -> EventPage:
        """Events above a revision."""
        return await self.store.events(self.namespace, after=after, limit=limit, max_bytes=max_bytes)

    async def told(self, *, after: int = 0) -> list[tuple[str, str, int]]:
        """Kind, key and revision of all events above a revision."""
        return [(event.kind.name, event.key, event.revision) for event in (await self.events(after=after)).events]

    async def keys(self, prefix: str = "", *, after: str = "", limit: int = 1000) -> list[str]:
        """The names of keys, by a list without values."""
        page = await self.store.list(self.namespace, prefix=prefix, after=after, limit=limit, max_bytes=10**9, keys_only=True)
        return [entry.key for entry in page.entries]

    async def facts(self) -> Facts:
        """The whole."""
        return await self.store.facts(self.namespace)

    async def lock(self, name: str = "l") -> tuple[str, list[str]]:
        """Who holds a lock, and who waits; ('', []) when there is none."""
        for view in await self.store.locks(self.namespace, prefix=name, after="", limit=100):
            if view.name == name and view.holder is not None:
                return view.holder.waiter_id, [waiter.waiter_id for waiter in view.waiters]
        return "", []
