"""Queues as callers see them: what waits and runs now, and what has happened lately. Nothing here goes through tasks."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import TYPE_CHECKING, cast

from muster.v1 import admin_pb2, common_pb2

from coordinator import convert
from coordinator.core.explain import WaitKind, waits_for
from coordinator.core.statistics import (
    CANCELLED,
    FAILED,
    INTERVAL_MS,
    MAX_HISTORIES,
    MINUTE_MS,
    RETRIED,
    SUBMITTED,
    History,
    Slice,
    Times,
    empty_slice,
    percentile_ms,
)

if TYPE_CHECKING:
    from coordinator.core.model import Task
    from coordinator.core.scheduler import Scheduler
    from coordinator.core.statistics import Statistics
    from coordinator.engine.namespace import Namespace
    from coordinator.engine.shard import Shard

MAX_LOOKED_AT = 10_000  # queues whose heads are looked at: some milliseconds
ROWS_PER_TURN = 20  # some milliseconds, too
Key = tuple[str, int]


def queue_stats(shard: Shard, namespace: Namespace) -> admin_pb2.GetQueueStatsResponse:
    """What waits and runs, by type and priority, and what has happened since this coordinator took the shard."""
    scheduler = namespace.scheduler
    totals = scheduler.totals
    now_ms = shard.now().date_ms
    oldest = _oldest(scheduler)
    response = admin_pb2.GetQueueStatsResponse(
        retrying=scheduler.state.retrying,
        submitted_total=totals.submitted,
        completed_total=totals.completed,
        failed_total=totals.failed,
        cancelled_total=totals.cancelled,
        crashed_total=totals.crashed,
        stale_results_total=totals.stale_results,
        max_live_tasks=scheduler.max_live_tasks,
        webhooks_pending=len(scheduler.state.deliveries.pending),
        webhooks_given_up=len(scheduler.state.deliveries.given_up),
        webhooks_delivered_total=totals.webhooks_delivered,
        webhooks_given_up_total=totals.webhooks_given_up,
    )
    for row in sorted((row for row in scheduler.statistics.rows() if row.live()), key=lambda row: row.key):
        running, head = row.running(), oldest.get(row.key)
        response.running += running
        stats = response.queues.add(
            task_type=row.key[0],
            priority=cast("common_pb2.Priority.ValueType", row.key[1]),
            ready=row.live() - running - row.delayed,
            delayed=row.delayed,
            running=running,
        )
        if head is not None:
            stats.oldest_wait.CopyFrom(convert.duration(max(0, now_ms - head.first_ready_ms) / 1000))
            reason = waits_for(scheduler, head)
            if reason is not None and reason.kind is not WaitKind.QUEUED:
                stats.waits_for = reason.message
    response.pending = len(scheduler.state.tasks) - response.running - response.retrying
    return response


def _oldest(scheduler: Scheduler) -> dict[Key, Task]:
    """The oldest ready task of each type and priority, as far as so many queues tell."""
    oldest: dict[Key, Task] = {}
    fifos = ((lane.task_type, fifo) for lane in scheduler.ready.lanes.values() for fifo in lane.fifos())
    for task_type, fifo in islice(fifos, MAX_LOOKED_AT):
        key = (task_type, fifo.priority)
        if fifo.rank() is not None and (key not in oldest or fifo.top.place < oldest[key].place):
            oldest[key] = fifo.top
    return oldest


async def queue_history(shard: Shard, namespace: Namespace, task_type: str) -> admin_pb2.GetQueueHistoryResponse:
    """What has happened lately; of one type, if it is given."""
    statistics = namespace.scheduler.statistics
    now_ms = shard.now().date_ms
    response = admin_pb2.GetQueueHistoryResponse(since_time=convert.timestamp(statistics.since_ms or now_ms))
    if task_type:
        rows = [row for row in statistics.types.get(task_type, ()) if row is not None and (row.history is not None or row.happened())]
        total = History()
        for row in rows:
            total.take_over(row.history or History())
    else:
        rows, total = statistics.kept(), statistics.total
        rows += [row for row in islice(statistics.rows(), MAX_LOOKED_AT) if row.history is None and row.happened()]
    present = empty_slice(now_ms)
    for row in rows:
        present.add(row.present(now_ms))
    _fill(response.total, statistics, total, present, now_ms)
    _fill_series(response.total, total, present, now_ms)
    for place, row in enumerate(rows[: None if task_type else MAX_HISTORIES], 1):
        if place % ROWS_PER_TURN == 0:
            await asyncio.sleep(0)
        message = response.queues.add(task_type=row.key[0], priority=cast("common_pb2.Priority.ValueType", row.key[1]))
        _fill(message, statistics, row.history or History(), row.present(now_ms), now_ms)
        if task_type:
            _fill_series(message, row.history or History(), row.present(now_ms), now_ms)
    if not task_type and statistics.rest.history is not None:
        _fill(response.rest, statistics, statistics.rest.history, empty_slice(now_ms), now_ms)
    await shard.durable()
    return response


def _fill(message: admin_pb2.QueueHistory, statistics: Statistics, history: History, present: Slice, now_ms: int) -> None:
    """The three windows."""
    for minutes, window in ((1, message.minute), (5, message.five_minutes), (60, message.hour)):
        start_ms = statistics.window_start_ms(minutes=minutes, now_ms=now_ms)
        total = empty_slice(start_ms)
        for happened in history.since(start_ms, fine=minutes == 1):
            total.add(happened)
        total.add(present)
        _fill_window(window, total, max(start_ms, statistics.since_ms), now_ms)


def _fill_series(message: admin_pb2.QueueHistory, history: History, present: Slice, now_ms: int) -> None:
    """Minute by minute; the present interval is in the last."""
    minutes = {happened.start_ms: happened for happened in history.minutes}
    minute_ms = now_ms // INTERVAL_MS * INTERVAL_MS // MINUTE_MS * MINUTE_MS
    last = empty_slice(minute_ms)
    for happened in (minutes.get(minute_ms), present):
        if happened is not None:
            last.add(happened)
    if any(last.counts) or last.waits or last.runs:
        minutes[minute_ms] = last
    for start_ms in sorted(minutes):
        _fill_window(message.series.add(), minutes[start_ms], start_ms, min(now_ms, start_ms + MINUTE_MS))


def _fill_window(message: admin_pb2.QueueWindow, happened: Slice, start_ms: int, stop_ms: int) -> None:
    message.start_time.CopyFrom(convert.timestamp(start_ms))
    message.length.CopyFrom(convert.duration(max(0, stop_ms - start_ms) / 1000))
    counts = happened.counts
    message.submitted, message.failed, message.cancelled, message.retried = (
        counts[SUBMITTED],
        counts[FAILED],
        counts[CANCELLED],
        counts[RETRIED],
    )
    message.started, message.completed = sum(happened.waits.values()), sum(happened.runs.values())
    _fill_percentiles(message.wait, happened.waits)
    _fill_percentiles(message.run, happened.runs)


def _fill_percentiles(message: admin_pb2.Percentiles, times: Times) -> None:
    for share, duration in ((0.5, message.p50), (0.9, message.p90), (0.99, message.p99)):
        duration.CopyFrom(convert.duration(percentile_ms(times, share) / 1000))
