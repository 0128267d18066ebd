"""What ended tasks are found by in the store: a task's terms, as text. The store keeps a list for each; it doesn't know what they mean.

A term names a field and one value of it. The name of a label has no `=`, so no two labels share a term.
"""

from functools import lru_cache

from coordinator.core.model import Task, TaskState


def type_term(task_type: str) -> str:
    """Tasks of this type."""
    return f"type:{task_type}"


def state_term(state: TaskState) -> str:
    """Tasks that ended so. None is kept for COMPLETED, as most do."""
    return f"state:{state.name}"


def parent_term(task_id: str) -> str:
    """Tasks that this one submitted."""
    return f"parent:{task_id}"


def label_term(name: str, value: str) -> str:
    """Tasks with this label."""
    return f"label:{name}={value}"


def terms_of(task: Task) -> tuple[str, ...]:
    """All terms of an ended task."""
    spec = task.spec
    terms = _common_terms(spec.task_type, task.state)
    if spec.labels or spec.parent:
        terms += tuple(label_term(name, value) for name, value in spec.labels)
        terms += (parent_term(spec.parent),) if spec.parent else ()
    return terms


@lru_cache(maxsize=10_000)
def _common_terms(task_type: str, state: TaskState) -> tuple[str, ...]:
    if state is TaskState.COMPLETED:
        return (type_term(task_type),)
    return (type_term(task_type), state_term(state))
