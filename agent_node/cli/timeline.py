"""A task's history as a timeline: a row for each wait and each attempt, with how long it took, and for what happened in between.

All times are the store's, and so are all durations: how long something has been going on is told by when the task was read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC

from google.protobuf.timestamp_pb2 import Timestamp
from muster.v1 import common_pb2, task_pb2
from rich.console import Group
from rich.table import Table
from rich.text import Text

from agent_node.cli.tables import (
    facts_table,
    failure_text,
    new_table,
    priority_name,
    progress_text,
    seconds_between,
    seconds_text,
    short_name,
    state_text,
)
from agent_node.cli.times import NONE, local_time

COSTS = {
    common_pb2.ATTEMPT_COST_RETRY: "costs a retry",
    common_pb2.ATTEMPT_COST_CRASH: "counts as a crash",
    common_pb2.ATTEMPT_COST_DELIVERY: "counts as a delivery",
}


@dataclass
class Row:
    """One line of a timeline. `end` is None for what took no time, and unset for what isn't known."""

    start: Timestamp
    end: Timestamp | None
    what: str
    how: Text


def timeline(task: task_pb2.Task) -> Group:
    """One task's story, as far as it has come."""
    first = task.create_time
    total_s = seconds_between(first, task.end_time if task.HasField("end_time") else task.read_time)
    so_far = "" if task.HasField("end_time") else " so far"
    facts: list[tuple[str, str | Text]] = [
        ("task", Text(task.task_id, "bold")),
        ("type", Text(task.task_type)),
        ("state", state_text(task.state) + (f", after {seconds_text(total_s)}{so_far}" if total_s is not None else "")),
        ("submitted", local_time(first)),
        ("deadline", local_time(task.deadline_time)),
        ("run", str(task.run) if task.run > 1 else ""),
        ("retries", f"{task.retry_count} of {task.max_retries}"),
        ("crashes", str(task.crash_count) if task.crash_count else ""),
        ("undelivered", str(task.undelivered_count) if task.undelivered_count else ""),
    ]
    return Group(facts_table(facts), timeline_table(task))


def timeline_table(task: task_pb2.Task) -> Table:
    """The story without what is known of the whole."""
    first = task.create_time
    table = new_table("time", "after", "took", "what", "how it went")
    for row in rows_of(task):
        after_s = seconds_between(first, row.start)
        took_s = seconds_between(row.start, row.end) if row.end is not None else None
        table.add_row(
            Text(_time_of_day(row.start), "dim"),
            NONE if after_s is None else seconds_text(after_s),
            "" if row.end is None else NONE if took_s is None else seconds_text(took_s),
            Text(row.what),
            row.how,
        )
    return table


def rows_of(task: task_pb2.Task) -> Iterator[Row]:
    """The rows of a timeline, in the order in which what they tell of began; what is going on now is the last one."""
    story = _Story()
    for entry in task.history:
        story.tell(entry)
    story.rows.sort(key=lambda row: (row.start.seconds, row.start.nanos))  # a wait is told when it is over
    story.tell_now(task)
    yield from story.rows


class _Story:
    """Turns entries, which are moments, into rows, which last."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._waits_since: Timestamp | None = None
        self._backoff: Text = Text()
        self._attempts: dict[int, Row] = {}  # that haven't ended, by fence

    def tell(self, entry: task_pb2.TaskHistoryEntry) -> None:
        moment = entry.event_time
        if entry.omitted:
            self.rows.append(Row(moment, None, "…", Text(f"{entry.omitted} entries before this one are not kept", "dim")))
            self._waits_since = None
        match entry.kind:
            case common_pb2.TASK_HISTORY_KIND_SUBMITTED:
                self._waits_since = moment
                delay_s = seconds_between(moment, entry.ready_time)
                self._backoff = Text("" if delay_s is None else f"{seconds_text(delay_s)} of it delayed")
            case common_pb2.TASK_HISTORY_KIND_ATTEMPT_STARTED:
                self._waited(moment)
                self._attempts[entry.fence] = row = Row(moment, Timestamp(), f"attempt {entry.attempt} on {entry.agent_name}", Text())
                self.rows.append(row)
            case common_pb2.TASK_HISTORY_KIND_ATTEMPT_SUCCEEDED:
                self._ended(entry, Text("succeeded", "green"))
            case common_pb2.TASK_HISTORY_KIND_ATTEMPT_FAILED:
                self._ended(entry, _what_follows(entry, Text("failed: ").append_text(failure_text(entry.failure))))
            case common_pb2.TASK_HISTORY_KIND_ATTEMPT_RETURNED:
                self._ended(entry, _what_follows(entry, Text(f"returned: {entry.reason}" if entry.reason else "returned", "yellow")))
            case common_pb2.TASK_HISTORY_KIND_CHECKPOINTS_STORED:
                self._point(moment, "checkpoint" if entry.checkpoints == 1 else f"{entry.checkpoints} checkpoints, the last")
            case common_pb2.TASK_HISTORY_KIND_CANCEL_REQUESTED:
                ended = entry.state == common_pb2.TASK_STATE_CANCELLED
                if ended:
                    self._waited(moment)
                self._point(moment, "cancelled" if ended else "cancel requested", Text(entry.reason, "magenta"))
            case common_pb2.TASK_HISTORY_KIND_GIVEN_UP:
                self._waited(moment)
                self._point(moment, "given up", failure_text(entry.failure))
            case common_pb2.TASK_HISTORY_KIND_REPRIORITISED:
                self._point(moment, f"priority {priority_name(entry.priority)}", Text(entry.reason))
            case common_pb2.TASK_HISTORY_KIND_REDRIVEN:
                self._point(moment, f"redriven: run {entry.run}", Text(entry.reason))
                self._waits_since = moment
                self._backoff = Text()
            case _:  # of a newer coordinator
                self._point(moment, short_name(common_pb2.TaskState.Name(entry.state), "TASK_STATE_"))

    def tell_now(self, task: task_pb2.Task) -> None:
        """What is going on, for as long as it has when the task was read."""
        attempt = self._attempts.get(task.fence) if task.state == common_pb2.TASK_STATE_RUNNING else None
        if attempt is not None:
            attempt.end = task.read_time
            attempt.how = Text("running", "cyan")
            if task.HasField("progress"):
                attempt.how.append(f", {progress_text(task.progress)}")
            if task.cancel_requested:
                attempt.how.append(", told to stop" if task.cancel_delivered else ", not yet told to stop", "magenta")
        elif self._waits_since is not None and not task.HasField("end_time"):
            why = Text(task.waits_for.message)
            left_s = seconds_between(task.read_time, task.waits_for.until_time) if task.waits_for.HasField("until_time") else None
            if left_s is not None and left_s > 0:
                why.append(f", for another {seconds_text(left_s)}")
            self.rows.append(Row(self._waits_since, task.read_time, "waits", why))

    def _waited(self, until: Timestamp) -> None:
        if self._waits_since is not None and self._waits_since != until:
            self.rows.append(Row(self._waits_since, until, "waited", self._backoff))
        self._waits_since = None

    def _ended(self, entry: task_pb2.TaskHistoryEntry, how: Text) -> None:
        row = self._attempts.pop(entry.fence, None)
        if row is not None:
            row.end, row.how = entry.event_time, how
        if entry.state in (common_pb2.TASK_STATE_PENDING, common_pb2.TASK_STATE_RETRYING):
            self._waits_since = entry.event_time
            backoff_s = seconds_between(entry.event_time, entry.ready_time) if entry.HasField("ready_time") else None
            self._backoff = Text("" if backoff_s is None else f"{seconds_text(backoff_s)} of it as backoff")

    def _point(self, moment: Timestamp, what: str, how: Text | None = None) -> None:
        self.rows.append(Row(moment, None, what, how or Text()))


def _what_follows(entry: task_pb2.TaskHistoryEntry, how: Text) -> Text:
    """The end of an attempt, with what it costs or ends."""
    match entry.state:
        case common_pb2.TASK_STATE_FAILED:
            how.append("; not to be retried" if entry.failure.non_retryable else "; no tries left")
        case common_pb2.TASK_STATE_CANCELLED:
            how.append("; cancelled", "magenta")
        case _:
            how.append(f"; {COSTS[entry.cost]}" if entry.cost in COSTS else "; costs nothing")
    return how


def _time_of_day(moment: Timestamp) -> str:
    return moment.ToDatetime(tzinfo=UTC).astimezone().strftime("%H:%M:%S")
