"""Pauses and cordons over real processes, while tasks are dispatched at full speed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from muster.v1 import agent_pb2, policy_pb2, task_pb2

from agent_node import Client
from tests.e2e.deployment import Deployment, client_of
from tests.support.eventually import eventually

pytestmark = pytest.mark.e2e

TYPES = ("digest", "recorded-digest")
AHEAD = 600  # of each type, that the client keeps waiting or running
LOOKED_AT = 300  # of those that ended last: more than run at a time


class Load:
    """A client that keeps tasks of both types coming, as fast as they end, and another that looks.

    The busy one may still be in its channel's backoff when a new coordinator serves already.
    """

    def __init__(self, busy: Client, client: Client) -> None:
        self.busy = busy
        self.client = client
        self.done = dict.fromkeys(TYPES, 0)
        self.is_over = False

    async def keep(self, task_type: str) -> None:
        """One of the lines of tasks, each submitted when the one before has ended."""
        while not self.is_over:
            await (await self.busy.submit(task_type, b"\0")).result(timeout_s=60)
            self.done[task_type] += 1

    async def until_done(self, task_type: str, more: int) -> None:
        """Returns when so many more of a type have ended."""
        wanted = self.done[task_type] + more
        await eventually(lambda: self.done[task_type] >= wanted, within_s=30, message=f"{more} more of {task_type}; {self.done}")

    async def running(self, task_type: str) -> int:
        """How many tasks of a type run."""
        return sum(queue.running for queue in (await self.client.queue_stats()).queues if queue.task_type == task_type)

    async def until_at_rest(self, pause: policy_pb2.Policy, *types: str) -> None:
        """Returns when what ran as it was paused has ended; fails if anything of it was assigned later, by the store's clock."""
        for task_type in types:
            await eventually(partial(self._rests, task_type), within_s=30, message=f"{task_type} to come to rest")
            looked_at = 0
            async for task in self.client.list(f"task_type = {task_type} AND state = COMPLETED", page_size=LOOKED_AT):
                assert task.start_time.ToNanoseconds() <= pause.set_time.ToNanoseconds(), f"{task.task_id} was assigned after the pause"
                looked_at += 1
                if looked_at == LOOKED_AT:
                    break
            assert looked_at == LOOKED_AT

    async def _rests(self, task_type: str) -> bool:
        return await self.running(task_type) == 0


@asynccontextmanager
async def under_load(deployment: Deployment, client: Client) -> AsyncIterator[Load]:
    async with client_of(deployment) as busy:
        load = Load(busy, client)
        async with asyncio.TaskGroup() as lines:
            for _ in range(AHEAD):
                for task_type in TYPES:
                    lines.create_task(load.keep(task_type))
            yield load
            load.is_over = True


async def test_a_type_and_the_namespace_are_paused_at_full_speed_and_over_a_crash(deployment: Deployment, client: Client) -> None:
    for name in ("one", "two"):
        deployment.start_agent(name, capacity=50)
    async with under_load(deployment, client) as load:
        await load.until_done("digest", 500)
        for _ in range(3):
            await load.until_at_rest(await client.pause("digest", reason="to see"), "digest")
            await load.until_done("recorded-digest", 500)
            assert await load.running("digest") == 0, "while the other type goes on"
            assert await client.resume("digest")
            await load.until_done("digest", 500)
        await load.until_at_rest(await client.pause(""), *TYPES)
        await deployment.kill_coordinator()
        await deployment.agent_connected(client, "one", "two")
        assert [await load.running(one) for one in TYPES] == [0, 0], "it holds over a crash"
        late = await client.submit("digest", b"\0")
        assert (await client.explain(late.task_id)).task.waits_for.kind == task_pb2.WAIT_KIND_PAUSED
        assert await client.resume("")
        for one in TYPES:
            await load.until_done(one, 500)
        await late.result(timeout_s=30)


async def test_an_agent_is_cordoned_at_full_speed(deployment: Deployment, client: Client) -> None:
    for name in ("one", "two"):
        deployment.start_agent(name, capacity=50)
    async with under_load(deployment, client) as load:
        await load.until_done("digest", 500)
        await client.cordon("one", reason="a new disk")

        async def idle() -> agent_pb2.AgentInfo | None:
            known = {agent.agent_name: agent for agent in await client.agents()}
            return known["one"] if known["one"].running == 0 else None

        seen = await eventually(idle, within_s=30, message="the cordoned agent to finish")
        assert seen is not None
        assert (seen.state, seen.cordon_reason) == (agent_pb2.AGENT_STATE_CORDONED, "a new disk")
        await load.until_done("digest", 500)
        assert await idle(), "the other one works alone"
        assert await client.uncordon("one")

        async def works() -> bool:
            return await idle() is None

        await eventually(works, within_s=30, message="it to be given work again")
