"""kill -9 of the coordinator between a task's end and its webhook: the next one delivers it, under the same id."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent_node import Client, MusterError, TaskRequest
from tests.e2e.deployment import Deployment, client_of, deployed
from tests.support.eventually import eventually
from tests.support.receiver import SECRET, answers, hangs, receiving

pytestmark = pytest.mark.e2e


@pytest.fixture
async def deployment(children, tmp_path: Path) -> AsyncIterator[Deployment]:
    """A coordinator whose webhooks may go to loopback."""
    async with deployed(children, tmp_path, "--webhook-allow", "127.0.0.1") as running:
        yield running


@pytest.fixture
async def client(deployment: Deployment):
    async with client_of(deployment) as opened:
        yield opened


async def until_none_waits(client: Client, *, within_s: float = 20.0) -> None:
    async def none() -> bool:
        try:
            return not (await client.webhook_deliveries()).pending
        except MusterError:  # it is being started
            return False

    await eventually(none, within_s=within_s, message="no webhook to wait")


async def test_what_was_under_way_is_delivered_by_the_next_one(deployment: Deployment, client: Client) -> None:
    from muster.v1.policy_pb2 import Policy, WebhookPolicy

    deployment.start_agent("agent")
    async with receiving(hangs) as receiver:
        await client.set_policies([Policy(webhook=WebhookPolicy(url=receiver.url, secrets=[SECRET]))])
        handle = await client.submit("digest", b"told", webhook=receiver.url)
        output = await handle.result(timeout_s=20)
        await eventually(lambda: len(receiver.requests) == 1, within_s=10, message="an attempt")
        receiver.script = [answers()]
        await deployment.kill_coordinator()
        await until_none_waits(client)
        assert len(set(receiver.ids)) == 2  # the task's own, and that of every type
        assert receiver.ids.count(receiver.ids[0]) == 2
        assert all(request.is_signed_with(SECRET) for request in receiver.requests)
        assert {request.said["data"]["result"]["size"] for request in receiver.requests} == {len(output.payload)}
        assert {request.said["data"]["task_id"] for request in receiver.requests} == {handle.task_id}
        arrived = len(receiver.requests)
        await deployment.kill_coordinator()  # and nothing that was answered is told again
        await (await client.submit("digest", b"the last")).result(timeout_s=20)
        await eventually(lambda: len(receiver.requests) > arrived, within_s=10, message="the last one's")
        assert {request.said["data"]["task_id"] for request in receiver.requests[arrived:]} != {handle.task_id}


async def test_every_end_is_told_of_over_kills(deployment: Deployment, client: Client) -> None:
    deployment.start_agent("agent", capacity=50)
    async with receiving(answers()) as receiver:
        for round_number in range(3):
            requests = [TaskRequest("digest", f"{round_number} {number}", webhook=receiver.url) for number in range(100)]
            handles = await client.submit_many(requests)
            for handle in handles:
                assert not isinstance(handle, MusterError)
                await handle.result(timeout_s=30)
            await deployment.kill_coordinator()  # some have been told of by now, some have not, and of some it isn't known
        await until_none_waits(client)
        assert len({request.said["data"]["task_id"] for request in receiver.requests}) == 300
        assert len(set(receiver.ids)) == 300
