"""An agent that fails at all that it is given, among real processes: the others do the work, and it gets work again once it is mended."""

import asyncio

import pytest
from muster.v1 import agent_pb2, policy_pb2

from agent_node import Client
from agent_node.connection import duration
from tests.e2e.deployment import Deployment
from tests.support.eventually import eventually

pytestmark = pytest.mark.e2e

TASKS = 60
IN_A_ROW = 3


async def breakers(client: Client) -> list[agent_pb2.Breaker]:
    return [breaker for agent in await client.agents() for breaker in agent.breakers]


async def test_an_agent_that_fails_is_left_out_until_it_has_recovered(deployment: Deployment, client: Client) -> None:
    rules = policy_pb2.BreakerPolicy(consecutive_failures=IN_A_ROW, open_for=duration(0.5), max_open_for=duration(1.0))
    await client.set_policies([policy_pb2.Policy(breaker=rules)])
    deployment.open_gate("one-is-broken")
    for name in ("one", "two", "three"):
        deployment.start_agent(name, capacity=2)
    await deployment.agent_connected(client, "one", "two", "three")

    handles = [await client.submit("fragile", b"") for _ in range(TASKS)]
    await asyncio.gather(*(handle.result(timeout_s=60) for handle in handles))
    worked = deployment.recorded("worked")
    assert {line["agent"] for line in worked} == {"two", "three"}
    assert len(worked) == TASKS
    failed = len(deployment.recorded("failed"))
    assert IN_A_ROW <= failed <= IN_A_ROW + 1 + 20, "some beside those that opened it, and the probes of ten seconds"

    async def shut_out() -> agent_pb2.Breaker | None:
        return next((one for one in await breakers(client) if one.agent_name == "one"), None)

    breaker = await eventually(shut_out, message="its breaker to be shown")
    assert breaker is not None
    assert (breaker.task_type, breaker.state in (agent_pb2.BREAKER_STATE_OPEN, agent_pb2.BREAKER_STATE_HALF_OPEN)) == ("fragile", True)
    assert "its disk is broken" in breaker.reason

    (deployment.gates / "one-is-broken").unlink()

    async def works_again() -> bool:
        await (await client.submit("fragile", b"")).result(timeout_s=30)
        return any(line["agent"] == "one" for line in deployment.recorded("worked")) and not await breakers(client)

    await eventually(works_again, within_s=30, message="it to get work again")


async def test_an_operator_gives_it_work_at_once(deployment: Deployment, client: Client) -> None:
    rules = policy_pb2.BreakerPolicy(consecutive_failures=1, open_for=duration(3600), max_open_for=duration(3600), max_open_share=1.0)
    await client.set_policies([policy_pb2.Policy(breaker=rules)])
    deployment.open_gate("one-is-broken")
    deployment.start_agent("one", capacity=1)
    await deployment.agent_connected(client, "one")
    handle = await client.submit("fragile", b"")
    await deployment.until_recorded("failed")
    await eventually(lambda: breakers(client), message="its breaker to open")
    (deployment.gates / "one-is-broken").unlink()
    assert [one.task_type for one in await client.reset_breakers("one")] == ["fragile"]
    await handle.result(timeout_s=30)
