"""A task that fails, loses its agent, outlives its coordinator and is cancelled tells all of it, to its end and after."""

import json
import sys
from collections.abc import Sequence

import pytest
from muster.v1 import common_pb2
from muster.v1.task_pb2 import TaskHistoryEntry

from agent_node import Client, TaskCancelledError
from agent_node.client import RetryPolicy
from agent_node.errors import UnavailableError
from tests.e2e.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.processes import Children

pytestmark = pytest.mark.e2e


def kinds(history: Sequence[TaskHistoryEntry]) -> list[str]:
    return [common_pb2.TaskHistoryKind.Name(entry.kind).removeprefix("TASK_HISTORY_KIND_") for entry in history]


async def told(client: Client, task_id: str) -> list[TaskHistoryEntry]:
    """A task's history, from a coordinator that may just have been killed and started again."""

    async def answered() -> Sequence[TaskHistoryEntry] | None:
        try:
            return await client.history(task_id)
        except UnavailableError:
            return None

    return list(await eventually(answered, message="an answer") or ())


async def test_a_life_with_everything(deployment: Deployment, client: Client, children: Children) -> None:
    first = deployment.start_agent("first")
    retry = RetryPolicy(initial_backoff_s=0.01, max_backoff_s=0.01)
    handle = await client.submit("fail-then-wait", "never opened", retry=retry)
    await deployment.until_recorded("started")
    first.kill()
    second = deployment.start_agent("second")
    await deployment.until_recorded("started", count=2)
    before = await told(client, handle.task_id)
    await deployment.kill_coordinator()
    assert await told(client, handle.task_id) == before
    await handle.cancel("seen enough")
    with pytest.raises(TaskCancelledError):
        await handle.result(timeout_s=20)
    expected = [
        *("SUBMITTED", "ATTEMPT_STARTED", "ATTEMPT_FAILED", "ATTEMPT_STARTED", "ATTEMPT_FAILED"),
        *("ATTEMPT_STARTED", "CANCEL_REQUESTED", "ATTEMPT_FAILED"),
    ]
    history = await told(client, handle.task_id)
    assert kinds(history) == expected
    assert [entry.agent_name for entry in history] == ["", "first", "first", "first", "first", "second", "second", "second"]
    assert [entry.attempt for entry in history] == [0, 1, 1, 2, 2, 3, 3, 3]
    failed, lost, stopped = (history[place] for place in (2, 4, 7))
    assert (failed.failure.type, failed.failure.message, failed.cost) == ("RuntimeError", "not yet", common_pb2.ATTEMPT_COST_RETRY)
    assert (lost.failure.kind, lost.cost) == (common_pb2.FAILURE_KIND_LEASE_LOST, common_pb2.ATTEMPT_COST_CRASH)
    assert (history[6].reason, stopped.state) == ("seen enough", common_pb2.TASK_STATE_CANCELLED)
    times = [entry.event_time.ToNanoseconds() for entry in history]
    assert times == sorted(times)
    second.kill()
    await deployment.kill_coordinator()
    assert await told(client, handle.task_id) == history

    printed = children.start(
        [sys.executable, "-m", "agent_node.cli", "history", handle.task_id, "--json", "--address", deployment.address], name="history"
    )
    line = await printed.wait_for_line(r"(\{.*\})", within_s=15)
    assert [entry["kind"].removeprefix("TASK_HISTORY_KIND_") for entry in json.loads(line[1])["history"]] == expected
