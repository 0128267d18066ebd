"""A client's session as a pure machine: what to send next, what an answer means, what is still owed after a broken stream.

It does no I/O, reads no clock (`now_s` comes in) and knows no futures. The shell around it is stream.py.

A task that is submitted waits in three places, and is in exactly one of them until it is acknowledged:

    queue ──next_message──▶ sent (by batch) ──ack──▶ acknowledged
      ▲                       │
      │◀──── broken ──────────┤
      └◀─ tick ─ delayed ◀────┘ refused as UNAVAILABLE with a time to come back

Beside this, `awaited` holds every task whose result somebody waits for, from its submit or attach to its result.
"""

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from muster.v1.common_pb2 import TaskSpec
from muster.v1.task_pb2 import SUBMIT_VERDICT_DUPLICATE, SUBMIT_VERDICT_REFUSED, SessionRequest, SessionResponse, SubmitAck

from agent_node.client.tasks import TaskOutput, read_result
from agent_node.connection import from_refusal
from agent_node.errors import MusterError, RefusedError, UnavailableError

if TYPE_CHECKING:
    import asyncio

MAX_BATCH_TASKS = 256
MAX_BATCH_BYTES = 3 * 1024 * 1024
MAX_TASK_BYTES = MAX_BATCH_BYTES + 64 * 1024  # the largest payload there can be, and its options
ATTACH_PAGE = 1_000
_PER_TASK_BYTES = 8  # tag and length in front of each task of a batch


class AckWaiter(Protocol):
    """Whoever waits for a submit's verdict."""

    def settle(self, task: "TrackedTask", error: MusterError | None) -> None:
        """The task was taken, or not, because of `error`."""


class TrackedTask:
    """One task as the session sees it. `ack` and `waiters` belong to the shell; they are here because a second object costs 0.3 us."""

    __slots__ = ("ack", "awaited", "error", "fresh", "output", "size", "spec", "submitted_s", "task_id", "twins", "waiters", "want_result")

    def __init__(self, task_id: str, spec: TaskSpec | None = None, *, fresh: bool = False, want_result: bool = True) -> None:
        self.task_id = task_id
        self.spec = spec  # None once acknowledged: the payload needn't be kept any longer
        self.size = 0 if spec is None else spec.ByteSize() + _PER_TASK_BYTES
        self.fresh = fresh  # minted here, and never sent
        self.want_result = want_result
        self.submitted_s = 0.0
        self.awaited = False
        self.twins: tuple[TrackedTask, ...] = ()  # others that wait for the same id's result
        self.output: TaskOutput | None = None
        self.error: MusterError | None = None
        self.ack: asyncio.Future[None] | AckWaiter | None = None
        self.waiters: list[asyncio.Future[None]] | None = None

    @property
    def ended(self) -> bool:
        """Whether its end is known here."""
        return self.output is not None or self.error is not None


@dataclass(slots=True)
class Received:
    """What a message brought."""

    acknowledged: list[TrackedTask] = field(default_factory=list)
    refused: list[tuple[TrackedTask, MusterError]] = field(default_factory=list)
    ended: list[TrackedTask] = field(default_factory=list)


class Session:
    """The machine.

    Args:
        give_up_s: a submit that is on no stream this long after its call is given up. The coordinator remembers ids for
            at least twice the default, so that a re-send never becomes a second task.
        connect_timeout_s: the same as long as there was never a session.
    """

    def __init__(self, *, give_up_s: float = 300.0, connect_timeout_s: float = 10.0) -> None:
        self._give_up_s = give_up_s
        self._connect_timeout_s = connect_timeout_s
        self._welcomed = False
        self._open = False
        self._max_batch_tasks = MAX_BATCH_TASKS
        self._last_batch_id = 0
        self._queue: deque[TrackedTask] = deque()
        self._sent: dict[int, list[TrackedTask]] = {}
        self._delayed: list[tuple[float, int, TrackedTask]] = []
        self._delays = 0
        self._awaited: dict[str, TrackedTask] = {}
        self._to_attach: deque[str] = deque()
        self.unacknowledged = 0

    @property
    def wants_stream(self) -> bool:
        """Whether there is anything to send or to hear."""
        return self.unacknowledged > len(self._delayed) or bool(self._awaited)

    @property
    def owes_attach(self) -> bool:
        """Whether ids are waiting to be attached to."""
        return bool(self._to_attach)

    def submit(self, task: TrackedTask, now_s: float) -> None:
        """Queues a task. Raises RefusedError when it can't fit into any message."""
        if task.size > MAX_TASK_BYTES:
            raise RefusedError(
                f"the task has {task.size} bytes, and no coordinator takes more than {MAX_BATCH_BYTES}: pass a reference to its input",
                reason="PAYLOAD_TOO_LARGE",
                field="payload",
                metadata={"limit": str(MAX_BATCH_BYTES), "size": str(task.size)},
            )
        task.submitted_s = now_s
        self.unacknowledged += 1
        self._queue.append(task)
        if task.want_result:
            self._await(task)

    def attach(self, task: TrackedTask) -> None:
        """Asks for the result of a task that was submitted elsewhere, or without wanting its result."""
        if task.awaited:
            return
        self._await(task)
        # Where another waits for the same id, its answer is this one's too. Asking would be wrong: its submit may not have arrived yet.
        if self._awaited[task.task_id] is task:
            self._to_attach.append(task.task_id)

    def opened(self) -> None:
        """A new stream stands: owed are the queue, and the results of what was acknowledged."""
        self._open = True
        self._to_attach = deque(task_id for task_id, task in self._awaited.items() if _any_acknowledged(task))

    def broken(self) -> None:
        """The stream is gone. What it had not acknowledged goes to the head of the queue, in its order."""
        self._open = False
        unanswered = [task for batch in self._sent.values() for task in batch]
        for task in unanswered:
            task.fresh = False
        self._sent.clear()
        self._queue.extendleft(reversed(unanswered))

    def next_message(self) -> SessionRequest | None:
        """What to send now, if anything; from here on it counts as sent. At most one page of ids or one batch, so that it fits."""
        if not self._open:
            return None
        if self._to_attach:
            return SessionRequest(attach_task_ids=self._next_page())
        return self._next_batch() if self._queue else None

    def received(self, response: SessionResponse, now_s: float) -> Received:
        """Takes a message in."""
        received = Received()
        if response.HasField("welcome"):
            self._welcomed = True
            self._max_batch_tasks = min(MAX_BATCH_TASKS, response.welcome.max_batch_tasks or MAX_BATCH_TASKS)
        for ack in response.submit_acks:
            batch = self._sent.pop(ack.batch_id, None)
            if batch is not None:
                self._acknowledge(batch, ack, received, now_s)
        for result in response.results:
            task = self._awaited.pop(result.task_id, None)
            if task is not None:
                outcome = read_result(result)
                self._end(task, outcome, received.ended)
        return received

    def tick(self, now_s: float) -> list[TrackedTask]:
        """Queues delayed tasks whose time has come, and returns those that are given up: nothing of them is kept."""
        due: list[TrackedTask] = []
        while self._delayed and self._delayed[0][0] <= now_s:
            due.append(heapq.heappop(self._delayed)[2])
        self._queue.extendleft(reversed(due))
        limit_s = self._give_up_s if self._welcomed else self._connect_timeout_s
        given_up = [task for task in self._unsent() if now_s - task.submitted_s >= limit_s]
        if given_up:
            gone = set(map(id, given_up))
            self._queue = deque(task for task in self._queue if id(task) not in gone)
            self._delayed = [entry for entry in self._delayed if id(entry[2]) not in gone]
            heapq.heapify(self._delayed)
            self.unacknowledged -= len(given_up)
            for task in given_up:
                self._forget(task)
        return given_up

    @property
    def next_retry_s(self) -> float | None:
        """When the first delayed task is to be sent again; None when none is delayed."""
        return self._delayed[0][0] if self._delayed else None

    def abandon(self) -> tuple[list[TrackedTask], list[TrackedTask]]:
        """Drops everything, and returns it: the tasks without a verdict, and those with one whose result was awaited."""
        unacknowledged = [task for batch in self._sent.values() for task in batch]
        unacknowledged.extend(self._unsent())
        for task in unacknowledged:
            self._forget(task)
        awaited = [each for task in self._awaited.values() for each in (task, *task.twins)]
        for task in awaited:
            task.awaited = False
            task.twins = ()
        for container in (self._queue, self._sent, self._delayed, self._awaited, self._to_attach):
            container.clear()
        self.unacknowledged = 0
        return unacknowledged, awaited

    def _next_page(self) -> list[str]:
        page = list(islice(self._to_attach, ATTACH_PAGE))
        for _ in page:
            self._to_attach.popleft()
        return page

    def _next_batch(self) -> SessionRequest:
        """The longest run of alike tasks at the queue's head that fits: first in, first out, whatever is mixed."""
        queue = self._queue
        fresh, want_result = queue[0].fresh, queue[0].want_result
        batch: list[TrackedTask] = []
        size = 0
        while queue and len(batch) < self._max_batch_tasks:
            task = queue[0]
            size += task.size
            if task.fresh is not fresh or task.want_result is not want_result or (size > MAX_BATCH_BYTES and batch):
                break
            batch.append(queue.popleft())
        self._last_batch_id += 1
        self._sent[self._last_batch_id] = batch
        request = SessionRequest()
        submit = request.submit
        submit.batch_id = self._last_batch_id
        submit.first_send = fresh
        submit.no_results = not want_result
        submit.tasks.extend([task.spec for task in batch if task.spec is not None])
        return request

    def _acknowledge(self, batch: list[TrackedTask], ack: SubmitAck, received: Received, now_s: float) -> None:
        self.unacknowledged -= len(batch)
        taken = self._sift(batch, ack, received, now_s) if ack.exceptions else batch
        for task in taken:
            task.spec = None
        received.acknowledged += taken

    def _sift(self, batch: list[TrackedTask], ack: SubmitAck, received: Received, now_s: float) -> list[TrackedTask]:
        """Sees to the exceptions of a batch, and returns those that were taken."""
        not_taken: set[int] = set()
        for exception in ack.exceptions:
            if exception.index >= len(batch):
                continue
            task = batch[exception.index]
            if exception.verdict == SUBMIT_VERDICT_DUPLICATE:
                # The session may have sent this id's result before, and sends each once: ask for it.
                if task.awaited:
                    self._to_attach.append(task.task_id)
            elif exception.verdict == SUBMIT_VERDICT_REFUSED:
                not_taken.add(exception.index)
                error = from_refusal(exception.refusal)
                if isinstance(error, UnavailableError) and error.retry_after_s is not None:
                    self._delay(task, now_s + error.retry_after_s)
                else:
                    self._forget(task)
                    received.refused.append((task, error))
        return [task for index, task in enumerate(batch) if index not in not_taken]

    def _delay(self, task: TrackedTask, until_s: float) -> None:
        task.fresh = False
        self.unacknowledged += 1
        self._delays += 1
        heapq.heappush(self._delayed, (until_s, self._delays, task))

    def _unsent(self) -> Iterable[TrackedTask]:
        yield from self._queue
        for _, _, task in self._delayed:
            yield task

    def _await(self, task: TrackedTask) -> None:
        task.awaited = True
        first = self._awaited.setdefault(task.task_id, task)
        if first is not task:
            first.twins = (*first.twins, task)

    def _forget(self, task: TrackedTask) -> None:
        if not task.awaited:
            return
        task.awaited = False
        first = self._awaited[task.task_id]
        others = tuple(each for each in (first, *first.twins) if each is not task)
        first.twins = task.twins = ()
        if others:
            others[0].twins = others[1:]
            self._awaited[task.task_id] = others[0]
            if _any_acknowledged(others[0]):
                self._to_attach.append(task.task_id)
        else:
            del self._awaited[task.task_id]

    def _end(self, task: TrackedTask, outcome: TaskOutput | MusterError, ended: list[TrackedTask]) -> None:
        twins, task.twins = task.twins, ()
        task.awaited = False
        if isinstance(outcome, TaskOutput):
            task.output = outcome
        else:
            task.error = outcome
        ended.append(task)
        for twin in twins:
            self._end(twin, outcome, ended)


def _any_acknowledged(task: TrackedTask) -> bool:
    return task.spec is None or any(twin.spec is None for twin in task.twins)
