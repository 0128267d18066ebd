"""Pages of tasks: first the live ones by age, then the retained ones, the latest ended first. A page costs a bounded amount of work."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from muster.v1 import event_pb2, task_pb2

from coordinator import filters
from coordinator.errors import CursorInvalid
from coordinator.filters import Filter
from coordinator.ports import MAX_READ_BYTES, EndedEntry
from coordinator.rpc.outgoing import MAX_MESSAGE_BYTES
from coordinator.rpc.pages import PageToken, page_size, position
from coordinator.rpc.task_search import ended_terms, facts_of, facts_of_record, live_walk, may_have_ended
from coordinator.rpc.task_views import live_view, record_view

if TYPE_CHECKING:
    from coordinator.engine.namespace import Namespace
    from coordinator.engine.shard import Shard

MAX_SLICES = 20  # of live tasks looked at per page: about a hundred thousand, a tenth of a second in all
RECORDS_PER_TURN = 100
MAX_RECORDS = 1_000  # read per page


class _Page:
    """A page that is being filled.

    Args:
        namespace: whose tasks.
        wanted: which of them.
        size: how many at most.
        view: how much of each.
    """

    def __init__(self, *, namespace: Namespace, wanted: Filter, size: int, view: task_pb2.TaskView.ValueType) -> None:
        self.namespace = namespace
        self.wanted = wanted
        self.view = view
        self.response = task_pb2.ListTasksResponse()
        self._size = size
        self._room = MAX_MESSAGE_BYTES

    def left(self) -> int:
        """How many more there may be."""
        return self._size - len(self.response.tasks)

    def add(self, message: task_pb2.Task) -> bool:
        """Adds a task. False: it doesn't fit into the message any more."""
        self._room -= message.ByteSize()
        if self._room < 0 and self.response.tasks:
            return False
        self.response.tasks.append(message)
        return True

    def add_record(self, record: event_pb2.TaskRecord) -> bool:
        """Adds a retained task, if it matches and isn't live again. False: it doesn't fit into the message any more."""
        facts = facts_of_record(record)
        if facts.task_id in self.namespace.scheduler.state.tasks or not self.wanted.matches(facts):
            return True
        return self.add(record_view(record, self.view))


async def list_page(shard: Shard, namespace: Namespace, request: task_pb2.ListTasksRequest) -> task_pb2.ListTasksResponse:
    """One page.

    Raises:
        InvalidRequest: the filter or the size is wrong.
        CursorInvalid: the token is not of this query.
        Unavailable: the store can't be read.
    """
    page = _Page(namespace=namespace, wanted=filters.parse(request.filter), size=page_size(request.page_size), view=request.view)
    query = f"tasks {request.filter}"
    phase, start = _position(PageToken.parse(request.page_token, query=query))
    if phase == "live":
        following = await _list_live(shard, page, start)
        await shard.durable()
        if following:
            page.response.next_page_token = PageToken(query, f"live {following}").text()
            return page.response
        start = 0
    if may_have_ended(page.wanted):
        listed = _list_ended_ids if "task_id" in page.wanted.only else _list_ended
        following = await listed(shard, page, start)
        if following:
            page.response.next_page_token = PageToken(query, f"ended {following}").text()
    return page.response


def _position(token: PageToken) -> tuple[str, int]:
    if not token.after:
        return "live", 1
    phase, _, number = token.after.partition(" ")
    if phase not in ("live", "ended"):
        raise CursorInvalid("page_token can't be read: take it from an answer, unchanged", field="page_token")
    return phase, position(number, field="page_token")


async def _list_live(shard: Shard, page: _Page, number: int) -> int:
    """Live tasks from `number` on; answers the number to go on from, 0 when there are no more."""
    scheduler = page.namespace.scheduler
    walk = live_walk(scheduler, page.wanted, start=number)
    for _ in range(MAX_SLICES):
        for task in walk.slice(lambda task: page.wanted.matches(facts_of(task)), most=page.left()):
            if not page.add(live_view(scheduler, task, page.view)):
                return task.number
        if walk.is_over():
            return 0
        if not page.left():
            break
        await asyncio.sleep(0)
        shard.require_current(page.namespace)
    return walk.next_number()


async def _list_ended(shard: Shard, page: _Page, before: int) -> int:
    """Retained tasks from below position `before` (0: from the latest); answers where to go on from, 0 when there are no more."""
    name, terms = page.namespace.name, ended_terms(page.wanted)
    looked_at = 0
    while looked_at < MAX_RECORDS:
        limit = min(max(page.left(), RECORDS_PER_TURN), MAX_RECORDS - looked_at)
        entries = await shard.records.list_ended(name, before=before or None, limit=limit, terms=terms)
        entries = list(entries_within(entries, MAX_READ_BYTES))
        if not entries:
            return 0
        looked_at += len(entries)
        blobs = await shard.records.get(name, [entry.task_id for entry in entries])
        for index, (entry, blob) in enumerate(zip(entries, blobs, strict=True), 1):
            if index % RECORDS_PER_TURN == 0:
                await asyncio.sleep(0)
            if not page.left():
                return entry.position + 1
            # A task that was redriven and ended again has a line for each end, and one record: its last line counts.
            if blob is None or (record := event_pb2.TaskRecord.FromString(blob)).end_ms != entry.end_ms:
                continue
            if not page.add_record(record):
                return entry.position + 1
        before = entries[-1].position
        if not before:
            return 0
    return before


async def _list_ended_ids(shard: Shard, page: _Page, start: int) -> int:
    """The retained ones of the tasks that the filter names, from the `start`th on (0: the first); answers where to go on, 0 for the end."""
    first = max(start, 1)
    task_ids = sorted(page.wanted.only["task_id"])[first - 1 :]  # not many: a filter is short
    if not task_ids:
        return 0
    blobs = await shard.records.get_first(page.namespace.name, task_ids, max_bytes=MAX_MESSAGE_BYTES)
    for place, blob in enumerate(blobs, first):
        if not page.left() or not (blob is None or page.add_record(event_pb2.TaskRecord.FromString(blob))):
            return place
    return first + len(blobs) if len(blobs) < len(task_ids) else 0


def entries_within(entries: Iterable[EndedEntry], max_bytes: int) -> Iterator[EndedEntry]:
    """The first entries, and at least one, whose records together have at most `max_bytes`: more would be read only to be left out."""
    room = max_bytes
    for index, entry in enumerate(entries):
        room -= entry.record_bytes
        if room < 0 and index:
            return
        yield entry
