"""An agent that doesn't play by the rules, by hand on the wire: what it reports under an old fence changes nothing (G2)."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from muster.v1 import agent_pb2 as pb
from muster.v1 import common_pb2
from muster.v1.agent_pb2_grpc import AgentServiceStub

from agent_node import Client, RetryPolicy
from agent_node.connection import Target, open_channel
from tests.e2e.deployment import Deployment

pytestmark = pytest.mark.e2e

_RENEW_S = 0.3


class HandmadeAgent:
    """One stream of one agent, which renews whatever it was ever given and reports only what the test says."""

    def __init__(self) -> None:
        self.assigned: asyncio.Queue[pb.Assignment] = asyncio.Queue()
        self.lost: asyncio.Queue[pb.Cancel] = asyncio.Queue()
        self.acks: asyncio.Queue[pb.ResultAck] = asyncio.Queue()
        self._held: list[pb.Assignment] = []
        self._to_send: asyncio.Queue[pb.ConnectRequest] = asyncio.Queue()

    async def run(self, deployment: Deployment) -> None:
        """Serves until cancelled."""
        async with open_channel(Target(deployment.address)) as channel:
            async for message in AgentServiceStub(channel).Connect(self._requests()):
                if message.HasField("assign"):
                    self._to_send.put_nowait(pb.ConnectRequest(acknowledged_batch_ids=[message.assign.batch_id]))
                    self._held.extend(message.assign.assignments)
                    for assignment in message.assign.assignments:
                        self.assigned.put_nowait(assignment)
                for cancel in message.cancels:
                    self.lost.put_nowait(cancel)
                for ack in message.result_acks:
                    self.acks.put_nowait(ack)

    def leave_stream(self) -> None:
        """What is said from here on is for the next stream: the old one's requests may still be waiting for more."""
        self._to_send = asyncio.Queue()

    async def _requests(self) -> AsyncIterator[pb.ConnectRequest]:
        to_send = self._to_send
        hello = pb.Hello(agent_name="handmade", session_nonce="handmade-nonce", max_concurrent_tasks=1, protocol_version=1)
        hello.capabilities.add(task_type="by-hand")
        yield pb.ConnectRequest(hello=hello)
        yield pb.ConnectRequest(ready=pb.Ready(limit=1))
        while True:
            try:
                async with asyncio.timeout(_RENEW_S):
                    yield_next = await to_send.get()
            except TimeoutError:
                renewals = [pb.Renewal(task_id=held.task.task_id, fence=held.fence) for held in self._held]
                yield_next = pb.ConnectRequest(renew=pb.Renew(attempts=renewals))
            yield yield_next

    async def report(self, assignment: pb.Assignment, payload: bytes) -> pb.ResultVerdict.ValueType:
        """Sends a success under the assignment's fence, and answers the coordinator's verdict."""
        outcome = common_pb2.Outcome(success=common_pb2.Success(payload=payload))
        result = pb.AttemptResult(task_id=assignment.task.task_id, fence=assignment.fence, outcome=outcome)
        self._to_send.put_nowait(pb.ConnectRequest(results=pb.ResultBatch(batch_id=1, results=[result])))
        ack = await self.acks.get()
        return ack.exceptions[0].verdict if ack.exceptions else pb.RESULT_VERDICT_ACCEPTED


async def test_a_late_result_is_stale_though_its_agent_runs_the_task_again(deployment: Deployment, client: Client) -> None:
    agent = HandmadeAgent()
    running = asyncio.create_task(agent.run(deployment))
    try:
        async with asyncio.timeout(20):
            handle = await client.submit("by-hand", progress_timeout_s=1, retry=RetryPolicy(initial_backoff_s=0.05))
            first = await agent.assigned.get()
            lost = await agent.lost.get()  # it renews, and shows no progress
            assert (lost.fence, lost.lost) == (first.fence, True)
            second = await agent.assigned.get()
            assert second.fence > first.fence
            assert (first.attempt, second.attempt) == (1, 2)
            assert await agent.report(first, b"late") == pb.RESULT_VERDICT_STALE
            assert await agent.report(second, b"in time") == pb.RESULT_VERDICT_ACCEPTED
            assert await agent.report(second, b"in time") == pb.RESULT_VERDICT_DUPLICATE
            assert await agent.report(first, b"late") == pb.RESULT_VERDICT_STALE
            assert (await handle.result()).payload == b"in time"
            await deployment.kill_coordinator()  # the record knows, too
            running.cancel()
            agent.leave_stream()
            running = asyncio.create_task(agent.run(deployment))
            assert await agent.report(second, b"in time") == pb.RESULT_VERDICT_DUPLICATE
            assert await agent.report(first, b"late") == pb.RESULT_VERDICT_STALE
    finally:
        running.cancel()
