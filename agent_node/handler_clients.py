"""The clients that handlers submit further tasks with: one connection per agent, opened when the first handler asks for it."""

import dataclasses
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent_node.client import BlockingClient, BlockingTaskHandle, Client, SubmitMiddleware, Submitted, TaskHandle, TaskRequest
from agent_node.client.blocking import BlockingSubmitted
from agent_node.client.tasks import Payload
from agent_node.connection import Target
from agent_node.payloads import Payloads

if TYPE_CHECKING:
    from agent_node.state.blocking import BlockingState
    from agent_node.state.state import State
    from agent_node.state.values import Author


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """What an agent's handlers submit with. It goes to child processes, too: by import and pickle.

    Args:
        target: the agent's own coordinator and namespace.
        payloads: the agent's own.
        middleware: around their submits.
        agent_name: the agent's, as the author of what they write.
    """

    target: Target
    payloads: Payloads | None = None
    middleware: tuple[SubmitMiddleware, ...] = ()
    agent_name: str = ""


class HandlerClient(Client):
    """A Client whose submits name a task as their parent. It belongs to the agent, which closes it."""

    def __init__(self, shared: "_SharedClient", parent_task_id: str) -> None:
        # The same connection, waiting submits and all: nothing of it is this view's own.
        self.__dict__.update(vars(shared.opened()))
        self._parent_task_id = parent_task_id

    async def submit(self, task_type: str, payload: Payload = b"", **options: Any) -> TaskHandle:
        options.setdefault("parent_task_id", self._parent_task_id)
        return await super().submit(task_type, payload, **options)

    async def submit_many(self, requests: Iterable[TaskRequest]) -> Submitted:
        return await super().submit_many(_with_parent(requests, self._parent_task_id))

    async def aclose(self) -> None:
        """Does nothing: other handlers use the connection, too."""


class BlockingHandlerClient(BlockingClient):
    """The same for plain handlers."""

    def __init__(self, shared: BlockingClient, parent_task_id: str) -> None:
        self.__dict__.update(vars(shared))
        self._parent_task_id = parent_task_id

    def submit(self, task_type: str, payload: Payload = b"", **options: Any) -> BlockingTaskHandle:
        options.setdefault("parent_task_id", self._parent_task_id)
        return super().submit(task_type, payload, **options)

    def submit_many(self, requests: Iterable[TaskRequest]) -> BlockingSubmitted:
        return super().submit_many(_with_parent(requests, self._parent_task_id))

    def close(self) -> None:
        """Does nothing: other handlers use the connection, too."""


class HandlerClients:
    """An agent's two connections for its handlers, each opened when it is first needed.

    Args:
        options: the agent's.
    """

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        target = options.target
        self._client = _SharedClient(target.address, namespace=target.namespace, payloads=options.payloads, middleware=options.middleware)
        self._blocking: BlockingClient | None = None
        self._lock = threading.Lock()

    def for_task(self, task_id: str) -> Client:
        """For an async handler, in its loop."""
        return HandlerClient(self._client, task_id)

    def state_for(self, task_id: str, fence: int, attempt: int) -> "State":
        """The shared state as an async handler writes it, in its loop."""
        return self._client.opened().state_of(self._author(task_id, attempt), (task_id, fence))

    def blocking_state_for(self, task_id: str, fence: int, attempt: int) -> "BlockingState":
        """The same for a plain handler, from any thread."""
        return self._blocking_client().state_of(self._author(task_id, attempt), (task_id, fence))

    def blocking_for_task(self, task_id: str) -> BlockingClient:
        """For a plain handler, from any thread."""
        return BlockingHandlerClient(self._blocking_client(), task_id)

    def _author(self, task_id: str, attempt: int) -> "Author":
        from agent_node.state.values import Author

        return Author(agent=self._options.agent_name, task_id=task_id, attempt=attempt)

    def _blocking_client(self) -> BlockingClient:
        with self._lock:
            if self._blocking is None:
                options, target = self._options, self._options.target
                self._blocking = BlockingClient(
                    target.address, namespace=target.namespace, payloads=options.payloads, middleware=options.middleware
                )
            return self._blocking

    async def aclose(self) -> None:
        """Closes what was opened, in the loop that used it."""
        await self._client.aclose()
        if self._blocking is not None:
            self._blocking.close()


class _SharedClient(Client):
    def opened(self) -> Client:
        """Itself, open. It connects at its first call."""
        if self._opened is None:
            self._opened = self._open()
        return self


def _with_parent(requests: Iterable[TaskRequest], task_id: str) -> list[TaskRequest]:
    return [dataclasses.replace(request, parent_task_id=task_id) if request.parent_task_id is None else request for request in requests]
