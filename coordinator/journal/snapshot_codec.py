"""Live tasks to the pieces of a snapshot and back (muster.v1.SnapshotChunk). Tasks that only wait become columns, as in the journal."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import cast

from muster.v1 import common_pb2, event_pb2

from coordinator import convert, convert_deliveries, convert_limits, convert_policies
from coordinator.core.model import RetryPolicy, Spec, Task, TaskState, Usage
from coordinator.core.policies import PolicyName, StandingPolicy
from coordinator.core.rates import Starts
from coordinator.core.webhooks import Delivery, GivenUp
from coordinator.ports import JournalTooNew, SnapshotNamespace, SnapshotPiece

SNAPSHOT_VERSION = 1
_QUEUED_BYTES = 24  # of a task that only waits, beside its request
_LIVE_BYTES = 128  # of any other, beside what it carries


class SnapshotEncoder:
    """Packs tasks into pieces of about `max_bytes`, or of one task that is larger.

    A task is read when it is added: it may change afterwards.

    Args:
        sequence: the journal entry after which the tasks were so.
        date_ms: when it was decided.
        namespaces: all that there are, with tasks or without.
        max_bytes: of a piece.
    """

    def __init__(self, *, sequence: int, date_ms: int, namespaces: Sequence[SnapshotNamespace], max_bytes: int) -> None:
        self._sequence, self._date_ms, self._max_bytes = sequence, date_ms, max_bytes
        self._done: deque[bytes] = deque()
        self._open(namespaces)

    def _open(self, namespaces: Sequence[SnapshotNamespace]) -> None:
        self._chunk = event_pb2.SnapshotChunk(format_version=SNAPSHOT_VERSION, sequence=self._sequence, date_ms=self._date_ms)
        self._parts = {namespace.name: _Part(self._chunk, namespace) for namespace in namespaces}
        for part, namespace in zip(self._chunk.parts, namespaces, strict=True):
            part.policies.extend(map(convert_policies.standing_out, namespace.policies))
            part.deleted = namespace.deleted
            part.next_delivery = namespace.next_delivery
        self._size = 0

    def add(self, namespace: SnapshotNamespace, task: Task) -> None:
        """Takes a task in as it is now."""
        self._added(self._part(namespace).add(task))

    def add_webhook(self, namespace: SnapshotNamespace, stored: Delivery | GivenUp) -> None:
        """Takes in a webhook's delivery."""
        self._added(self._part(namespace).add_webhook(stored))

    def add_rate_log(self, namespace: SnapshotNamespace, name: PolicyName, key: str, starts: Starts) -> None:
        """Takes in what began under a rate limit."""
        self._added(self._part(namespace).add_rate_log(name, key, starts))

    def _part(self, namespace: SnapshotNamespace) -> "_Part":
        part = self._parts.get(namespace.name)
        if part is None:
            part = self._parts[namespace.name] = _Part(self._chunk, namespace)
        return part

    def _added(self, size: int) -> None:
        self._size += size
        if self._size >= self._max_bytes:
            self._close()

    def _close(self) -> None:
        for part in self._parts.values():
            part.close()
        self._done.append(self._chunk.SerializeToString())
        self._open(())

    def take(self) -> bytes | None:
        """The next full piece, if there is one."""
        return self._done.popleft() if self._done else None

    def finish(self) -> None:
        """All tasks are in: what is left becomes the last piece."""
        if self._parts:
            self._close()


class _Part:
    def __init__(self, chunk: event_pb2.SnapshotChunk, namespace: SnapshotNamespace) -> None:
        self.message = chunk.parts.add(namespace=namespace.name, create_ms=namespace.created_ms, next_number=namespace.next_number)
        self._policies: dict[RetryPolicy, int] = {}
        self._last_policy: RetryPolicy | None = None
        self._last_place = 0
        self._numbers: list[int] = []
        self._requests: list[bytes] = []
        self._create_ms: list[int] = []
        self._places: list[int] = []

    def add(self, task: Task) -> int:
        """Takes a task in. Answers about how many bytes it takes."""
        spec = task.spec
        if task.fence or task.run != 1 or task.created_ms != task.changed_ms:
            return self.add_as_live(task)
        if not (task.place == task.number and task.ready_at_ms == task.created_ms) and not _is_still_delayed(task):
            return self.add_as_live(task)
        if task.reprioritised:
            return self.add_as_live(task)
        # 0.5 us a task up to here, and as much again when it is serialized
        place = self._last_place if spec.retry is self._last_policy else self._policy(spec.retry)
        self._numbers.append(task.number)
        self._requests.append(spec.request)
        self._create_ms.append(task.created_ms)
        self._places.append(place)
        return len(spec.request) + _QUEUED_BYTES

    def _policy(self, policy: RetryPolicy) -> int:
        self._last_policy = policy  # nearly all tasks share one object: hashing it would cost a microsecond
        self._last_place = self._policies.setdefault(policy, len(self._policies))
        return self._last_place

    def add_as_live(self, task: Task) -> int:
        """Takes a task in with all its fields."""
        live = self.message.tasks.add(
            number=task.number,
            request=task.spec.request,
            policy=self._policy(task.spec.retry),
            state=convert.STATE_OUT[task.state],
            place=task.place,
            run=task.run,
            attempt=task.attempt,
            fence=task.fence,
            agent_name=task.agent,
            acknowledged=task.acknowledged,
            retry_count=task.retries,
            crash_count=task.crashes,
            undelivered_count=task.undelivered,
            create_ms=task.created_ms,
            change_ms=task.changed_ms,
            start_ms=task.started_ms,
            ready_at_ms=task.ready_at_ms,
            checkpoint=task.checkpoint,
            chunk_end=task.chunk_end,
            result_fence=task.result_fence,
            first_ready_ms=task.first_ready_ms if task.first_ready_ms != task.created_ms else 0,
        )
        size = _LIVE_BYTES + len(task.spec.request) + len(task.checkpoint)
        if task.cancel_reason is not None:
            live.cancel_reason = task.cancel_reason
            size += len(task.cancel_reason)
        if task.failure is not None:
            live.last_failure.CopyFrom(convert.failure_out(task.failure))
            size += live.last_failure.ByteSize()
        if task.chunks is not None:
            live.chunks = bytes(task.chunks)
            size += len(task.chunks)
        if task.usage:
            live.usage.extend(convert.usage_out(task.usage))
            size += 32 * len(task.usage)
        if task.reprioritised:
            live.priority = cast("common_pb2.Priority.ValueType", task.reprioritised)
        if task.run_created_ms != task.created_ms:
            live.run_create_ms = task.run_created_ms
        if task.history:
            live.history.extend(map(convert.history_out, task.history))
            size += sum(entry.ByteSize() for entry in live.history)
        return size

    def add_webhook(self, stored: Delivery | GivenUp) -> int:
        """Takes a delivery in. Answers about how many bytes it takes."""
        webhook = convert_deliveries.delivery_out(stored)
        self.message.webhooks.append(webhook)
        return webhook.ByteSize()

    def add_rate_log(self, name: PolicyName, key: str, starts: Starts) -> int:
        """Takes in what began under a rate limit. Answers about how many bytes it takes."""
        log = convert_limits.rate_log_out(name, key, starts)
        self.message.rate_logs.append(log)
        return log.ByteSize()

    def close(self) -> None:
        message = self.message
        message.retry_policies.extend([convert.defaults_out(policy) for policy in self._policies])
        if self._numbers:
            queued = message.queued
            queued.numbers.extend(self._numbers)
            queued.requests.extend(self._requests)
            queued.create_ms.extend(self._create_ms)
            queued.policies.extend(self._places)


def canonical(stored: Task | StandingPolicy | Delivery | GivenUp) -> bytes:
    """All of it that must survive, as bytes. 10 us a task, the hash included."""
    message = event_pb2.SnapshotPart()
    if isinstance(stored, Task):
        part = _Part(event_pb2.SnapshotChunk(), _NOWHERE)
        part.add_as_live(stored)
        part.close()
        message = part.message
    elif isinstance(stored, StandingPolicy):
        message.policies.append(convert_policies.standing_out(stored))
    else:
        message.webhooks.append(convert_deliveries.delivery_out(stored))
    return message.SerializeToString(deterministic=True)


_NOWHERE = SnapshotNamespace(name="", created_ms=0, next_number=0)


def _is_still_delayed(task: Task) -> bool:
    """Whether a delayed task is as it was when it was accepted: then its request says the rest."""
    return not task.place and task.ready_at_ms == task.spec.timing.ready_ms(task.created_ms)


def check_snapshot_format(chunk: event_pb2.SnapshotChunk) -> None:
    """Raises JournalTooNew when a newer release wrote it."""
    if chunk.format_version > SNAPSHOT_VERSION:
        raise JournalTooNew(
            f"the snapshot has format {chunk.format_version}, and this release reads up to {SNAPSHOT_VERSION}: "
            "start the newer release again"
        )


def decode_snapshot(blob: bytes) -> SnapshotPiece:
    """A piece of a snapshot.

    Raises:
        JournalTooNew: its format is of a newer release.
    """
    chunk = event_pb2.SnapshotChunk.FromString(blob)
    check_snapshot_format(chunk)
    parts = [
        (
            SnapshotNamespace(
                name=part.namespace,
                created_ms=part.create_ms,
                next_number=part.next_number,
                policies=tuple(map(convert_policies.standing_stored, part.policies)),
                deleted=part.deleted,
                rate_logs=tuple(map(convert_limits.rate_log_stored, part.rate_logs)),
                next_delivery=part.next_delivery,
                webhooks=tuple(map(convert_deliveries.delivery_stored, part.webhooks)),
            ),
            list(_tasks(part)),
        )
        for part in chunk.parts
    ]
    return SnapshotPiece(sequence=chunk.sequence, date_ms=chunk.date_ms, parts=parts)


def _tasks(part: event_pb2.SnapshotPart) -> Iterator[Task]:
    policies = [convert.defaults_in(policy) for policy in part.retry_policies]
    queued = part.queued
    for number, request, created_ms, policy in zip(queued.numbers, queued.requests, queued.create_ms, queued.policies, strict=True):
        yield Task(number, _spec(request, policies[policy]), created_ms)
    for live in part.tasks:
        yield _live_task(live, policies)


def _spec(request: bytes, policy: RetryPolicy) -> Spec:
    return convert.spec_stored(common_pb2.TaskSpec.FromString(request), request, policy)


_STATES = {number: state for state, number in convert.STATE_OUT.items()}


def _live_task(live: event_pb2.LiveTask, policies: Sequence[RetryPolicy]) -> Task:
    task = Task(live.number, _spec(live.request, policies[live.policy]), live.create_ms)
    if live.priority:
        task.spec, task.reprioritised = task.spec.at(live.priority), live.priority
    task.run_created_ms = live.run_create_ms or live.create_ms
    task.state = TaskState(_STATES[live.state])
    task.place = live.place
    task.first_ready_ms = live.first_ready_ms or (live.create_ms if live.place else 0)
    task.run = live.run
    task.attempt = live.attempt
    task.fence = live.fence
    task.agent = live.agent_name
    task.acknowledged = live.acknowledged
    task.retries = live.retry_count
    task.crashes = live.crash_count
    task.undelivered = live.undelivered_count
    task.changed_ms = live.change_ms
    task.started_ms = live.start_ms
    task.ready_at_ms = live.ready_at_ms
    task.failure = convert.failure_in(live.last_failure) if live.HasField("last_failure") else None
    task.cancel_reason = live.cancel_reason if live.HasField("cancel_reason") else None
    task.checkpoint = live.checkpoint
    task.chunks = bytearray(live.chunks) if live.chunks else None
    task.chunk_end = live.chunk_end
    task.usage = tuple(Usage(one.model, one.input_tokens, one.output_tokens, one.requests) for one in live.usage)
    task.result_fence = live.result_fence
    task.history = convert.history_in(live.history)
    return task
