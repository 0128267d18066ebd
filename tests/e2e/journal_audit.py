"""Reads a shard's journal and records as they lie in the store, and checks what must hold of every task's life (G2).

It knows the journal's format and nothing of how the coordinator decides: what it counts, it counts from the events alone.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from muster.v1 import common_pb2, event_pb2
from redis.asyncio import Redis

from coordinator.core.events import (
    Acknowledged,
    Assigned,
    AttemptFailed,
    CancelRecorded,
    Completed,
    Disposition,
    Event,
    Redriven,
    Reprioritised,
    Returned,
    Submitted,
)
from coordinator.journal import codec
from coordinator.journal.layout import JOURNAL_FIELD, MARKER_BYTES, ShardKeys, shard_of

_PAGE = 200


@dataclass
class Life:
    """One task, by the journal."""

    task_id: str
    number: int = 0  # of its last run
    runs: int = 1
    fences: list[int] = field(default_factory=list)  # of all runs
    running: bool = False
    ends: list[str] = field(default_factory=list)  # one for each run, in the end
    record: event_pb2.TaskRecord | None = None


@dataclass
class Audit:
    """A namespace's tasks by id, how often each kind of event occurred, and what is wrong, one sentence each."""

    lives: dict[str, Life] = field(default_factory=dict)
    events: Counter[str] = field(default_factory=Counter)
    epochs: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def check(self, *, ended: set[str], purged: Collection[str] = ()) -> None:
        """Raises AssertionError with what is wrong.

        Args:
            ended: not exactly these tasks exist, each with one end per run, and with a record that fits it.
            purged: one of these has a record all the same.
        """
        faults = self.faults
        faults += [f"task {task_id} is acknowledged and not in the journal" for task_id in ended - self.lives.keys()]
        faults += [f"task {task_id} is in the journal, and nobody knows of it" for task_id in self.lives.keys() - ended]
        for life in self.lives.values():
            if len(life.ends) != life.runs:
                faults.append(f"task {life.task_id} has {len(life.ends)} ends in {life.runs} runs: {life.ends}")
            if any(later <= earlier for earlier, later in zip(life.fences, life.fences[1:], strict=False)):
                faults.append(f"the fences of task {life.task_id} don't grow: {life.fences}")
            if life.task_id in purged:
                if life.record is not None:
                    faults.append(f"task {life.task_id} is purged, and has a record")
            elif life.record is None:
                faults.append(f"task {life.task_id} has no record")
            elif life.record.run != life.runs:
                faults.append(f"task {life.task_id} had {life.runs} runs, and its record says {life.record.run}")
            elif life.ends[-1:] == ["COMPLETED"] and not life.record.result_fence == life.record.fence == life.fences[-1]:
                faults.append(f"task {life.task_id} was completed by fence {life.record.result_fence} of {life.fences}")
            elif life.ends and common_pb2.TaskState.Name(life.record.state) != f"TASK_STATE_{life.ends[-1]}":
                faults.append(f"task {life.task_id} ended {life.ends} and its record says {life.record.state}")
        assert not faults, f"{len(faults)} faults, such as: " + "; ".join(faults[:10])


async def audit(store: Path | Redis, *, namespace: str = "default", shards: int = 16) -> Audit:
    """Reads everything of a namespace from the store that listens at a socket, or answers this client; nothing is changed."""
    client = Redis(unix_socket_path=str(store), protocol=2) if isinstance(store, Path) else store
    keys = ShardKeys(prefix="muster", shard=shard_of(namespace, shards=shards))
    found = Audit()
    lives: dict[int, Life] = {}
    sequence = 0
    try:
        while page := await client.xrange(keys.journal, f"{sequence + 1}-0", "+", count=_PAGE):
            for entry_id, fields in page:
                entry_sequence = int(entry_id.partition(b"-")[0])
                commit = codec.decode(fields[JOURNAL_FIELD])
                if not entry_sequence == commit.sequence == sequence + 1:
                    found.faults.append(f"entry {entry_sequence} holds commit {commit.sequence} and follows {sequence}")
                sequence = entry_sequence
                if not found.epochs or found.epochs[-1] != commit.epoch:
                    if found.epochs and commit.epoch < found.epochs[-1]:
                        found.faults.append(f"entry {sequence} has epoch {commit.epoch} behind {found.epochs[-1]}")
                    found.epochs.append(commit.epoch)
                for name, event in commit.events:
                    found.events[type(event).__name__] += 1
                    if name == namespace and isinstance(event, Event):
                        _follow(event, lives, found)
        ids = list(found.lives)
        for start in range(0, len(ids), _PAGE):
            some = ids[start : start + _PAGE]
            values = await client.mget([keys.tasks(namespace) + task_id for task_id in some])
            for task_id, value in zip(some, values, strict=True):
                if value is not None:
                    found.lives[task_id].record = event_pb2.TaskRecord.FromString(value[MARKER_BYTES:])
    finally:
        await client.aclose()
    return found


def _follow(event: Event, lives: dict[int, Life], found: Audit) -> None:
    if isinstance(event, Submitted):
        if event.number in lives:
            found.faults.append(f"number {event.number} was given twice")
        if event.spec.task_id in found.lives:
            found.faults.append(f"task {event.spec.task_id} was submitted twice")
        lives[event.number] = found.lives[event.spec.task_id] = Life(event.spec.task_id, event.number)
        return
    if isinstance(event, Redriven):
        _follow_redrive(event, lives, found)
        return
    life = lives.get(event.number)
    if life is None:
        found.faults.append(f"{event} names a task that was never submitted")
        return
    if len(life.ends) == life.runs:
        found.faults.append(f"{type(event).__name__} happened to task {life.task_id} after its end")
    match event:
        case Assigned():
            if life.running:
                found.faults.append(f"task {life.task_id} was assigned while it ran")
            life.running = True
            life.fences.append(event.fence)
            return
        case CancelRecorded():
            if event.ended:
                life.ends.append("CANCELLED")
            return
        case Reprioritised():
            return
    if not life.running:
        found.faults.append(f"{type(event).__name__} happened to task {life.task_id} while it didn't run")
    match event:
        case Completed():
            life.ends.append("COMPLETED")
        case AttemptFailed(disposition=Disposition.FAIL):
            life.ends.append("FAILED")
        case AttemptFailed(disposition=Disposition.CANCEL):
            life.ends.append("CANCELLED")
    if isinstance(event, Completed | AttemptFailed | Returned):
        life.running = False
    elif not isinstance(event, Acknowledged):
        assert life.running


def _follow_redrive(event: Redriven, lives: dict[int, Life], found: Audit) -> None:
    """The next run has a number of its own, and whatever still happened under the old one would be a fault."""
    task_id = event.ended.spec.task_id
    life = found.lives.get(task_id)
    if life is None:
        found.faults.append(f"task {task_id} was redriven, and never submitted")
        return
    if len(life.ends) != life.runs or life.ends[-1] == "COMPLETED":
        found.faults.append(f"task {task_id} was redriven after {life.ends} in {life.runs} runs")
    if life.fences and event.ended.fence != life.fences[-1]:
        found.faults.append(f"task {task_id} was redriven from fence {event.ended.fence} of {life.fences}")
    del lives[life.number]
    life.number, life.runs = event.number, life.runs + 1
    lives[event.number] = life
