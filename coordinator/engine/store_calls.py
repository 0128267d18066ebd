"""Calls to the store that are repeated until it answers, since nobody knows what became of the one that failed."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from coordinator.engine.ownership import Ownership, ShardLost
from coordinator.errors import Unavailable
from coordinator.ports import AppendAnswer, Appended, Claim, Claimant, Clock, Held, ShardStore, StoreCorrupt, StoreOutage

log = logging.getLogger(__name__)

READS_FAIL_AFTER_S = 1.0  # in an outage
FIRST_RETRY_S, LAST_RETRY_S = 0.05, 1.0  # between repeats of a commit during an outage


async def until_answered(
    ask: Callable[[], Awaitable[Appended]], *, clock: Clock, out: Callable[[str], None], out_after_s: float
) -> tuple[int, float]:
    """Asks the store the same again and again until it answers that the shard is ours.

    Args:
        ask: the call.
        clock: says when it was made.
        out: is told why, each time that the store doesn't answer.
        out_after_s: how long it may take. A store that hangs is out long before the call gives up: agents must be told before they think
            that we are.

    Returns:
        The store's time, and when it was asked.

    Raises:
        ShardLost: the shard is another coordinator's.
        StoreCorrupt: the journal isn't what it was.
    """
    retry_s = FIRST_RETRY_S
    loop = asyncio.get_running_loop()
    while True:
        asked_s = clock.now_s()
        slow = loop.call_later(out_after_s, out, "the store doesn't answer")
        try:
            appended = await ask()
        except StoreOutage as error:
            out(str(error))
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, LAST_RETRY_S)
            continue
        finally:
            slow.cancel()
        match appended.answer:
            case AppendAnswer.APPLIED | AppendAnswer.ALREADY_MINE:
                return appended.date_ms, asked_s
            case AppendAnswer.FENCED:
                raise ShardLost("the shard was taken over by another coordinator")
            case AppendAnswer.DIVERGED:
                raise StoreCorrupt("the journal doesn't end where this coordinator left it")


async def settled(waiter: asyncio.Future[None], out_since_s: Callable[[], float | None], *, clock: Clock) -> None:
    """Waits for a future that the store's answer settles. Raises Unavailable when the store has been out for a second."""
    try:
        while True:
            since_s = out_since_s()
            timeout_s = READS_FAIL_AFTER_S if since_s is None else since_s + READS_FAIL_AFTER_S - clock.now_s()
            if timeout_s <= 0:
                raise Unavailable("the store can't be reached: try again")
            done, _ = await asyncio.wait([waiter], timeout=timeout_s)
            if done:
                return waiter.result()
    finally:
        waiter.cancel()  # nobody waits any more: were it told of a failure, that would be logged as one that nobody took


async def claimed(store: ShardStore, claimant: Claimant, *, clock: Clock) -> tuple[Claim, Ownership]:
    """Claims a shard. Raises ShardLost when another coordinator has it, and StoreOutage."""
    ownership = Ownership(clock=clock, lease_s=claimant.lease_ms / 1000)
    answer = await store.claim(claimant)
    if isinstance(answer, Held):
        raise ShardLost(f"another coordinator has the shard: {answer.coordinator_id}", held=answer)
    return answer, ownership


async def release(store: ShardStore, *, offer_to: str, offer_ms: int) -> None:
    """Gives a shard up, if the store can be reached: else others wait for the end of its lease."""
    try:
        await store.release(offer_to=offer_to, offer_ms=offer_ms)
    except (StoreOutage, StoreCorrupt) as error:
        log.warning("shard.not_released reason=%s", error)


def moved(address: str) -> Unavailable:
    """What those who use a shard are told when it isn't served here any more. `address` is where it is, if that is known."""
    message = "this coordinator no longer serves the shard: connect again"
    return Unavailable(message, reason="SHARD_MOVED", retry_after_s=0.1, metadata={"owner": address} if address else None)


@asynccontextmanager
async def lease_kept(store: ShardStore, ownership: Ownership, *, clock: Clock, sequence: int) -> AsyncIterator[None]:
    """Keeps the lease of a shard whose journal ends at `sequence`, and to which nothing is written within the block.

    That it was lost is no news here: whoever writes to the shard afterwards, or answers for it, asks first.
    """

    async def keep() -> None:
        while True:
            await asyncio.sleep(ownership.lease_s / 10)
            if not ownership.is_doubtful():
                continue
            asked_s = clock.now_s()
            try:
                appended = await store.confirm(sequence=sequence)
            except (StoreOutage, StoreCorrupt):
                continue
            if appended.answer is not AppendAnswer.APPLIED:
                return
            ownership.confirmed(asked_s)

    keeping = asyncio.create_task(keep(), name="lease") if ownership.lease_s else None
    try:
        yield
    finally:
        if keeping is not None:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
