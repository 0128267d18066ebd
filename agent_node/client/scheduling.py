"""What a task asks of the scheduler beyond its type and its priority, as a caller writes it and as it travels."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from muster.v1 import common_pb2

_SELECTOR = re.compile(r"(?P<absent>!)?(?P<label>[^=!,\s]+)(?:(?P<operator>!?=)(?P<values>.*))?")


@dataclass(frozen=True, kw_only=True)
class Scheduling:
    """In which order a task is taken, and by whom.

    Args:
        fairness_key: tasks of one key share with those of other keys, by weight, within an effective priority; 1 to 128 characters, such
            as a tenant's name. By default the task shares with all that have none.
        cost: what the task costs its key; above 0, and 1 by default. Expected seconds, where the namespace shares by seconds.
        slots: how many of an agent's `capacity` it takes; 1 by default.
        selectors: conditions on the agent's labels, at most 8, which must all hold: "gpu=a100,h100" (one of these), "zone!=eu" (none of
            these), "gpu" (has it, whatever its value), "!gpu" (doesn't have it).
        min_version: the least version of the agent's handler; 0, the default, is any.
        sticky_key: tasks of one key go to the agent that served the key last, unless it is full or much busier than the others.
        concurrency_key: of tasks of one key at most so many run at a time as the namespace's limit for it says; none by default.
        rate_key: of tasks of one key at most so many attempts begin in any period as the namespace's limit for it says; none by default.
    """

    fairness_key: str = ""
    cost: float | None = None
    slots: int = 1
    selectors: Sequence[str] = ()
    min_version: int = 0
    sticky_key: str = ""
    concurrency_key: str = ""
    rate_key: str = ""

    def message(self) -> common_pb2.Scheduling:
        """The same as it travels.

        Raises:
            ValueError: a selector isn't one, or a number is out of its range.
        """
        if self.cost is not None and not self.cost > 0:
            raise ValueError(f"cost must be above 0, not {self.cost:g}")
        if self.slots < 1 or self.min_version < 0:
            raise ValueError(f"slots must be at least 1 and min_version at least 0, not {self.slots} and {self.min_version}")
        return common_pb2.Scheduling(
            fairness_key=self.fairness_key,
            cost=self.cost or 0.0,
            slots=0 if self.slots == 1 else self.slots,
            selectors=[parse_selector(text) for text in self.selectors],
            min_version=self.min_version,
            sticky_key=self.sticky_key,
            concurrency_key=self.concurrency_key,
            rate_key=self.rate_key,
        )


def parse_selector(text: str) -> common_pb2.LabelSelector:
    """A condition on an agent's labels: "name=value,value", "name!=value,value", "name" or "!name". Raises ValueError for anything else."""
    parts = _SELECTOR.fullmatch(text.strip())
    if parts is None or (parts["absent"] and parts["operator"]):
        raise ValueError(f'{text!r} is no label selector: write "name=value,value", "name!=value", "name" or "!name"')
    selector = common_pb2.LabelSelector(label=parts["label"])
    match parts["operator"]:
        case "=":
            selector.operator = common_pb2.LABEL_OPERATOR_IN
        case "!=":
            selector.operator = common_pb2.LABEL_OPERATOR_NOT_IN
        case _:
            selector.operator = common_pb2.LABEL_OPERATOR_NOT_EXISTS if parts["absent"] else common_pb2.LABEL_OPERATOR_EXISTS
            return selector
    selector.values.extend(value.strip() for value in parts["values"].split(","))
    return selector
