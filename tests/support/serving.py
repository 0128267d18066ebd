"""Serving agents against a scripted coordinator."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from muster.v1.common_pb2 import Outcome, TaskSpec

from agent_node import Agent
from tests.support.eventually import eventually
from tests.support.fake_coordinator import FakeCoordinator


@contextlib.asynccontextmanager
async def serving(coordinator: FakeCoordinator, *agents: Agent) -> AsyncIterator["asyncio.Task[None]"]:
    """Serves while the block runs; then stops at once."""
    tasks = [asyncio.create_task(agent.serve()) for agent in agents]
    try:
        await eventually(lambda: len(coordinator.streams) >= len(agents) or any(task.done() for task in tasks), message="streams")
        await eventually(lambda: coordinator.said or not coordinator.script.welcome, message="the first Ready")
        yield tasks[0]
    finally:
        for each in agents:
            each.stop()
        await asyncio.gather(*tasks, return_exceptions=True)


def task(task_id: str, task_type: str = "work", *, payload: bytes = b"", content_type: str = "", traceparent: str = "") -> TaskSpec:
    """A task to assign."""
    return TaskSpec(task_id=task_id, task_type=task_type, payload=payload, content_type=content_type, traceparent=traceparent)


async def result_of(coordinator: FakeCoordinator, task_id: str, *, within_s: float = 5.0) -> Outcome:
    """How a task ended, once it has."""
    await eventually(lambda: coordinator.outcome_of(task_id), within_s=within_s, message=f"the result of {task_id}")
    return next(result.outcome for result in reversed(coordinator.results) if result.task_id == task_id)
