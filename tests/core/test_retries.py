"""What a failed attempt costs, and how long the next one waits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.core.events import Cost, Disposition
from coordinator.core.model import Failure, FailureKind, Settings, Task
from coordinator.core.retries import backoff_ms, disposition_after
from tests.support.core_world import spec_of

BROKEN = Failure(FailureKind.APPLICATION, "it broke")
LOST = Failure(FailureKind.LEASE_LOST, "nothing was heard")
SETTINGS = Settings()


def task(**facts):
    made = Task(1, spec_of("task"), 0)
    for name, value in facts.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    "facts,cost,expected",
    [
        ({"retries": 2}, Cost.RETRY, Disposition.RETRY),
        ({"retries": 3}, Cost.RETRY, Disposition.FAIL),
        ({"crashes": 2, "retries": 3}, Cost.CRASH, Disposition.RETRY),
        ({"crashes": 3}, Cost.CRASH, Disposition.FAIL),
        ({"undelivered": 3}, Cost.DELIVERY, Disposition.RETRY),
        ({"undelivered": 4}, Cost.DELIVERY, Disposition.FAIL),
        ({"retries": 3, "crashes": 3, "undelivered": 4}, Cost.NONE, Disposition.RETRY),
    ],
)
def test_each_cost_has_a_budget_of_its_own(facts, cost, expected):
    assert disposition_after(task(**facts), BROKEN, cost, SETTINGS) is expected


@pytest.mark.parametrize("cost", list(Cost))
def test_a_cancelled_task_is_never_tried_again(cost):
    assert disposition_after(task(cancel_reason="asked for"), BROKEN, cost, SETTINGS) is Disposition.CANCEL


def test_a_failure_for_good_is_never_tried_again():
    assert disposition_after(task(), Failure(FailureKind.APPLICATION, "no", non_retryable=True), Cost.RETRY, SETTINGS) is Disposition.FAIL


@pytest.mark.parametrize("retries,bound_ms", [(0, 1000), (1, 2000), (2, 4000), (6, 60_000), (60, 60_000), (10**9, 60_000)])
def test_the_bound_doubles_up_to_its_maximum(retries, bound_ms):
    assert backoff_ms(task(retries=retries), BROKEN, 0.5) == bound_ms / 2


@given(st.integers(0, 20), st.floats(0, 1, exclude_max=True))
def test_full_jitter_is_anywhere_under_the_bound(retries, jitter):
    assert 0 <= backoff_ms(task(retries=retries), BROKEN, jitter) <= min(1000 * 2**retries, 60_000)


def test_what_the_failure_asks_for_is_honoured_when_it_is_longer():
    patient = Failure(FailureKind.RATE_LIMITED, "429", retry_after_s=90)
    assert backoff_ms(task(), patient, 0.5) == 90_000
    hasty = Failure(FailureKind.RATE_LIMITED, "429", retry_after_s=0.1)
    assert backoff_ms(task(), hasty, 0.5) == 500


def test_a_lost_lease_says_nothing_about_the_work_and_does_not_wait():
    assert backoff_ms(task(retries=3), LOST, 0.9) == 0
