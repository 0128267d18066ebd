"""Recovery: the state of a shard's namespaces, from its journal. It begins at the start; snapshots will let it begin in the middle."""

import asyncio
from dataclasses import dataclass, field

from coordinator.core.events import Commit, NamespaceCreated
from coordinator.core.evolve import evolve
from coordinator.core.state import State
from coordinator.ports import JournalCodec, ShardStore

READ_PAGE = 100  # journal entries per command: each may hold a megabyte


@dataclass(slots=True)
class Recovered:
    """What the journal says: each namespace's state and date of creation, and the last entry's sequence and date."""

    states: dict[str, tuple[State, int]] = field(default_factory=dict)
    sequence: int = 0
    date_ms: int = 0


async def recover(store: ShardStore, codec: JournalCodec) -> Recovered:
    """Replays a journal to its end, by the same `evolve` that runs live.

    Raises:
        StoreOutage: the store can't be read now.
        StoreCorrupt: what it holds isn't a journal.
    """
    recovered = Recovered()
    while page := await store.read(after=recovered.sequence, limit=READ_PAGE):
        for _, blob in page:
            _replay(codec.decode(blob), recovered)
        recovered.sequence = page[-1][0]
        await asyncio.sleep(0)  # other shards, and health checks
    return recovered


def _replay(commit: Commit, recovered: Recovered) -> None:
    for name, event in commit.events:
        if isinstance(event, NamespaceCreated):
            recovered.states[name] = (State(), commit.date_ms)
            continue
        state = recovered.states[name][0]
        task = evolve(state, event, commit.date_ms)
        if task.ended_ms:
            state.settle(task)
    recovered.date_ms = commit.date_ms
