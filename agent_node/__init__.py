"""The SDK: agents that run tasks, and clients that submit them."""

from agent_node.agent import Agent
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
    "Context",
    "LimitError",
    "MusterError",
    "NonRetryableError",
    "NotFoundError",
    "RefusedError",
    "ResultExpiredError",
    "RetryableError",
    "TaskCancelledError",
    "TaskFailedError",
    "UnavailableError",
]
