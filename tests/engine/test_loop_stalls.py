"""The measure of how long an event loop stands still."""

import asyncio

from coordinator.clock import BootClock
from coordinator.loop_stalls import PERIOD_S, LoopStalls


async def test_a_stall_is_seen_once_and_about_as_long_as_it_was():
    stalls = LoopStalls(clock=BootClock())
    try:
        await asyncio.sleep(2 * PERIOD_S)
        stalls.take_worst_s()
        until_s = asyncio.get_running_loop().time() + 0.2
        while asyncio.get_running_loop().time() < until_s:
            pass  # this is the stall
        await asyncio.sleep(2 * PERIOD_S)
        assert 0.2 - 2 * PERIOD_S < stalls.take_worst_s() < 2.0
        assert stalls.take_worst_s() == 0.0
    finally:
        stalls.close()


async def test_a_loop_that_only_waits_has_none():
    stalls = LoopStalls(clock=BootClock())
    try:
        await asyncio.sleep(5 * PERIOD_S)
        assert stalls.take_worst_s() < 0.1
    finally:
        stalls.close()
