"""What tasks ask of the scheduler and agents offer to it, from protos to the core: the part of `convert` that most tasks don't need."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from sys import intern

from muster.v1 import agent_pb2, common_pb2

from coordinator.checks import LABEL_NAME, MAX_ID_CHARS, check_name
from coordinator.core.model import Capability, Labels, Needs, Operator, Scheduling, Selector
from coordinator.errors import InvalidRequest

MAX_SELECTORS = 8
MAX_SELECTOR_VALUES = 32
MAX_SLOTS = 10_000
MAX_COST = 1e9
MAX_LABELS = 16
SHOWN_CHARS = 70  # of a name that is none

_OPERATORS = {operator.value: operator for operator in Operator}


def scheduling_in(message: common_pb2.Scheduling, task_type: str) -> tuple[Needs | None, Scheduling]:
    """What a task asks for, checked: of its agent (None where it needs its type alone), and otherwise.

    Raises:
        InvalidRequest: names the field at fault.
    """
    for field in ("fairness_key", "sticky_key", "concurrency_key", "rate_key"):
        if key := getattr(message, field):
            check_name(key, f"scheduling.{field}")
    if message.slots > MAX_SLOTS:
        raise InvalidRequest(
            f"scheduling.slots is {message.slots}: no agent has more than {MAX_SLOTS}, so give 1 to {MAX_SLOTS}", field="scheduling.slots"
        )
    if len(message.selectors) > MAX_SELECTORS:
        raise InvalidRequest(
            f"scheduling.selectors has {len(message.selectors)} entries: at most {MAX_SELECTORS} are allowed", field="scheduling.selectors"
        )
    selectors = sorted({_selector_in(one) for one in message.selectors}, key=lambda one: (one.label, one.operator.value, one.values))
    needs = Needs(task_type, tuple(selectors), message.slots or 1, message.min_version)
    cost = cost_in(message.cost, "scheduling.cost")
    return (
        None if needs == (task_type, (), 1, 0) else _interned(needs),
        Scheduling(message.fairness_key, cost, message.sticky_key, needs.slots, intern(message.concurrency_key), intern(message.rate_key)),
    )


@lru_cache(maxsize=10_000)
def _interned(needs: Needs) -> Needs:
    """The same object for equal needs: a million tasks hold few."""
    return needs


def labels_in(labels: Mapping[str, str]) -> Labels:
    """A task's labels, checked.

    Raises:
        InvalidRequest: on field "labels".
    """
    if len(labels) > MAX_LABELS:
        raise InvalidRequest(f"labels has {len(labels)} entries: at most {MAX_LABELS} are allowed", field="labels")
    for name, value in labels.items():
        if not LABEL_NAME.fullmatch(name):
            raise InvalidRequest(
                f"labels has the name {name[:SHOWN_CHARS]!r}: use 1 to 64 letters, digits and . _ / -, beginning with a letter or a digit",
                field="labels",
            )
        if len(value) > MAX_ID_CHARS or (value and not value.isprintable()):
            raise InvalidRequest(
                f"the label {name} has a value of {len(value)} characters: use at most {MAX_ID_CHARS}, all of them printable",
                field="labels",
            )
    return _interned_labels(tuple(sorted(labels.items())))


@lru_cache(maxsize=10_000)
def _interned_labels(labels: Labels) -> Labels:
    """The same object for equal labels."""
    return labels


def cost_in(cost: float, field: str) -> float:
    """A cost to a fairness key; 0 is not given."""
    if not 0 <= cost <= MAX_COST:  # written so that NaN fails too
        raise InvalidRequest(f"{field} is {cost:g}: give a number above 0 and up to {MAX_COST:g}, or leave it out", field=field)
    return cost


def reported_cost(cost: float) -> float:
    """What an agent says that an attempt cost: what can't be is not given, or the most that can be."""
    return min(cost, MAX_COST) if cost > 0 else 0.0  # NaN isn't above 0


def _selector_in(message: common_pb2.LabelSelector) -> Selector:
    label = check_name(message.label, "scheduling.selectors.label")
    operator = _OPERATORS.get(message.operator)
    if operator is None:
        raise InvalidRequest(
            f"the selector of label {label} has operator {message.operator}: use IN, NOT_IN, EXISTS or NOT_EXISTS",
            field="scheduling.selectors.operator",
        )
    needs_values = operator in (Operator.IN, Operator.NOT_IN)
    if needs_values != bool(message.values) or len(message.values) > MAX_SELECTOR_VALUES:
        wanted = f"1 to {MAX_SELECTOR_VALUES} values" if needs_values else "no values"
        raise InvalidRequest(
            f"the selector of label {label} has {len(message.values)} values: {operator.name} takes {wanted}",
            field="scheduling.selectors.values",
        )
    values = {value and check_name(value, "scheduling.selectors.values") for value in message.values}
    return Selector(label, operator, tuple(sorted(values)))


def capabilities_in(messages: Iterable[agent_pb2.Capability]) -> dict[str, Capability]:
    """What an agent says that it can run.

    Raises:
        InvalidRequest: names the field at fault.
    """
    return {check_name(one.task_type, "hello.capabilities.task_type"): Capability(one.version, one.max_concurrent) for one in messages}


def capabilities_out(capabilities: Mapping[str, Capability]) -> list[agent_pb2.Capability]:
    """What an agent can run, as a message."""
    return [
        agent_pb2.Capability(task_type=task_type, version=one.version, max_concurrent=one.max_concurrent)
        for task_type, one in sorted(capabilities.items())
    ]
