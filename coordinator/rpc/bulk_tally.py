"""What one call of an operation on many tasks has come to, as it goes."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import cast

from muster.v1 import bulk_pb2, task_pb2

from coordinator.convert_operations import MAX_SELECTED

MAX_SHOWN = 10  # tasks of a sample, and ids for each reason where a filter chose


class Skip(Enum):
    """Why a task is left as it is; the numbers are those of muster.v1.SkipReason."""

    NOT_FOUND = 1
    LIVE = 2
    ENDED = 3
    COMPLETED = 4
    PAYLOAD_DROPPED = 5
    TOO_YOUNG = 6
    SAME_PRIORITY = 7
    CANCEL_REQUESTED = 8
    CHANGED = 9
    NO_ROOM = 10
    CONCURRENCY_LIMIT = 11
    ALREADY_REDRIVEN = 12


_MESSAGES = {
    Skip.NOT_FOUND: "not known, or its record has expired",
    Skip.LIVE: "it has not ended",
    Skip.ENDED: "it has ended",
    Skip.COMPLETED: "it completed: only what failed or was cancelled can run again",
    Skip.PAYLOAD_DROPPED: "its payload was dropped to make room in the store: submit it anew",
    Skip.TOO_YOUNG: "it ended less than ten minutes ago: its id must be known until then, for submits that are sent again",
    Skip.SAME_PRIORITY: "it has this priority",
    Skip.CANCEL_REQUESTED: "it was asked to stop before, and hasn't stopped yet",
    Skip.CHANGED: "it changed meanwhile",
    Skip.CONCURRENCY_LIMIT: "the limit of its concurrency key refuses more tasks now: try again when one has ended",
    Skip.ALREADY_REDRIVEN: "a call with this request_id has redriven it, and that run has ended, too",
    Skip.NO_ROOM: "the queue, or the store, has no room for it now: try again when some tasks have ended",
}


class Tally:
    """Counts.

    Args:
        dry_run: nothing is changed: some of what would be is shown.
        by_ids: the tasks were named: whoever did hears of each that is left as it is.
    """

    def __init__(self, *, dry_run: bool, by_ids: bool) -> None:
        self.dry_run = dry_run
        self._ids_shown = MAX_SELECTED if by_ids else MAX_SHOWN
        self.changes = 0
        self._progress = bulk_pb2.OperationProgress()
        self._skipped: dict[Skip, bulk_pb2.SkippedTasks] = {}

    def changed(self) -> None:
        """A task is changed."""
        self.changes += 1

    def would_change(self, show: Callable[[], task_pb2.Task]) -> None:
        """In a dry run: a task would be. `show` makes what is shown of it."""
        self.changes += 1
        if len(self._progress.sample) < MAX_SHOWN:
            self._progress.sample.append(show())

    def skip(self, reason: Skip, task_id: str) -> None:
        """A task is left as it is."""
        skipped = self._skipped.get(reason)
        if skipped is None:
            number = cast("bulk_pb2.SkipReason.ValueType", reason.value)
            skipped = self._skipped[reason] = self._progress.skipped.add(reason=number, message=_MESSAGES[reason])
        skipped.count += 1
        if len(skipped.task_ids) < self._ids_shown:
            skipped.task_ids.append(task_id)

    def progress(self, next_page_token: str = "") -> bulk_pb2.OperationProgress:
        """All of it, as a message."""
        progress = self._progress
        progress.changed = self.changes
        progress.matched = self.changes + sum(one.count for one in self._skipped.values())
        progress.next_page_token = next_page_token
        return progress
