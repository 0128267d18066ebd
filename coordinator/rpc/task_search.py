"""What a filter asks for, looked up where it is fewest: live tasks in the namespace's index, ended ones in the store's.

A filter says which values a task must have in which fields to match (`Filter.only`). Of those that an index knows, the one that finds least
is chosen; the filter itself is then asked about each that it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from muster.v1 import common_pb2

from coordinator.core.model import ENDED, WAITING, Task, TaskState
from coordinator.filters import LABELS, Filter, TaskFacts
from coordinator.rpc.live_walk import LiveWalk
from coordinator.search_terms import label_term, parent_term, state_term, type_term

if TYPE_CHECKING:
    from muster.v1 import event_pb2

    from coordinator.core.scheduler import Scheduler
    from coordinator.core.task_index import TaskIndex

FEW = 8  # what is found must be fewer than one in so many of the live tasks to be worth sorting
MAX_ALTERNATIVES = 20  # values of one field that are looked up in the store at once

LIVE = frozenset((TaskState.RUNNING, *WAITING))
_RUNNING = frozenset((TaskState.RUNNING,))
_RETRYING = frozenset((TaskState.RETRYING,))


def live_walk(scheduler: Scheduler, wanted: Filter, *, start: int) -> LiveWalk:
    """A walk over the live tasks from `start` on that may match, the fewest that an index knows."""
    return LiveWalk(scheduler.state, start=start, numbers=_live_numbers(scheduler, wanted, start))


def _live_numbers(scheduler: Scheduler, wanted: Filter, start: int) -> Iterable[int] | None:
    states, index = wanted.states(), scheduler.index
    if states.isdisjoint(LIVE) or not all(wanted.only.values()):
        return ()
    found: list[tuple[int, Callable[[], list[int]]]] = []
    live = states & LIVE
    if live == _RUNNING:
        found.append((index.count_of_running(), index.of_running))
    elif live == _RETRYING:
        found.append((len(index.tried), index.of_tried))
    for field, values in wanted.only.items():
        found.extend(_looked_up(index, field, values))
    if found:
        count, numbers = min(found, key=lambda one: one[0])
        if count * FEW <= len(scheduler.state.by_number):
            return numbers()
    types = wanted.only.get("task_type")
    return None if types is None else index.of_types(types, start=start)


def _looked_up(index: TaskIndex, field: str, values: frozenset[str]) -> Iterable[tuple[int, Callable[[], list[int]]]]:
    """How many live tasks have one of these values, and what finds them; nothing where no index knows."""
    if field == "task_id":
        yield len(values), lambda: index.of_ids(values)
    elif field == "agent" and "" not in values:
        yield index.count_of_agents(values), lambda: index.of_agents(values)
    elif field == "parent_task_id" and "" not in values:
        yield index.count_of_parents(values), lambda: index.of_parents(values)
    elif field.startswith(LABELS):
        name = field[len(LABELS) :]
        yield index.count_of_label(name, values), lambda: index.of_label(name, values)


def ended_terms(wanted: Filter) -> list[list[str]]:
    """What to look ended tasks up by: of each group at least one term is a task's that matches. The store chooses a group."""
    groups: list[list[str]] = []
    for field, values in wanted.only.items():
        if len(values) > MAX_ALTERNATIVES:
            continue
        if field == "state":
            ended = [state for state in ENDED if state in values]
            if TaskState.COMPLETED not in ended:  # most have: that narrows nothing
                groups.append([state_term(state) for state in ended])
        elif field == "task_type":
            groups.append([type_term(value) for value in sorted(values)])
        elif field == "parent_task_id" and "" not in values:
            groups.append([parent_term(value) for value in sorted(values)])
        elif field.startswith(LABELS):
            groups.append([label_term(field[len(LABELS) :], value) for value in sorted(values)])
    return groups


def may_have_ended(wanted: Filter) -> bool:
    """Whether an ended task can match."""
    return not wanted.states().isdisjoint(ENDED) and all(wanted.only.values())


def facts_of(task: Task) -> TaskFacts:
    """What a filter may ask of a task in memory."""
    spec = task.spec
    return TaskFacts(task.state, spec.task_type, spec.priority, task.agent, spec.task_id, spec.parent, spec.labels)


def facts_of_record(record: event_pb2.TaskRecord) -> TaskFacts:
    """What a filter may ask of an ended task."""
    spec = common_pb2.TaskSpec.FromString(record.request)
    priority = record.priority or spec.priority or common_pb2.PRIORITY_NORMAL
    labels = tuple(sorted(spec.labels.items())) if spec.labels else ()
    return TaskFacts(TaskState(record.state), spec.task_type, priority, record.agent_name, spec.task_id, spec.parent_task_id, labels)
