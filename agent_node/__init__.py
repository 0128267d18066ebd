"""The SDK: agents that run tasks, and clients that submit them."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent_node.agent import Agent as Agent
    from agent_node.client import BlockingClient as BlockingClient
    from agent_node.client import Client as Client
    from agent_node.client import Priority as Priority
    from agent_node.client import RetryPolicy as RetryPolicy
    from agent_node.client import TaskHandle as TaskHandle
    from agent_node.client import TaskOutput as TaskOutput
    from agent_node.client import TaskRequest as TaskRequest
    from agent_node.client import as_completed as as_completed
    from agent_node.context import Context as Context
    from agent_node.errors import AlreadyExistsError as AlreadyExistsError
    from agent_node.errors import AttemptLostError as AttemptLostError
    from agent_node.errors import LimitError as LimitError
    from agent_node.errors import MusterError as MusterError
    from agent_node.errors import NonRetryableError as NonRetryableError
    from agent_node.errors import NotFoundError as NotFoundError
    from agent_node.errors import RefusedError as RefusedError
    from agent_node.errors import ResultExpiredError as ResultExpiredError
    from agent_node.errors import RetryableError as RetryableError
    from agent_node.errors import TaskCancelledError as TaskCancelledError
    from agent_node.errors import TaskFailedError as TaskFailedError
    from agent_node.errors import UnavailableError as UnavailableError

# Where each public name lives: loaded when it is first used, so that a command's --help doesn't wait for gRPC.
_HOMES = {
    "agent": ("Agent",),
    "client": (
        "BlockingClient",
        "Client",
        "Priority",
        "RetryPolicy",
        "TaskHandle",
        "TaskOutput",
        "TaskRequest",
        "as_completed",
    ),
    "context": ("Context",),
    "errors": (
        "AlreadyExistsError",
        "AttemptLostError",
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
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
