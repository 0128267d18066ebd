"""A client's session: submits in; acknowledgements and results out, each as soon as it is durable."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from muster.v1 import common_pb2, event_pb2, task_pb2

from coordinator import convert
from coordinator.core.model import Spec, Task
from coordinator.engine.intake import Duplicate, Exceptions, take_in, take_in_new
from coordinator.errors import InvalidRequest, LimitReached, MusterError, NotFound, Unavailable
from coordinator.rpc.opaque import opaque
from coordinator.rpc.outgoing import MAX_MESSAGE_BYTES, Sender
from coordinator.rpc.status import refusal_of

if TYPE_CHECKING:
    from coordinator.convert import Bounds
    from coordinator.engine.namespace import Namespace
    from coordinator.engine.shard import Shard

MAX_BATCH_TASKS = 1000
MAX_RESULTS = 256  # per message
MAX_QUEUED_RESULTS = 100_000  # of a client that doesn't read
MAX_QUEUED_RESULT_BYTES = 64 * 1024 * 1024  # likewise
ATTACH_PAGE = 16  # ended tasks, looked up together: some ten megabytes when their results are as large as may be
MAX_ATTACHED_BYTES = MAX_QUEUED_RESULT_BYTES // 4  # then the next page waits
MAX_UNANSWERED = 64  # batches whose answers have not gone out: then no more is read

_Response = opaque(task_pb2.SessionResponse, "TaskResult.outcome")


class ClientSession:
    """One session of one client.

    Args:
        shard: the shard that its namespace lives in.
        namespace: its namespace.
        session: the session's id.
        bounds: sizes that its tasks must keep to.
        owner_address: where its client had better connect the next time, if it came by way of another coordinator.
    """

    def __init__(self, *, shard: Shard, namespace: Namespace, session: str, bounds: Bounds, owner_address: str = "") -> None:
        self.sender = Sender(outgoing=self)
        self._shard = shard
        self._namespace = namespace
        self.namespace_name = namespace.name
        self._session = session
        self._bounds = bounds
        self._waits_for: set[str] = set()  # tasks whose results are due here
        self._lookups: set[asyncio.Task[None]] = set()
        self._unanswered = 0
        self._room = asyncio.Event()
        self._drained = asyncio.Event()
        self._no_more_comes = False
        self._all_is_said = asyncio.Event()
        self._acks: deque[task_pb2.SubmitAck] = deque()
        self._results: deque[Task | bytes] = deque()  # bytes: a serialized TaskResult
        self._result_bytes = 0
        self._welcome: task_pb2.SessionWelcome | None = task_pb2.SessionWelcome(
            session_id=session,
            max_payload_bytes=bounds.max_payload_bytes,
            max_batch_tasks=MAX_BATCH_TASKS,
            owner_address=owner_address,
        )

    # --- in -------------------------------------------------------------------------------------------------------------------

    async def read(self, messages: AsyncIterator[task_pb2.SessionRequest]) -> None:
        """Handles the client's messages until it closes the stream. Raises MusterError for one that breaks the protocol."""
        self._shard.client_streams.add(self)
        self.sender.wake()
        try:
            async for message in messages:
                if message.HasField("submit"):
                    self._submit(message.submit)
                if message.attach_task_ids:
                    self._attach(list(message.attach_task_ids))
                while self._unanswered >= MAX_UNANSWERED or len(self._lookups) >= MAX_UNANSWERED:
                    self._room.clear()
                    await self._room.wait()
            # A client that has said all it has to say still wants its answers.
            self._no_more_comes = True
            self.sender.wake()
            await self._all_is_said.wait()
        finally:
            for lookup in self._lookups:
                lookup.cancel()
            self._shard.client_streams.discard(self)
            for task_id in self._waits_for:
                self._namespace.leave(task_id, self)

    def _submit(self, batch: task_pb2.SubmitBatch) -> None:
        if len(batch.tasks) > MAX_BATCH_TASKS:
            raise InvalidRequest(
                f"submit.tasks has {len(batch.tasks)} entries: at most {MAX_BATCH_TASKS}; send several batches", field="submit.tasks"
            )
        self._unanswered += 1
        sink = None if batch.no_results else self
        try:
            self._shard.require_store()
        except Unavailable as error:
            self._acknowledge(batch.batch_id, [(index, error) for index in range(len(batch.tasks))])
            return
        specs = checked(batch.tasks, self._namespace, self._bounds)
        if batch.first_send:
            exceptions = take_in_new(self._shard, self._namespace, specs, sink)
            self._expect(specs, exceptions, sink)
            self._shard.when_durable(lambda: self._acknowledge(batch.batch_id, exceptions))
        else:
            self._later(self._submit_after_lookup(batch.batch_id, specs, sink))

    async def _submit_after_lookup(self, batch_id: int, specs: list[Spec | MusterError], sink: ClientSession | None) -> None:
        try:
            exceptions = await take_in(self._shard, self._namespace, specs, sink)
        except Unavailable as error:
            self._acknowledge(batch_id, [(index, error) for index in range(len(specs))])
            return
        self._expect(specs, exceptions, sink)
        self._shard.when_durable(lambda: self._acknowledge(batch_id, exceptions))

    def _expect(self, specs: list[Spec | MusterError], exceptions: Exceptions, sink: ClientSession | None) -> None:
        """Notes whose results are due: those of all tasks that were not refused."""
        if sink is None:
            return
        refused = {index for index, verdict in exceptions if not isinstance(verdict, Duplicate)}
        self._waits_for.update([spec.task_id for index, spec in enumerate(specs) if isinstance(spec, Spec) and index not in refused])

    def _attach(self, task_ids: list[str]) -> None:
        state = self._namespace.scheduler.state
        self._waits_for.update(task_ids)
        unknown = []
        for task_id in task_ids:
            if state.find(task_id) is None:
                unknown.append(task_id)
            else:
                self._wait_for(task_id)
        if unknown:
            self._later(self._attach_after_lookup(unknown))

    async def _attach_after_lookup(self, task_ids: list[str]) -> None:
        """In pages, each when the client has read what came before: all results at once may be larger than a session's bound."""
        for start in range(0, len(task_ids), ATTACH_PAGE):
            while self._result_bytes > MAX_ATTACHED_BYTES:
                self._drained.clear()
                await self._drained.wait()
            try:
                await self._attach_page(task_ids[start : start + ATTACH_PAGE])
                await self._shard.durable()
            except Unavailable as error:
                self.sender.end(error)  # the client attaches again with its next session
                return

    async def _attach_page(self, task_ids: list[str]) -> None:
        with self._shard.records.open():
            records = await self._shard.records.get(self._namespace.name, task_ids)
            for task_id, record in zip(task_ids, records, strict=True):
                if self._namespace.scheduler.state.find(task_id) is not None:
                    self._wait_for(task_id)
                elif record is not None:
                    self.recorded(task_id, record)
                else:
                    self._missing(task_id)

    def _wait_for(self, task_id: str) -> None:
        task = self._namespace.scheduler.state.find(task_id)
        if task is None:
            return
        if task.ended_ms:
            self._shard.when_durable(lambda: self.result(task))
        else:
            self._namespace.wait_for(task_id, self)

    def _missing(self, task_id: str) -> None:
        error = NotFound(f"task {task_id} is not known, or its record has expired", reason="TASK_NOT_FOUND")
        result = task_pb2.TaskResult(task_id=task_id, refusal=refusal_of(error))
        self._shard.ownership.doubt()  # it may be known to another coordinator that has taken the shard
        self._shard.when_durable(lambda: self._answer(result))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        lookup = asyncio.create_task(work, name="session.lookup")
        self._lookups.add(lookup)
        lookup.add_done_callback(self._looked_up)

    def _looked_up(self, lookup: asyncio.Task[None]) -> None:
        self._lookups.discard(lookup)
        self._room.set()
        self.sender.wake()

    # --- out ------------------------------------------------------------------------------------------------------------------

    def result(self, task: Task) -> None:
        self._waits_for.discard(task.spec.task_id)
        self._queue(task, len(task.outcome) + len(task.spec.request))

    def recorded(self, task_id: str, record: bytes) -> None:
        known = event_pb2.TaskRecord.FromString(record)
        if known.outcome_dropped:
            error = NotFound(f"task {task_id} ended, and its result is no longer held", reason="RESULT_EXPIRED")
            result = task_pb2.TaskResult(task_id=task_id, refusal=refusal_of(error))
        else:
            result = task_pb2.TaskResult(task_id=task_id, state=known.state, attempts=known.attempt, agent_name=known.agent_name)
            result.outcome.MergeFromString(known.outcome)
        self._shard.when_durable(lambda: self._answer(result))

    def _answer(self, result: task_pb2.TaskResult) -> None:
        self._waits_for.discard(result.task_id)
        blob = result.SerializeToString()
        self._queue(blob, len(blob))

    def close(self, error: Unavailable) -> None:
        self.sender.end(error)

    def gone(self, message: str) -> None:
        self.sender.end(NotFound(message, reason="NAMESPACE_NOT_FOUND"))

    def _queue(self, result: Task | bytes, size: int) -> None:
        if self.sender.ending.done():
            return
        self._results.append(result)
        self._result_bytes += size
        if len(self._results) > MAX_QUEUED_RESULTS or self._result_bytes > MAX_QUEUED_RESULT_BYTES:
            queued = len(self._results)
            self._results.clear()
            self.sender.end(
                LimitReached(
                    "this session doesn't read its results: open a new one, and attach to the tasks whose results are missing",
                    limit="queued_results",
                    used=queued,
                    allowed=MAX_QUEUED_RESULTS,
                    retry_after_s=1.0,
                )
            )
        self.sender.wake()

    def _acknowledge(self, batch_id: int, exceptions: Exceptions) -> None:
        ack = task_pb2.SubmitAck(batch_id=batch_id)
        for index, verdict in exceptions:
            if isinstance(verdict, Duplicate):
                ack.exceptions.add(index=index, verdict=task_pb2.SUBMIT_VERDICT_DUPLICATE)
            else:
                ack.exceptions.add(index=index, verdict=task_pb2.SUBMIT_VERDICT_REFUSED, refusal=refusal_of(verdict))
        self._acks.append(ack)
        self.sender.wake()

    def next_message(self) -> bytes | None:
        """Everything that has gathered, with as many results as fit, serialized."""
        if not self._acks and not self._results and self._welcome is None:
            if self._no_more_comes and not (self._waits_for or self._unanswered or self._lookups):
                self._all_is_said.set()
            return None
        message = task_pb2.SessionResponse(welcome=self._welcome)
        self._welcome = None
        room = MAX_MESSAGE_BYTES
        while self._acks:
            size = self._acks[0].ByteSize()
            if size > room and message.submit_acks:
                return message.SerializeToString()
            room -= size
            message.submit_acks.append(self._acks.popleft())
            self._unanswered -= 1
            self._room.set()
        said = message.SerializeToString()
        return said + self._next_results(room) if self._results and room > 0 else said  # one message after the other is their union

    def _next_results(self, room: int) -> bytes:
        message = _Response()
        add = message.results.add
        count = 0
        while self._results and room > 0 and count < MAX_RESULTS:
            result = self._results[0]
            outcome = convert.outcome_bytes(result) if isinstance(result, Task) else result
            room -= len(outcome)
            if room < 0 and count:
                break
            self._results.popleft()
            count += 1
            told = add()
            if isinstance(result, Task):
                told.task_id = result.spec.task_id  # field by field: by keyword it takes a third longer
                told.state = convert.STATE_OUT[result.state]
                told.attempts = result.attempt
                told.agent_name = result.agent
                told.outcome = outcome
                self._result_bytes -= len(result.outcome) + len(result.spec.request)
            else:
                told.MergeFromString(result)
                self._result_bytes -= len(result)
        self._drained.set()
        serialized: bytes = message.SerializeToString()
        return serialized


def checked(messages: Iterable[common_pb2.TaskSpec], namespace: Namespace, bounds: Bounds) -> list[Spec | MusterError]:
    """Submitted tasks as specs, or what is wrong with each."""
    specs: list[Spec | MusterError] = []
    usual, of_types = namespace.scheduler.settings.retry, namespace.scheduler.type_retries
    for message in messages:
        defaults = of_types.get(message.task_type, usual) if of_types else usual
        try:
            specs.append(convert.spec_in(message, defaults, bounds))
        except InvalidRequest as error:
            specs.append(error)
    return specs
