"""What shared state is measured beside: raw SETs on the same store, and the cycle that one writes without Muster.

The cycle is redis-py's own Lock around a get, a set and a publish: nothing in it is fenced, and who waits longest has no precedence.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agent_node.cli.exits import CommandFailure, ExitCode

if TYPE_CHECKING:
    from redis.asyncio import Redis

PIPELINE = 100
SPREAD_KEYS = 100
CYCLES_S = 2.0  # how long each of the two cycles is measured
_LOCK_TIMEOUT_S = 10.0
_PREFIX = "muster-bench:"  # no key of Muster's own begins with it


@dataclass(frozen=True, slots=True)
class StateCeiling:
    """SETs a second, pipelined by one client; and lock cycles a second, over one key and over many."""

    sets_per_s: float
    hot_cycles_per_s: float
    spread_cycles_per_s: float


async def measure_state_ceiling(socket: Path, *, operations: int, value: bytes, writers: int) -> StateCeiling:
    """Measures on the server behind a unix socket. Raises CommandFailure when there is none."""
    try:
        from redis.asyncio import Redis
    except ModuleNotFoundError:
        raise CommandFailure("the ceiling needs redis-py: pip install 'muster-agents[coordinator]'.", ExitCode.USAGE) from None
    if not socket.exists():
        raise CommandFailure(f"the store has no socket {socket} to measure the ceiling on.", ExitCode.UNAVAILABLE)
    redis = Redis(unix_socket_path=str(socket), max_connections=2 * writers)
    try:
        return StateCeiling(
            await _sets_per_s(redis, operations, value),
            await _cycles_per_s(redis, writers, lambda _worker: "hot"),
            await _cycles_per_s(redis, writers, lambda worker: f"spread:{worker % SPREAD_KEYS}"),
        )
    finally:
        await redis.aclose()


async def _sets_per_s(redis: "Redis", count: int, value: bytes) -> float:
    begin = time.perf_counter()
    for start in range(0, count, PIPELINE):
        pipeline = redis.pipeline(transaction=False)
        for number in range(start, min(start + PIPELINE, count)):
            pipeline.set(f"{_PREFIX}{number % SPREAD_KEYS}", value)
        await pipeline.execute()
    return count / (time.perf_counter() - begin)


async def _cycles_per_s(redis: "Redis", writers: int, key_of: Callable[[int], str]) -> float:
    cycles = 0
    begin = time.perf_counter()

    async def work(worker: int) -> None:
        nonlocal cycles
        key = f"{_PREFIX}{key_of(worker)}"
        while time.perf_counter() - begin < CYCLES_S:
            async with redis.lock(f"{key}:lock", timeout=_LOCK_TIMEOUT_S):
                number = int(await redis.get(key + ":n") or 0)
                await redis.set(key + ":n", number + 1)
                await redis.publish(key, number + 1)
            cycles += time.perf_counter() - begin < CYCLES_S  # who gets it last has waited with the polling of redis-py's lock

    async with asyncio.TaskGroup() as group:
        for worker in range(writers):
            group.create_task(work(worker))
    return cycles / CYCLES_S
