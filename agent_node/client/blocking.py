"""The client for scripts and notebooks: the same methods, blocking.

Submits, results and watches go through a Client on an event loop in a thread of its own, so that they work inside a running loop
too, as in Jupyter. Single calls need no loop: they use a blocking channel of their own.
"""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from typing import Any, Self, TypeVar

import grpc
from muster.v1.admin_pb2 import (
    CreateNamespaceRequest,
    GetCoordinatorRequest,
    GetCoordinatorResponse,
    GetLoadMapRequest,
    GetLoadMapResponse,
    GetQueueStatsRequest,
    GetQueueStatsResponse,
    ListNamespacesRequest,
    Namespace,
)
from muster.v1.admin_pb2_grpc import AdminServiceStub
from muster.v1.agent_pb2 import AgentInfo, DrainAgentRequest, DrainAgentResponse, ListAgentsRequest
from muster.v1.agent_pb2_grpc import AgentServiceStub
from muster.v1.task_pb2 import (
    CancelledTask,
    CancelTasksRequest,
    ExplainTaskRequest,
    ExplainTaskResponse,
    GetTaskRequest,
    ListTasksRequest,
    Task,
)
from muster.v1.task_pb2_grpc import TaskServiceStub
