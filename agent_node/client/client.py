"""The asynchronous client: everything a program can ask of a coordinator, on one channel."""

import asyncio
import builtins
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

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
    WatchTasksRequest,
)
from muster.v1.task_pb2_grpc import TaskServiceStub

from agent_node.backoff import Backoff
from agent_node.client.around import Around, SubmitMiddleware
from agent_node.client.fleet_calls import FleetCalls
from agent_node.client.handle import TaskHandle
from agent_node.client.operation_calls import OperationCalls
from agent_node.client.scheduling import Scheduling
from agent_node.client.session import Session, TrackedTask
from agent_node.client.stream import SessionStream
from agent_node.client.tasks import Chunk, Payload, Priority, RetryPolicy, TaskRequest, build_requested, build_spec, view_of
from agent_node.client.unary_calls import Opened
from agent_node.client.watch import Watch, WatchCall, WatchedEvent, chunks, events
from agent_node.client.webhook import Webhook
from agent_node.connection import Target, call_metadata, default_address, open_channel, settle
from agent_node.errors import MusterError, UnavailableError
from agent_node.ids import new_task_id
from agent_node.payloads import Payloads

if TYPE_CHECKING:
    from agent_node.state.link import StateLink
    from agent_node.state.state import State
    from agent_node.state.values import Author

Submitted = list[TaskHandle | MusterError]
"""What became of many submits, in their order: a handle, or the error that the task was not taken for."""


class Client(FleetCalls, OperationCalls):
    """A connection to a coordinator, for one namespace and one event loop.

    Use it as `async with Client() as client`; or just use it, and `aclose` it at the end.

    Submits of concurrent callers travel together on one stream, and so do their acknowledgements and results: start many of them at
    once, or use `submit_many`, and the cost of each falls to a small part of a call's. A broken connection is mended behind the
    caller's back: what was not acknowledged is sent again under the same id, and results that are awaited are asked for again.

    Every method raises RefusedError (or a subclass) for what the coordinator refuses, and UnavailableError when it can't be reached.

    Args:
        address: `host:port` of any coordinator, or of several, comma separated, or a DNS name that has several; by default MUSTER_ADDRESS
            of the environment, or else 127.0.0.1:7450.
        namespace: the namespace to work in; it must exist.
        max_in_flight: submits without an acknowledgement, before `submit` waits for its turn; default 10,000.
        give_up_s: how many seconds a submit is sent again, and a watch resumed, over broken connections; default 300.
        connect_timeout_s: the same before the first answer, so that a wrong address shows soon; default 10.
        call_timeout_s: the deadline of every other call in seconds; default 30.
        parent_task_id: the parent of what is submitted without one of its own.
        payloads: what payloads go through before they travel, and results after; None is nothing.
        middleware: around every submit, the first outermost; see `SubmitMiddleware`.

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
        parent_task_id: str = "",
        payloads: Payloads | None = None,
        middleware: Sequence[SubmitMiddleware] = (),
    ) -> None:
        if max_in_flight < 1:
            raise ValueError("max_in_flight must be at least 1")
        self.target = Target(address or default_address(), namespace)
        super().__init__(metadata=call_metadata(self.target), call_timeout_s=call_timeout_s)
        self._max_in_flight = max_in_flight
        self._give_up_s = give_up_s
        self._connect_timeout_s = connect_timeout_s
        self._parent_task_id = parent_task_id
        self.around: Around | None = None  # nothing, on the plain path
        if payloads is not None or middleware:
            self.around = Around(middleware=middleware, payloads=payloads, send=self._send)
        self._opened: Opened | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        self._closed = False
        if self._opened is None:
            self._opened = self._open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connection. Whoever still waits gets UnavailableError; tasks that were taken go on."""
        self._closed = True
        opened, self._opened = self._opened, None
        if opened is not None:
            if opened.state is not None:
                await opened.state.aclose()
            await opened.stream.aclose()
            await opened.channel.close()
            await settle()

    async def submit(
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
    ) -> TaskHandle:
        """Submits a task, and returns when the coordinator has made it durable.

        A call that is cancelled, or ends with UnavailableError, may have been taken all the same: with a `task_id` of your own, submit
        it again, and it is the same task.

        Args:
            task_type: the capability that an agent must have.
            payload: bytes as they are; a str as UTF-8; anything else, a dataclass or a pydantic model too, as JSON.
            task_id: 1 to 128 characters of your own; by default a fresh UUIDv7.
            content_type: the payload's media type; by default the one that fits its Python type.
            priority: how urgent it is.
            max_retries: attempts after the first one; short for `retry=RetryPolicy(max_retries=...)`. Default 3.
            retry: how failed attempts are repeated.
            run_timeout_s: an attempt that runs longer, in seconds, has failed; None is no limit.
            progress_timeout_s: an attempt that shows no progress, usage, checkpoint or output for so many seconds has failed; None is no
                limit.
            not_before: the task becomes ready at this date of the store's clock; with a time zone. A date that has passed is now; at
                most 366 days away.
            delay_s: the task becomes ready so many seconds after it was accepted. Prefer it to a `not_before` that you would compute: it
                needs no clock here, and the same submit again is the same task.
            queue_timeout_s: the task fails unless an agent is given its first attempt within so many seconds of its becoming ready. Retries
                are not bound by it.
            deadline_s: the task fails if it hasn't ended so many seconds after it was accepted, or redriven: a running attempt is stopped,
                and no retry begins after that. Its handler sees the rest as `ctx.time_left_s`.
            scheduling: fairness key, slots, conditions on the agent and the like; None is none of it.
            webhook: who is told of the task's end, beside whom the namespace's webhooks tell: a URL, or a Webhook.
            parent_task_id: the task that this one belongs to: shown, not enforced; by default the client's.
            labels: what to find the task by later, such as {"team": "red"}: at most 16; names of 1 to 64 letters, digits and . _ / -,
                values of at most 128 characters. None is none.
            traceparent: W3C trace context for the agent.
            want_result: False for a task whose end this program won't wait for: nothing is kept or sent for it then.

        Raises:
            AlreadyExistsError: the id is taken by a task with another content.
            LimitError: a limit is reached; `retry_after_s` says when to come back.
            RefusedError: something is wrong with the task; `field` says what.
            UnavailableError: it could not be acknowledged within `give_up_s`.
            ValueError, TypeError: `max_retries` and `retry`, or `not_before` and `delay_s`, are both given, `not_before` has no time zone,
                `scheduling` or `webhook` is wrong in itself, or JSON can't hold the payload. Nothing was sent.
        """
        if self.around is not None:
            return await self.around.submit(
                TaskRequest(
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
                    parent_task_id=self._parent_task_id if parent_task_id is None else parent_task_id,
                    labels=labels,
                    traceparent=traceparent,
                    want_result=want_result,
                )
            )
        fresh = task_id is None
        if task_id is None:
            task_id = new_task_id()
        spec = build_spec(
            task_id,
            task_type,
            payload,
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
            parent_task_id=self._parent_task_id if parent_task_id is None else parent_task_id,
            labels=labels,
            traceparent=traceparent,
        )
        task = TrackedTask(task_id, spec, fresh=fresh, want_result=want_result)
        stream = self._live.stream
        if stream.full:
            await stream.room()
        await stream.submit(task)
        return TaskHandle(self, task)

    async def submit_many(self, requests: Iterable[TaskRequest]) -> Submitted:
        """Submits tasks, any number of them, and returns when there is a verdict on each.

        One bad task doesn't stop the others: its place in the answer holds its error, where the others have their handles.

        Raises:
            ValueError, TypeError: a request is wrong in itself, as for `submit`. Nothing was sent.
        """
        if self.around is not None:
            return await self.around.submit_many(builtins.list(requests))
        tasks = [self._track(request, fresh=request.task_id is None) for request in requests]
        refused = await self._live.stream.submit_many(tasks)
        return [refused[place] if place in refused else TaskHandle(self, task) for place, task in enumerate(tasks)]

    async def _send(self, request: TaskRequest, fresh: bool) -> TaskHandle:  # noqa: FBT001 - a fact about the request
        """Submits a request as it is."""
        task = self._track(request, fresh=fresh)
        stream = self._live.stream
        if stream.full:
            await stream.room()
        await stream.submit(task)
        return TaskHandle(self, task)

    def _track(self, request: TaskRequest, *, fresh: bool) -> TrackedTask:
        task_id = new_task_id() if request.task_id is None else request.task_id
        spec = build_requested(task_id, request)
        if request.parent_task_id is None:
            spec.parent_task_id = self._parent_task_id
        return TrackedTask(task_id, spec, fresh=fresh, want_result=request.want_result)

    def attach(self, task_id: str) -> TaskHandle:
        """A handle on a task that was submitted elsewhere or earlier. It is looked for when the handle is used.

        Args:
            task_id: its id.
        """
        return TaskHandle(self, TrackedTask(task_id))

    def when_ended(self, task: TrackedTask) -> "asyncio.Future[None]":
        """For handles: a future that is done when the task's end is known."""
        return self._live.stream.when_ended(task)

    def chunks(self, task_id: str) -> AsyncIterator[Chunk]:
        """One task's partial output from its beginning until it has ended; see `TaskHandle.chunks`."""
        return chunks(self._watch(), task_id)

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
    ) -> AsyncIterator[WatchedEvent]:
        """Follows tasks: first their present state, then every change. It resumes by itself over broken connections.

        Args:
            task_ids: the tasks to follow, at most 10,000; the watch ends when all have ended.
            filter: instead of ids, which tasks, as in `list`; this watch doesn't end.
            cursor: resume behind the event that carried this cursor.
            chunks: also partial output.
            progress: also progress.
            full: tasks with their payloads.
            on_break: called with the reason when the connection breaks, before it is tried again; without it this is silent.

        Raises:
            ValueError: not exactly one of ids and a filter is given.
            RefusedError: the filter or the cursor is wrong (`field` says which).
            LimitError: events were read too slowly; resume from the last cursor.
            UnavailableError: it could not be resumed within `give_up_s`, or the client was closed.
        """
        if bool(task_ids) == bool(filter):
            raise ValueError("give task_ids or a filter, and not both")
        request = WatchTasksRequest(
            task_ids=task_ids,
            filter=filter,
            cursor=cursor or "",
            include_chunks=chunks,
            include_progress=progress,
            view=view_of(full=full),
        )
        return events(self._watch(on_break), request)

    async def get(self, task_id: str, *, full: bool = False) -> Task:
        """One task. Raises NotFoundError when it is neither live nor retained.

        Args:
            task_id: its id.
            full: with payload, outcome, checkpoint and history.
        """
        response = await self._call(self._live.tasks.GetTask, GetTaskRequest(task_id=task_id, view=view_of(full=full)))
        return response.task

    async def history(self, task_id: str) -> Sequence[TaskHistoryEntry]:
        """What has happened to a task so far, in order: the `history` of `get(task_id, full=True)`.

        Raises NotFoundError when it is neither live nor retained.
        """
        return (await self.get(task_id, full=True)).history

    async def list(self, filter: str = "", *, page_size: int = 0, full: bool = False) -> AsyncIterator[Task]:  # noqa: A002
        """The tasks that match, fetched page by page as they are read: live ones by age, then those that ended, the latest first.

        Args:
            filter: such as `task_type = "summarise" AND state = RUNNING`; empty is all. OR binds tighter than AND.
            page_size: tasks per call, at most 1,000; 0 is the coordinator's 100.
            full: with payload, outcome and checkpoint.
        """
        request = ListTasksRequest(filter=filter, page_size=page_size, view=view_of(full=full))
        async for page in self._pages(self._live.tasks.ListTasks, request):
            for task in page.tasks:
                yield task

    async def cancel(self, task_ids: Sequence[str], reason: str = "") -> Sequence[CancelledTask]:
        """Asks for at most 1,000 tasks to be stopped; the answers, in their order, say what that came to.

        Args:
            task_ids: the tasks.
            reason: shown to the handlers and on the tasks.
        """
        response = await self._call(self._live.tasks.CancelTasks, CancelTasksRequest(task_ids=task_ids, reason=reason))
        return response.tasks

    async def cancel_one(self, task_id: str, reason: str) -> CancelledTask:
        """For handles: `cancel` of one task."""
        return (await self.cancel([task_id], reason))[0]

    async def explain(self, task_id: str) -> ExplainTaskResponse:
        """Why a task waits, or where it runs, from what the scheduler decides from. Raises NotFoundError for one that is not known."""
        return await self._call(self._live.tasks.ExplainTask, ExplainTaskRequest(task_id=task_id))

    @property
    def state(self) -> "State":
        """The namespace's shared state: keys, watches, leases and locks. It connects at its first use."""
        return self.state_of(None, None)

    def state_of(self, author: "Author | None", attempt: tuple[str, int] | None) -> "State":
        """For handlers: the shared state as it is written by somebody, from an attempt of a task."""
        from agent_node.state.state import State

        return State(self._state_link, author=author, attempt=attempt)

    def _state_link(self) -> "StateLink":
        opened = self._live
        if opened.state is None:
            from agent_node.state.link import StateLink

            opened.state = StateLink(
                opened.channel, metadata=self._metadata, give_up_s=self._give_up_s, connect_timeout_s=self._connect_timeout_s
            )
        return opened.state

    @property
    def _live(self) -> Opened:
        if self._opened is None:
            if self._closed:
                raise UnavailableError("the client is closed")
            self._opened = self._open()
        elif self._opened.loop is not asyncio.get_running_loop():
            raise RuntimeError("the client was first used in another event loop: give each its own, or use a BlockingClient from threads")
        return self._opened

    def _open(self) -> Opened:
        channel = open_channel(self.target, connect_timeout_s=self._connect_timeout_s)
        tasks = TaskServiceStub(channel)
        stream = SessionStream(
            open_call=lambda: tasks.Session(metadata=self._metadata),
            session=Session(give_up_s=self._give_up_s, connect_timeout_s=self._connect_timeout_s),
            backoff=Backoff(),
            max_in_flight=self._max_in_flight,
        )
        return Opened(asyncio.get_running_loop(), channel, stream, tasks, AgentServiceStub(channel), AdminServiceStub(channel))

    def _watch(self, on_break: Callable[[UnavailableError], None] | None = None) -> Watch:
        return Watch(
            open_call=self._open_watch,
            backoff=Backoff(),
            give_up_s=self._give_up_s,
            connect_timeout_s=self._connect_timeout_s,
            now_s=asyncio.get_running_loop().time,
            on_break=on_break,
        )

    def _open_watch(self, request: WatchTasksRequest) -> WatchCall:
        return self._live.tasks.WatchTasks(request, metadata=self._metadata)
