"""Follows a run from outside, and says what is wrong: what clients were told, what handlers did, and what the store's records say.

Each task is looked at once all three are known, and forgotten a minute later: a run of millions must not grow with its length. It knows the
store's format, and nothing of how the coordinator decides.
"""

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from pathlib import Path

from muster.v1 import common_pb2, event_pb2
from redis.asyncio import Redis

from coordinator.journal.layout import MARKER_BYTES, ShardKeys, shard_of, unpack_line
from tests.soak.work import KINDS

NAMESPACE = "default"
SHARDS = 16
REMEMBERED = 200_000  # ended tasks: an execution that begins late must be told from one of a task that never was
_PAGE = 1000
KEYS = ShardKeys(prefix="muster", shard=shard_of(NAMESPACE, shards=SHARDS))


@dataclass(slots=True)
class Story:
    """What is known of a task so far."""

    kind: str = ""
    is_taken: bool = False  # acknowledged
    told: str = ""  # the end, by its client
    executions: list[int] = field(default_factory=list)  # their fences


@dataclass
class Findings:
    """What an audit came to."""

    taken: int = 0
    records: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    executions: int = 0
    repeated: int = 0  # tasks that ran more than once, each for a reason
    faults: list[str] = field(default_factory=list)
    fault_count: int = 0

    def fault(self, what: str) -> None:
        """Notes a fault; of very many the first ones are kept."""
        self.fault_count += 1
        if len(self.faults) < 100:
            self.faults.append(what)


class Tail:
    """Lines of a file that others write, as they come."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._rest = b""

    def lines(self) -> list[str]:
        """What has come since the last call."""
        data = self._rest + self._file.read()
        *whole, self._rest = data.split(b"\n")
        return [line.decode() for line in whole]

    def close(self) -> None:
        self._file.close()


class Audit:
    """The audit of one run.

    Args:
        ledgers: of the clients.
        executions: what handlers leave.
    """

    def __init__(self, *, ledgers: list[Path], executions: Path) -> None:
        self.findings = Findings()
        self._ledgers = [Tail(path) for path in ledgers]
        self._executions = Tail(executions)
        self._stories: dict[str, Story] = {}
        self._ended: OrderedDict[str, int] = OrderedDict()  # last fences of tasks that were looked at
        self._waiting: deque[tuple[str, event_pb2.TaskRecord]] = deque()  # until what clients were told has been read
        self._position = 0

    def close(self) -> None:
        for tail in (*self._ledgers, self._executions):
            tail.close()

    @property
    def open_stories(self) -> int:
        """How many tasks are known whose end isn't."""
        return len(self._stories)

    async def follow(self, store: Redis) -> bool:
        """Reads what is new. Answers whether there was anything. Raises RedisError while the store is out."""
        found = await self._read_records(store)
        self._read_executions()
        for tail in self._ledgers:
            for line in tail.lines():
                found = True
                self._note(*line.split(" "))
        self._judge()
        return found

    def _note(self, what: str, task_id: str, value: str) -> None:
        if task_id in self._ended:
            self.findings.fault(f"task {task_id} is told of after its end was: {what} {value}")
            return
        story = self._stories.setdefault(task_id, Story())
        if what == "E":
            story.told = value
            return
        story.kind = value
        if what == "T":
            self.findings.taken += 1
            story.is_taken = True

    def _read_executions(self) -> None:
        for line in self._executions.lines():
            task_id, fence_text = line.split(" ")
            fence = int(fence_text)
            self.findings.executions += 1
            if task_id not in self._ended:
                self._stories.setdefault(task_id, Story()).executions.append(fence)
            elif fence > self._ended[task_id]:
                self.findings.fault(f"task {task_id} ran under fence {fence} after it had ended with {self._ended[task_id]}")

    async def _read_records(self, store: Redis) -> bool:
        index, counters = KEYS.ended(NAMESPACE), KEYS.counters(NAMESPACE)
        async with store.pipeline(transaction=True) as pipe:
            base_text, _ = await pipe.hget(counters, "base").llen(index).execute()
        base = int(base_text or 0)
        if base > self._position:
            self.findings.fault(f"{base - self._position} ended tasks were removed before they were seen: the audit is too slow")
            self._position = base
        async with store.pipeline(transaction=True) as pipe:
            start = self._position - base
            base_again, lines = await pipe.hget(counters, "base").lrange(index, start, start + _PAGE - 1).execute()
        if int(base_again or 0) != base or not lines:
            return bool(lines)
        entries = [unpack_line(line, position=self._position + place) for place, line in enumerate(lines)]
        values = await store.mget([KEYS.tasks(NAMESPACE) + entry.task_id for entry in entries])
        for entry, value in zip(entries, values, strict=True):
            if value is None:
                self.findings.fault(f"the record of task {entry.task_id} is gone, and its line in the index is not")
            else:
                self._waiting.append((entry.task_id, event_pb2.TaskRecord.FromString(value[MARKER_BYTES:])))
        self._position += len(entries)
        self.findings.records += len(entries)
        return True

    def _judge(self) -> None:
        """Looks at tasks whose records are there, in their order, once their clients' lines have come, too."""
        for _ in range(len(self._waiting)):
            task_id, record = self._waiting.popleft()
            story = self._stories.get(task_id)
            if story is None or not _is_complete(story):
                if task_id in self._ended:
                    self.findings.fault(f"task {task_id} has a second end")
                else:
                    self._waiting.append((task_id, record))
                continue
            del self._stories[task_id]
            self._compare(task_id, story, record)
            self._ended[task_id] = record.fence
            if len(self._ended) > REMEMBERED:
                self._ended.popitem(last=False)

    def _compare(self, task_id: str, story: Story, record: event_pb2.TaskRecord) -> None:
        state = common_pb2.TaskState.Name(record.state).removeprefix("TASK_STATE_")
        self.findings.ends[state] += 1
        ran = story.executions
        if state not in KINDS[story.kind].ends:
            self.findings.fault(f"task {task_id} of kind {story.kind} ended {state}: {record.last_failure.message}")
        if story.told and story.told != state:
            self.findings.fault(f"task {task_id} ended {state}, and its client was told {story.told}")
        if len(set(ran)) != len(ran):
            self.findings.fault(f"task {task_id} ran twice under one fence: {ran}")
        if state == "COMPLETED" and record.result_fence not in ran:
            self.findings.fault(f"task {task_id} was completed under fence {record.result_fence}, and ran under {ran}")
        reasons = {entry.fence for entry in record.history}
        without = [fence for fence in ran if fence not in reasons and fence != record.fence]
        if without and not any(entry.omitted for entry in record.history):
            self.findings.fault(f"task {task_id} ran under {ran}, and its history has no end of {without}")
        self.findings.repeated += len(ran) > 1

    def finish(self) -> Findings:
        """Everything has ended, and was read: whoever still has no end has lost it."""
        ended = {task_id for task_id, _ in self._waiting}
        for task_id, story in self._stories.items():
            if task_id in ended:
                told = "its client was never told its end" if story.kind else "nobody submitted it"
                self.findings.fault(f"task {task_id} of kind {story.kind or 'none'} has an end, and {told}")
            elif story.is_taken:
                self.findings.fault(f"task {task_id} of kind {story.kind} was acknowledged, and has no end")
            elif story.executions:
                self.findings.fault(f"task {task_id} ran, and has no end")
        for task_id in ended - self._stories.keys():
            self.findings.fault(f"task {task_id} has an end, and nobody submitted it")
        return self.findings


def _is_complete(story: Story) -> bool:
    """Whether all that will be said of a task has been said: it was taken or may have been, and its client knows its end if it asked."""
    return bool(story.kind) and (bool(story.told) or not story.is_taken or not KINDS[story.kind].needs_answer)
