"""When a task is to run, as a caller says it and as it travels."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from agent_node.client.tasks import TaskRequest, build_requested
from coordinator.convert import Bounds, spec_in
from coordinator.core.model import UNTIMED, RetryPolicy, Timing

NOON = datetime(2027, 1, 31, 12, tzinfo=UTC)


def received(**options):
    """What the coordinator reads of a request."""
    return spec_in(build_requested("id", TaskRequest("work", **options)), RetryPolicy(), Bounds()).timing


def test_the_coordinator_reads_what_the_client_wrote():
    assert received(not_before=NOON) == Timing(not_before_ms=1_801_396_800_000)
    assert received(not_before=NOON.astimezone(timezone(timedelta(hours=5)))) == Timing(not_before_ms=1_801_396_800_000)
    assert received(delay_s=1.5, queue_timeout_s=2, deadline_s=2.25) == Timing(delay_ms=1500, queue_timeout_ms=2000, deadline_ms=2250)


def test_nothing_asked_is_nothing_sent():
    assert received() is UNTIMED


@pytest.mark.parametrize(
    "options, says",
    [
        ({"not_before": NOON, "delay_s": 1}, "not both"),
        ({"not_before": NOON.replace(tzinfo=None)}, "without a time zone"),
        ({"delay_s": float("nan")}, "is nan"),
    ],
)
def test_what_makes_no_sense_is_not_sent(options, says):
    with pytest.raises(ValueError, match=says):
        build_requested("id", TaskRequest("work", **options))
