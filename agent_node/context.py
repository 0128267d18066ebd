"""What a handler is given: its task, and its ways to report."""

import asyncio
import json
import operator
from collections.abc import Awaitable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from agent_node.attempt import Attempt, Progress
from agent_node.clock import now_s
from agent_node.reports import MAX_MESSAGE_CHARACTERS, AttemptReports, ReportsHost, reports_of
from agent_node.typed import from_json
from agent_node.wire_text import wire_text

if TYPE_CHECKING:
    from agent_node.client import BlockingClient, Client
    from agent_node.handler_clients import HandlerClients

_MAX_MODEL_CHARACTERS = 128
_MAX_COST = 1e9
_MAX_COUNT = 10**12  # a million such reports still fit the wire

T = TypeVar("T")


class ContextHost(ReportsHost, Protocol):
    """What a context needs of whoever runs its handler."""

    def clients(self) -> "HandlerClients":
        """The connections for handlers."""


class Context:
    """One attempt, as its handler sees it.

    Methods without `await` may be called from async and plain handlers alike, and never wait.
    """

    def __init__(self, attempt: Attempt, host: ContextHost, *, in_event_loop: bool) -> None:
        self._attempt = attempt
        self._host = host
        self._in_event_loop = in_event_loop

    # the task

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self._attempt.key[0]

    @property
    def fence(self) -> int:
        """The attempt's fence: grows with every attempt of the task, so that a store can refuse what a late one writes."""
        return self._attempt.key[1]

    @property
    def task_type(self) -> str:
        """The task's type."""
        return self._attempt.task_type

    @property
    def payload(self) -> bytes:
        """The input, as it was submitted."""
        return self._attempt.payload

    @property
    def content_type(self) -> str:
        """The payload's media type."""
        return self._attempt.content_type or "application/octet-stream"

    @overload
    def json(self) -> Any: ...

    @overload
    def json(self, kind: type[T]) -> T: ...

    def json(self, kind: type[Any] | None = None) -> Any:
        """The payload, read as JSON; into a type, if one is given.

        Args:
            kind: a dataclass, a pydantic model, or what JSON has, such as `list[int]`.

        Raises:
            ValueError: it isn't JSON, and no type is given.
            PayloadError: it isn't JSON, or doesn't fit the type.
        """
        return json.loads(self._attempt.payload) if kind is None else from_json(self._attempt.payload, self._attempt.content_type, kind)

    @property
    def attempt(self) -> int:
        """Which attempt of the run this is, from 1."""
        return self._attempt.attempt

    @property
    def run(self) -> int:
        """Which run of the task this is, from 1."""
        return self._attempt.run

    @property
    def last_checkpoint(self) -> bytes | None:
        """The last checkpoint of an earlier attempt; None when there is none."""
        return self._attempt.last_checkpoint or None

    @property
    def time_left_s(self) -> float | None:
        """Seconds until the task's deadline, when it fails and the handler is asked to stop; 0 after that, and None without one."""
        deadline_at_s = self._attempt.deadline_at_s
        return None if deadline_at_s is None else max(0.0, deadline_at_s - now_s())

    @property
    def traceparent(self) -> str:
        """The submitter's W3C trace context, or ""."""
        return self._attempt.traceparent

    @property
    def tracestate(self) -> str:
        """The submitter's W3C trace state, or ""."""
        return self._attempt.tracestate

    # reports

    def progress(self, current: float, total: float = 0, message: str = "") -> None:
        """Says how far the work is. Only the latest counts, so it may be called as often as you like.

        Args:
            current: units done.
            total: units in all; 0 when not known.
            message: a line for a person; at most 1,024 characters are kept.
        """
        self._reports().progress(Progress(float(current), float(total), wire_text(message)[:MAX_MESSAGE_CHARACTERS]))

    @property
    def percentage(self) -> float | None:
        """The progress as reported last, in percent; None before, and when the total isn't known."""
        reports = self._attempt.reports
        latest = None if reports is None else reports.latest_progress
        return None if latest is None or latest.total <= 0 else min(max(100.0 * latest.current / latest.total, 0.0), 100.0)

    def checkpoint(self, data: bytes) -> Awaitable[None]:
        """Stores a resume point, `await`ed in an async handler until it is durable: the next attempt gets it as `last_checkpoint`.

        Args:
            data: anything, at most 256 KiB by default.

        Raises:
            NonRetryableError: it is larger than the coordinator takes.
            AttemptLostError: the attempt is no longer this agent's: stop.
            RefusedError: the coordinator refused it.
            RuntimeError: called in a plain handler, which uses `checkpoint_sync`.
        """
        if not self._in_event_loop:
            raise RuntimeError("a plain handler has no event loop to await in: use ctx.checkpoint_sync(data)")
        return asyncio.wrap_future(self._store(data))

    def checkpoint_sync(self, data: bytes) -> None:
        """The same for plain handlers: waits until it is durable.

        Args:
            data: anything, at most 256 KiB by default.

        Raises:
            NonRetryableError, AttemptLostError, RefusedError: as `checkpoint`.
            RuntimeError: called in an async handler, whose event loop it would block.
        """
        if self._in_event_loop:
            raise RuntimeError("this would block the event loop: use await ctx.checkpoint(data)")
        self._store(data).result()

    def emit(self, chunk: bytes | str) -> None:
        """Appends to the task's partial output, which watchers see while it runs. Text goes as UTF-8.

        The output of one attempt is bounded (256 KiB by default): what exceeds it is dropped, and counted in `dropped_bytes`.

        Args:
            chunk: the next piece, of any size.
        """
        self._reports().emit(chunk.encode() if isinstance(chunk, str) else _bytes_of(chunk))

    @property
    def dropped_bytes(self) -> int:
        """Bytes of output beyond the bound."""
        reports = self._attempt.reports
        return 0 if reports is None else reports.dropped_bytes

    def report_usage(self, *, model: str, input_tokens: int, output_tokens: int, requests: int = 1) -> None:
        """Adds to what the task has consumed at `model`. It also counts as a sign of life for the task's progress timeout.

        Args:
            model: as the provider names it; 128 characters are kept, and 64 models an attempt: what is beyond is summed up as "other".
            input_tokens: of the prompt, not yet reported.
            output_tokens: of the answer, not yet reported.
            requests: how many requests that took.

        Raises:
            TypeError: a number isn't a whole one.
            ValueError: a number is negative, or beyond 10^12.
        """
        counts = [operator.index(number) for number in (input_tokens, output_tokens, requests)]
        if min(counts) < 0:
            raise ValueError("usage only grows: tokens and requests can't be negative")
        if max(counts) > _MAX_COUNT:
            raise ValueError(f"{max(counts)} tokens or requests at once can't be: at most {_MAX_COUNT} are taken")
        self._reports().use(wire_text(model)[:_MAX_MODEL_CHARACTERS], *counts)

    def report_cost(self, cost: float) -> None:
        """Says what the attempt really cost its task's fairness key, in place of the `cost` that was given at submit. The last word counts.

        Args:
            cost: above 0 and at most 1e9, in the unit of `Scheduling.cost`.

        Raises:
            ValueError: it is out of its range.
        """
        if not 0 < cost <= _MAX_COST:  # written so that NaN fails too
            raise ValueError(f"a cost is above 0 and at most {_MAX_COST:g}, not {cost}")
        self._reports().cost(float(cost))

    # stopping

    @property
    def cancelled(self) -> bool:
        """Whether the handler is asked to stop: the task was cancelled, the attempt lost, or the agent is leaving.

        A plain handler looks at it between steps and returns None (or calls `raise_if_cancelled`), which then counts as stopped. Any
        other return value counts as a success.
        """
        if self._attempt.stop_cause is None:
            return False
        self._attempt.stop_seen = True
        return True

    @property
    def cancel_reason(self) -> str:
        """Why, when `cancelled`."""
        return self._attempt.stop_reason

    def raise_if_cancelled(self) -> None:
        """Ends the handler when it is asked to stop.

        Raises:
            asyncio.CancelledError: it is. No `except Exception` swallows it.
        """
        if self.cancelled:
            raise asyncio.CancelledError(self._attempt.stop_reason)

    # further work

    @property
    def client(self) -> "Client":
        """For async handlers: a client of the same coordinator and namespace. What it submits names this task as its parent.

        Raises:
            RuntimeError: in a plain handler, which uses `blocking_client`.
        """
        if not self._in_event_loop:
            raise RuntimeError("a plain handler has no event loop to await in: use ctx.blocking_client")
        return self._host.clients().for_task(self.task_id)

    @property
    def blocking_client(self) -> "BlockingClient":
        """The same for plain handlers.

        Raises:
            RuntimeError: in an async handler, whose event loop it would block.
        """
        if self._in_event_loop:
            raise RuntimeError("this would block the event loop: use ctx.client")
        return self._host.clients().blocking_for_task(self.task_id)

    def _reports(self) -> AttemptReports:
        return reports_of(self._attempt, self._host)

    def _store(self, data: bytes) -> Future[None]:
        return self._reports().checkpoint(_bytes_of(data))


def _bytes_of(data: bytes) -> bytes:
    """A copy. Raises TypeError for what isn't bytes-like: `bytes(5)` would be five zeros."""
    return bytes(memoryview(data))
