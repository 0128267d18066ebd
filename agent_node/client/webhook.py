"""A task's own webhook, as a caller writes it and as it travels; and the secrets that sign what goes to webhooks."""

from collections.abc import Sequence
from dataclasses import dataclass

from muster.v1 import common_pb2

_STATES = {
    "COMPLETED": common_pb2.TASK_STATE_COMPLETED,
    "FAILED": common_pb2.TASK_STATE_FAILED,
    "CANCELLED": common_pb2.TASK_STATE_CANCELLED,
}


@dataclass(frozen=True)
class Webhook:
    """A URL that is told of a task's end by a POST, at least once.

    Args:
        url: https or http; it must lead to a public address, unless the coordinator allows another.
        states: which ends are told of: "COMPLETED", "FAILED", "CANCELLED"; by default all of them.
    """

    url: str
    states: Sequence[str] = ()

    def message(self) -> common_pb2.Webhook:
        """The same as it travels. Raises ValueError when a state is no end."""
        return common_pb2.Webhook(url=self.url, states=end_states(self.states))


def end_states(names: Sequence[str]) -> list[common_pb2.TaskState.ValueType]:
    """Ends by their names. Raises ValueError when one is none."""
    for name in names:
        if name not in _STATES:
            raise ValueError(f"{name!r} is no end of a task: use {', '.join(_STATES)}")
    return [_STATES[name] for name in names]
