"""Dead letters, and what operations on many tasks left as it is, as tables: messages in, rich's renderables out."""

from collections.abc import Iterable

from muster.v1 import bulk_pb2, common_pb2, task_pb2
from rich.console import Group
from rich.table import Table
from rich.text import Text

from agent_node.cli.tables import new_table, short_name
from agent_node.cli.times import local_time


def skipped_table(skipped: Iterable[bulk_pb2.SkippedTasks]) -> Table:
    """What an operation left as it is, and why."""
    table = new_table("left", "because", "which")
    for one in skipped:
        more = [f"and {one.count - len(one.task_ids)} more"] if one.count > len(one.task_ids) else []
        table.add_row(str(one.count), Text(one.message), Text(", ".join([*one.task_ids, *more])))
    return table


def dead_letters_table(tasks: Iterable[task_pb2.Task]) -> Table:
    """Tasks that failed for good, a row each."""
    table = new_table("task", "type", "failed", "attempts", "why", "last error")
    for task in tasks:
        failure = task.last_failure
        attempts = f"{task.attempt} in run {task.run}" if task.run > 1 else str(task.attempt)
        error = f"{failure.type}: {failure.message}" if failure.type else failure.message
        table.add_row(
            Text(task.task_id),
            Text(task.task_type),
            local_time(task.end_time),
            attempts,
            short_name(common_pb2.FailureKind.Name(failure.kind), "FAILURE_KIND_"),
            Text(error, "red"),
        )
    return table


def stack_trace(failure: common_pb2.Failure) -> Group:
    """Where a failure came from, if it says."""
    return Group(*(Text("\nstack trace", "dim"), Text(failure.stack_trace.rstrip())) if failure.stack_trace else ())
