"""Pages of tasks: first the live ones by age, then the retained ones, the latest ended first. A page costs a bounded amount of work."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from muster.v1 import common_pb2, event_pb2, task_pb2

from coordinator import filters
from coordinator.core.model import Task, TaskState
from coordinator.errors import CursorInvalid
from coordinator.filters import Filter, TaskFacts
from coordinator.ports import MAX_READ_BYTES, EndedEntry
from coordinator.rpc.live_walk import LiveWalk
from coordinator.rpc.outgoing import MAX_MESSAGE_BYTES
from coordinator.rpc.pages import PageToken, page_size, position
from coordinator.rpc.task_views import live_view, record_view

if TYPE_CHECKING:
    from coordinator.engine.namespace import Namespace
    from coordinator.engine.shard import Shard

MAX_SLICES = 20  # of live tasks looked at per page: about a hundred thousand, a tenth of a second in all
RECORDS_PER_TURN = 100
MAX_RECORDS = 1_000  # read per page


def facts_of(task: Task) -> TaskFacts:
    """What a filter may ask of a task in memory."""
    spec = task.spec
    return TaskFacts(
        task.state,
        spec.task_type,
        spec.priority,
        task.agent,
        spec.task_id,
        lambda: common_pb2.TaskSpec.FromString(spec.request).parent_task_id,
    )


def facts_of_record(record: event_pb2.TaskRecord) -> TaskFacts:
    """What a filter may ask of an ended task."""
    spec = common_pb2.TaskSpec.FromString(record.request)
    priority = record.priority or spec.priority or common_pb2.PRIORITY_NORMAL
    return TaskFacts(TaskState(record.state), spec.task_type, priority, record.agent_name, spec.task_id, lambda: spec.parent_task_id)


async def list_page(shard: Shard, namespace: Namespace, request: task_pb2.ListTasksRequest) -> task_pb2.ListTasksResponse:
    """One page.

    Raises:
        InvalidRequest: the filter or the size is wrong.
        CursorInvalid: the token is not of this query.
        Unavailable: the store can't be read.
    """
    size = page_size(request.page_size)
    wanted = filters.parse(request.filter)
    query = f"tasks {request.filter}"
    phase, start = _position(PageToken.parse(request.page_token, query=query))
    response = task_pb2.ListTasksResponse()
    if phase == "live":
        following = await _list_live(shard, namespace, wanted, start, size, request.view, response)
        await shard.durable()
        if following:
            response.next_page_token = PageToken(query, f"live {following}").text()
            return response
        start = 0
    following = await _list_ended(shard, namespace, wanted, start, size, request.view, response)
    if following:
        response.next_page_token = PageToken(query, f"ended {following}").text()
    return response


def _position(token: PageToken) -> tuple[str, int]:
    if not token.after:
        return "live", 1
    phase, _, number = token.after.partition(" ")
    if phase not in ("live", "ended"):
        raise CursorInvalid("page_token can't be read: take it from an answer, unchanged", field="page_token")
    return phase, position(number, field="page_token")


async def _list_live(
    shard: Shard,
    namespace: Namespace,
    wanted: Filter,
    number: int,
    size: int,
    view: task_pb2.TaskView.ValueType,
    response: task_pb2.ListTasksResponse,
) -> int:
    """Live tasks from `number` on; answers the number to go on from, 0 when there are no more."""
    scheduler = namespace.scheduler
    walk = LiveWalk(scheduler.state, start=number)
    room = MAX_MESSAGE_BYTES
    for _ in range(MAX_SLICES):
        for task in walk.slice(lambda task: wanted.matches(facts_of(task)), most=size - len(response.tasks)):
            message = live_view(scheduler, task, view)
            room -= message.ByteSize()
            if room < 0 and response.tasks:
                return task.number
            response.tasks.append(message)
        if walk.is_over():
            return 0
        if len(response.tasks) >= size:
            break
        await asyncio.sleep(0)
        shard.require_current(namespace)
    return walk.next_number()


async def _list_ended(
    shard: Shard,
    namespace: Namespace,
    wanted: Filter,
    before: int,
    size: int,
    view: task_pb2.TaskView.ValueType,
    response: task_pb2.ListTasksResponse,
) -> int:
    """Retained tasks from below position `before` (0: from the latest); answers where to go on from, 0 when there are no more."""
    entries = await shard.records.list_ended(namespace.name, before=before or None, limit=MAX_RECORDS if wanted.text else size)
    entries = list(entries_within(entries, MAX_READ_BYTES))
    blobs = await shard.records.get(namespace.name, [entry.task_id for entry in entries])
    room = MAX_MESSAGE_BYTES - response.ByteSize()
    for index, (entry, blob) in enumerate(zip(entries, blobs, strict=True), 1):
        if index % RECORDS_PER_TURN == 0:
            await asyncio.sleep(0)
        if len(response.tasks) >= size:
            return entry.position + 1
        if blob is None:
            continue
        record = event_pb2.TaskRecord.FromString(blob)
        # A task that was redriven and ended again has a line for each end, and one record: its last line counts.
        if record.end_ms == entry.end_ms and wanted.matches(facts_of_record(record)):
            message = record_view(record, view)
            room -= message.ByteSize()
            if room < 0 and response.tasks:
                return entry.position + 1
            response.tasks.append(message)
    return entries[-1].position if entries and entries[-1].position > 0 else 0


def entries_within(entries: Iterable[EndedEntry], max_bytes: int) -> Iterator[EndedEntry]:
    """The first entries, and at least one, whose records together have at most `max_bytes`: more would be read only to be left out."""
    room = max_bytes
    for index, entry in enumerate(entries):
        room -= entry.record_bytes
        if room < 0 and index:
            return
        yield entry
