"""Tasks' lives, out of whole journals: who had which attempt when, and how it ended. What can't be is a violation."""

from collections import defaultdict
from dataclasses import dataclass, field

from coordinator.core.events import (
    Assigned,
    AttemptFailed,
    BecameReady,
    CancelRecorded,
    Commit,
    Completed,
    Disposition,
    Event,
    Redriven,
    Reprioritised,
    Returned,
    Submitted,
)
from tests.chaos.evidence import Evidence, TaskKey
from tests.chaos.violations import Kind, Violation

_END_OF_AN_ATTEMPT = (Completed, AttemptFailed, Returned)


@dataclass(slots=True)
class Life:
    """One task: its attempts' fences and agents, in order, and its ends, which should be one."""

    task: TaskKey
    slots: int
    fences: list[int] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)
    running: bool = False
    ends: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Lives:
    """All tasks of all journals, and what is wrong with the journals themselves."""

    of: dict[TaskKey, Life] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)

    def wrong(self, kind: Kind, text: str) -> None:
        self.violations.append(Violation(kind, text))


def follow(seen: Evidence) -> Lives:
    """Goes through every journal from its beginning."""
    lives = Lives()
    for shard, commits in seen.journals.items():
        _Shard(shard, seen, lives).follow(commits)
    return lives


class _Shard:
    def __init__(self, shard: int, seen: Evidence, lives: Lives) -> None:
        self._shard = shard
        self._seen = seen
        self._lives = lives
        self._numbers: dict[tuple[str, int], Life] = {}  # by namespace and task number
        self._busy: dict[tuple[str, str], int] = defaultdict(int)  # slots, by namespace and agent

    def follow(self, commits: "list[Commit] | tuple[Commit, ...]") -> None:
        before: Commit | None = None
        for commit in commits:
            where = f"entry {commit.sequence} of shard {self._shard}"
            if commit.sequence != (before.sequence if before else 0) + 1:
                self._lives.wrong(Kind.JOURNAL_GAP, f"{where} follows {before.sequence if before else 0}")
            if before is not None and commit.epoch < before.epoch:
                self._lives.wrong(Kind.EPOCH, f"{where} has epoch {commit.epoch} behind {before.epoch}")
            if before is not None and commit.date_ms < before.date_ms:
                self._lives.wrong(Kind.DATE, f"{where} has date {commit.date_ms} behind {before.date_ms}")
            before = commit
            for namespace, event in commit.events:
                if isinstance(event, Event):
                    self._step(namespace, event)

    def _step(self, namespace: str, event: Event) -> None:
        wrong = self._lives.wrong
        if isinstance(event, Submitted):
            task = (namespace, event.spec.task_id)
            if task in self._lives.of or (namespace, event.number) in self._numbers:
                wrong(Kind.OUTCOMES, f"task {task} was accepted twice, as number {event.number}")
            life = Life(task, event.spec.scheduling.slots)
            self._numbers[namespace, event.number] = self._lives.of[task] = life
            return
        known = self._numbers.get((namespace, event.number))
        if known is None or isinstance(event, Redriven):
            wrong(Kind.IMPOSSIBLE, f"{event} in {namespace} is of a task that was never submitted")
            return
        name = f"{type(event).__name__} of task {known.task}"
        if known.ends:
            wrong(Kind.OUTCOMES, f"{name} came after its end: {known.ends}")
        match event:
            case Assigned(agent=agent, fence=fence):
                self._assigned(known, agent, fence)
            case CancelRecorded(ended=ended):
                if ended:
                    known.ends.append("CANCELLED")
            case BecameReady() | Reprioritised():
                pass
            case _:
                if not known.running:
                    wrong(Kind.IMPOSSIBLE, f"{name} came while nobody ran it")
        match event:
            case Completed():
                known.ends.append("COMPLETED")
            case AttemptFailed(disposition=Disposition.FAIL):
                known.ends.append("FAILED")
            case AttemptFailed(disposition=Disposition.CANCEL):
                known.ends.append("CANCELLED")
        if isinstance(event, _END_OF_AN_ATTEMPT) and known.running:
            known.running = False
            self._busy[namespace, known.agents[-1]] -= known.slots

    def _assigned(self, life: Life, agent: str, fence: int) -> None:
        wrong = self._lives.wrong
        if life.running:
            wrong(Kind.TWO_LEASES, f"task {life.task} was given to {agent} while {life.agents[-1]} had it")
            self._busy[life.task[0], life.agents[-1]] -= life.slots
        if life.fences and fence <= life.fences[-1]:
            wrong(Kind.FENCE, f"task {life.task} got fence {fence} after {life.fences}")
        life.running = True
        life.fences.append(fence)
        life.agents.append(agent)
        who = life.task[0], agent
        self._busy[who] += life.slots
        capacity = self._seen.capacity.get(who, 0)
        if self._busy[who] > capacity:
            wrong(Kind.CAPACITY, f"agent {agent} in {life.task[0]} was given {self._busy[who]} tasks at a time, and can {capacity}")
