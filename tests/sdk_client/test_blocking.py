"""The blocking client: single calls against grpcio-testing's channel, the rest against a scripted coordinator."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc
import grpc_testing
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from muster.v1 import admin_pb2, agent_pb2, policy_pb2, task_pb2
from muster.v1.task_pb2 import TaskChunk, TaskEvent, WatchTasksResponse

from agent_node import BlockingClient, TaskRequest
from agent_node.client.blocking import BlockingTaskHandle
from agent_node.errors import NotFoundError, UnavailableError
from tests.support.fake_task_service import FakeTaskService, completed, serving

TASKS = task_pb2.DESCRIPTOR.services_by_name["TaskService"]
AGENTS = agent_pb2.DESCRIPTOR.services_by_name["AgentService"]
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["AdminService"]


class Calls:
    """A client whose single calls a test answers one by one."""

    def __init__(self) -> None:
        self.channel = grpc_testing.channel([TASKS, AGENTS, ADMIN], grpc_testing.strict_real_time())
        self.client = BlockingClient(namespace="team-a", channel=self.channel)
        self.threads = ThreadPoolExecutor(1)

    def answer(
        self, call: Callable[[BlockingClient], Any], service: Any, method: str, *answers: Message | grpc.StatusCode, trailers: Any = ()
    ) -> tuple[Any, list[Any]]:
        """Makes the call in another thread, gives it the answers, and returns what it returned and the requests it made."""
        future = self.threads.submit(call, self.client)
        requests = []
        for answer in answers:
            metadata, request, rpc = self.channel.take_unary_unary(service.methods_by_name[method])
            assert ("muster-namespace", "team-a") in metadata
            requests.append(request)
            if isinstance(answer, grpc.StatusCode):
                rpc.terminate(None, trailers, answer, "no")
            else:
                rpc.terminate(answer, (), grpc.StatusCode.OK, "")
        return future.result(timeout=5), requests


@pytest.fixture
def calls() -> Iterator[Calls]:
    calls = Calls()
    yield calls
    calls.client.close()
    calls.threads.shutdown()


def test_single_calls(calls: Calls) -> None:
    task = task_pb2.Task(task_id="x")
    got, [request] = calls.answer(lambda c: c.get("x", full=True), TASKS, "GetTask", task_pb2.GetTaskResponse(task=task))
    assert (got, request.task_id, request.view) == (task, "x", task_pb2.TASK_VIEW_FULL)

    cancelled = task_pb2.CancelTasksResponse(tasks=[task_pb2.CancelledTask(task_id="x", verdict=task_pb2.CANCEL_VERDICT_REQUESTED)])
    got, [request] = calls.answer(lambda c: c.attach("x").cancel("enough"), TASKS, "CancelTasks", cancelled)
    assert (got.verdict, list(request.task_ids), request.reason) == (task_pb2.CANCEL_VERDICT_REQUESTED, ["x"], "enough")

    explained = task_pb2.ExplainTaskResponse(summary="it waits")
    assert calls.answer(lambda c: c.explain("x"), TASKS, "ExplainTask", explained)[0].summary == "it waits"

    drained = agent_pb2.DrainAgentResponse(agent=agent_pb2.AgentInfo(agent_name="a"))
    _, [request] = calls.answer(lambda c: c.drain_agent("a", deadline_s=1.5, reason="deploy"), AGENTS, "DrainAgent", drained)
    assert (request.agent_name, request.deadline.nanos, request.reason) == ("a", 500_000_000, "deploy")

    policy = policy_pb2.Policy(weight=policy_pb2.WeightPolicy(fairness_key="a", weight=2))
    name = policy_pb2.PolicyName(kind=policy_pb2.POLICY_KIND_WEIGHT, key="a")
    was_set = admin_pb2.SetPoliciesResponse(policies=[policy])
    assert list(calls.answer(lambda c: c.set_policies([policy]), ADMIN, "SetPolicies", was_set)[0]) == [policy]
    deleted = admin_pb2.DeletePoliciesResponse(names=[name])
    assert list(calls.answer(lambda c: c.delete_policies([name]), ADMIN, "DeletePolicies", deleted)[0]) == [name]
    pages = [admin_pb2.ListPoliciesResponse(policies=[policy], next_page_token=token) for token in ("2", "")]
    got, requests = calls.answer(lambda c: c.policies(), ADMIN, "ListPolicies", *pages)
    assert (got, len(requests)) == ([policy, policy], 2)

    paused = policy_pb2.Policy(pause=policy_pb2.PausePolicy(task_type="a", reason="r"))
    was_set = admin_pb2.SetPoliciesResponse(policies=[paused])
    got, [request] = calls.answer(lambda c: c.pause("a", reason="r"), ADMIN, "SetPolicies", was_set)
    assert (got, list(request.policies)) == (paused, [paused])
    cordoned = policy_pb2.Policy(cordon=policy_pb2.CordonPolicy(agent_name="a", reason="r"))
    was_set = admin_pb2.SetPoliciesResponse(policies=[cordoned])
    got, [request] = calls.answer(lambda c: c.cordon("a", reason="r"), ADMIN, "SetPolicies", was_set)
    assert (got, list(request.policies)) == (cordoned, [cordoned])
    got, [request] = calls.answer(lambda c: c.resume("a"), ADMIN, "DeletePolicies", deleted)
    assert (got, request.names[0].kind) == (True, policy_pb2.POLICY_KIND_PAUSE)
    got, [request] = calls.answer(lambda c: c.uncordon("a"), ADMIN, "DeletePolicies", admin_pb2.DeletePoliciesResponse())
    assert (got, request.names[0].kind) == (False, policy_pb2.POLICY_KIND_CORDON)

    breaker = agent_pb2.Breaker(agent_name="a", task_type="t")
    got, [request] = calls.answer(
        lambda c: c.reset_breakers("a", "t"), ADMIN, "ResetBreakers", admin_pb2.ResetBreakersResponse(breakers=[breaker])
    )
    assert (got, request) == ([breaker], admin_pb2.ResetBreakersRequest(agent_name="a", task_type="t"))

    waiting = admin_pb2.ListWebhookDeliveriesResponse(pending=3)
    assert calls.answer(lambda c: c.webhook_deliveries(), ADMIN, "ListWebhookDeliveries", waiting)[0].pending == 3
    again = admin_pb2.RetryWebhookDeliveriesResponse(count=2)
    assert calls.answer(lambda c: c.retry_webhooks(all_given_up=True), ADMIN, "RetryWebhookDeliveries", again)[0] == 2

    stats = admin_pb2.GetQueueStatsResponse(pending=3)
    assert calls.answer(lambda c: c.queue_stats(), ADMIN, "GetQueueStats", stats)[0].pending == 3
    assert calls.answer(lambda c: c.load_map(), ADMIN, "GetLoadMap", admin_pb2.GetLoadMapResponse(capacity=4))[0].capacity == 4
    created = admin_pb2.CreateNamespaceResponse(namespace=admin_pb2.Namespace(name="n"))
    assert calls.answer(lambda c: c.create_namespace("n"), ADMIN, "CreateNamespace", created)[0].name == "n"
    answer = admin_pb2.GetCoordinatorResponse(version="1")
    assert calls.answer(lambda c: c.coordinator(), ADMIN, "GetCoordinator", answer)[0].version == "1"
    known = admin_pb2.GetClusterResponse(coordinator_id="a")
    assert calls.answer(lambda c: c.cluster(), ADMIN, "GetCluster", known)[0].coordinator_id == "a"


def test_lists_are_read_page_by_page(calls: Calls) -> None:
    pages: list[Message] = [
        task_pb2.ListTasksResponse(tasks=[task_pb2.Task(task_id="a")], next_page_token="p2"),
        task_pb2.ListTasksResponse(next_page_token="p3"),
        task_pb2.ListTasksResponse(tasks=[task_pb2.Task(task_id="b")]),
    ]
    tasks, requests = calls.answer(lambda c: list(c.list("state = RUNNING", page_size=1)), TASKS, "ListTasks", *pages)
    assert [each.task_id for each in tasks] == ["a", "b"]
    assert [(each.filter, each.page_size) for each in requests] == [("state = RUNNING", 1)] * 3
    pages = [
        agent_pb2.ListAgentsResponse(agents=[agent_pb2.AgentInfo(agent_name="a")], next_page_token="p2"),
        agent_pb2.ListAgentsResponse(agents=[agent_pb2.AgentInfo(agent_name="b")]),
    ]
    assert [each.agent_name for each in calls.answer(lambda c: c.agents(), AGENTS, "ListAgents", *pages)[0]] == ["a", "b"]
    pages = [
        admin_pb2.ListNamespacesResponse(namespaces=[admin_pb2.Namespace(name="a")], next_page_token="p2"),
        admin_pb2.ListNamespacesResponse(namespaces=[admin_pb2.Namespace(name="b")]),
    ]
    assert [each.name for each in calls.answer(lambda c: c.namespaces(), ADMIN, "ListNamespaces", *pages)[0]] == ["a", "b"]


def test_an_error_raises_what_it_means(calls: Calls) -> None:
    status = Status(code=5, message="no")
    status.details.add().Pack(ErrorInfo(reason="TASK_NOT_FOUND", domain="muster"))
    trailers = (("grpc-status-details-bin", status.SerializeToString()),)
    with pytest.raises(NotFoundError) as caught:
        calls.answer(lambda c: c.get("x"), TASKS, "GetTask", grpc.StatusCode.NOT_FOUND, trailers=trailers)
    assert caught.value.reason == "TASK_NOT_FOUND"


class ServiceInThread:
    """A scripted coordinator on a loop of its own, as a blocking client sees one."""

    def __init__(self) -> None:
        self.service = FakeTaskService()
        self.address = ""
        self._started = threading.Event()
        self._stop: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(stop.set)
        async with serving(self.service) as self.address:
            self._started.set()
            await stop.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(5)
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()
        self._thread.join(5)


@pytest.fixture
def coordinator() -> Iterator[ServiceInThread]:
    with ServiceInThread() as coordinator:
        yield coordinator


def test_a_task_goes_out_and_its_result_comes_back(coordinator: ServiceInThread) -> None:
    with BlockingClient(coordinator.address) as client:
        handle = client.submit("echo", [1, 2])
        assert handle.result(timeout_s=5).json() == [1, 2]
        assert handle.done()
        outcomes = client.submit_many([TaskRequest("t"), TaskRequest("t", bytes(4_000_000))])
        assert isinstance(outcomes[0], BlockingTaskHandle)
        assert isinstance(outcomes[1], Exception)
        handles = [client.submit("t") for _ in range(3)]
        assert {each.task_id for each in client.as_completed(handles)} == {each.task_id for each in handles}
        coordinator.service.results["x"] = completed("x", b"there")
        assert client.attach("x").result().text() == "there"


def test_watches_and_chunks_are_plain_iterators(coordinator: ServiceInThread) -> None:
    event = TaskEvent(task_id="x", chunk=TaskChunk(attempt=1, offset=0, data=b"ab"))
    with BlockingClient(coordinator.address) as client:
        coordinator.service.watch_script = [[WatchTasksResponse(events=[event])], [WatchTasksResponse(events=[event, event], cursor="c")]]
        assert [each.data for each in client.attach("x").chunks()] == [b"ab"]
        for each in client.watch(["x"], chunks=True):
            assert each.event == event
            break


async def test_it_works_inside_a_running_loop(coordinator: ServiceInThread) -> None:
    with BlockingClient(coordinator.address) as client:
        assert client.submit("echo", "hi").result(timeout_s=5).text() == "hi"


def test_closing_ends_every_wait_and_the_thread(coordinator: ServiceInThread) -> None:
    coordinator.service.completing = False
    client = BlockingClient(coordinator.address)
    handle = client.submit("t")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(handle.result)
        while handle.handle._task.waiters is None:
            pass
        client.close()
        with pytest.raises(UnavailableError, match="closed"):
            waiting.result(timeout=5)
    client.close()
    for call in (lambda: client.submit("t"), lambda: client.get("x"), lambda: list(client.watch(["x"]))):
        with pytest.raises(UnavailableError, match="closed"):
            call()
    assert not [thread for thread in threading.enumerate() if thread.name == "muster-client"]


FORKED = """
import os, sys
from agent_node import BlockingClient

client = BlockingClient(sys.argv[1])
print(client.submit("echo", "parent").result(timeout_s=5).text(), flush=True)
if child := os.fork():
    os.waitpid(child, 0)
    client.close()
else:
    try:
        client.submit("echo", "child")
    except RuntimeError as error:
        print(error, flush=True)
    client.close()
    os._exit(0)
"""


def test_a_client_from_before_a_fork_says_so_instead_of_hanging(coordinator: ServiceInThread) -> None:
    command = [sys.executable, "-c", FORKED, coordinator.address]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    assert done.stdout.splitlines() == [
        "parent",
        "this client belongs to the process that this one was forked from: fork before the first client, or spawn",
    ]


FORKS_UNDER_TRAFFIC = """
import os, sys, threading
from agent_node import BlockingClient

client = BlockingClient(sys.argv[1])
client.submit("echo", "first").result(timeout_s=5)
over = threading.Event()

def submit_on():
    while not over.is_set():
        client.submit("echo", "on")

threading.Thread(target=submit_on).start()
endings = []
for number in range(60):
    child = os.fork()
    if child == 0:
        os._exit(0)
    endings.append(os.waitpid(child, 0)[1])
over.set()
print(set(endings))
client.close()
"""


def test_a_child_forked_while_calls_are_under_way_lives(coordinator: ServiceInThread) -> None:
    command = [sys.executable, "-c", FORKS_UNDER_TRAFFIC, coordinator.address]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    assert done.stdout == "{0}\n"


def test_nobody_there_is_said_soon() -> None:
    with BlockingClient("127.0.0.1:1", connect_timeout_s=0.05) as client:
        with pytest.raises(UnavailableError):
            client.submit("t")
        with pytest.raises(UnavailableError):
            client.get("x")
