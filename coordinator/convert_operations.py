"""What operators do to tasks, from protos to the core: the part of `convert` that only they need."""

from __future__ import annotations

from collections.abc import Callable

from muster.v1 import bulk_pb2, common_pb2, event_pb2

from coordinator import convert
from coordinator.core.events import EndedRun
from coordinator.core.model import Priority, RetryPolicy, Usage
from coordinator.errors import InvalidRequest

MAX_SELECTED = 1000  # by their ids


def check_selection(selection: bulk_pb2.TaskSelection) -> None:
    """Raises InvalidRequest for a selection of nothing, or of two kinds at once."""
    if len(selection.task_ids) > MAX_SELECTED:
        raise InvalidRequest(
            f"selection.task_ids has {len(selection.task_ids)} entries: at most {MAX_SELECTED}; make several calls",
            field="selection.task_ids",
        )
    given = (bool(selection.task_ids), bool(selection.filter.strip()), selection.all)
    if sum(given) > 1:
        raise InvalidRequest("selection names tasks in more than one way: give task_ids, or a filter, or all", field="selection")
    if not any(given):
        raise InvalidRequest("selection names no tasks: give task_ids or a filter; set all for every task", field="selection")


def priority_in(priority: int, *, required: bool) -> int:
    """A priority that an operator gives; 0 where it may be left out. Raises InvalidRequest."""
    if priority in [one.value for one in Priority] or (not priority and not required):
        return priority
    known = ", ".join(f"{one.value} ({one.name})" for one in Priority)
    raise InvalidRequest(f"priority is {priority}: use {known}", field="priority")


def lacks_payload(record: event_pb2.TaskRecord) -> bool:
    """Whether the payload of a task has been dropped, so that it can't run again."""
    return record.outcome_dropped and convert.request_digest(record.request) != record.request_digest


def was_redriven_by(record: event_pb2.TaskRecord, request_id: str) -> bool:
    """Whether a run of an ended task began by a call with this id."""
    return bool(request_id) and any(entry.request_id == request_id for entry in record.history)


def ended_run(record: event_pb2.TaskRecord, defaults: Callable[[str], RetryPolicy], priority: int) -> EndedRun:
    """What the next run of an ended task begins with.

    Args:
        record: the task's.
        defaults: the retry policy of a task type where its request gives none: a new run counts from nothing, by the rules that hold now.
        priority: that the operator gives it; 0 keeps what it had.
    """
    request = common_pb2.TaskSpec.FromString(record.request)
    spec = convert.spec_stored(request, record.request, defaults(request.task_type))
    reprioritised = priority or record.priority
    return EndedRun(
        spec=spec.at(reprioritised) if reprioritised else spec,
        reprioritised=reprioritised,
        created_ms=record.create_ms,
        run=record.run,
        fence=record.fence,
        result_fence=record.result_fence,
        agent=record.agent_name,
        usage=tuple(Usage(one.model, one.input_tokens, one.output_tokens, one.requests) for one in record.usage),
        failure=convert.failure_in(record.last_failure) if record.HasField("last_failure") else None,
        history=convert.history_in(record.history),
    )
