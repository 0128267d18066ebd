"""The part of a BlockingClient that is about many tasks at once, as `operation_calls` is of a Client."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import grpc
from muster.v1.bulk_pb2 import (
    CancelMatchingTasksRequest,
    OperationProgress,
    PurgeTasksRequest,
    RedriveTasksRequest,
    ReprioritiseTasksRequest,
)

from agent_node.client.blocking_calls import BlockingCalls
from agent_node.client.operations import OnProgress, OperationRequest, OperationResponse, add, number_of, selections
from agent_node.client.tasks import Priority
from agent_node.ids import new_task_id

_OperationRequest = TypeVar("_OperationRequest", bound=OperationRequest)
_OperationResponse = TypeVar("_OperationResponse", bound=OperationResponse)


class BlockingOperationCalls(BlockingCalls):
    """Calls about many tasks at once."""

    def cancel_matching(
        self,
        task_ids: Sequence[str] = (),
        *,
        filter: str = "",  # noqa: A002 - the word of the API
        all: bool = False,  # noqa: A002
        reason: str = "",
        dry_run: bool = False,
        on_progress: OnProgress | None = None,
    ) -> OperationProgress:
        """Cancels many tasks; see `Client.cancel_matching`."""
        chosen = selections(task_ids, filter=filter, all=all, dry_run=dry_run)
        requests = [CancelMatchingTasksRequest(selection=each, reason=reason) for each in chosen]
        return self._operate(self._admin.CancelMatchingTasks, requests, on_progress)

    def reprioritise(
        self,
        task_ids: Sequence[str] = (),
        *,
        filter: str = "",  # noqa: A002 - the word of the API
        all: bool = False,  # noqa: A002
        priority: Priority,
        reason: str = "",
        dry_run: bool = False,
        on_progress: OnProgress | None = None,
    ) -> OperationProgress:
        """Gives tasks another priority; see `Client.reprioritise`."""
        chosen = selections(task_ids, filter=filter, all=all, dry_run=dry_run)
        requests = [ReprioritiseTasksRequest(selection=each, priority=number_of(priority), reason=reason) for each in chosen]
        return self._operate(self._admin.ReprioritiseTasks, requests, on_progress)

    def redrive(
        self,
        task_ids: Sequence[str] = (),
        *,
        filter: str = "",  # noqa: A002 - the word of the API
        all: bool = False,  # noqa: A002
        priority: Priority | None = None,
        reason: str = "",
        request_id: str = "",
        dry_run: bool = False,
        on_progress: OnProgress | None = None,
    ) -> OperationProgress:
        """Has tasks that failed or were cancelled run again; see `Client.redrive`."""
        chosen = selections(task_ids, filter=filter, all=all, dry_run=dry_run)
        request_id = request_id or new_task_id()  # no task twice, though its new run may end before all calls are made
        requests = [
            RedriveTasksRequest(selection=each, priority=number_of(priority), reason=reason, request_id=request_id) for each in chosen
        ]
        return self._operate(self._admin.RedriveTasks, requests, on_progress)

    def purge(
        self,
        task_ids: Sequence[str] = (),
        *,
        filter: str = "",  # noqa: A002 - the word of the API
        all: bool = False,  # noqa: A002
        dry_run: bool = False,
        on_progress: OnProgress | None = None,
    ) -> OperationProgress:
        """Forgets tasks that have ended, for good; see `Client.purge`."""
        chosen = selections(task_ids, filter=filter, all=all, dry_run=dry_run)
        requests = [PurgeTasksRequest(selection=each) for each in chosen]
        return self._operate(self._admin.PurgeTasks, requests, on_progress)

    def _operate(
        self,
        method: "grpc.UnaryUnaryMultiCallable[_OperationRequest, _OperationResponse]",
        requests: Iterable[_OperationRequest],
        on_progress: OnProgress | None,
    ) -> OperationProgress:
        """Makes all calls of an operation, one after the other."""
        total = OperationProgress()
        for request in requests:
            while True:
                progress = self._call(method, request).progress
                add(total, progress, by_ids=bool(request.selection.task_ids))
                if on_progress is not None:
                    on_progress(total)
                if not progress.next_page_token:
                    break
                request.selection.page_token = progress.next_page_token
        return total
