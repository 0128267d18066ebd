"""Who is served when, over real processes: priority, first in first out, nobody held up by what can't run, never over capacity (G3, G4)."""

import asyncio

import pytest
from muster.v1 import task_pb2

from agent_node import Client, Priority
from tests.e2e.deployment import Deployment

pytestmark = pytest.mark.e2e


async def test_what_nobody_can_run_delays_nothing(deployment: Deployment, client: Client) -> None:
    unserviceable = [await client.submit("nobody-does-this", priority=Priority.CRITICAL) for _ in range(20)]
    waiting = [await client.submit("digest", f"{number}", priority=Priority.LOW) for number in range(200)]
    deployment.start_agent("agent")
    for handle in waiting:
        await handle.result(timeout_s=20)
    for handle in unserviceable[:: len(unserviceable) - 1]:
        answer = await client.explain(handle.task_id)
        assert answer.task.waits_for.kind == task_pb2.WAIT_KIND_NO_CAPABLE_AGENT
        assert answer.agents[0].ruled_out[0].kind == task_pb2.RULED_OUT_KIND_MISSING_CAPABILITY


async def test_higher_priority_first_and_within_it_first_in_first_out(deployment: Deployment, client: Client) -> None:
    submitted: list[tuple[int, str]] = []
    handles = []
    for number in range(40):
        priority = list(Priority)[number % 4]
        label = f"{priority.name} {number:02}"
        submitted.append((-priority, label))
        handles.append(await client.submit("in-order", label, priority=priority))
    deployment.start_agent("agent", capacity=1)
    for handle in handles:
        await handle.result(timeout_s=20)
    assert [line["label"] for line in deployment.recorded("ran")] == [label for _, label in sorted(submitted)]


async def test_order_survives_the_coordinator(deployment: Deployment, client: Client) -> None:
    handles = [await client.submit("in-order", f"{number:02}") for number in range(30)]
    await deployment.kill_coordinator()
    deployment.start_agent("agent", capacity=1)
    for handle in handles:
        await handle.result(timeout_s=20)
    assert [line["label"] for line in deployment.recorded("ran")] == [f"{number:02}" for number in range(30)]


async def test_an_agent_never_runs_more_than_its_capacity(deployment: Deployment, client: Client) -> None:
    capacities = {"one": 1, "three": 3, "seven": 7}
    for name, capacity in capacities.items():
        deployment.start_agent(name, capacity=capacity)
    handles = await asyncio.gather(*(client.submit("count-running") for _ in range(600)))
    await deployment.until_recorded("running", count=150)
    await deployment.kill_coordinator()  # what runs counts after a restart, too
    for handle in handles:
        await handle.result(timeout_s=30)
    most = {name: max(int(str(line["running"])) for line in deployment.recorded("running") if line["agent"] == name) for name in capacities}
    assert all(most[name] <= capacity for name, capacity in capacities.items()), most
    assert most == capacities, "each was used to the full"
