"""The TypeScript example against a real coordinator: that the protos and their comments are enough to write an agent and a client."""

import itertools
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
from muster.v1 import agent_pb2, agent_pb2_grpc, common_pb2, task_pb2, task_pb2_grpc

from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.processes import Child, Children
from tests.support.tree import ROOT

EXAMPLE = ROOT / "examples" / "typescript"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]  # the first test also installs and builds


class Coordinator:
    """A coordinator's process, and stubs that look at what it knows."""

    def __init__(self, *, children: Children, data_dir: Path, port: int, channel: grpc.aio.Channel) -> None:
        self.tasks = task_pb2_grpc.TaskServiceStub(channel)
        self.agents = agent_pb2_grpc.AgentServiceStub(channel)
        self._children = children
        self._data_dir = data_dir
        self._port = port
        self._numbers = itertools.count(1)
        self._process: Child | None = None

    async def start(self) -> None:
        command = [sys.executable, "-m", "coordinator", "--data-dir", str(self._data_dir), "--listen", f"127.0.0.1:{self._port}"]
        self._process = self._children.start(command, name="coordinator")
        await self._process.wait_for_line("serving on")

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()

    def node(self, *command: str) -> Child:
        return self._children.start(["node", *command], name=Path(command[0]).stem, env={"MUSTER_ADDRESS": f"127.0.0.1:{self._port}"})

    async def submit(self, task_type: str, payload: bytes) -> str:
        spec = common_pb2.TaskSpec(task_id=f"task-{next(self._numbers)}", task_type=task_type, payload=payload)
        answer = await self.tasks.SubmitTasks(task_pb2.SubmitTasksRequest(tasks=[spec]))
        assert answer.tasks[0].verdict == task_pb2.SUBMIT_VERDICT_ACCEPTED
        return spec.task_id

    async def task(self, task_id: str) -> task_pb2.Task:
        return (await self.tasks.GetTask(task_pb2.GetTaskRequest(task_id=task_id))).task

    async def reaches(self, task_id: str, state: common_pb2.TaskState) -> task_pb2.Task:
        async def there() -> task_pb2.Task | None:
            task = await self.task(task_id)
            return task if task.state == state else None

        wanted = common_pb2.TaskState.Name(state)
        task = await eventually(there, within_s=15, message=f"task {task_id} to be {wanted}")
        assert task is not None
        return task

    async def connected(self, name: str) -> None:
        async def there() -> bool:
            listed = await self.agents.ListAgents(agent_pb2.ListAgentsRequest())
            return any(agent.agent_name == name and agent.ready_limit > 0 for agent in listed.agents)

        await eventually(there, within_s=15, message=f"agent {name} to be ready")


@pytest.fixture
async def coordinator(example: Path, children: Children, tmp_path: Path) -> AsyncIterator[Coordinator]:
    port = free_port()  # the same one again after a restart
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.max_reconnect_backoff_ms", 200)]) as channel:
        started = Coordinator(children=children, data_dir=tmp_path / "data", port=port, channel=channel)
        await started.start()
        yield started
        await children.stop_all()


async def test_the_client_prints_what_the_agent_made_of_its_tasks(example, coordinator):
    coordinator.node(str(example / "agent.js"))
    client = coordinator.node(str(example / "client.js"), "reverse", "hello", "grüße")
    assert await client.wait_for_exit() == 0
    lines = [line.split(" ", 1)[1] for line in client.output().splitlines()]
    assert sorted(lines) == ["COMPLETED eßürg", "COMPLETED olleh"]


async def test_the_client_submits_more_than_fits_one_batch(example, coordinator):
    coordinator.node(str(example / "agent.js"))
    client = coordinator.node(str(example / "client.js"), "reverse", *(["abc"] * 2500))
    assert await client.wait_for_exit(within_s=30) == 0
    assert client.output().count("COMPLETED cba\n") == 2500


async def test_a_failure_is_printed_and_shows_in_the_exit_code(example, coordinator):
    coordinator.node(str(example / "agent.js"))
    client = coordinator.node(str(example / "client.js"), "countdown", "soon")
    assert await client.wait_for_exit() == 1
    assert 'FAILED can\'t count down from "soon"' in client.output()


async def test_a_task_that_breaks_a_limit_is_refused(example, coordinator):
    client = coordinator.node(str(example / "client.js"), "x" * 200, "payload")
    assert await client.wait_for_exit() == 1
    assert "REFUSED INVALID_FIELD: task_type" in client.output()


async def test_both_outlive_the_coordinator(example, coordinator):
    coordinator.node(str(example / "agent.js"), "survivor")
    client = coordinator.node(str(example / "client.js"), "countdown", "4")
    await coordinator.connected("survivor")
    (task,) = (await eventually(lambda: running(coordinator), message="the task to run")).tasks
    coordinator.kill()
    await coordinator.start()
    assert await client.wait_for_exit(within_s=30) == 0
    assert "COMPLETED lift-off" in client.output()
    ended = await coordinator.task(task.task_id)
    assert (ended.attempt, ended.crash_count, ended.retry_count) == (1, 0, 0), "the same attempt went on"


async def running(coordinator: Coordinator) -> task_pb2.ListTasksResponse | None:
    answer = await coordinator.tasks.ListTasks(task_pb2.ListTasksRequest(filter="state = RUNNING"))
    return answer if answer.tasks else None


async def test_tasks_submitted_while_the_coordinator_is_down_are_taken_when_it_is_back(example, coordinator):
    coordinator.node(str(example / "agent.js"))
    coordinator.kill()
    client = coordinator.node(str(example / "client.js"), "reverse", "abc")
    await client.wait_for_line("stream ended, UNAVAILABLE")
    await coordinator.start()
    assert await client.wait_for_exit(within_s=30) == 0
    assert "COMPLETED cba" in client.output()


async def test_a_cancel_stops_the_handler(example, coordinator):
    coordinator.node(str(example / "agent.js"))
    task_id = await coordinator.submit("countdown", b"3600")
    await coordinator.reaches(task_id, common_pb2.TASK_STATE_RUNNING)
    await coordinator.tasks.CancelTasks(task_pb2.CancelTasksRequest(task_ids=[task_id], reason="never mind"))
    task = await coordinator.reaches(task_id, common_pb2.TASK_STATE_CANCELLED)
    assert (task.attempt, task.crash_count) == (1, 0)


async def test_sigterm_lets_the_running_task_end_and_takes_no_other(example, coordinator):
    agent = coordinator.node(str(example / "agent.js"))
    first = await coordinator.submit("countdown", b"2")
    await coordinator.reaches(first, common_pb2.TASK_STATE_RUNNING)
    agent.send(signal.SIGTERM)
    await eventually(lambda: draining(coordinator), message="the agent to drain")
    second = await coordinator.submit("reverse", b"abc")
    assert await agent.wait_for_exit() == 0
    assert (await coordinator.task(first)).state == common_pb2.TASK_STATE_COMPLETED
    assert (await coordinator.task(second)).state == common_pb2.TASK_STATE_PENDING


async def draining(coordinator: Coordinator) -> bool:
    listed = await coordinator.agents.ListAgents(agent_pb2.ListAgentsRequest())
    return any(agent.state == agent_pb2.AGENT_STATE_DRAINING for agent in listed.agents)


async def test_a_drain_with_a_deadline_gives_the_task_back_at_no_cost(example, coordinator):
    agent = coordinator.node(str(example / "agent.js"), "leaver")
    task_id = await coordinator.submit("countdown", b"3600")
    await coordinator.reaches(task_id, common_pb2.TASK_STATE_RUNNING)
    request = agent_pb2.DrainAgentRequest(agent_name="leaver", reason="maintenance")
    request.deadline.FromMilliseconds(200)
    await coordinator.agents.DrainAgent(request)
    assert await agent.wait_for_exit() == 0
    task = await coordinator.reaches(task_id, common_pb2.TASK_STATE_PENDING)
    assert (task.retry_count, task.crash_count, task.undelivered_count) == (0, 0, 0)


async def test_of_two_agents_with_one_name_the_older_one_leaves(example, coordinator):
    older = coordinator.node(str(example / "agent.js"), "twin")
    await coordinator.connected("twin")
    newer = coordinator.node(str(example / "agent.js"), "twin")
    assert await older.wait_for_exit() == 1
    assert "ABORTED" in older.output()
    task_id = await coordinator.submit("reverse", b"abc")
    await coordinator.reaches(task_id, common_pb2.TASK_STATE_COMPLETED)
    assert newer.exit_code is None


def test_the_programs_are_short(example):
    for name in ("agent.ts", "client.ts"):
        assert len((EXAMPLE / "src" / name).read_text().splitlines()) < 150


def test_the_lock_file_names_no_registry():
    assert '"resolved"' not in (EXAMPLE / "package-lock.json").read_text()
