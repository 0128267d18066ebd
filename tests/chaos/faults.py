"""How each kind of fault is done to the processes, and undone."""

import asyncio
import json
import resource
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from coordinator.journal import codec
from coordinator.journal.layout import JOURNAL_FIELD
from tests.chaos.cluster import Cluster
from tests.chaos.schedule import Fault
from tests.support.eventually import eventually
from tests.support.redis_servers import Server

EXIT_S = 40.0  # for a coordinator that is told to end
ROOM_BYTES = 20_000  # what a full disk still takes
FAILOVER_WITHIN_S = 60.0


class Faults:
    """Does faults, and undoes them.

    Args:
        cluster: to whom.
        now_s: the time.

    Attributes:
        failover_s: for each shard of each coordinator that was killed, how long it took to the shard's next commit; where nothing else was
            wrong meanwhile.
        beside_others_s: the same, where something was.
        skipped: faults that couldn't be done, and why.
    """

    def __init__(self, cluster: Cluster, now_s: Callable[[], float]) -> None:
        self.failover_s: list[float] = []
        self.beside_others_s: list[float] = []
        self.skipped: list[str] = []
        self._cluster = cluster
        self._now_s = now_s
        self._measuring: list[asyncio.Task[None]] = []
        self._begun = 0  # faults
        self._present = 0

    @asynccontextmanager
    async def done(self, fault: Fault) -> AsyncIterator[None]:
        """The fault is there when the block begins, and gone when this returns."""
        verb, _, part = fault.kind.partition(" ")
        match verb, part:
            case "kill", "coordinator":
                how: AbstractAsyncContextManager[None] = self._killed_coordinator(fault.who[0])
            case "leave", _:
                how = self._left(fault.who[0])
            case "kill", "agent":
                how = self._killed_agent(fault.who[0])
            case "stop", "coordinator" | "agent":
                child = (self._cluster.coordinators | self._cluster.agents)[fault.who[0]].child
                how = self._stopped(child.send)
            case "kill", _:
                how = self._killed_server(await self._cluster.server(fault.who[0]))
            case "stop", _:
                how = self._stopped((await self._cluster.server(fault.who[0])).child.send)
            case "partition" | "latency" | "broken", _:
                how = self._weather(fault, [await self._name(who) for who in fault.who])
            case "full", _:
                how = self._full_disk(await self._cluster.server(fault.who[0]))
            case "clock", _:
                how = self._stepped(fault)
            case "failover", _:
                how = self._failed_over()
            case _:
                raise ValueError(f"nobody knows how to do {fault}")
        self._begun += 1
        self._present += 1
        try:
            async with how:
                yield
        finally:
            self._present -= 1

    async def finish(self) -> None:
        """Returns when all that is measured has come to its end."""
        await asyncio.gather(*self._measuring)

    async def _name(self, who: str) -> str:
        return (await self._cluster.server(who)).name if who in ("primary", "replica") else who

    # --- coordinators and agents ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _killed_coordinator(self, name: str) -> AsyncIterator[None]:
        one = self._cluster.coordinators[name]
        owned = await self._cluster.owned_by(name)
        one.down()
        one.child.kill()
        killed_s = self._now_s()
        self._measuring += [asyncio.create_task(self._measure(shard, epoch, killed_s)) for shard, epoch in owned.items()]
        yield
        await one.again()

    async def _measure(self, shard: int, epoch: int, killed_s: float) -> None:
        """Notes when the shard's journal has an entry of a later owner."""
        begun, alone = self._begun, self._present == 1
        journal = self._cluster.keys(shard).journal

        async def written() -> bool:
            last = await (await self._cluster.primary()).ask("XREVRANGE", journal, "+", "-", "COUNT", 1)
            return bool(last) and codec.decode(last[0][1][JOURNAL_FIELD]).epoch > epoch

        await eventually(written, within_s=FAILOVER_WITHIN_S, message=f"a commit of the next owner of shard {shard}")
        alone = alone and begun == self._begun
        (self.failover_s if alone else self.beside_others_s).append(self._now_s() - killed_s)

    @asynccontextmanager
    async def _left(self, name: str) -> AsyncIterator[None]:
        one = self._cluster.coordinators[name]
        one.down()
        one.child.send(signal.SIGTERM)
        await one.child.wait_for_exit(within_s=EXIT_S)
        yield
        await one.again()

    @asynccontextmanager
    async def _killed_agent(self, name: str) -> AsyncIterator[None]:
        one = self._cluster.agents[name]
        one.down()
        one.child.kill()
        yield
        await one.again()

    @asynccontextmanager
    async def _stopped(self, send: Callable[[signal.Signals], None]) -> AsyncIterator[None]:
        send(signal.SIGSTOP)
        try:
            yield
        finally:
            send(signal.SIGCONT)

    @asynccontextmanager
    async def _stepped(self, fault: Fault) -> AsyncIterator[None]:
        """Its dates are off, there and back; or some time has passed unseen, which no clock ever takes back."""
        name = fault.who[0]
        if fault.kind == "clock jump":
            self._cluster.step_clock(name, boot_s=json.loads(self._cluster.clock(name).read_text())["boot_s"] + fault.size)
            yield
            return
        self._cluster.step_clock(name, date_ms=int(fault.size * 1000))
        try:
            yield
        finally:
            self._cluster.step_clock(name, date_ms=0)

    # --- the store --------------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _killed_server(self, server: Server) -> AsyncIterator[None]:
        self._cluster.stay_down(server)
        server.kill()
        try:
            yield
        finally:
            await self._cluster.come_back(server)

    @asynccontextmanager
    async def _full_disk(self, server: Server) -> AsyncIterator[None]:
        """No file of its may grow much more. With fsync always it ends when it notices; there is room again when it is started."""
        if not hasattr(resource, "prlimit"):
            self.skipped.append("full disk: only Linux limits the files of a process that runs")
            yield
            return
        logs = [path.stat().st_size for path in Path(server.directory, "appendonlydir").glob("*.aof")]
        limit = max(logs, default=0) + ROOM_BYTES
        self._cluster.stay_down(server)
        pid = server.child.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, hard))
        try:
            yield
        finally:
            if server.child.exit_code is None:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
            if server.child.exit_code is not None:
                await self._cluster.come_back(server)
            else:
                self._cluster.stays_up(server)

    @asynccontextmanager
    async def _failed_over(self) -> AsyncIterator[None]:
        try:
            await self._cluster.fail_over()
        except AssertionError as error:
            self.skipped.append(f"failover: {error}")
        yield

    # --- between them -----------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _weather(self, fault: Fault, who: list[str]) -> AsyncIterator[None]:
        one, other = who
        proxies = self._cluster.proxies
        match fault.kind:
            case "partition":
                proxies.cut(one, other)
            case "latency":
                proxies.delay(one, other, fault.size)
            case _:
                proxies.break_off(one, other)
        try:
            yield
        finally:
            proxies.heal(one, other)


async def do(faults: Faults, planned: list[Fault], *, now_s: Callable[[], float], say: Callable[[str], None]) -> list[Fault]:
    """Does every fault at its time, each for as long as it lasts; one of the same process, or of the store, only when the one before is
    undone. Answers those that were done.
    """
    begun_s = now_s()
    done: list[Fault] = []
    turns: dict[str, asyncio.Lock] = {}

    async def one(fault: Fault) -> None:
        await _until(begun_s + fault.at_s, now_s)
        names = _turns_of(fault)
        for name in names:
            await turns.setdefault(name, asyncio.Lock()).acquire()
        try:
            say(f"{fault}")
            async with faults.done(fault):
                done.append(fault)
                await _until(now_s() + fault.lasts_s, now_s)
        finally:
            for name in names:
                turns[name].release()

    async with asyncio.TaskGroup() as group:
        for fault in planned:
            group.create_task(one(fault))
    await faults.finish()
    return done


def _turns_of(fault: Fault) -> list[str]:
    """What it has for itself: a process, all servers of the store, or what is between two."""
    if len(fault.who) > 1:
        return [" and ".join(fault.who)]
    return ["store" if who in ("primary", "replica") else who for who in fault.who]


async def _until(at_s: float, now_s: Callable[[], float]) -> None:
    await asyncio.sleep(max(0.0, at_s - now_s()))
