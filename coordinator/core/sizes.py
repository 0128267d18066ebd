"""About how many bytes what was decided takes in the journal and in records. Only what may be large counts: the rest is some ten bytes."""

from collections.abc import Sequence

from coordinator.core.events import (
    AnyEvent,
    AttemptFailed,
    CancelRecorded,
    CheckpointStored,
    ChunkStored,
    Redriven,
    Reprioritised,
    Returned,
    Submitted,
    WebhookGivenUp,
)
from coordinator.core.history import HistoryEntry
from coordinator.core.model import Failure, Task

RECORD_BYTES = 512  # of an ended task's record and its place in the index, beside what its agent and its client sent
HISTORY_BYTES = 128  # of one entry of a history, beside its texts
USAGE_BYTES = 160  # of one entry of usage: a model's name and three numbers


def size_of_record(task: Task) -> int:
    """Of an ended task's record."""
    size = RECORD_BYTES + len(task.spec.request) + len(task.outcome)
    if task.history or task.chunks or task.usage:
        size += len(task.chunks or b"") + USAGE_BYTES * len(task.usage)
        size += 2 * _size_of_failure(task.failure)  # as the last failure, and as the outcome
        size += _size_of_history(task.history)
    return size


def _size_of_history(history: Sequence[HistoryEntry]) -> int:
    return sum(HISTORY_BYTES + _size_of_failure(entry.failure) + len(entry.reason.encode()) for entry in history)


def _size_of_failure(failure: Failure | None) -> int:
    return 0 if failure is None else len(failure.message.encode()) + len(failure.stack_trace.encode())


def size_of_event(event: AnyEvent) -> int:
    """Of an event in the journal."""
    match event:
        case Submitted():
            return len(event.spec.request)
        case CheckpointStored() | ChunkStored():
            return len(event.data)
        case AttemptFailed():
            return _size_of_failure(event.failure) + USAGE_BYTES * len(event.usage)
        case Redriven():
            ended = event.ended
            usage = USAGE_BYTES * len(ended.usage)
            return (
                len(event.request_id) + len(ended.spec.request) + usage + _size_of_failure(ended.failure) + _size_of_history(ended.history)
            )
        case CancelRecorded() | Returned() | Reprioritised() | WebhookGivenUp():
            return len(event.reason.encode())
        case _:
            return 0
