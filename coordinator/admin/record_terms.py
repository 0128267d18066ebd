"""What an ended task is found by, read from its record: as `search_terms` has it for the task itself."""

from muster.v1 import common_pb2, event_pb2

from coordinator import convert
from coordinator.convert_scheduling import labels_in
from coordinator.core.model import TaskState
from coordinator.search_terms import label_term, parent_term, state_term, type_term

_STATES = {number: state for state, number in convert.STATE_OUT.items()}


def terms_of_record(record: bytes) -> tuple[str, ...]:
    """All terms of a record. Raises DecodeError or KeyError when it isn't one."""
    known = event_pb2.TaskRecord.FromString(record)
    spec = common_pb2.TaskSpec.FromString(known.request)
    state = TaskState(_STATES[known.state])
    terms = [type_term(spec.task_type)]
    if state is not TaskState.COMPLETED:
        terms.append(state_term(state))
    terms += [label_term(name, value) for name, value in labels_in(spec.labels)] if spec.labels else []
    if spec.parent_task_id:
        terms.append(parent_term(spec.parent_task_id))
    return tuple(terms)
