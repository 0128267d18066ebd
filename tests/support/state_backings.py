"""Where shared state can lie in a contract test: in memory and on real servers, with a clock that the test moves."""

from collections.abc import Sequence
from contextlib import AsyncExitStack

from coordinator.journal.memory_store import Fault, MemoryShard, MemoryShardStore
from coordinator.journal.redis_errors import as_store_errors
from coordinator.journal.scripts import Script
from coordinator.state.layout import StateKeys
from coordinator.state.memory_store import MemoryState, MemoryStateStore, StateCall
from coordinator.state.model import Command, Limits
from coordinator.state.ports import StateStore, Written
from coordinator.state.redis_store import RedisStateStore
from coordinator.state.scripts import WRITE, WRITE_FULL
from tests.support.shard_backings import KEYS, ServerBacking

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

    def __init__(self, *, server: ServerBacking, closing: AsyncExitStack, clock: StateClock | None) -> None:
        self.server = server
        self._closing = closing
        self._clock = clock
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
        kind = RedisStateStore if self._clock is None else _ClockedStateStore
        store = kind(pool=self.server.client().connection_pool, keys=StateKeys(shard=KEYS), token=shard.token)
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
