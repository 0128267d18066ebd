"""A shard's live state as one number: what it holds right after a journal entry, to be compared with what replay up to there makes.

It is a sum over everything that must survive, so that the order in which tasks are gone over doesn't matter: tasks that are about to change
are taken first, as for a snapshot. What began under rate limits is not in it, since who replays forgets it at other times.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from coordinator.core.model import Task
from coordinator.core.policies import StandingPolicy
from coordinator.core.snapshot import Walk
from coordinator.core.state import State
from coordinator.core.webhooks import Delivery, GivenUp
from coordinator.engine.commits import PendingCommit
from coordinator.engine.namespace import Namespace
from coordinator.ports import JournalCodec

Beside = StandingPolicy | Delivery | GivenUp

TASKS_PER_STEP = 200  # some 2 ms of the event loop
_BYTES = 16


@dataclass(frozen=True, slots=True)
class ShardDigest:
    """The live state of a shard right after entry `sequence`: how many tasks, and a number of 16 bytes."""

    sequence: int
    tasks: int
    digest: bytes


class DigestSum:
    """A digest in the making.

    Args:
        codec: how what is stored is written.
    """

    def __init__(self, *, codec: JournalCodec) -> None:
        self._codec = codec
        self._sum = 0
        self._tasks = 0

    def add_task(self, namespace: str, task: Task) -> None:
        """Takes in a live task as it is now."""
        self._tasks += 1
        self._sum += _hashed(namespace, b"task", self._codec.canonical(task))

    def add_namespace(self, namespace: str, created_ms: int, state: State) -> list[Beside]:
        """Takes in what a namespace is. Answers what else there is of it but its tasks, to be handed to `add_beside`."""
        deliveries = state.deliveries
        facts = f"{created_ms} {state.next_number} {deliveries.next_number}"
        self._sum += _hashed(namespace, b"namespace", facts.encode())
        return [*state.policies.values(), *deliveries.pending.values(), *deliveries.given_up.values()]

    def add_beside(self, namespace: str, stored: Beside) -> None:
        """Takes in a policy, or a webhook's delivery."""
        self._sum += _hashed(namespace, b"beside", self._codec.canonical(stored))

    def add_deleted(self, namespace: str) -> None:
        """Takes in a namespace of which the store may still hold records."""
        self._sum += _hashed(namespace, b"deleted", b"")

    def result(self, sequence: int) -> ShardDigest:
        """All of it is in."""
        return ShardDigest(sequence, self._tasks, (self._sum % (1 << 8 * _BYTES)).to_bytes(_BYTES))


def _hashed(namespace: str, kind: bytes, blob: bytes) -> int:
    name = namespace.encode()
    return int.from_bytes(hashlib.blake2b(bytes((len(kind), len(name))) + kind + name + blob, digest_size=_BYTES).digest())


def digest_of(states: Mapping[str, tuple[State, int]], deleted: Iterable[str], *, sequence: int, codec: JournalCodec) -> ShardDigest:
    """The digest of states that nobody changes: each with its namespace's date of creation."""
    found = DigestSum(codec=codec)
    for name, (state, created_ms) in states.items():
        for stored in found.add_namespace(name, created_ms, state):
            found.add_beside(name, stored)
        for task in state.by_number.values():
            found.add_task(name, task)
    for name in deleted:
        found.add_deleted(name)
    return found.result(sequence)


class DigestTaker:
    """Takes digests of a shard that works on: one at a time, and not while a snapshot is taken.

    Args:
        codec: how what is stored is written.
    """

    def __init__(self, *, codec: JournalCodec) -> None:
        self._codec = codec
        self._asked: list[asyncio.Future[ShardDigest]] = []
        self._task: asyncio.Task[None] | None = None
        self._walks: list[Walk] = []

    def ask(self) -> asyncio.Future[ShardDigest]:
        """The digest after the next commit, or a later one. The writer begins it, and must be woken. Cancelled when the shard stops."""
        future: asyncio.Future[ShardDigest] = asyncio.get_running_loop().create_future()
        self._asked.append(future)
        return future

    def is_walking(self) -> bool:
        """Whether one is being taken: then no snapshot can begin."""
        return self._task is not None and not self._task.done()

    def begin_if_asked(
        self, commit: PendingCommit, *, sequence: int, namespaces: Mapping[str, Namespace], deleted: Iterable[str] = ()
    ) -> None:
        """Begins one if somebody asked, of the namespaces as they are now. The arguments are those of `Snapshotter.begin_if_due`."""
        asked, self._asked = [one for one in self._asked if not one.done()], []
        if not asked:
            return
        if self.is_walking():
            self._asked = asked
            return
        found = DigestSum(codec=self._codec)
        self._walks = []
        beside: list[tuple[str, Beside]] = []
        for namespace in namespaces.values():
            state = namespace.scheduler.state
            beside += [(namespace.name, stored) for stored in found.add_namespace(namespace.name, namespace.created_ms, state)]
            self._walks.append(Walk(state, partial(found.add_task, namespace.name)))
        for name in deleted:
            found.add_deleted(name)
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        commit.waiters.append(durable)
        self._task = asyncio.create_task(self._take(found, beside, sequence, durable, asked), name="digest")

    async def _take(
        self,
        found: DigestSum,
        beside: Sequence[tuple[str, Beside]],
        sequence: int,
        durable: asyncio.Future[None],
        asked: Sequence[asyncio.Future[ShardDigest]],
    ) -> None:
        try:
            for place, (name, stored) in enumerate(beside):  # none of them changes: a policy is set anew, and so is a delivery
                found.add_beside(name, stored)
                if place % TASKS_PER_STEP == 0:
                    await asyncio.sleep(0)
            for walk in self._walks:
                more = True
                while more:
                    more = walk.step(TASKS_PER_STEP)
                    await asyncio.sleep(0)
            await durable
            for future in asked:
                if not future.done():
                    future.set_result(found.result(sequence))
        finally:
            for walk in self._walks:
                walk.abandon()
            durable.cancel()
            for future in asked:
                future.cancel()

    def abandon(self) -> None:
        """The shard stops."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        for walk in self._walks:
            walk.abandon()
        for future in self._asked:
            future.cancel()
        self._asked = []
