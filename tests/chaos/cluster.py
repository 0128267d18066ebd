"""The processes of a chaos run: coordinators, agents, and a store; whoever should run, runs again soon after it has ended."""

import asyncio
import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from coordinator.journal.layout import ShardKeys, shard_of
from tests.chaos.schedule import Setting
from tests.support.eventually import eventually
from tests.support.ports import lasting_port
from tests.support.processes import Child, Children
from tests.support.redis_servers import SERVICE, Replicated, Server, binary_of, replicated
from tests.support.tcp_proxy import Proxies

SHARDS = 6
CAPACITY = 4  # of each agent, in each of its namespaces
DOWN_AFTER_MS = 1000  # a server that says nothing for so long is taken for gone
FAILOVER_S = 20.0
START_S = 60.0  # for a process that starts while other things go wrong
CLIENT = "client"  # the process that runs all this, as the proxies call it
_STORE = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}


def namespaces() -> list[str]:
    """One for each shard, in the shards' order."""
    found: dict[int, str] = {}
    for number in count():
        name = f"team-{number}"
        found.setdefault(shard_of(name, shards=SHARDS), name)
        if len(found) == SHARDS:
            return [found[shard] for shard in range(SHARDS)]
    raise AssertionError


class Supervised:
    """A process that is started again when it ends, unless it is meant to be down.

    Args:
        name: what it is called.
        command: starts it.
        children: as a child of these.
        ready: what it prints once it serves.
    """

    def __init__(self, *, name: str, command: Sequence[str], children: Children, ready: str) -> None:
        self.name = name
        self.up = True
        self.child: Child
        self.unexpected: list[str] = []  # the last line of what ended by itself
        self.logs: list[Path] = []
        self.options: tuple[str, ...] = ()
        self._command = command
        self._children = children
        self._ready = ready

    def start(self) -> None:
        self.child = self._children.start([*self._command, *self.options], name=self.name)
        self.logs.append(self.child.log)

    def look(self) -> None:
        """Starts it again, if it has ended and shouldn't have."""
        if self.up and self.child.exit_code is not None:
            self.unexpected.append(f"{self.name} exited {self.child.exit_code}: {(self.child.output().splitlines() or [''])[-1]}")
            self.start()

    def is_ready(self) -> bool:
        """Whether the process that runs now serves."""
        return self.child.exit_code is None and self._ready in self.child.output()

    def down(self) -> None:
        """It stays down from now on."""
        self.up = False

    async def again(self) -> None:
        """It is to run again; returns when it serves."""
        self.start()
        self.up = True
        await eventually(self.is_ready, within_s=START_S, message=f"{self.name} to serve again; see {self.child.log}")


class Cluster:
    """All processes, and the proxies between them. A context manager.

    Args:
        setting: how many.
        children: starts them.
        folder: for all files.
        without: the guards that coordinators lack.
        options: of the coordinators, beside those that all runs have.
    """

    def __init__(
        self, setting: Setting, *, children: Children, folder: Path, without: Sequence[str] = (), options: Sequence[str] = ()
    ) -> None:
        self.setting = setting
        self.folder = folder
        self.namespaces = namespaces()
        self.capacity = {}
        self.coordinators: dict[str, Supervised] = {}
        self.agents: dict[str, Supervised] = {}
        self.servers: list[Server] = []
        self.sentinels: list[Server] = []
        self.proxies = Proxies(self._names)
        self._down: set[str] = set()  # servers of the store that are meant to be
        self._children = children
        self._without = without
        self._options = options
        self._replicated: Replicated | None = None
        self._reached_at: dict[str, int] = {}
        self._stack = AsyncExitStack()
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            self._stack.enter_context(self.proxies)
            await self._start_store()
            self._watching = asyncio.create_task(self._watch())
            await self._start_coordinators()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self._close()

    async def _close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        self.proxies.heal_all()
        await self._children.stop_all()
        for server in self.servers:
            await server.close()
        await self._stack.aclose()

    def _names(self) -> dict[int, str]:
        return {os.getpid(): CLIENT, **self._children.names()}

    def _front(self, name: str, port: int) -> int:
        self._reached_at[name] = self.proxies.before(name, port=port)
        return self._reached_at[name]

    @property
    def address(self) -> str:
        """Where clients reach the coordinators."""
        return self.address_from(0)

    def address_from(self, number: int) -> str:
        """The same, another one first."""
        ports = [self._reached_at[name] for name in self.coordinators]
        number %= len(ports)
        return ",".join(f"127.0.0.1:{port}" for port in [*ports[number:], *ports[:number]])

    # --- the store --------------------------------------------------------------------------------------------------------------

    async def _start_store(self) -> None:
        folder = self.folder / "store"
        if self.setting.replicas:
            self._replicated = await self._stack.enter_async_context(
                replicated(
                    self._children,
                    folder,
                    replicas=self.setting.replicas,
                    sentinels=self.setting.sentinels,
                    down_after_ms=DOWN_AFTER_MS,
                    settings=_STORE,
                    front=self._front,
                )
            )
            self.servers, self.sentinels = self._replicated.servers, self._replicated.sentinels
            return
        alone = Server(
            name="primary", binary=binary_of("valkey"), directory=folder, children=self._children, settings=_STORE, front=self._front
        )
        self.servers = [alone]
        await alone.start()

    async def primary(self) -> Server:
        """Who is the store's primary now."""
        store = self._replicated
        if store is None:
            return self.servers[0]

        async def voted() -> Server | None:
            with contextlib.suppress(ValueError, StopIteration):  # no sentinel answers now
                return await store.primary()
            return None

        found = await eventually(voted, within_s=START_S, message="a sentinel to say who is the primary")
        assert found is not None
        return found

    async def replica(self) -> Server:
        """Another one than the primary."""
        primary = await self.primary()
        return next(server for server in self.servers if server is not primary)

    async def server(self, who: str) -> Server:
        """A server of the store, by its part or by its name."""
        match who:
            case "primary":
                return await self.primary()
            case "replica":
                return await self.replica()
            case _:
                return next(server for server in (*self.servers, *self.sentinels) if server.name == who)

    async def fail_over(self) -> None:
        """Has another server become the primary. Raises AssertionError when the sentinels don't: they give up what takes long."""
        before = await self.primary()

        async def another() -> bool:
            if await self.primary() is not before:
                return True
            for sentinel in self.sentinels:  # all but the first are refused while one is under way
                await sentinel.ask("SENTINEL", "FAILOVER", SERVICE)
            return False

        await eventually(another, within_s=FAILOVER_S, message="the sentinels to choose another primary")

    def stay_down(self, server: Server) -> None:
        """A server of the store isn't started again before `come_back`."""
        self._down.add(server.name)

    async def come_back(self, server: Server) -> None:
        """Starts it, with the data that it has."""
        await server.start()
        self._down.discard(server.name)

    def stays_up(self, server: Server) -> None:
        """It was never down after all."""
        self._down.discard(server.name)

    async def settled_store(self) -> None:
        """Returns when everybody in the store knows who is the primary, and follows it."""
        if self._replicated is not None:
            await self._replicated.until_formed()

    # --- coordinators and agents ------------------------------------------------------------------------------------------------

    async def _start_coordinators(self) -> None:
        store = self._replicated.url if self._replicated is not None else f"redis://127.0.0.1:{self.servers[0].reached_at}"
        without = [word for guard in self._without for word in ("--chaos-without", guard)]
        for number in range(self.setting.coordinators):
            name, port = f"coordinator-{number}", lasting_port()
            self._front(name, port)
            self.clock(name).write_text(json.dumps({"date_ms": 0, "boot_s": 0.0}))
            command = [sys.executable, "-m", "tests.chaos.coordinator", "--chaos-clock", str(self.clock(name)), *without]
            command += ["--redis-url", store, "--shards", str(SHARDS), "--listen", f"127.0.0.1:{port}"]
            command += ["--lease", "2", "--session-grace", "2", "--log-level", "info", "--snapshot-after", "300000", *self._options]
            if self.setting.replicas:
                command += ["--durability", "wait-replicas:1"]
            if self.setting.coordinators > 1:
                command += ["--coordinator-id", name, "--advertise-address", f"127.0.0.1:{self._reached_at[name]}"]
            self.coordinators[name] = Supervised(name=name, command=command, children=self._children, ready="serving on")
            self.coordinators[name].start()
        for each in self.coordinators.values():
            await eventually(each.is_ready, within_s=START_S, message=f"{each.name} to serve; see {each.child.log}")

    def clock(self, name: str) -> Path:
        """The file that says how far a coordinator's clocks are off."""
        return self.folder / f"{name}.clock.json"

    def step_clock(self, name: str, **changed: float) -> None:
        """Steps them."""
        path = self.clock(name)
        written = path.with_suffix(".new")
        written.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
        written.rename(path)

    def start_agents(self, *options: str) -> None:
        """Starts all agents, with these options more; each works in two namespaces, and in each namespace there are at least two."""
        per_agent = max(1, 2 * len(self.namespaces) // self.setting.agents)
        for number in range(self.setting.agents):
            name = f"agent-{number}"
            mine = [self.namespaces[(number * per_agent // 2 + each) % len(self.namespaces)] for each in range(per_agent)]
            self.capacity.update({(namespace, name): CAPACITY for namespace in mine})
            command = [sys.executable, "-m", "tests.chaos.agents", "--name", name, "--namespaces", ",".join(mine)]
            command += ["--address", self.address_from(number), "--capacity", str(CAPACITY), "--notes", str(self.notes(name)), *options]
            self.agents[name] = Supervised(name=name, command=command, children=self._children, ready="")
            self.agents[name].start()

    def notes(self, name: str) -> Path:
        """What an agent's handlers write down."""
        return self.folder / f"{name}.notes"

    async def _watch(self) -> None:
        while True:
            for each in (*self.coordinators.values(), *self.agents.values()):
                each.look()
            for server in (*self.servers, *self.sentinels):
                if server.child.exit_code is not None and server.name not in self._down:
                    await server.start()
            await asyncio.sleep(0.1)

    async def owned_by(self, name: str) -> dict[int, int]:
        """The shards that a coordinator owns, as the store says, each with the epoch."""
        owned: dict[int, int] = {}
        primary = await self.primary()
        for shard in range(SHARDS):
            answer = await primary.ask("HMGET", self.keys(shard).head, "epoch", "owner") or (None, None)
            epoch, owner = answer
            if epoch and (self.setting.coordinators == 1 or (owner or b"").decode() == name):
                owned[shard] = int(epoch)
        return owned

    @staticmethod
    def keys(shard: int) -> ShardKeys:
        """Where a shard lies in the store."""
        return ShardKeys(prefix="muster", shard=shard)

    # --- at the end -------------------------------------------------------------------------------------------------------------

    def unexpected(self) -> list[str]:
        """Processes that ended by themselves, and what they said last."""
        return [line for each in (*self.coordinators.values(), *self.agents.values()) for line in each.unexpected]

    def tracebacks(self) -> Counter[str]:
        """Errors that nobody had expected, by the last line of their tracebacks."""
        found: Counter[str] = Counter()
        for each in (*self.coordinators.values(), *self.agents.values()):
            for log in each.logs:
                inside = False
                for line in log.read_text(errors="replace").splitlines():
                    if "Traceback (most recent call last)" in line:
                        inside = True
                    elif inside and line and not line[0].isspace():
                        found[f"{each.name.partition('-')[0]}: {line[:200]}"] += 1
                        inside = False
        return found
