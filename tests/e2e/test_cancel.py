"""Cancel reaches the work (G10): a coroutine, a thread, a process, and an HTTP request in flight."""

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager

import pytest
from muster.v1 import task_pb2

from agent_node import Client, TaskCancelledError
from agent_node.client import TaskHandle
from tests.e2e.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.processes import Children

pytestmark = pytest.mark.e2e


async def cancelled(handle: TaskHandle, reason: str = "not needed any more") -> None:
    """Cancels a running task, and returns when it has ended so."""
    answer = await handle.cancel(reason)
    assert answer.verdict == task_pb2.CANCEL_VERDICT_REQUESTED
    with pytest.raises(TaskCancelledError, match=reason):
        await handle.result(timeout_s=15)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("task_type", ["at-gate", "thread-at-gate"])
async def test_a_handler_is_told(deployment: Deployment, client: Client, task_type: str) -> None:
    deployment.start_agent("agent")
    handle = await client.submit(task_type, "never opened")
    await deployment.until_recorded("started")
    await cancelled(handle)
    await deployment.until_recorded("cancelled", task_id=handle.task_id)
    assert (await handle.status()).retry_count == 0


async def test_a_handler_in_a_process_is_killed(deployment: Deployment, client: Client) -> None:
    deployment.start_agent("agent")
    handle = await client.submit("process-at-gate", "never opened")
    await deployment.until_recorded("started")
    pid = deployment.recorded("started")[0]["pid"]
    await cancelled(handle)
    await eventually(lambda: not is_alive(int(str(pid))), message="its process to be gone")
    deployment.open_gate("again")
    assert (await (await client.submit("process-at-gate", "again")).result(timeout_s=15)).payload == b"done"


async def test_a_cancel_finds_a_coordinator_that_was_killed(deployment: Deployment, client: Client) -> None:
    """Recorded is recorded: the agent hears of it from the next coordinator, although the first died with it."""
    agent = deployment.start_agent("agent")
    handle = await client.submit("at-gate", "never opened")
    await deployment.until_recorded("started")
    agent.send(signal.SIGSTOP)  # so that the cancel can't reach it before the coordinator dies
    await handle.cancel("changed my mind")
    deployment.coordinator.kill()
    agent.send(signal.SIGCONT)
    await deployment.start_coordinator()
    with pytest.raises(TaskCancelledError, match="changed my mind"):
        await handle.result(timeout_s=20)
    await deployment.until_recorded("cancelled")
    assert len(deployment.recorded("started")) == 1


class SlowProvider:
    """An OpenAI-compatible endpoint that begins an answer and never ends it; it knows when its caller hangs up."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hung_up = asyncio.Event()
        self.port = 0

    @asynccontextmanager
    async def serving(self):
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        writer.write(b'data: {"choices": [{"index": 0, "delta": {"content": "Once upon"}}]}\n\n')
        await writer.drain()
        self.asked.set()
        while await reader.read(4096):
            pass
        self.hung_up.set()
        writer.close()


async def test_an_http_request_is_closed(deployment: Deployment, client: Client, children: Children) -> None:
    async with SlowProvider().serving() as provider:
        env = {"MUSTER_LLM_BASE_URL": f"http://127.0.0.1:{provider.port}/v1", "MUSTER_LLM_MODEL": "slow", "MUSTER_LLM_API_KEY": ""}
        children.start([sys.executable, "-m", "agent_node", "llm", "--address", deployment.address], name="llm", env=env)
        handle = await client.submit("llm.chat", {"messages": [{"role": "user", "content": "Tell me a story."}]})
        async with asyncio.timeout(15):
            await provider.asked.wait()
        assert not provider.hung_up.is_set()
        await cancelled(handle)
        async with asyncio.timeout(5):
            await provider.hung_up.wait()
