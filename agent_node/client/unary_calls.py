"""How a client makes its unary calls, and reads lists page by page."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import grpc

from agent_node.client.paged import PagedRequest, PagedResponse
from agent_node.client.stream import SessionStream
from agent_node.connection import from_rpc_error

if TYPE_CHECKING:
    from muster.v1.admin_pb2_grpc import AdminServiceAsyncStub
    from muster.v1.agent_pb2_grpc import AgentServiceAsyncStub
    from muster.v1.task_pb2_grpc import TaskServiceAsyncStub

    from agent_node.state.link import StateLink

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_PagedRequest = TypeVar("_PagedRequest", bound=PagedRequest)
_PagedResponse = TypeVar("_PagedResponse", bound=PagedResponse)


@dataclass
class Opened:
    """What exists between opening and closing a client."""

    loop: asyncio.AbstractEventLoop  # the one that it was first used in
    channel: grpc.aio.Channel
    stream: SessionStream
    tasks: "TaskServiceAsyncStub"
    agents: "AgentServiceAsyncStub"
    admin: "AdminServiceAsyncStub"
    state: "StateLink | None" = None  # once shared state is used


class UnaryCalls(ABC):
    """What all parts of a Client make their calls by.

    Args:
        metadata: of every call.
        call_timeout_s: every call's deadline in seconds.
    """

    def __init__(self, *, metadata: tuple[tuple[str, str], ...], call_timeout_s: float) -> None:
        self._metadata = metadata
        self._call_timeout_s = call_timeout_s

    @property
    @abstractmethod
    def _live(self) -> Opened:
        """What is open. Raises UnavailableError when the client is closed."""

    async def _pages(
        self, method: "grpc.aio.UnaryUnaryMultiCallable[_PagedRequest, _PagedResponse]", request: _PagedRequest
    ) -> AsyncIterator[_PagedResponse]:
        """The pages of a list, each fetched when it is asked for."""
        while True:
            response = await self._call(method, request)
            yield response
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    async def _call(self, method: "grpc.aio.UnaryUnaryMultiCallable[_Request, _Response]", request: _Request) -> _Response:
        try:
            return await method(request, metadata=self._metadata, timeout=self._call_timeout_s)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
