"""Atomic updates of one key, one after the other, without a round trip between them.

The next function is called with the value that the one before it is being written with, and its write travels behind that one, on the
condition that the key has just that: one version more, and this value. So when the one before was refused, it is refused, too, and called
again. Callers of one client are served in their order; those of others meet in the store.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from muster.v1.state_pb2 import StateAnswer, StateOp

from agent_node.state import wire
from agent_node.state.values import Entry

MAX_CHAINED_BYTES = 16 * 1024  # of a value: as a condition it travels twice. Larger ones wait for the one before


@dataclass(slots=True)
class _Chain:
    """One key's updates under way."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    inside: "asyncio.Task[object] | None" = None  # that is calling its function
    callers: int = 0
    known: bool = False  # whether `entry` is what the key has, or will have when what is under way is written
    entry: Entry | None = None
    unanswered: "asyncio.Future[StateAnswer] | None" = None  # the last write, until it is answered
    number: int = 0  # of the last write
    reading: int = 0  # how often it was read: what was made from an earlier reading says nothing of the present one


class AtomicUpdates:
    """A client's atomic updates that are under way."""

    def __init__(self) -> None:
        self._chains: dict[str, _Chain] = {}

    async def once(
        self,
        key: str,
        *,
        read: Callable[[], Awaitable[Entry | None]],
        change: Callable[[Entry | None], Awaitable[StateOp]],
        write: Callable[[StateOp], Awaitable[StateAnswer]],
    ) -> Entry | None:
        """Takes its turn, and tries once.

        Args:
            key: the key.
            read: reads it.
            change: makes the write from what is there.
            write: sends it.

        Returns:
            The new entry; None when somebody else was faster.

        Raises:
            RuntimeError: it was called by the key's own function.
        """
        chain = self._chains.setdefault(key, _Chain())
        if chain.inside is not None and chain.inside is asyncio.current_task():
            raise RuntimeError(f"atomic_update of {key!r} from within its own function would wait for itself: return the new value instead")
        chain.callers += 1
        try:
            async with chain.turn:
                if not chain.known:
                    chain.entry, chain.known = await read(), True
                    chain.reading += 1
                before = chain.entry
                if before is not None and len(before.value) > MAX_CHAINED_BYTES and chain.unanswered is not None:
                    await asyncio.wait([chain.unanswered])
                    if not chain.known:
                        return None
                    before = chain.entry
                chain.inside = asyncio.current_task()
                try:
                    put = await change(before)
                finally:
                    chain.inside = None
                op = wire.txn_op(_is_still(key, before), [put], [])
                sent: asyncio.Future[StateAnswer] = asyncio.ensure_future(write(op))
                chain.number = number = chain.number + 1
                reading = chain.reading
                chain.unanswered = sent
                chain.entry = wire.entry_to_be(put, before)
                # What runs next must find this write in the session before its own: a task begins in the loop's next turn.
                await asyncio.sleep(0)
            answer = None
            try:
                answer = await sent
            finally:
                if answer is None and chain.reading == reading:  # refused, cancelled, or unknown
                    chain.known = False
            succeeded, revision, _ = wire.txn_result(answer)
            if not succeeded:
                if chain.reading == reading:
                    chain.known = False
                return None
            entry = wire.entry_written(put, before, revision)
            if chain.number == number:
                chain.unanswered = None
                if chain.known and chain.reading == reading:
                    chain.entry = entry
            return entry
        finally:
            chain.callers -= 1
            if not chain.callers:
                del self._chains[key]


def _is_still(key: str, entry: Entry | None) -> list[wire.Compare]:
    if entry is None:
        return [wire.Compare(key, wire.Target.EXISTS, number=0)]
    if entry.revision:
        return [wire.Compare(key, wire.Target.REVISION, number=entry.revision)]
    return [wire.Compare(key, wire.Target.VERSION, number=entry.version), wire.Compare(key, wire.Target.VALUE, value=entry.value)]
