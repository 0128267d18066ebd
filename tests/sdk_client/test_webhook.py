"""A task's own webhook as it travels."""

import pytest

from agent_node import Webhook
from agent_node.client.tasks import TaskRequest, build_requested
from coordinator.convert import Bounds, spec_in
from coordinator.core.model import ALL_ENDS, RetryPolicy, TaskState
from coordinator.core.model import Webhook as CoreWebhook

URL = "https://example.com/hook"


@pytest.mark.parametrize(
    "webhook, meant",
    [
        (None, None),
        (URL, CoreWebhook(URL, ALL_ENDS)),
        (Webhook(URL), CoreWebhook(URL, ALL_ENDS)),
        (Webhook(URL, ["FAILED", "CANCELLED"]), CoreWebhook(URL, frozenset({TaskState.FAILED, TaskState.CANCELLED}))),
    ],
)
def test_the_coordinator_reads_what_was_meant(webhook, meant):
    message = build_requested("t", TaskRequest("work", webhook=webhook))
    assert spec_in(message, RetryPolicy(), Bounds()).webhook == meant


def test_a_state_that_is_no_end():
    with pytest.raises(ValueError, match="'RUNNING' is no end of a task: use COMPLETED, FAILED, CANCELLED"):
        build_requested("t", TaskRequest("work", webhook=Webhook(URL, ["RUNNING"])))
