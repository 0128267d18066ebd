"""The SDK: agents that run tasks, and clients that submit them."""

from agent_node.agent import Agent
from agent_node.client import BlockingClient, Client, Priority, RetryPolicy, TaskHandle, TaskOutput, TaskRequest, as_completed
from agent_node.context import Context
from agent_node.errors import (
    AlreadyExistsError,
    AttemptLostError,
    LimitError,
    MusterError,
    NonRetryableError,
    NotFoundError,
    RefusedError,
    ResultExpiredError,
    RetryableError,
    TaskCancelledError,
    TaskFailedError,
    UnavailableError,
)

__all__ = [
    "Agent",
    "AlreadyExistsError",
    "AttemptLostError",
    "BlockingClient",
    "Client",
    "Context",
    "LimitError",
    "MusterError",
    "NonRetryableError",
    "NotFoundError",
    "Priority",
    "RefusedError",
    "ResultExpiredError",
    "RetryPolicy",
    "RetryableError",
    "TaskCancelledError",
    "TaskFailedError",
    "TaskHandle",
    "TaskOutput",
    "TaskRequest",
    "UnavailableError",
    "as_completed",
]
