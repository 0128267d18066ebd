"""What an operator does to many tasks at once: cancel, reprioritise, redrive, purge."""

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

from agent_node.client.operations import OnProgress, OperationRequest, OperationResponse, add, number_of, selections
from agent_node.client.tasks import Priority
from agent_node.client.unary_calls import UnaryCalls
from agent_node.ids import new_task_id

_OperationRequest = TypeVar("_OperationRequest", bound=OperationRequest)
_OperationResponse = TypeVar("_OperationResponse", bound=OperationResponse)


class OperationCalls(UnaryCalls):
    """The part of a Client that is about many tasks at once."""

    async def cancel_matching(
        self,
        task_ids: Sequence[str] = (),
        *,
        filter: str = "",  # noqa: A002 - the word of the API
        all: bool = False,  # noqa: A002
        reason: str = "",
        dry_run: bool = False,
        on_progress: OnProgress | None = None,
    ) -> OperationProgress:
        """Cancels many tasks: those that wait end at once, and those that run are asked to stop.

        It makes as many calls as it takes, each for a bounded part. If one fails, what those before it have done stays done, and the same
        again goes on with the rest. Tasks that are submitted meanwhile are left alone.

        Args:
            task_ids: the tasks.
            filter: instead of ids, which tasks, as in `list`.
            all: instead of both, every task that hasn't ended.
            reason: shown to the handlers and on the tasks.
            dry_run: change nothing, and say what would be done.
            on_progress: is told after each call what all of them have come to.

        Returns:
            How many tasks matched and how many of these were changed: in a dry run would be, with 10 of them at most as `sample`. And how
            many are left as they are, by reason, with the ids of all of them if tasks were chosen by ids, else of 10 at most.

        Raises:
            RefusedError: nothing is chosen, or in two ways; or the filter is wrong, and the message says where.
        """
        chosen = selections(task_ids, filter=filter, all=all, dry_run=dry_run)
        requests = [CancelMatchingTasksRequest(selection=each, reason=reason) for each in chosen]
        return await self._operate(self._live.admin.CancelMatchingTasks, requests, on_progress)

    async def reprioritise(
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
        """Gives tasks another priority. They keep their place among their equals, and their age; what runs goes on, and is retried with it.

        Returns and raises what `cancel_matching` does.

        Args:
            task_ids: the tasks.
            filter: instead of ids, which tasks, as in `list`.
            all: instead of both, every task that hasn't ended.
            priority: what they get.
            reason: kept in the tasks' histories.
            dry_run: change nothing, and say what would be done.
            on_progress: is told after each call what all of them have come to.
        """
        chosen = selections(task_ids, filter=filter, all=all, dry_run=dry_run)
        requests = [ReprioritiseTasksRequest(selection=each, priority=number_of(priority), reason=reason) for each in chosen]
        return await self._operate(self._live.admin.ReprioritiseTasks, requests, on_progress)

    async def redrive(
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
        """Has tasks that FAILED or were CANCELLED run again: the same id, payload and history, with no retries or crashes counted.

        They wait behind what waits already. `list("state = FAILED")` has the dead letters. Returns and raises what `cancel_matching` does.

        Args:
            task_ids: the tasks.
            filter: instead of ids, which tasks, as in `list`.
            all: instead of both, every task that failed or was cancelled and is retained.
            priority: of the new run; None keeps the task's.
            reason: kept in the tasks' histories.
            request_id: of your own, to repeat the call after UnavailableError: what it had redriven isn't redriven once more, however that
                has ended since. At most 128 characters; by default a fresh one.
            dry_run: change nothing, and say what would be done.
            on_progress: is told after each call what all of them have come to.

        Raises:
            LimitError: there is no room for what would be next. What `on_progress` was told of runs again all the same.
        """
        chosen = selections(task_ids, filter=filter, all=all, dry_run=dry_run)
        request_id = request_id or new_task_id()  # no task twice, though its new run may end before all calls are made
        requests = [
            RedriveTasksRequest(selection=each, priority=number_of(priority), reason=reason, request_id=request_id) for each in chosen
        ]
        return await self._operate(self._live.admin.RedriveTasks, requests, on_progress)

    async def purge(
        self,
        task_ids: Sequence[str] = (),
        *,
        filter: str = "",  # noqa: A002 - the word of the API
        all: bool = False,  # noqa: A002
        dry_run: bool = False,
        on_progress: OnProgress | None = None,
    ) -> OperationProgress:
        """Forgets tasks that have ended, for good: nothing is known of them any more, and their ids may be used again.

        What ended less than ten minutes ago is left: until then its id must be known, so that a submit that is sent again
        isn't another task. Returns and raises what `cancel_matching` does.

        Args:
            task_ids: the tasks.
            filter: instead of ids, which tasks, as in `list`.
            all: instead of both, every task that has ended and is retained.
            dry_run: change nothing, and say what would be done.
            on_progress: is told after each call what all of them have come to.
        """
        chosen = selections(task_ids, filter=filter, all=all, dry_run=dry_run)
        requests = [PurgeTasksRequest(selection=each) for each in chosen]
        return await self._operate(self._live.admin.PurgeTasks, requests, on_progress)

    async def _operate(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[_OperationRequest, _OperationResponse]",
        requests: Iterable[_OperationRequest],
        on_progress: OnProgress | None,
    ) -> OperationProgress:
        """Makes all calls of an operation, one after the other."""
        total = OperationProgress()
        for request in requests:
            while True:
                progress = (await self._call(method, request)).progress
                add(total, progress, by_ids=bool(request.selection.task_ids))
                if on_progress is not None:
                    on_progress(total)
                if not progress.next_page_token:
                    break
                request.selection.page_token = progress.next_page_token
        return total
