"""What is around a client's submits and results: middleware, and what payloads go through on their way."""

import asyncio
import dataclasses
import functools
from collections.abc import Awaitable, Callable, Sequence

from agent_node.client.handle import TaskHandle
from agent_node.client.session import TrackedTask
from agent_node.client.tasks import TaskOutput, TaskRequest, encode_payload
from agent_node.errors import MusterError, PayloadError
from agent_node.ids import new_task_id
from agent_node.payloads import About, Content, Payloads

_AT_A_TIME = 256  # as many as a message holds

SubmitNext = Callable[[TaskRequest], Awaitable[TaskHandle]]
"""What is further inside: the next middleware, or the submit. It raises what `Client.submit` raises."""

SubmitMiddleware = Callable[[TaskRequest, SubmitNext], Awaitable[TaskHandle]]
"""Something around submits: `async def stamped(request, call_next): return await call_next(dataclasses.replace(request, ...))`."""


class Around:
    """Submits and results with everything around them.

    Args:
        middleware: the first is the outermost. It sees payloads as they were given, and every request with its task id.
        payloads: what payloads and results go through; None is nothing.
        send: submits a request as it is; the second argument says whether its id is fresh.
    """

    def __init__(
        self,
        *,
        middleware: Sequence[SubmitMiddleware],
        payloads: Payloads | None,
        send: Callable[[TaskRequest, bool], Awaitable[TaskHandle]],
    ) -> None:
        self._middleware = tuple(reversed(middleware))
        self._payloads = payloads
        self._send = send

    async def submit(self, request: TaskRequest) -> TaskHandle:
        """As `Client.submit`."""
        fresh_id = None
        if request.task_id is None:
            fresh_id = new_task_id()
            request = dataclasses.replace(request, task_id=fresh_id)
        call: SubmitNext = functools.partial(self._submit, fresh_id)
        for middleware in self._middleware:
            call = _within(middleware, call)
        return await call(request)

    async def submit_many(self, requests: Sequence[TaskRequest]) -> list[TaskHandle | MusterError]:
        """As `Client.submit_many`; but what a request or a middleware has wrong in itself is raised when the others have been sent."""
        turns = asyncio.Semaphore(_AT_A_TIME)

        async def submit(request: TaskRequest) -> TaskHandle:
            async with turns:
                return await self.submit(request)

        submitted = await asyncio.gather(*map(submit, requests), return_exceptions=True)
        for each in submitted:
            if isinstance(each, BaseException) and not isinstance(each, MusterError):
                raise each
        return [each for each in submitted if isinstance(each, (TaskHandle, MusterError))]

    async def open(self, task: TrackedTask) -> TaskOutput | None:
        """A task's output, decoded. What can't be decoded raises PayloadError."""
        output, payloads = task.output, self._payloads
        if output is not None and payloads is not None and payloads.encoded(output.content_type):
            try:
                content = await payloads.decode(Content(output.payload, output.content_type), About("result", task.task_id))
            except PayloadError as error:
                raise type(error)(f"in the result of task {task.task_id}: {error}") from error
            task.output = output = dataclasses.replace(output, payload=content.data, content_type=content.content_type)
        return output

    async def _submit(self, fresh_id: str | None, request: TaskRequest) -> TaskHandle:
        if request.task_id is None:  # a middleware took it away
            raise ValueError("a middleware must leave the request its task_id")
        if self._payloads is not None:
            data, content_type = (request.payload, "") if type(request.payload) is bytes else encode_payload(request.payload)
            content = Content(data, content_type if request.content_type is None else request.content_type)
            content = await self._payloads.encode(content, About("payload", request.task_id))
            request = dataclasses.replace(request, payload=content.data, content_type=content.content_type)
        return await self._send(request, request.task_id == fresh_id)


def _within(middleware: SubmitMiddleware, call_next: SubmitNext) -> SubmitNext:
    return lambda request: middleware(request, call_next)
