"""The client for scripts and notebooks: the same methods, blocking.

Submits, results and watches go through a Client on an event loop in a thread of its own, so that they work inside a running loop
too, as in Jupyter. Single calls need no loop: they use a blocking channel of their own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Self, TypeVar

import grpc
from muster.v1.admin_pb2_grpc import AdminServiceStub
from muster.v1.agent_pb2_grpc import AgentServiceStub
from muster.v1.task_pb2 import (
    CancelledTask,
    CancelTasksRequest,
    ExplainTaskRequest,
    ExplainTaskResponse,
    GetTaskRequest,
    ListTasksRequest,
    Task,
    TaskHistoryEntry,
)
from muster.v1.task_pb2_grpc import TaskServiceStub

from agent_node.client.around import SubmitMiddleware
from agent_node.client.blocking_fleet import BlockingFleetCalls
from agent_node.client.blocking_operations import BlockingOperationCalls
from agent_node.client.client import Client
from agent_node.client.handle import TaskHandle, as_completed
from agent_node.client.loop_thread import LoopThread
from agent_node.client.scheduling import Scheduling
from agent_node.client.tasks import Chunk, Payload, Priority, RetryPolicy, TaskOutput, TaskRequest, view_of
from agent_node.client.watch import WatchedEvent
from agent_node.client.webhook import Webhook
from agent_node.connection import Target, call_metadata, default_address, from_rpc_error, open_blocking_channel
from agent_node.errors import MusterError, UnavailableError
from agent_node.payloads import Payloads

if TYPE_CHECKING:
    from agent_node.state.blocking import BlockingState
    from agent_node.state.values import Author

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class BlockingTaskHandle:
    """One task of a BlockingClient: TaskHandle's methods, blocking."""

    __slots__ = ("_client", "_loop_thread", "handle")

    def __init__(self, client: "BlockingClient", loop_thread: LoopThread, handle: TaskHandle) -> None:
        self._client = client
        self._loop_thread = loop_thread
        self.handle = handle  # the asynchronous one

    def __repr__(self) -> str:
        return f"<BlockingTaskHandle {self.task_id}>"

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.handle.task_id

    def done(self) -> bool:
        """Whether the task's end has arrived here, so that `result` answers at once."""
        return self.handle.done()

    def result(self, timeout_s: float | None = None) -> TaskOutput:
        """Waits for the task's end; see `TaskHandle.result` for what it returns and raises.

        Args:
            timeout_s: how many seconds to wait at most; None waits as long as it takes.
        """
        return self._loop_thread.run(self.handle.result(timeout_s))

    def cancel(self, reason: str = "") -> CancelledTask:
        """Asks for the task to be stopped.

        Args:
            reason: shown to the handler and on the task.
        """
        return self._client.cancel([self.task_id], reason)[0]

    def status(self) -> Task:
        """The task as the coordinator sees it now, without payloads."""
        return self._client.get(self.task_id)

    def chunks(self) -> Iterator[Chunk]:
        """The task's partial output from its beginning until the task has ended; see `TaskHandle.chunks`."""
        return self._loop_thread.iterate(self.handle.chunks)


BlockingSubmitted = list[BlockingTaskHandle | MusterError]
"""What became of many submits, in their order: a handle, or the error that the task was not taken for."""


class BlockingClient(BlockingFleetCalls, BlockingOperationCalls):
    """A connection to a coordinator for code without an event loop. Use it as `with BlockingClient() as client`, or `close` it.

    It may be shared by threads. Methods take and raise what those of `Client` do.

    Args:
        address: `host:port` of any coordinator, or of several, comma separated, or a DNS name that has several; by default MUSTER_ADDRESS
            of the environment, or else 127.0.0.1:7450.
        namespace: the namespace to work in; it must exist.
        max_in_flight: submits without an acknowledgement, before `submit` waits for its turn; default 10,000.
        give_up_s: how many seconds a submit is sent again, and a watch resumed, over broken connections; default 300.
        connect_timeout_s: the same before the first answer, so that a wrong address shows soon; default 10.
        call_timeout_s: the deadline of every other call in seconds; default 30.
        payloads: what payloads go through before they travel, and results after; None is nothing.
        middleware: around every submit, as for `Client`: async functions, which run in this client's thread.
        channel: for tests: a channel for single calls, instead of one of its own. It is not closed here.

    Raises:
        ValueError: `max_in_flight` is below 1.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        namespace: str = "default",
        max_in_flight: int = 10_000,
        give_up_s: float = 300.0,
        connect_timeout_s: float = 10.0,
        call_timeout_s: float = 30.0,
        payloads: Payloads | None = None,
        middleware: Sequence[SubmitMiddleware] = (),
        channel: grpc.Channel | None = None,
    ) -> None:
        self.target = Target(address or default_address(), namespace)
        self._client = Client(
            self.target.address,
            namespace=namespace,
            max_in_flight=max_in_flight,
            give_up_s=give_up_s,
            connect_timeout_s=connect_timeout_s,
            call_timeout_s=call_timeout_s,
            payloads=payloads,
            middleware=middleware,
        )
        self._call_timeout_s = call_timeout_s
        self._metadata = call_metadata(self.target)
        self._own_channel = channel is None
        self._channel = channel if channel is not None else open_blocking_channel(self.target, connect_timeout_s=connect_timeout_s)
        self._tasks = TaskServiceStub(self._channel)
        self._agents = AgentServiceStub(self._channel)
        self._admin = AdminServiceStub(self._channel)
        self._loop_thread = LoopThread(name="muster-client", begin=self._client.__aenter__, end=self._client.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection and ends the thread. Whoever still waits gets UnavailableError; tasks that were taken go on."""
        self._loop_thread.close()
        if self._own_channel:
            self._channel.close()

    def submit(
        self,
        task_type: str,
        payload: Payload = b"",
        *,
        task_id: str | None = None,
        content_type: str | None = None,
        priority: Priority = Priority.NORMAL,
        max_retries: int | None = None,
        retry: RetryPolicy | None = None,
        run_timeout_s: float | None = None,
        progress_timeout_s: float | None = None,
        not_before: datetime | None = None,
        delay_s: float | None = None,
        queue_timeout_s: float | None = None,
        deadline_s: float | None = None,
        scheduling: Scheduling | None = None,
        webhook: Webhook | str | None = None,
        parent_task_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        traceparent: str = "",
        want_result: bool = True,
    ) -> BlockingTaskHandle:
        """Submits a task, and returns when the coordinator has made it durable; see `Client.submit` for arguments and errors.

        One call at a time waits for the disk each time: for many tasks use `submit_many`.
        """
        handle = self._loop_thread.run(
            self._client.submit(
                task_type,
                payload,
                task_id=task_id,
                content_type=content_type,
                priority=priority,
                max_retries=max_retries,
                retry=retry,
                run_timeout_s=run_timeout_s,
                progress_timeout_s=progress_timeout_s,
                not_before=not_before,
                delay_s=delay_s,
                queue_timeout_s=queue_timeout_s,
                deadline_s=deadline_s,
                scheduling=scheduling,
                webhook=webhook,
                parent_task_id=parent_task_id,
                labels=labels,
                traceparent=traceparent,
                want_result=want_result,
            )
        )
        return BlockingTaskHandle(self, self._loop_thread, handle)

    def submit_many(self, requests: Iterable[TaskRequest]) -> BlockingSubmitted:
        """Submits tasks, any number of them, and returns when there is a verdict on each: its handle, or its error."""
        submitted = self._loop_thread.run(self._client.submit_many(requests))
        return [BlockingTaskHandle(self, self._loop_thread, each) if isinstance(each, TaskHandle) else each for each in submitted]

    def attach(self, task_id: str) -> BlockingTaskHandle:
        """A handle on a task that was submitted elsewhere or earlier. It is looked for when the handle is used."""
        return BlockingTaskHandle(self, self._loop_thread, self._client.attach(task_id))

    def as_completed(self, handles: Iterable[BlockingTaskHandle]) -> Iterator[BlockingTaskHandle]:
        """This client's handles in the order in which their tasks end, whichever way."""
        by_handle = {each.handle: each for each in handles}
        for handle in self._loop_thread.iterate(lambda: as_completed(by_handle)):
            yield by_handle[handle]

    def watch(
        self,
        task_ids: Sequence[str] = (),
        *,
        filter: str = "",  # noqa: A002 - the word of the API
        cursor: str | None = None,
        chunks: bool = False,
        progress: bool = False,
        full: bool = False,
        on_break: Callable[[UnavailableError], None] | None = None,
    ) -> Iterator[WatchedEvent]:
        """Follows tasks; see `Client.watch`. Leave the loop over it, or `close` it, to stop. `on_break` is called in another thread."""
        return self._loop_thread.iterate(
            lambda: self._client.watch(
                task_ids, filter=filter, cursor=cursor, chunks=chunks, progress=progress, full=full, on_break=on_break
            )
        )

    def get(self, task_id: str, *, full: bool = False) -> Task:
        """One task. Raises NotFoundError when it is neither live nor retained."""
        return self._call(self._tasks.GetTask, GetTaskRequest(task_id=task_id, view=view_of(full=full))).task

    def history(self, task_id: str) -> Sequence[TaskHistoryEntry]:
        """What has happened to a task so far, in order; see `Client.history`."""
        return self.get(task_id, full=True).history

    def list(self, filter: str = "", *, page_size: int = 0, full: bool = False) -> Iterator[Task]:  # noqa: A002
        """The tasks that match, fetched page by page as they are read; see `Client.list`."""
        request = ListTasksRequest(filter=filter, page_size=page_size, view=view_of(full=full))
        for page in self._pages(self._tasks.ListTasks, request):
            yield from page.tasks

    def cancel(self, task_ids: Sequence[str], reason: str = "") -> Sequence[CancelledTask]:
        """Asks for at most 1,000 tasks to be stopped; the answers, in their order, say what that came to."""
        return self._call(self._tasks.CancelTasks, CancelTasksRequest(task_ids=task_ids, reason=reason)).tasks

    @property
    def state(self) -> "BlockingState":
        """The namespace's shared state; see `Client.state`. It has all but the watches."""
        return self.state_of(None, None)

    def state_of(self, author: "Author | None", attempt: tuple[str, int] | None) -> "BlockingState":
        """For handlers: the shared state as it is written by somebody, from an attempt of a task."""
        from agent_node.state.blocking import BlockingState

        return BlockingState(self._loop_thread, lambda: self._client.state_of(author, attempt))

    def explain(self, task_id: str) -> ExplainTaskResponse:
        """Why a task waits, or where it runs, from what the scheduler decides from."""
        return self._call(self._tasks.ExplainTask, ExplainTaskRequest(task_id=task_id))

    def _call(self, method: "grpc.UnaryUnaryMultiCallable[_Request, _Response]", request: _Request) -> _Response:
        if self._loop_thread.closed:
            raise UnavailableError("the client is closed")
        try:
            return method(request, metadata=self._metadata, timeout=self._call_timeout_s)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
