"""Events to bytes and back (muster.v1.Commit). Runs of events of one kind become columns; requests travel as they came."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from muster.v1 import common_pb2, event_pb2

from coordinator import convert, convert_policies
from coordinator.core.events import (
    Acknowledged,
    AnyEvent,
    Assigned,
    AttemptFailed,
    BecameReady,
    CancelRecorded,
    CheckpointStored,
    ChunkStored,
    Commit,
    Completed,
    Cost,
    Disposition,
    NamespaceCreated,
    NamespaceDeleted,
    PolicyDeleted,
    PolicySet,
    Redriven,
    Reprioritised,
    Returned,
    Submitted,
    WebhookDelivered,
    WebhookGivenUp,
    WebhookRetried,
)
from coordinator.core.model import FENCES_PER_EPOCH_BITS, RetryPolicy, Task
from coordinator.journal import operations_codec
from coordinator.journal.snapshot_codec import SnapshotEncoder, canonical, decode_snapshot
from coordinator.ports import JournalTooNew, SnapshotNamespace

__all__ = ["FORMAT_VERSION", "canonical", "decode", "decode_snapshot", "encode", "record_out", "slim_record", "snapshot_encoder"]

FORMAT_VERSION = 1


def encode(commit: Commit, defaults: RetryPolicy) -> bytes:
    """A commit as the journal holds it.

    Args:
        commit: what was decided.
        defaults: the retry policy in force where a request gives none.
    """
    message = event_pb2.Commit(format_version=FORMAT_VERSION, sequence=commit.sequence, epoch=commit.epoch, date_ms=commit.date_ms)
    for namespace, events in _runs(commit.events):
        kind = type(events[0])
        if kind is Submitted:
            _encode_submitted(message, namespace, cast("list[Submitted]", events), defaults)
        else:
            _ENCODERS[kind](message, namespace, events)
    return message.SerializeToString()


def _runs(events: Sequence[tuple[str, AnyEvent]]) -> Iterator[tuple[str, list[AnyEvent]]]:
    """Neighbours of one kind in one namespace. By hand: `groupby` takes three times as long, a microsecond per task."""
    run: list[AnyEvent] = []
    last_name = ""
    last_kind: type = object
    for name, event in events:
        if type(event) is not last_kind or name != last_name:
            if run:
                yield last_name, run
            run, last_name, last_kind = [], name, type(event)
        run.append(event)
    if run:
        yield last_name, run


def _encode_created(message: event_pb2.Commit, namespace: str, events: Sequence[NamespaceCreated]) -> None:
    for _ in events:
        message.records.add(namespace=namespace).namespace_created.SetInParent()


def _encode_deleted(message: event_pb2.Commit, namespace: str, events: Sequence[NamespaceDeleted]) -> None:
    for event in events:
        deleted = message.records.add(namespace=namespace).namespace_deleted
        deleted.purged = event.purged
        deleted.SetInParent()


def _encode_policy_set(message: event_pb2.Commit, namespace: str, events: Sequence[PolicySet]) -> None:
    for event in events:
        message.records.add(namespace=namespace).policy_set.policy.CopyFrom(convert_policies.policy_out(event.policy))


def _encode_policy_deleted(message: event_pb2.Commit, namespace: str, events: Sequence[PolicyDeleted]) -> None:
    for event in events:
        message.records.add(namespace=namespace).policy_deleted.name.CopyFrom(convert_policies.name_out(event.name))


def _encode_submitted(message: event_pb2.Commit, namespace: str, events: Sequence[Submitted], defaults: RetryPolicy) -> None:
    record = message.records.add(namespace=namespace).tasks_submitted
    record.first_number = events[0].number
    record.requests.extend([event.spec.request for event in events])
    record.defaults.CopyFrom(convert.defaults_out(defaults))
    if any(event.spec.retry.is_of_type for event in events):  # 30 ns a task
        _encode_type_policies(record, events)


def _encode_type_policies(record: event_pb2.TasksSubmitted, events: Sequence[Submitted]) -> None:
    policies: dict[RetryPolicy, int] = {}
    record.type_policy_numbers.extend(
        [policies.setdefault(event.spec.retry, len(policies) + 1) if event.spec.retry.is_of_type else 0 for event in events]
    )
    record.type_policies.extend(map(convert.defaults_out, policies))


def _encode_assigned(message: event_pb2.Commit, namespace: str, events: Sequence[Assigned]) -> None:
    record = message.records.add(namespace=namespace).attempts_assigned
    names: dict[str, int] = {}
    record.agent_indexes.extend([names.setdefault(event.agent, len(names)) for event in events])
    record.agent_names.extend(names)
    record.numbers.extend([event.number for event in events])
    record.attempts.extend([event.attempt for event in events])
    base = message.epoch << FENCES_PER_EPOCH_BITS
    record.fence_offsets.extend([event.fence - base for event in events])


def _encode_ready(message: event_pb2.Commit, namespace: str, events: Sequence[BecameReady]) -> None:
    message.records.add(namespace=namespace).tasks_became_ready.numbers.extend([event.number for event in events])


def _encode_acknowledged(message: event_pb2.Commit, namespace: str, events: Sequence[Acknowledged]) -> None:
    message.records.add(namespace=namespace).attempts_acknowledged.numbers.extend([event.number for event in events])


def _encode_completed(message: event_pb2.Commit, namespace: str, events: Sequence[Completed]) -> None:
    message.records.add(namespace=namespace).tasks_completed.numbers.extend([event.number for event in events])


def _encode_failed(message: event_pb2.Commit, namespace: str, events: Sequence[AttemptFailed]) -> None:
    for event in events:
        message.records.add(namespace=namespace).attempt_failed.CopyFrom(
            event_pb2.AttemptFailed(
                number=event.number,
                failure=convert.failure_out(event.failure),
                disposition=cast("event_pb2.Disposition.ValueType", event.disposition.value),
                ready_at_ms=event.ready_at_ms,
                cost=cast("common_pb2.AttemptCost.ValueType", event.cost.value),
                usage=convert.usage_out(event.usage),
                reported=event.reported,
            )
        )


def _encode_returned(message: event_pb2.Commit, namespace: str, events: Sequence[Returned]) -> None:
    for event in events:
        record = message.records.add(namespace=namespace).attempt_returned
        record.number, record.reason = event.number, event.reason
        record.cost = cast("common_pb2.AttemptCost.ValueType", event.cost.value)


def _encode_cancel(message: event_pb2.Commit, namespace: str, events: Sequence[CancelRecorded]) -> None:
    for event in events:
        record = message.records.add(namespace=namespace).cancel_recorded
        record.number, record.reason, record.ended = event.number, event.reason, event.ended


def _encode_checkpoint(message: event_pb2.Commit, namespace: str, events: Sequence[CheckpointStored]) -> None:
    for event in events:
        record = message.records.add(namespace=namespace).checkpoint_stored
        record.number, record.checkpoint_sequence, record.data = event.number, event.sequence, event.data


def _encode_chunk(message: event_pb2.Commit, namespace: str, events: Sequence[ChunkStored]) -> None:
    for event in events:
        record = message.records.add(namespace=namespace).chunk_stored
        record.number, record.offset, record.data = event.number, event.offset, event.data


def _encode_webhooks_delivered(message: event_pb2.Commit, namespace: str, events: Sequence[WebhookDelivered]) -> None:
    message.records.add(namespace=namespace).webhooks_delivered.deliveries.extend([event.delivery for event in events])


def _encode_webhook_given_up(message: event_pb2.Commit, namespace: str, events: Sequence[WebhookGivenUp]) -> None:
    for event in events:
        record = message.records.add(namespace=namespace).webhook_given_up
        record.delivery, record.reason = event.delivery, event.reason


def _encode_webhook_retried(message: event_pb2.Commit, namespace: str, events: Sequence[WebhookRetried]) -> None:
    for event in events:
        message.records.add(namespace=namespace).webhook_retried.delivery = event.delivery


_ENCODERS: dict[type[AnyEvent], Callable[[event_pb2.Commit, str, Sequence[Any]], None]] = {
    NamespaceCreated: _encode_created,
    NamespaceDeleted: _encode_deleted,
    PolicySet: _encode_policy_set,
    PolicyDeleted: _encode_policy_deleted,
    BecameReady: _encode_ready,
    Assigned: _encode_assigned,
    Acknowledged: _encode_acknowledged,
    Completed: _encode_completed,
    AttemptFailed: _encode_failed,
    Returned: _encode_returned,
    CancelRecorded: _encode_cancel,
    CheckpointStored: _encode_checkpoint,
    ChunkStored: _encode_chunk,
    Reprioritised: operations_codec.encode_reprioritised,
    Redriven: operations_codec.encode_redriven,
    WebhookDelivered: _encode_webhooks_delivered,
    WebhookGivenUp: _encode_webhook_given_up,
    WebhookRetried: _encode_webhook_retried,
}


def decode(blob: bytes) -> Commit:
    """A journal entry as a commit.

    Raises:
        JournalTooNew: the entry's format is of a newer release.
    """
    message = event_pb2.Commit.FromString(blob)
    check_commit_format(message)
    base = message.epoch << FENCES_PER_EPOCH_BITS
    events = [(record.namespace, event) for record in message.records for event in _decode_record(record, base)]
    return Commit(message.sequence, message.epoch, message.date_ms, events)


def check_commit_format(message: event_pb2.Commit) -> None:
    """Raises JournalTooNew when a newer release wrote it."""
    if message.format_version > FORMAT_VERSION:
        raise JournalTooNew(
            f"the journal has format {message.format_version}, and this release reads up to {FORMAT_VERSION}: start the newer release again"
        )


def check_event_known(kind: str | None) -> None:
    """Raises JournalTooNew for an event of a newer release; `kind` is the name of its field."""
    if kind not in _DECODERS:
        raise JournalTooNew(
            f"the journal has an event that this release doesn't know ({kind or 'a newer one'}): start the newer release again"
        )


def _decode_record(record: event_pb2.Record, fence_base: int) -> Iterator[AnyEvent]:
    kind = record.WhichOneof("event") or ""
    check_event_known(kind)
    return _DECODERS[kind](record, fence_base)


def _decode_submitted(record: event_pb2.Record, _fence_base: int) -> Iterator[Submitted]:
    submitted = record.tasks_submitted
    defaults = convert.defaults_in(submitted.defaults)
    policies = [defaults, *map(convert.defaults_in, submitted.type_policies)]
    of_types = submitted.type_policy_numbers or [0] * len(submitted.requests)
    for number, (request, of_type) in enumerate(zip(submitted.requests, of_types, strict=True), submitted.first_number):
        yield Submitted(number, convert.spec_stored(common_pb2.TaskSpec.FromString(request), request, policies[of_type]))


def _decode_assigned(record: event_pb2.Record, fence_base: int) -> Iterator[Assigned]:
    columns = record.attempts_assigned
    for index, number, attempt, offset in zip(columns.agent_indexes, columns.numbers, columns.attempts, columns.fence_offsets, strict=True):
        yield Assigned(number, columns.agent_names[index], attempt, fence_base + offset)


def _decode_failed(record: event_pb2.Record, _fence_base: int) -> Iterator[AttemptFailed]:
    failed = record.attempt_failed
    yield AttemptFailed(
        failed.number,
        convert.failure_in(failed.failure),
        Disposition(failed.disposition),
        Cost(failed.cost),
        failed.ready_at_ms,
        convert.usage_in(failed.usage),
        failed.reported,
    )


def _decode_returned(record: event_pb2.Record, _fence_base: int) -> Iterator[Returned]:
    returned = record.attempt_returned
    yield Returned(returned.number, returned.reason, Cost(returned.cost))


def _decode_cancel(record: event_pb2.Record, _fence_base: int) -> Iterator[CancelRecorded]:
    cancel = record.cancel_recorded
    yield CancelRecorded(cancel.number, cancel.reason, cancel.ended)


def _decode_checkpoint(record: event_pb2.Record, _fence_base: int) -> Iterator[CheckpointStored]:
    stored = record.checkpoint_stored
    yield CheckpointStored(stored.number, stored.checkpoint_sequence, stored.data)


def _decode_chunk(record: event_pb2.Record, _fence_base: int) -> Iterator[ChunkStored]:
    chunk = record.chunk_stored
    yield ChunkStored(chunk.number, chunk.offset, chunk.data)


_DECODERS: dict[str, Callable[[event_pb2.Record, int], Iterator[AnyEvent]]] = {
    "namespace_created": lambda _record, _base: iter((NamespaceCreated(),)),
    "namespace_deleted": lambda record, _base: iter((NamespaceDeleted(record.namespace_deleted.purged),)),
    "policy_set": lambda record, _base: iter((PolicySet(convert_policies.policy_stored(record.policy_set.policy)),)),
    "policy_deleted": lambda record, _base: iter((PolicyDeleted(convert_policies.name_stored(record.policy_deleted.name)),)),
    "webhooks_delivered": lambda record, _base: map(WebhookDelivered, record.webhooks_delivered.deliveries),
    "webhook_given_up": lambda record, _base: iter((WebhookGivenUp(record.webhook_given_up.delivery, record.webhook_given_up.reason),)),
    "webhook_retried": lambda record, _base: iter((WebhookRetried(record.webhook_retried.delivery),)),
    "tasks_submitted": _decode_submitted,
    "attempts_assigned": _decode_assigned,
    "tasks_became_ready": lambda record, _base: map(BecameReady, record.tasks_became_ready.numbers),
    "attempts_acknowledged": lambda record, _base: map(Acknowledged, record.attempts_acknowledged.numbers),
    "tasks_completed": lambda record, _base: (Completed(number, b"", ()) for number in record.tasks_completed.numbers),
    "attempt_failed": _decode_failed,
    "attempt_returned": _decode_returned,
    "cancel_recorded": _decode_cancel,
    "checkpoint_stored": _decode_checkpoint,
    "chunk_stored": _decode_chunk,
    "tasks_reprioritised": operations_codec.decode_reprioritised,
    "task_redriven": operations_codec.decode_redriven,
}


def record_out(task: Task) -> bytes:
    """What stays of an ended task, under a key of its own (muster.v1.TaskRecord)."""
    return convert.record_out(task)


def slim_record(record: bytes) -> bytes:
    """A record without what is large in it: its payload, its outcome, its output. What it was, and that it is over, is still known."""
    known = event_pb2.TaskRecord.FromString(record)
    if not known.outcome_dropped:
        known.request_digest = convert.request_digest(known.request)
        spec = common_pb2.TaskSpec.FromString(known.request)
        spec.ClearField("payload")
        known.request = spec.SerializeToString()
        for field in ("outcome", "chunks", "chunk_offset"):
            known.ClearField(field)
        if known.HasField("last_failure"):
            known.last_failure.ClearField("stack_trace")
        known.outcome_dropped = True
    return known.SerializeToString()


def snapshot_encoder(*, sequence: int, date_ms: int, namespaces: Sequence[SnapshotNamespace], max_bytes: int) -> SnapshotEncoder:
    """What packs the tasks of a snapshot (muster.v1.SnapshotChunk)."""
    return SnapshotEncoder(sequence=sequence, date_ms=date_ms, namespaces=namespaces, max_bytes=max_bytes)
