"""What an oracle remembers of agents, attempts and tasks."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from coordinator.core.history import FIRST_ENTRIES, LAST_ENTRIES, HistoryEntry
from coordinator.core.model import INFINITY, Capability, Spec


@dataclass(slots=True)
class KnownAgent:
    """An agent as its own frames describe it."""

    capabilities: Mapping[str, Capability] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    capacity: int = 0
    limit: int = 0
    connected: bool = False
    draining: bool = False
    grace_until_s: float = INFINITY


@dataclass(slots=True)
class Held:
    """An attempt that an agent holds."""

    agent: str
    fence: int
    lease_until_s: float
    ack_until_s: float  # infinity once it has arrived
    journalled: bool = False  # that it has
    attempt: int = 0
    since_ms: int = 0


@dataclass(slots=True)
class Story:
    """What has happened to one task in one run; `told` has all of its runs."""

    spec: Spec
    created_ms: int  # the run
    accepted_ms: int = 0  # the task: when its first run was created
    run: int = 1
    priority: int = 0
    is_retrying: bool = False
    fence: int = 0
    accepted_fence: int = 0
    assigned: int = 0
    given_back: int = 0
    retries: int = 0
    crashes: int = 0
    undelivered: int = 0
    ready_at_ms: int = 0
    place: int = 0  # when it first became ready, by count; 0 before
    ready_since_ms: int = 0
    cancelled: bool = False
    end: str = ""
    told: list[tuple[object, ...]] = field(default_factory=list)  # its history: see `told_by`


def told_by(entry: HistoryEntry) -> tuple[object, ...]:
    """A scheduler's entry in the words of an oracle's: when, what, whose, the state after it, why, the cost, the backoff, how many."""
    whose = (entry.agent, entry.attempt, entry.fence, entry.started_ms)
    why = entry.failure.message if entry.failure is not None else entry.reason
    wait_ms = entry.ready_at_ms - entry.date_ms if entry.ready_at_ms else 0
    return entry.date_ms, entry.kind.name, whose, entry.state.name, why, entry.cost.name, wait_ms, entry.checkpoints


def kept(told: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """What a history still has of all that was told."""
    return told if len(told) <= FIRST_ENTRIES + LAST_ENTRIES else told[:FIRST_ENTRIES] + told[-LAST_ENTRIES:]
