"""What is wrong with what a task asks for, field by field."""

import pytest
from muster.v1 import agent_pb2, common_pb2

from coordinator.convert import Bounds, result_in, spec_in
from coordinator.convert_scheduling import MAX_COST, MAX_SELECTORS, capabilities_in
from coordinator.core.model import RetryPolicy
from coordinator.errors import InvalidRequest

SELECTOR = common_pb2.LabelSelector(label="zone", operator=common_pb2.LABEL_OPERATOR_EXISTS)


def spec(**scheduling):
    message = common_pb2.TaskSpec(task_id="task", task_type="work", scheduling=common_pb2.Scheduling(**scheduling))
    return spec_in(message, RetryPolicy(), Bounds())


@pytest.mark.parametrize(
    "field, wrong",
    [
        ("scheduling.fairness_key", {"fairness_key": "x" * 129}),
        ("scheduling.fairness_key", {"fairness_key": "a\nb"}),
        ("scheduling.sticky_key", {"sticky_key": "x" * 129}),
        ("scheduling.concurrency_key", {"concurrency_key": "x" * 129}),
        ("scheduling.rate_key", {"rate_key": "a\nb"}),
        ("scheduling.cost", {"cost": -1}),
        ("scheduling.cost", {"cost": float("nan")}),
        ("scheduling.cost", {"cost": float("inf")}),
        ("scheduling.slots", {"slots": 10_001}),
        ("scheduling.selectors", {"selectors": [SELECTOR] * (MAX_SELECTORS + 1)}),
        ("scheduling.selectors.label", {"selectors": [common_pb2.LabelSelector(operator=common_pb2.LABEL_OPERATOR_EXISTS)]}),
        ("scheduling.selectors.operator", {"selectors": [common_pb2.LabelSelector(label="zone")]}),
        ("scheduling.selectors.operator", {"selectors": [common_pb2.LabelSelector(label="zone", operator=77)]}),  # type: ignore[arg-type]
        ("scheduling.selectors.values", {"selectors": [common_pb2.LabelSelector(label="zone", operator=common_pb2.LABEL_OPERATOR_IN)]}),
        (
            "scheduling.selectors.values",
            {"selectors": [common_pb2.LabelSelector(label="zone", operator=common_pb2.LABEL_OPERATOR_EXISTS, values=["a"])]},
        ),
        (
            "scheduling.selectors.values",
            {"selectors": [common_pb2.LabelSelector(label="zone", operator=common_pb2.LABEL_OPERATOR_IN, values=["a"] * 33)]},
        ),
    ],
)
def test_the_field_at_fault_is_named(field, wrong):
    with pytest.raises(InvalidRequest) as caught:
        spec(**wrong)
    assert caught.value.field == field


def test_equal_needs_are_one_object():
    assert spec(slots=2, selectors=[SELECTOR]).needs is spec(slots=2, selectors=[SELECTOR, SELECTOR]).needs


@pytest.mark.parametrize("said, taken", [(2.5, 2.5), (0, 0), (-3, 0), (float("nan"), 0), (float("inf"), MAX_COST)])
def test_a_cost_that_an_agent_reports_is_read_as_well_as_can_be(said, taken):
    outcome = common_pb2.Outcome(success=common_pb2.Success(payload=b"x"), cost=said)
    assert result_in(outcome, Bounds()).cost == taken


def test_capabilities():
    said = [agent_pb2.Capability(task_type="work", max_concurrent=2, version=3), agent_pb2.Capability(task_type="other")]
    assert capabilities_in(said) == {"work": (3, 2), "other": (0, 0)}
