"""What happened to a namespace's tasks lately, by type and priority, and how many of each there are. Counted as it happens, and volatile.

What happens is added to a row's present interval of ten seconds. When that is over, ticks go over the rows, some at a time, and those to
whom something happened hand it to their history: the last six intervals, and the last sixty minutes. Histories are bounded by rows: those
of the rows that were active least lately are added up in one for the rest. A row without a history and without live tasks is forgotten.

The common life of a task costs three additions here, 0.3 us: at its submit, its start and its success. Whatever else is known follows.
"""

from collections import defaultdict, deque
from collections.abc import Iterator
from typing import NamedTuple

from coordinator.core.model import Task, TaskState

INTERVAL_MS = 10_000
PER_MINUTE = 6  # intervals
MINUTE_MS = 60_000
MINUTES = 60  # that a history holds
MAX_HISTORIES = 500  # rows that have one: about 10 KiB each, when they are busy at all times
MAX_LOOKED_AT = 1000  # rows that a tick goes over: some milliseconds, if something happened to all. The others follow with the next ones
SUBMITTED, FAILED, CANCELLED, RETRIED, RETURNED = range(5)  # what is counted; the last: attempts over without success
KINDS = 5

# Times are counted in buckets: exact below 16 ms, then eight for each doubling, so that what is read from them is up to 6 % off.
_EXACT_MS = 16
TABLE_MS = 1 << 16


def bucket_of(time_ms: int) -> int:
    """The bucket of a time. `BUCKETS` has it of shorter ones, in a fifth of the time."""
    if time_ms < _EXACT_MS:
        return max(time_ms, 0)
    shift = time_ms.bit_length() - 4
    return (shift << 3) + (time_ms >> shift)


def middle_ms(bucket: int) -> float:
    """A time in the middle of a bucket."""
    if bucket < _EXACT_MS:
        return bucket
    shift = (bucket >> 3) - 1
    return (((bucket & 7) + 8) + 0.5) * (1 << shift) - 0.5


BUCKETS = bytes(map(bucket_of, range(TABLE_MS)))
Times = dict[int, int]  # how many in each bucket


class Slice(NamedTuple):
    """What happened to a row's tasks in one stretch of time.

    How often, by kind; for each attempt that began, how long its task had been ready; for each that succeeded, how long it ran.
    """

    start_ms: int
    counts: list[int]
    waits: Times
    runs: Times

    def add(self, other: "Slice") -> None:
        """Adds what happened in another."""
        for kind, count in enumerate(other.counts):
            self.counts[kind] += count
        for mine, more in ((self.waits, other.waits), (self.runs, other.runs)):
            for bucket, count in more.items():
                mine[bucket] = mine.get(bucket, 0) + count


def empty_slice(start_ms: int) -> Slice:
    """A stretch of time in which nothing happened yet."""
    return Slice(start_ms, [0] * KINDS, {}, {})


class Row:
    """The tasks of one type and priority: how many, and what happened to them."""

    __slots__ = ("_live", "_running", "counts", "delayed", "history", "key", "runs", "waits")

    def __init__(self, key: tuple[str, int]) -> None:
        self.key = key
        self.counts = [0] * KINDS  # in the present interval, as the next two
        self.waits: Times = defaultdict(int)
        self.runs: Times = defaultdict(int)
        self.delayed = 0  # tasks that wait for a date
        self.history: History | None = None
        self._live = 0  # when the present interval began
        self._running = 0

    def live(self) -> int:
        """How many tasks are live."""
        return self._live + self.counts[SUBMITTED] - sum(self.runs.values()) - self.counts[FAILED] - self.counts[CANCELLED]

    def running(self) -> int:
        """How many tasks run."""
        return self._running + sum(self.waits.values()) - sum(self.runs.values()) - self.counts[RETURNED]

    def recovered(self, *, running: bool) -> None:
        """A task was live before counting began."""
        self.adjust(1, running=running)

    def adjust(self, live: int, *, running: int = 0, delayed: int = 0) -> None:
        """So many more tasks are live, run and wait for a date, without anything having happened that is counted."""
        self._live += live
        self._running += running
        self.delayed += delayed

    def happened(self) -> bool:
        """Whether anything did in the present interval."""
        return bool(self.runs or self.waits or any(self.counts))

    def close(self, start_ms: int) -> Slice:
        """The interval that began then is over. Answers what happened in it."""
        self._live, self._running = self.live(), self.running()
        history = self.history = self.history or History()
        history.keep(Slice(start_ms, self.counts, dict(self.waits), dict(self.runs)))
        self.counts = [0] * KINDS
        self.waits.clear()  # kept: whoever counts may hold it
        self.runs.clear()
        return history.intervals[-1]

    def is_idle(self) -> bool:
        """Whether nothing of it is live."""
        return not self.happened() and not self._live and not self.delayed

    def present(self, now_ms: int) -> Slice:
        """What happened in the present interval."""
        return Slice(now_ms, self.counts, self.waits, self.runs)


class History:
    """What happened to a row's tasks before the present interval; times in which nothing happened aren't there."""

    __slots__ = ("intervals", "minutes")

    def __init__(self) -> None:
        self.intervals: deque[Slice] = deque()  # of the last minute
        self.minutes: deque[Slice] = deque()  # of the last hour, the same ones too

    def keep(self, happened: Slice) -> None:
        """Adds an interval, or more of the last one."""
        if not self.intervals or self.intervals[-1].start_ms != happened.start_ms:
            self.intervals.append(empty_slice(happened.start_ms))
        self.intervals[-1].add(happened)
        minute_ms = happened.start_ms // MINUTE_MS * MINUTE_MS
        if not self.minutes or self.minutes[-1].start_ms != minute_ms:
            self.minutes.append(empty_slice(minute_ms))
        self.minutes[-1].add(happened)
        self.forget(happened.start_ms)

    def forget(self, now_ms: int) -> None:
        """What is too long ago goes."""
        while self.intervals and self.intervals[0].start_ms < now_ms - PER_MINUTE * INTERVAL_MS:
            self.intervals.popleft()
        while self.minutes and self.minutes[0].start_ms < now_ms - MINUTES * MINUTE_MS:
            self.minutes.popleft()

    def since(self, start_ms: int, *, fine: bool) -> list[Slice]:
        """What happened since then, interval by interval if `fine`, else minute by minute."""
        return [happened for happened in (self.intervals if fine else self.minutes) if happened.start_ms >= start_ms]

    def take_over(self, other: "History") -> None:
        """Adds another history to this one."""
        for mine, more in ((self.intervals, other.intervals), (self.minutes, other.minutes)):
            merged = {one.start_ms: one for one in mine}
            for happened in more:
                merged.setdefault(happened.start_ms, empty_slice(happened.start_ms)).add(happened)
            mine.clear()
            mine.extend(merged[start_ms] for start_ms in sorted(merged))


class Statistics:
    """Of one namespace."""

    def __init__(self) -> None:
        self.since_ms = 0  # when counting began; 0: not yet
        self.types: dict[str, list[Row | None]] = {}  # rows by type, and by priority
        self.rest = Row(("", 0))  # the history of rows that lost theirs
        self.total = History()  # of all rows
        self._histories: dict[Row, None] = {}  # rows with one, those that were active last last
        self._start_ms = 0  # of the present interval
        self._left: deque[Row] = deque()  # rows to go over, as the interval before it is over
        self._left_ms = 0  # when that began

    def row(self, task_type: str, priority: int) -> Row:
        """The row to count at: for as long as nobody else has had a turn."""
        rows = self.types.get(task_type)
        if rows is None:
            rows = self.types[task_type] = [None] * 5
        row = rows[priority]
        if row is None:
            row = rows[priority] = Row((task_type, priority))
        return row

    def rows(self) -> Iterator[Row]:
        """All rows."""
        return (row for rows in self.types.values() for row in rows if row is not None)

    def failed_attempt(self, task: Task) -> None:
        """An attempt was over without success; its task waits again, or has ended."""
        counts = self.row(task.spec.task_type, task.spec.priority).counts
        counts[RETURNED] += 1
        counts[RETRIED] += task.state is TaskState.RETRYING

    def unsuccessful(self, task: Task) -> None:
        """A task has ended without success."""
        counts = self.row(task.spec.task_type, task.spec.priority).counts
        counts[FAILED if task.state is TaskState.FAILED else CANCELLED] += 1

    def delayed(self, task: Task, change: int) -> None:
        """A task waits for a date, or doesn't any more."""
        self.row(task.spec.task_type, task.spec.priority).delayed += change

    def moved(self, task: Task, before: int, *, is_dated: bool) -> None:
        """A live task has another priority than `before`. What happened to it stays counted where it happened.

        Args:
            task: it.
            before: its priority until now.
            is_dated: it waits for a date.
        """
        running = task.state is TaskState.RUNNING
        for priority, change in ((before, -1), (task.spec.priority, 1)):
            row = self.row(task.spec.task_type, priority)
            row.adjust(change, running=change * running, delayed=change * is_dated)

    def tick(self, date_ms: int) -> None:
        """It is that late now."""
        start_ms = date_ms // INTERVAL_MS * INTERVAL_MS
        if not self.since_ms:
            self.since_ms, self._start_ms = date_ms, start_ms
        if start_ms > self._start_ms and not self._left:  # else some are told of more than an interval at once
            self._left_ms, self._start_ms = self._start_ms, start_ms
            self._left.extend(self.rows())
        for _ in range(min(MAX_LOOKED_AT, len(self._left))):
            self._look_at(self._left.popleft())

    def _look_at(self, row: Row) -> None:
        if row.happened():
            self.total.keep(row.close(self._left_ms))
            self._histories.pop(row, None)
            self._histories[row] = None
            if len(self._histories) > MAX_HISTORIES:
                oldest = next(iter(self._histories))
                self._drop(oldest)
        elif row.history is not None:
            row.history.forget(self._left_ms)
            if not row.history.minutes:
                self._drop(row)
        elif row.is_idle():
            self._forget(row)

    def _drop(self, row: Row) -> None:
        """A row loses its history to the rest."""
        self.rest.history = self.rest.history or History()
        if row.history is not None:
            self.rest.history.take_over(row.history)
            self.rest.history.forget(self._left_ms)
        row.history = None
        del self._histories[row]
        if row.is_idle():
            self._forget(row)

    def _forget(self, row: Row) -> None:
        task_type, priority = row.key
        rows = self.types.get(task_type)
        if rows is not None and rows[priority] is row:  # else another one has come in its place
            rows[priority] = None
            if not any(rows):
                del self.types[task_type]

    def kept(self) -> list[Row]:
        """The rows with a history, the latest active first; that of all others together is `rest`."""
        return list(reversed(self._histories))

    def window_start_ms(self, *, minutes: int, now_ms: int) -> int:
        """When a window begins: what is counted together isn't cut, so a minute is up to 10 s longer, and several are up to a minute."""
        step_ms = INTERVAL_MS if minutes == 1 else MINUTE_MS
        return max(self.since_ms // step_ms * step_ms, now_ms // step_ms * step_ms - minutes * MINUTE_MS)


def percentile_ms(times: Times, share: float) -> float:
    """The time that this share of all doesn't exceed, up to 6 % off; 0 for none."""
    left = share * sum(times.values())
    for bucket in sorted(times):
        left -= times[bucket]
        if left <= 0:
            return middle_ms(bucket)
    return 0.0
