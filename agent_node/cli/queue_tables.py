"""Queues for a person at a terminal: what waits and runs, and what has happened lately. Messages in, rich's renderables out."""

from collections.abc import Iterable

from muster.v1 import admin_pb2, policy_pb2
from rich.console import Group
from rich.table import Table
from rich.text import Text

from agent_node.cli.pause_cells import held_line
from agent_node.cli.tables import duration_text, facts_table, new_table, priority_name
from agent_node.cli.times import NONE, local_time

BARS = " ▁▂▃▄▅▆▇█"
MINUTES = 60


def queue_report(
    stats: admin_pb2.GetQueueStatsResponse,
    history: admin_pb2.GetQueueHistoryResponse,
    *,
    pauses: Iterable[policy_pb2.Policy] = (),
    cordons: Iterable[policy_pb2.Policy] = (),
    task_type: str = "",
    most_rows: int | None = None,
) -> Group:
    """The totals with a line of the last hour, and a table of the queues, the busiest first.

    Args:
        stats: what waits and runs.
        history: what has happened.
        pauses: what is paused.
        cordons: which agents get nothing new.
        task_type: of this type alone, if it is given.
        most_rows: of the table; None for all.
    """
    total = history.total
    facts = facts_table(
        [
            ("counted", f"since {local_time(history.since_time)}"),
            ("now", f"{stats.pending} pending, {stats.running} running, {stats.retrying} retrying" if not task_type else ""),
            ("paused", Text(held_line(pauses), "yellow")),
            ("cordoned", Text(held_line(cordons), "yellow")),
            ("last minute", _in_words(total.minute)),
            ("last 5 minutes", _in_words(total.five_minutes)),
            ("last hour", _in_words(total.hour)),
            ("completed", Text(sparkline(total.series), "green") if total.series else ""),
        ]
    )
    sections: list[Table | Text] = [facts]
    rows = _rows(stats, history, task_type)
    if rows:
        sections.append(_table(rows[:most_rows]))
        if most_rows is not None and len(rows) > most_rows:
            sections.append(Text(f"and {len(rows) - most_rows} more", "dim"))
    if task_type and total.series:
        sections.append(_minutes(total.series))
    return Group(*sections)


def sparkline(series: Iterable[admin_pb2.QueueWindow]) -> str:
    """Completed tasks, a character for each minute up to the last one in which anything happened."""
    counts = {window.start_time.seconds // 60: window.completed for window in series}
    last = max(counts)
    shown = [counts.get(minute, 0) for minute in range(max(min(counts), last - MINUTES + 1), last + 1)]
    most = max(shown) or 1
    return "".join(BARS[-(-count * (len(BARS) - 1) // most)] for count in shown)


_Row = tuple[admin_pb2.QueueStats, admin_pb2.QueueHistory]


def _rows(stats: admin_pb2.GetQueueStatsResponse, history: admin_pb2.GetQueueHistoryResponse, task_type: str) -> list[_Row]:
    """What is known of each queue, the busiest first."""
    now = {(queue.task_type, queue.priority): queue for queue in stats.queues if task_type in ("", queue.task_type)}
    past = {(queue.task_type, queue.priority): queue for queue in history.queues}
    rows = [
        (
            now.get(key) or admin_pb2.QueueStats(task_type=key[0], priority=key[1]),
            past.get(key) or admin_pb2.QueueHistory(task_type=key[0], priority=key[1]),
        )
        for key in now.keys() | past.keys()
    ]
    rows.sort(key=lambda row: (-row[1].minute.started, -(row[0].ready + row[0].running), row[0].task_type, -row[0].priority))
    return rows


def _table(rows: Iterable[_Row]) -> Table:
    table = new_table(
        "type", "priority", "ready", "delayed", "running", "in/s", "done/s", "failed", "retried", "wait p50/p99", "run p50/p99", "waits for"
    )
    for queue, history in rows:
        minute = history.minute
        table.add_row(
            Text(queue.task_type),
            priority_name(queue.priority),
            str(queue.ready),
            str(queue.delayed),
            str(queue.running),
            _rate(minute.submitted, minute),
            _rate(minute.completed, minute),
            Text(str(minute.failed), "red" if minute.failed else ""),
            Text(str(minute.retried), "yellow" if minute.retried else ""),
            _times(minute.wait, minute.started),
            _times(minute.run, minute.completed),
            Text(queue.waits_for or NONE),
        )
    return table


def _minutes(series: Iterable[admin_pb2.QueueWindow]) -> Table:
    table = new_table("minute", "submitted", "started", "completed", "failed", "cancelled", "retried", "wait p50/p99", "run p50/p99")
    for window in series:
        table.add_row(
            local_time(window.start_time),
            *(
                str(count)
                for count in (window.submitted, window.started, window.completed, window.failed, window.cancelled, window.retried)
            ),
            _times(window.wait, window.started),
            _times(window.run, window.completed),
        )
    return table


def _in_words(window: admin_pb2.QueueWindow) -> str:
    words = f"{window.submitted} submitted, {window.completed} completed ({_rate(window.completed, window)}/s), {window.failed} failed"
    if window.cancelled or window.retried:
        words += f", {window.cancelled} cancelled, {window.retried} retried"
    return words


def _rate(count: int, window: admin_pb2.QueueWindow) -> str:
    length_s = window.length.seconds + window.length.nanos / 1e9
    return f"{count / length_s:.3g}" if count and length_s else "0"


def _times(percentiles: admin_pb2.Percentiles, count: int) -> str:
    return f"{duration_text(percentiles.p50)} / {duration_text(percentiles.p99)}" if count else NONE
