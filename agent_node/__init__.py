"""The SDK: agents that run tasks, and clients that submit them."""

from agent_node.client import BlockingClient, Client, Priority, RetryPolicy, TaskHandle, TaskOutput, TaskRequest, as_completed

__all__ = ["BlockingClient", "Client", "Priority", "RetryPolicy", "TaskHandle", "TaskOutput", "TaskRequest", "as_completed"]
