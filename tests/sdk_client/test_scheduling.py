"""What a caller asks of the scheduler, as it travels."""

import pytest
from muster.v1 import common_pb2

from agent_node import Scheduling
from agent_node.client.scheduling import parse_selector
from agent_node.client.tasks import TaskRequest, build_requested
from coordinator.convert import Bounds, spec_in
from coordinator.core.model import PLAIN, Needs, Operator, RetryPolicy, Selector
from coordinator.core.model import Scheduling as CoreScheduling


@pytest.mark.parametrize(
    "text, operator, values",
    [
        ("gpu=a100", "IN", ["a100"]),
        ("gpu=a100,h100", "IN", ["a100", "h100"]),
        (" zone != eu , us ", "NOT_IN", ["eu", "us"]),
        ("note=", "IN", [""]),
        ("note=a=b", "IN", ["a=b"]),
        ("gpu", "EXISTS", []),
        ("!gpu", "NOT_EXISTS", []),
    ],
)
def test_selectors_as_they_are_written(text, operator, values):
    selector = parse_selector(text.replace(" != ", "!="))
    assert common_pb2.LabelOperator.Name(selector.operator) == f"LABEL_OPERATOR_{operator}"
    assert list(selector.values) == values


@pytest.mark.parametrize("text", ["", "=x", "!a=b", "a b", "!", "!!a", "a,b"])
def test_and_what_is_none(text):
    with pytest.raises(ValueError, match="no label selector"):
        parse_selector(text)


@pytest.mark.parametrize("wrong", [{"cost": 0}, {"cost": -1}, {"cost": float("nan")}, {"slots": 0}, {"min_version": -1}])
def test_numbers_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match="must be"):
        Scheduling(**wrong).message()


def received(scheduling):
    message = build_requested("task", TaskRequest("work", scheduling=scheduling))
    return spec_in(message, RetryPolicy(), Bounds())


def test_the_coordinator_reads_what_the_client_wrote():
    asked = Scheduling(fairness_key="k", cost=2.5, slots=3, selectors=["gpu", "zone=b,a"], min_version=4, sticky_key="s")
    spec = received(asked)
    selectors = (Selector("gpu", Operator.EXISTS), Selector("zone", Operator.IN, ("a", "b")))
    assert spec.needs == Needs("work", selectors, 3, 4)
    assert spec.scheduling == CoreScheduling("k", 2.5, "s", 3)


def test_nothing_asked_is_nothing_sent():
    assert received(None).needs == "work"
    assert received(None).scheduling is PLAIN
    assert received(Scheduling(fairness_key="k")).needs == "work", "its lane is that of all the others"
