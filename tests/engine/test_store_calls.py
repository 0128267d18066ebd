"""Waiting for the store's answer: whoever gives up leaves nothing behind that is told of a failure later."""

import asyncio
from types import SimpleNamespace

import pytest

from coordinator.engine.commits import PendingCommit
from coordinator.engine.store_calls import READS_FAIL_AFTER_S, settled
from coordinator.errors import Unavailable

CLOCK = SimpleNamespace(now_s=lambda: READS_FAIL_AFTER_S)


def of_a_commit():
    """A future that a commit settles, or fails when its shard is lost."""
    commit, waiter = PendingCommit(date_ms=0), asyncio.get_running_loop().create_future()
    commit.waiters.append(waiter)
    return commit, waiter


async def test_whoever_waited_through_an_outage_has_left():
    commit, waiter = of_a_commit()
    with pytest.raises(Unavailable):
        await settled(waiter, lambda: 0.0, clock=CLOCK)
    commit.fail(Unavailable("the shard was lost"))
    assert waiter.cancelled()


async def test_so_has_a_caller_that_went_away():
    commit, waiter = of_a_commit()
    waiting = asyncio.create_task(settled(waiter, lambda: None, clock=CLOCK))
    await asyncio.wait([waiting], timeout=0)
    waiting.cancel()
    await asyncio.wait([waiting])
    commit.fail(Unavailable("the shard was lost"))
    assert waiter.cancelled()


async def test_whoever_still_waits_is_told():
    commit, waiter = of_a_commit()
    waiting = asyncio.create_task(settled(waiter, lambda: None, clock=CLOCK))
    await asyncio.wait([waiting], timeout=0)
    commit.fail(Unavailable("the shard was lost"))
    with pytest.raises(Unavailable, match="lost"):
        await waiting
