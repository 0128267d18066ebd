"""What the checker can find wrong."""

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What must never be. The values are what a report calls them."""

    LOST = "acknowledged, and lost"
    OUTCOMES = "not one outcome"
    TWO_LEASES = "two leases at a time"
    STALE_REPORT = "a stale report accepted"
    FENCE = "a fence that didn't grow"
    CAPACITY = "capacity exceeded"
    UNASSIGNED = "ran what it wasn't given"
    JOURNAL_GAP = "a gap in a journal"
    EPOCH = "an epoch that went back"
    DATE = "a date that went back"
    IMPOSSIBLE = "a step that no task can take"
    STALE_READ = "a stale read of a task"
    STATE_ORDER = "state not linearizable"
    REVISIONS = "a revision that went back"
    WATCH_GAP = "a gap in a watch"
    WATCH_TWICE = "a change twice in a watch"
    WATCH_UNKNOWN = "a change in a watch that never was"
    WATCH_ORDER = "a watch out of order"


@dataclass(frozen=True, slots=True)
class Violation:
    """One of them, and a sentence on it."""

    kind: Kind
    text: str
