"""How a blocking client reads lists page by page; how it makes a call is the client's own."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TypeVar

import grpc
from muster.v1.admin_pb2_grpc import AdminServiceStub
from muster.v1.agent_pb2_grpc import AgentServiceStub

from agent_node.client.paged import PagedRequest, PagedResponse

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_PagedRequest = TypeVar("_PagedRequest", bound=PagedRequest)
_PagedResponse = TypeVar("_PagedResponse", bound=PagedResponse)


class BlockingCalls(ABC):
    """What all parts of a BlockingClient make their calls by."""

    _agents: AgentServiceStub
    _admin: AdminServiceStub

    def _pages(
        self, method: "grpc.UnaryUnaryMultiCallable[_PagedRequest, _PagedResponse]", request: _PagedRequest
    ) -> Iterator[_PagedResponse]:
        """The pages of a list, each fetched when it is asked for."""
        while True:
            response = self._call(method, request)
            yield response
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    @abstractmethod
    def _call(self, method: "grpc.UnaryUnaryMultiCallable[_Request, _Response]", request: _Request) -> _Response:
        """Makes a call, and raises what it failed with as one of our errors."""
