"""The client: submits tasks, waits for their results, follows and administers them."""

from agent_node.client.around import SubmitMiddleware, SubmitNext
from agent_node.client.blocking import BlockingClient, BlockingTaskHandle
from agent_node.client.client import Client, Submitted
from agent_node.client.handle import TaskHandle, as_completed
from agent_node.client.scheduling import Scheduling
from agent_node.client.tasks import Chunk, Priority, RetryPolicy, TaskOutput, TaskRequest
from agent_node.client.watch import WatchedEvent
from agent_node.client.webhook import Webhook

__all__ = [
    "BlockingClient",
    "BlockingTaskHandle",
    "Chunk",
    "Client",
    "Priority",
    "RetryPolicy",
    "Scheduling",
    "SubmitMiddleware",
    "SubmitNext",
    "Submitted",
    "TaskHandle",
    "TaskOutput",
    "TaskRequest",
    "WatchedEvent",
    "Webhook",
    "as_completed",
]
