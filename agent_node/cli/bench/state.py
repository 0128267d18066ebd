"""What shared state moves: writes, reads, a hot key, watches; with what the same store does raw, and under redis-py's own lock, beside it.

The clients are in this process. Coordinator and store are of this run.
"""

import asyncio
import gc
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agent_node.cli.bench.fleet import Children, start_coordinator
from agent_node.cli.bench.measures import percentile, process_table
from agent_node.cli.bench.state_ceiling import StateCeiling, measure_state_ceiling
from agent_node.cli.payloads import Json
from agent_node.client.client import Client

if TYPE_CHECKING:
    from rich.table import Table

    from agent_node.cli.terminal import Bar
    from agent_node.state import State, StateWatch
    from agent_node.state.values import Entry

WRITERS = READERS = 100
HOT_WRITERS = 50
SEQUENTIAL = 300
FANOUT_WATCHES, FANOUT_STREAMS, FANOUT_PUTS = 1_000, 20, 100
IDLE_WATCHES, IDLE_S = 10_000, 5.0
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class HotKey:
    """What writers of one key reached."""

    per_s: float
    waits_s: Sequence[float]
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StateReport:
    """What a run found. The keys of `record` are an interface: they keep their names."""

    operations: int
    value_bytes: int
    puts_per_s: float
    put_latencies_s: Sequence[float]
    gets_per_s: float
    hot_add: HotKey
    hot_atomic_update: HotKey
    watch_catchup_per_s: float
    fanout_s: Sequence[float]
    fanout_many_streams_s: Sequence[float]
    idle_cpu_share: float | None
    ceiling: StateCeiling

    @property
    def lost_updates(self) -> int:
        """Updates of the hot keys that were answered and aren't in the value."""
        return self.hot_add.lost + self.hot_atomic_update.lost

    def record(self) -> "dict[str, Json]":
        """The object that --json prints."""
        return {
            "operations": self.operations,
            "value_bytes": self.value_bytes,
            "puts_per_s": round(self.puts_per_s, 1),
            "put_latency_ms": _percentiles(self.put_latencies_s),
            "gets_per_s": round(self.gets_per_s, 1),
            "hot_add_per_s": round(self.hot_add.per_s, 1),
            "hot_atomic_update_per_s": round(self.hot_atomic_update.per_s, 1),
            "hot_atomic_update_wait_ms": _percentiles(self.hot_atomic_update.waits_s),
            "lost_updates": self.lost_updates,
            "watch_catchup_per_s": round(self.watch_catchup_per_s, 1),
            "watch_fanout_ms": _percentiles(self.fanout_s),
            "watch_fanout_1000_streams_ms": _percentiles(self.fanout_many_streams_s),
            "idle_watches_cpu_share": None if self.idle_cpu_share is None else round(self.idle_cpu_share, 4),
            "ceiling_sets_per_s": round(self.ceiling.sets_per_s, 1),
            "redis_lock_cycle_per_s": {
                "hot": round(self.ceiling.hot_cycles_per_s, 1),
                "spread": round(self.ceiling.spread_cycles_per_s, 1),
            },
        }

    def table(self) -> "Table":
        """The same for a person."""
        from rich.table import Table

        latency, waits = _percentiles(self.put_latencies_s), _percentiles(self.hot_atomic_update.waits_s)
        fanout, many = _percentiles(self.fanout_s), _percentiles(self.fanout_many_streams_s)
        facts = Table(box=None, show_header=False, pad_edge=False)
        facts.add_column(style="dim", no_wrap=True)
        facts.add_column(justify="right", no_wrap=True)
        facts.add_column(style="dim", overflow="fold")
        facts.add_row("puts/s", f"{self.puts_per_s:,.0f}", f"{WRITERS} writers, a key each")
        facts.add_row("put p50 / p99", f"{latency['p50']} / {latency['p99']} ms", "one after the other")
        facts.add_row("gets/s", f"{self.gets_per_s:,.0f}", f"{READERS} readers")
        facts.add_row("adds/s", f"{self.hot_add.per_s:,.0f}", f"{HOT_WRITERS} writers of one key")
        facts.add_row("atomic updates/s", f"{self.hot_atomic_update.per_s:,.0f}", "likewise")
        facts.add_row("wait p50 / p99", f"{waits['p50']} / {waits['p99']} ms", "for an atomic update of it")
        facts.add_row("lost updates", str(self.lost_updates), "")
        facts.add_row("revisions/s", f"{self.watch_catchup_per_s:,.0f}", "a watch that catches up")
        facts.add_row("fan-out p50 / p99", f"{fanout['p50']} / {fanout['p99']} ms", f"{FANOUT_WATCHES:,} watches, {FANOUT_STREAMS} streams")
        facts.add_row("", f"{many['p50']} / {many['p99']} ms", f"{FANOUT_WATCHES:,} watches, as many streams")
        if self.idle_cpu_share is not None:
            facts.add_row("idle watches", f"{100 * self.idle_cpu_share:.1f} %", f"of a core, for {IDLE_WATCHES:,}")
        facts.add_row("ceiling", f"{self.ceiling.sets_per_s:,.0f}", "pipelined SETs a second on the same store")
        facts.add_row("redis lock cycles/s", f"{self.ceiling.hot_cycles_per_s:,.0f}", f"redis-py's Lock, {HOT_WRITERS} writers of one key")
        facts.add_row("", f"{self.ceiling.spread_cycles_per_s:,.0f}", "likewise, over 100 keys")
        return facts


async def measure_state(*, operations: int, value_bytes: int, bar: "Bar") -> StateReport:
    """One run. Raises CommandFailure when the coordinator doesn't come up, and MusterError when it can't be used."""
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="muster-bench-", ignore_cleanup_errors=True)))
        children = await stack.enter_async_context(Children())
        coordinator = await start_coordinator(children, scratch, log=scratch / "coordinator.log")
        client = await stack.enter_async_context(Client(coordinator.address, give_up_s=30.0))
        state, value = client.state, bytes(value_bytes)

        bar.show(description="writes", total=None)
        await spread_puts(state, operations // 10, value)  # warm
        puts_per_s = await spread_puts(state, operations, value)
        latencies_s = await sequential_puts(state, SEQUENTIAL, value)
        bar.show(description="reads")
        gets_per_s = await spread_gets(state, 2 * operations)
        bar.show(description="a hot key")
        hot_add = await hot_adds(state, operations)
        hot_update = await hot_atomic_updates(state, max(operations // 10, HOT_WRITERS))
        bar.show(description="watches")
        catchup_per_s = await catch_up(state)
        clients = [await stack.enter_async_context(Client(coordinator.address)) for _ in range(FANOUT_STREAMS)]
        watches = [clients[number % FANOUT_STREAMS].state.watch("fanout") for number in range(FANOUT_WATCHES)]
        fanout_s = await fan_out(state, watches, FANOUT_PUTS)
        for each in clients:
            await each.aclose()
        alone = [Client(coordinator.address) for _ in range(FANOUT_WATCHES)]
        stack.push_async_callback(_close_all, alone)
        watches = [each.state.watch("fanout") for each in alone]
        many_s = await fan_out(state, watches, FANOUT_PUTS)
        idle = await idle_share(state, coordinator.pid)
        bar.show(description="the ceiling")
        ceiling = await measure_state_ceiling(scratch / "data" / "store.sock", operations=operations, value=value, writers=HOT_WRITERS)
    return StateReport(
        operations=operations,
        value_bytes=value_bytes,
        puts_per_s=puts_per_s,
        put_latencies_s=latencies_s,
        gets_per_s=gets_per_s,
        hot_add=hot_add,
        hot_atomic_update=hot_update,
        watch_catchup_per_s=catchup_per_s,
        fanout_s=fanout_s,
        fanout_many_streams_s=many_s,
        idle_cpu_share=idle,
        ceiling=ceiling,
    )


async def spread_puts(state: "State", count: int, value: bytes) -> float:
    """Puts per second of `WRITERS` writers, each of a key of its own."""

    async def put(writer: int) -> None:
        await state.put(f"bench/put/{writer}", value)

    return count / await _together(count, WRITERS, put)


async def sequential_puts(state: "State", count: int, value: bytes) -> list[float]:
    """Seconds that each of `count` puts took, one after the other."""
    latencies_s = []
    for _ in range(count):
        begin = time.perf_counter()
        await state.put("bench/sequential", value)
        latencies_s.append(time.perf_counter() - begin)
    return latencies_s


async def spread_gets(state: "State", count: int) -> float:
    """Gets per second of `READERS` readers, each of the key that a writer has put."""

    async def get(reader: int) -> None:
        await state.get(f"bench/put/{reader}")

    return count / await _together(count, READERS, get)


async def hot_adds(state: "State", count: int) -> HotKey:
    """`count` adds to one key by `HOT_WRITERS` writers."""
    before = (await state.add("bench/add", 0)).json()

    async def add(_writer: int) -> None:
        await state.add("bench/add")

    elapsed_s = await _together(count, HOT_WRITERS, add)
    return HotKey(count / elapsed_s, (), before + count - (await state.add("bench/add", 0)).json())


async def hot_atomic_updates(state: "State", count: int) -> HotKey:
    """`count` atomic updates of one key by `HOT_WRITERS` writers."""
    await state.put("bench/update", 0)
    waits_s: list[float] = []

    def plus_one(entry: "Entry | None") -> int:
        return 1 if entry is None else int(entry.json()) + 1

    async def update(_writer: int) -> None:
        begin = time.perf_counter()
        await state.atomic_update("bench/update", plus_one)
        waits_s.append(time.perf_counter() - begin)

    elapsed_s = await _together(count, HOT_WRITERS, update)
    entry = await state.get("bench/update")
    return HotKey(count / elapsed_s, waits_s, count - (entry.json() if entry else 0))


async def catch_up(state: "State") -> float:
    """Revisions per second of a watch over everything that was written before."""
    stats = await state.stats()
    first = stats.compact_revision or 1
    begin = time.perf_counter()
    async with asyncio.timeout(_TIMEOUT_S), state.watch(prefix="bench/", start_revision=first) as watch:
        async for event in watch:
            if event.revision >= stats.revision:
                break
    return (stats.revision - first + 1) / (time.perf_counter() - begin)


async def fan_out(state: "State", watches: "Sequence[StateWatch]", puts: int) -> list[float]:
    """Seconds from each of `puts` puts until the last of these watches of its key has seen it. The watches are closed."""
    await asyncio.gather(*(watch.started() for watch in watches))
    latencies_s: list[float] = []
    missing = 0
    all_have_it = asyncio.Event()

    async def follow(watch: "StateWatch") -> None:
        nonlocal missing
        async for _ in watch:
            missing -= 1
            if not missing:
                all_have_it.set()

    # What so many clients hold in one process is not gone through again in the middle of a put: each alone has next to nothing.
    gc.collect()
    gc.freeze()
    try:
        async with asyncio.timeout(_TIMEOUT_S), asyncio.TaskGroup() as group:
            for watch in watches:
                group.create_task(follow(watch))
            for _ in range(puts):
                missing = len(watches)
                all_have_it.clear()
                begin = time.perf_counter()
                await state.put(watches[0].key, b"x")
                await all_have_it.wait()
                latencies_s.append(time.perf_counter() - begin)
            await asyncio.gather(*(watch.aclose() for watch in watches))
    finally:
        gc.unfreeze()
    return latencies_s


async def idle_share(state: "State", pid: int) -> float | None:
    """The share of a core that a coordinator uses for `IDLE_WATCHES` watches of which nothing is heard; None where it can't be seen."""
    before = await _share(pid)
    watches = [state.watch(f"bench/idle/{number}") for number in range(IDLE_WATCHES)]
    await asyncio.gather(*(watch.started() for watch in watches))
    share = await _share(pid)
    await asyncio.gather(*(watch.aclose() for watch in watches))
    return None if share is None or before is None else max(share - before, 0.0)


async def _close_all(clients: Sequence[Client]) -> None:
    await asyncio.gather(*(client.aclose() for client in clients))


async def _share(pid: int) -> float | None:
    before = process_table().get(pid)
    await asyncio.sleep(IDLE_S)
    after = process_table().get(pid)
    return None if before is None or after is None else (after.cpu_s - before.cpu_s) / IDLE_S


async def _together(count: int, workers: int, work: Callable[[int], Awaitable[None]]) -> float:
    """Seconds that `workers` workers take for `count` pieces of work."""
    left = count

    async def run(worker: int) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await work(worker)

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for worker in range(min(workers, count)):
            group.create_task(run(worker))
    return time.perf_counter() - begin


def _percentiles(samples_s: Sequence[float]) -> "dict[str, Json]":
    return {f"p{percent}": round(percentile(samples_s, percent) * 1000, 3) for percent in (50, 99)}
