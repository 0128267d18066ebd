"""What operators did to tasks, as the journal has it: another priority, another run."""

from collections.abc import Iterator, Sequence
from typing import cast

from muster.v1 import common_pb2, event_pb2

from coordinator import convert
from coordinator.core.events import EndedRun, Redriven, Reprioritised
from coordinator.core.model import Usage


def encode_reprioritised(message: event_pb2.Commit, namespace: str, events: Sequence[Reprioritised]) -> None:
    """Neighbours with one priority and one reason become one record."""
    record = event_pb2.TasksReprioritised()
    for event in events:
        if not record.numbers or (record.priority, record.reason) != (event.priority, event.reason):
            record = message.records.add(namespace=namespace).tasks_reprioritised
            record.priority, record.reason = cast("common_pb2.Priority.ValueType", event.priority), event.reason
        record.numbers.append(event.number)


def encode_redriven(message: event_pb2.Commit, namespace: str, events: Sequence[Redriven]) -> None:
    """Each with everything that is kept of the runs before."""
    for event in events:
        ended = event.ended
        record = message.records.add(namespace=namespace).task_redriven
        record.number, record.reason = event.number, event.reason
        record.request = ended.spec.request
        record.retry_policy.CopyFrom(convert.defaults_out(ended.spec.retry))
        record.priority = cast("common_pb2.Priority.ValueType", ended.reprioritised)
        record.create_ms, record.ended_run, record.fence, record.agent_name = ended.created_ms, ended.run, ended.fence, ended.agent
        record.result_fence, record.request_id = ended.result_fence, event.request_id
        record.usage.extend(convert.usage_out(ended.usage))
        if ended.failure is not None:
            record.last_failure.CopyFrom(convert.failure_out(ended.failure))
        record.history.extend(map(convert.history_out, ended.history))


def decode_reprioritised(record: event_pb2.Record, _fence_base: int) -> Iterator[Reprioritised]:
    """Other priorities."""
    reprioritised = record.tasks_reprioritised
    return (Reprioritised(number, reprioritised.priority, reprioritised.reason) for number in reprioritised.numbers)


def decode_redriven(record: event_pb2.Record, _fence_base: int) -> Iterator[Redriven]:
    """The next run of an ended task."""
    redriven = record.task_redriven
    policy = convert.defaults_in(redriven.retry_policy)
    spec = convert.spec_stored(common_pb2.TaskSpec.FromString(redriven.request), redriven.request, policy)
    ended = EndedRun(
        spec=spec.at(redriven.priority) if redriven.priority else spec,
        reprioritised=redriven.priority,
        created_ms=redriven.create_ms,
        run=redriven.ended_run,
        fence=redriven.fence,
        result_fence=redriven.result_fence,
        agent=redriven.agent_name,
        usage=tuple(Usage(one.model, one.input_tokens, one.output_tokens, one.requests) for one in redriven.usage),
        failure=convert.failure_in(redriven.last_failure) if redriven.HasField("last_failure") else None,
        history=convert.history_in(redriven.history),
    )
    yield Redriven(redriven.number, ended, redriven.reason, redriven.request_id)
