"""The SDK: agents that run tasks, and clients that submit them.

Names are loaded when they are first used, so that a command's `--help` doesn't pay for gRPC.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

from agent_node.errors import (
    AlreadyExistsError,
    AttemptLostError,
    BlobGoneError,
    CompactedError,
    ConflictError,
    InvalidArgumentError,
    LimitError,
    LockLost,
    MusterError,
    NonRetryableError,
    NotFoundError,
    PayloadError,
    ProcessFailedError,
    RefusedError,
    ResultExpiredError,
    RetryableError,
    TaskCancelledError,
    TaskFailedError,
    UnavailableError,
)

# gRPC reads it when it is first used. Its handlers for forked children crash one in ten that is forked while calls are under
# way, before it gets to its `exec`: every subprocess that an event loop starts may be lost that way.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

if TYPE_CHECKING:
    from agent_node.agent import Agent
    from agent_node.client import (
        BlockingClient,
        Client,
        Priority,
        RetryPolicy,
        Scheduling,
        SubmitMiddleware,
        SubmitNext,
        TaskHandle,
        TaskOutput,
        TaskRequest,
        Webhook,
        as_completed,
    )
    from agent_node.context import Context
    from agent_node.handler import CallNext, Middleware
    from agent_node.state import AgentState, Entry, State, StateEvent

__all__ = [
    "Agent",
    "AgentState",
    "AlreadyExistsError",
    "AttemptLostError",
    "BlobGoneError",
    "BlockingClient",
    "CallNext",
    "Client",
    "CompactedError",
    "ConflictError",
    "Context",
    "Entry",
    "InvalidArgumentError",
    "LimitError",
    "LockLost",
    "Middleware",
    "MusterError",
    "NonRetryableError",
    "NotFoundError",
    "PayloadError",
    "Priority",
    "ProcessFailedError",
    "RefusedError",
    "ResultExpiredError",
    "RetryPolicy",
    "RetryableError",
    "Scheduling",
    "State",
    "StateEvent",
    "SubmitMiddleware",
    "SubmitNext",
    "TaskCancelledError",
    "TaskFailedError",
    "TaskHandle",
    "TaskOutput",
    "TaskRequest",
    "UnavailableError",
    "Webhook",
    "as_completed",
]

_MODULES = {
    "Agent": "agent_node.agent",
    "AgentState": "agent_node.state",
    "Entry": "agent_node.state",
    "State": "agent_node.state",
    "StateEvent": "agent_node.state",
    "Context": "agent_node.context",
    "CallNext": "agent_node.handler",
    "Middleware": "agent_node.handler",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_MODULES.get(name, "agent_node.client")), name)
    globals()[name] = value
    return value
