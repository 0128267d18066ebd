"""The asynchronous client's single calls: what they ask, how they page, what their errors mean."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from muster.v1 import admin_pb2, agent_pb2, policy_pb2, task_pb2

from agent_node import Client
from agent_node.errors import LimitError, UnavailableError


class AnyUnary(grpc.GenericRpcHandler):
    """Answers every call with the next scripted message or code, and keeps the requests' bytes by method."""

    def __init__(self) -> None:
        self.answers: list[Message | grpc.StatusCode] = []
        self.asked: list[tuple[str, bytes]] = []
        self.namespaces: set[str] = set()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = handler_call_details.method.rpartition("/")[2]

        async def answer(request: bytes, context: Any) -> bytes:
            self.asked.append((method, request))
            self.namespaces |= {value for key, value in context.invocation_metadata() if key == "muster-namespace"}
            item = self.answers.pop(0)
            if isinstance(item, grpc.StatusCode):
                await context.abort(item, "no")
            return item.SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def server() -> AnyUnary:
    return AnyUnary()


@pytest.fixture
async def client(server: AnyUnary) -> AsyncIterator[Client]:
    grpc_server = grpc.aio.server()
    grpc_server.add_generic_rpc_handlers([server])
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    await grpc_server.start()
    async with Client(f"127.0.0.1:{port}", namespace="team-a", call_timeout_s=5) as client:
        yield client
    await grpc_server.stop(None)


WEIGHT = policy_pb2.Policy(weight=policy_pb2.WeightPolicy(fairness_key="a", weight=2))
NAME = policy_pb2.PolicyName(kind=policy_pb2.POLICY_KIND_WEIGHT, key="a")

CASES: list[tuple[str, Callable[[Client], Awaitable[Any]], Message, Message]] = [
    (
        "GetTask",
        lambda c: c.get("x", full=True),
        task_pb2.GetTaskRequest(task_id="x", view=task_pb2.TASK_VIEW_FULL),
        task_pb2.GetTaskResponse(task=task_pb2.Task(task_id="x")),
    ),
    (
        "GetTask",
        lambda c: c.attach("x").status(),
        task_pb2.GetTaskRequest(task_id="x", view=task_pb2.TASK_VIEW_BASIC),
        task_pb2.GetTaskResponse(task=task_pb2.Task(task_id="x")),
    ),
    (
        "CancelTasks",
        lambda c: c.attach("x").cancel("enough"),
        task_pb2.CancelTasksRequest(task_ids=["x"], reason="enough"),
        task_pb2.CancelTasksResponse(tasks=[task_pb2.CancelledTask(task_id="x")]),
    ),
    ("ExplainTask", lambda c: c.explain("x"), task_pb2.ExplainTaskRequest(task_id="x"), task_pb2.ExplainTaskResponse(summary="s")),
    ("ListAgents", lambda c: c.agents(), agent_pb2.ListAgentsRequest(), agent_pb2.ListAgentsResponse()),
    (
        "DrainAgent",
        lambda c: c.drain_agent("a", reason="deploy"),
        agent_pb2.DrainAgentRequest(agent_name="a", reason="deploy"),
        agent_pb2.DrainAgentResponse(),
    ),
    ("GetQueueStats", lambda c: c.queue_stats(), admin_pb2.GetQueueStatsRequest(), admin_pb2.GetQueueStatsResponse(pending=1)),
    ("GetLoadMap", lambda c: c.load_map(), admin_pb2.GetLoadMapRequest(), admin_pb2.GetLoadMapResponse(running=1)),
    (
        "CreateNamespace",
        lambda c: c.create_namespace("n"),
        admin_pb2.CreateNamespaceRequest(name="n"),
        admin_pb2.CreateNamespaceResponse(namespace=admin_pb2.Namespace(name="n")),
    ),
    (
        "DeleteNamespace",
        lambda c: c.delete_namespace("a", force=True, dry_run=True),
        admin_pb2.DeleteNamespaceRequest(name="a", force=True, dry_run=True),
        admin_pb2.DeleteNamespaceResponse(live_tasks=3),
    ),
    (
        "GetQueueHistory",
        lambda c: c.queue_history("work"),
        admin_pb2.GetQueueHistoryRequest(task_type="work"),
        admin_pb2.GetQueueHistoryResponse(total=admin_pb2.QueueHistory(task_type="work")),
    ),
    ("ListNamespaces", lambda c: c.namespaces(), admin_pb2.ListNamespacesRequest(), admin_pb2.ListNamespacesResponse()),
    (
        "SetPolicies",
        lambda c: c.set_policies([WEIGHT]),
        admin_pb2.SetPoliciesRequest(policies=[WEIGHT]),
        admin_pb2.SetPoliciesResponse(policies=[WEIGHT]),
    ),
    (
        "DeletePolicies",
        lambda c: c.delete_policies([NAME]),
        admin_pb2.DeletePoliciesRequest(names=[NAME]),
        admin_pb2.DeletePoliciesResponse(names=[NAME]),
    ),
    (
        "ListPolicies",
        lambda c: c.policies(policy_pb2.POLICY_KIND_WEIGHT),
        admin_pb2.ListPoliciesRequest(kind=policy_pb2.POLICY_KIND_WEIGHT, page_size=1000),
        admin_pb2.ListPoliciesResponse(policies=[WEIGHT]),
    ),
    (
        "ListWebhookDeliveries",
        lambda c: c.webhook_deliveries(admin_pb2.WEBHOOK_DELIVERY_STATE_GIVEN_UP, limit=7),
        admin_pb2.ListWebhookDeliveriesRequest(state=admin_pb2.WEBHOOK_DELIVERY_STATE_GIVEN_UP, page_size=7),
        admin_pb2.ListWebhookDeliveriesResponse(pending=3),
    ),
    (
        "RetryWebhookDeliveries",
        lambda c: c.retry_webhooks([3, 4]),
        admin_pb2.RetryWebhookDeliveriesRequest(numbers=[3, 4]),
        admin_pb2.RetryWebhookDeliveriesResponse(count=2),
    ),
    ("GetCoordinator", lambda c: c.coordinator(), admin_pb2.GetCoordinatorRequest(), admin_pb2.GetCoordinatorResponse(version="1")),
]


@pytest.mark.parametrize("method, call, request_message, answer", CASES, ids=[case[0] for case in CASES])
async def test_a_call_asks_and_answers(
    client: Client,
    server: AnyUnary,
    method: str,
    call: Callable[[Client], Awaitable[Any]],
    request_message: Message,
    answer: Message,
) -> None:
    server.answers = [answer]
    got = await call(client)
    assert server.asked == [(method, request_message.SerializeToString())]
    assert server.namespaces == {"team-a"}
    inner = next((value for _, value in answer.ListFields()), None)
    if inner is None:  # an empty list of things
        assert got in (answer, [])
    else:
        assert got in (answer, inner) or [got] == list(inner)


PAUSE = policy_pb2.Policy(pause=policy_pb2.PausePolicy(task_type="llm.*", reason="down", pause_for=Duration(seconds=1, nanos=500_000_000)))
CORDON = policy_pb2.Policy(cordon=policy_pb2.CordonPolicy(agent_name="ann", reason="disk"))
RESUMED = policy_pb2.PolicyName(kind=policy_pb2.POLICY_KIND_PAUSE, key="llm.*")
UNCORDONED = policy_pb2.PolicyName(kind=policy_pb2.POLICY_KIND_CORDON, key="ann")


async def test_pauses_and_cordons_are_policies(client: Client, server: AnyUnary) -> None:
    server.answers = [admin_pb2.SetPoliciesResponse(policies=[one]) for one in (PAUSE, CORDON)]
    server.answers += [admin_pb2.DeletePoliciesResponse(names=[one]) for one in (RESUMED, UNCORDONED)]
    server.answers += [admin_pb2.DeletePoliciesResponse()] * 2
    assert await client.pause("llm.*", reason="down", for_s=1.5) == PAUSE
    assert await client.cordon("ann", reason="disk") == CORDON
    assert (await client.resume("llm.*"), await client.uncordon("ann")) == (True, True)
    assert (await client.resume("llm.*"), await client.uncordon("ann")) == (False, False)
    assert server.asked == [
        *(("SetPolicies", admin_pb2.SetPoliciesRequest(policies=[one]).SerializeToString()) for one in (PAUSE, CORDON)),
        *(("DeletePolicies", admin_pb2.DeletePoliciesRequest(names=[one]).SerializeToString()) for one in (RESUMED, UNCORDONED) * 2),
    ]


async def test_breakers_are_reset(client: Client, server: AnyUnary) -> None:
    breaker = agent_pb2.Breaker(agent_name="ann", task_type="llm.chat", state=agent_pb2.BREAKER_STATE_OPEN)
    server.answers = [admin_pb2.ResetBreakersResponse(breakers=[breaker])]
    assert await client.reset_breakers("ann", "llm.chat") == [breaker]
    request = admin_pb2.ResetBreakersRequest(agent_name="ann", task_type="llm.chat")
    assert server.asked == [("ResetBreakers", request.SerializeToString())]


async def test_a_history_is_that_of_the_whole_task(client: Client, server: AnyUnary) -> None:
    entries = [task_pb2.TaskHistoryEntry(attempt=attempt) for attempt in (0, 1)]
    server.answers = [task_pb2.GetTaskResponse(task=task_pb2.Task(task_id="x", history=entries))]
    assert list(await client.history("x")) == entries
    asked = task_pb2.GetTaskRequest(task_id="x", view=task_pb2.TASK_VIEW_FULL)
    assert server.asked == [("GetTask", asked.SerializeToString())]


async def test_lists_are_read_page_by_page(client: Client, server: AnyUnary) -> None:
    server.answers = [
        task_pb2.ListTasksResponse(tasks=[task_pb2.Task(task_id="a")], next_page_token="p2"),
        task_pb2.ListTasksResponse(next_page_token="p3"),
        task_pb2.ListTasksResponse(tasks=[task_pb2.Task(task_id="b")]),
    ]
    assert [task.task_id async for task in client.list("state = RUNNING", page_size=1)] == ["a", "b"]
    requests = [task_pb2.ListTasksRequest.FromString(asked) for _, asked in server.asked]
    assert [(each.page_token, each.filter, each.page_size) for each in requests] == [
        (token, "state = RUNNING", 1) for token in ("", "p2", "p3")
    ]
    server.answers = [
        agent_pb2.ListAgentsResponse(agents=[agent_pb2.AgentInfo(agent_name="a")], next_page_token="p2"),
        agent_pb2.ListAgentsResponse(agents=[agent_pb2.AgentInfo(agent_name="b")]),
        admin_pb2.ListNamespacesResponse(namespaces=[admin_pb2.Namespace(name="a")], next_page_token="p2"),
        admin_pb2.ListNamespacesResponse(namespaces=[admin_pb2.Namespace(name="b")]),
    ]
    assert [each.agent_name for each in await client.agents()] == ["a", "b"]
    assert [each.name for each in await client.namespaces()] == ["a", "b"]


async def test_a_drain_carries_its_deadline(client: Client, server: AnyUnary) -> None:
    server.answers = [agent_pb2.DrainAgentResponse()]
    await client.drain_agent("a", deadline_s=2)
    assert agent_pb2.DrainAgentRequest.FromString(server.asked[0][1]).deadline.seconds == 2


async def test_errors_raise_what_they_mean(client: Client, server: AnyUnary) -> None:
    server.answers = [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE]
    with pytest.raises(LimitError, match="no"):
        await client.explain("x")
    with pytest.raises(UnavailableError):
        await client.explain("x")
