"""Operations on many tasks, as both clients make them: which tasks they are for, and what they have come to over all their calls."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from muster.v1 import common_pb2
from muster.v1.bulk_pb2 import OperationProgress, TaskSelection

from agent_node.client.tasks import Priority

MAX_IDS = 1000  # in one call: the protocol's limit
MAX_SHOWN = 10  # tasks of a sample, and ids of what is left as it is where a filter chose

OnProgress = Callable[[OperationProgress], None]
"""Is told, after each call of an operation, what all of them have come to. It is the same message each time: copy what is to be kept."""


class OperationRequest(Protocol):
    """Asks for a part of an operation."""

    @property
    def selection(self) -> TaskSelection:
        """Which tasks, and where to go on."""
        ...


class OperationResponse(Protocol):
    """What became of a part of an operation."""

    @property
    def progress(self) -> OperationProgress:
        """Its counts, and whether there is more to do."""
        ...


def selections(task_ids: Iterable[str], *, filter: str, all: bool, dry_run: bool) -> Iterator[TaskSelection]:  # noqa: A002
    """The selections of an operation's calls: several where there are more ids than one may have.

    What selects nothing, or in two ways, is left to the coordinator to refuse.
    """
    ids = list(task_ids)
    for start in range(0, max(len(ids), 1), MAX_IDS):
        yield TaskSelection(task_ids=ids[start : start + MAX_IDS], filter=filter, all=all, dry_run=dry_run)


def number_of(priority: Priority | None) -> common_pb2.Priority.ValueType:
    """A priority as the protos have it; None is UNSPECIFIED."""
    return common_pb2.PRIORITY_UNSPECIFIED if priority is None else common_pb2.Priority.Value(f"PRIORITY_{priority.name}")


def add(total: OperationProgress, part: OperationProgress, *, by_ids: bool) -> None:
    """Adds what a call has come to.

    Args:
        total: of the calls before; it is changed.
        part: of this call.
        by_ids: the tasks were named, so that whoever named them is told of each that is left as it is.
    """
    total.matched += part.matched
    total.changed += part.changed
    total.sample.extend(part.sample[: MAX_SHOWN - len(total.sample)])
    known = {one.reason: one for one in total.skipped}
    for more in part.skipped:
        sum_so_far = known.get(more.reason)
        if sum_so_far is None:
            total.skipped.append(more)
            continue
        sum_so_far.count += more.count
        room = len(more.task_ids) if by_ids else max(MAX_SHOWN - len(sum_so_far.task_ids), 0)
        sum_so_far.task_ids.extend(more.task_ids[:room])
