"""Operations on many ended tasks, a bounded part a call: redriven, or purged. They go over the index, the latest first."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from muster.v1 import bulk_pb2, common_pb2, event_pb2, task_pb2

from coordinator import convert_operations, filters
from coordinator.core.model import RetryPolicy
from coordinator.core.operations import redrive
from coordinator.core.submits import Refused
from coordinator.engine.intake import refusal
from coordinator.errors import LimitReached, Unavailable
from coordinator.ports import MIN_RETAINED_MS, StoreCorrupt, StoreOutage
from coordinator.rpc.bulk_tally import Skip, Tally
from coordinator.rpc.pages import PageToken, position
from coordinator.rpc.task_list import entries_within
from coordinator.rpc.task_search import ended_terms, facts_of_record
from coordinator.rpc.task_views import record_view

if TYPE_CHECKING:
    from coordinator.engine.namespace import Namespace
    from coordinator.engine.shard import Shard

RECORDS_PER_STEP = 150  # some 3 ms of the event loop
STEP_BYTES = 2 * 1024 * 1024  # of records, or one that is larger
MAX_STEPS = 20  # per call

Record = event_pb2.TaskRecord
Known = tuple[bytes, Record]
"""A record as it is stored, and what it says."""
NoRoom = tuple[LimitReached, list[str]]
"""Why there is no room, and what was left for lack of it."""


class EndedOperation(Protocol):
    """What is done to ended tasks."""

    def judge(self, record: Record) -> Skip | None:
        """Why a task must be left as it is; None when it must not."""

    async def act(self, found: Mapping[str, Known], tally: Tally) -> NoRoom | None:
        """Changes some tasks, by id. Answers why not all of them could be, if there was no room."""


async def on_ended(
    shard: Shard, namespace: Namespace, selection: bulk_pb2.TaskSelection, query: str, operation: EndedOperation
) -> bulk_pb2.OperationProgress:
    """Does a part of an operation.

    Args:
        shard: the namespace's.
        namespace: whose tasks.
        selection: which; checked.
        query: what a page token must be of.
        operation: what is done.

    Raises:
        InvalidRequest: the filter is wrong.
        CursorInvalid: the page token is not of this operation.
        LimitReached: there is no room for what would be next.
        Unavailable: the store can't be read, or the shard stopped: some may have been changed all the same.
    """
    tally = Tally(dry_run=selection.dry_run, by_ids=bool(selection.task_ids))
    await shard.durable()  # what has ended is in the index then
    if selection.task_ids:
        await _by_ids(shard, namespace, list(dict.fromkeys(selection.task_ids)), operation, tally)
        return tally.progress()
    wanted = filters.parse(selection.filter)
    terms = ended_terms(wanted)
    token = PageToken.parse(selection.page_token, query=query)
    before = position(token.after, field="page_token") if token.after else None
    for _ in range(MAX_STEPS):
        here = "" if before is None else str(before)
        with shard.records.open():
            entries = await shard.records.list_ended(namespace.name, before=before, limit=RECORDS_PER_STEP, terms=terms)
            entries = list(entries_within(entries, STEP_BYTES))
            if not entries:
                return tally.progress()
            records = await _read(shard, namespace, [entry.task_id for entry in entries])
            entries = entries[: len(records)]
            before = entries[-1].position
            shard.require_current(namespace)
            found = {
                entry.task_id: known
                for entry, known in zip(entries, records, strict=True)
                if known is not None
                and known[1].end_ms == entry.end_ms  # else the line is of an earlier run
                and wanted.matches(facts_of_record(known[1]))
            }
            full = await _take(namespace, found, operation, tally)
        if full is not None:
            if not tally.changes:
                raise full[0]
            return tally.progress(PageToken(query, here).text() if here else _from_the_latest(query, entries[0].position))
        if before == 0:
            return tally.progress()
        await asyncio.sleep(0)
    return tally.progress(PageToken(query, str(before)).text())


def _from_the_latest(query: str, latest: int) -> str:
    return PageToken(query, str(latest + 1)).text()


async def _by_ids(shard: Shard, namespace: Namespace, task_ids: list[str], operation: EndedOperation, tally: Tally) -> None:
    state = namespace.scheduler.state
    left = task_ids
    while left:
        some = left[:RECORDS_PER_STEP]
        with shard.records.open():
            records = await _read(shard, namespace, some)
            shard.require_current(namespace)
            left = left[len(records) :]
            found = {task_id: known for task_id, known in zip(some, records, strict=False) if known is not None}
            for task_id in some[: len(records)]:
                if task_id not in found:
                    tally.skip(Skip.LIVE if task_id in state.tasks else Skip.NOT_FOUND, task_id)
            full = await _take(namespace, found, operation, tally)
        if full is not None:
            if not tally.changes:
                raise full[0]
            for task_id in full[1]:
                tally.skip(Skip.NO_ROOM, task_id)
        await asyncio.sleep(0)


async def _read(shard: Shard, namespace: Namespace, task_ids: Sequence[str]) -> list[Known | None]:
    """The records of the first ids, and of at least one: an answer is bounded."""
    blobs = await shard.records.get_first(namespace.name, task_ids, max_bytes=STEP_BYTES)
    return [None if blob is None else (blob, Record.FromString(blob)) for blob in blobs]


async def _take(namespace: Namespace, found: Mapping[str, Known], operation: EndedOperation, tally: Tally) -> NoRoom | None:
    state = namespace.scheduler.state
    chosen: dict[str, Known] = {}
    for task_id, (blob, record) in found.items():
        present = state.find(task_id)
        if present is not None and present.number != record.number:
            tally.skip(Skip.CHANGED, task_id)
        elif (reason := operation.judge(record)) is not None:
            tally.skip(reason, task_id)
        elif tally.dry_run:
            tally.would_change(partial(record_view, record, task_pb2.TASK_VIEW_BASIC))
        else:
            chosen[task_id] = (blob, record)
    return await operation.act(chosen, tally) if chosen else None


class Redrive:
    """Ended tasks run again.

    Args:
        shard: the namespace's.
        namespace: whose tasks.
        reason: the operator's.
        priority: of the new run; 0 keeps the task's.
        request_id: the operation's; empty where the operator gave none.
    """

    def __init__(self, *, shard: Shard, namespace: Namespace, reason: str, priority: int, request_id: str) -> None:
        self._shard = shard
        self._namespace = namespace
        self._reason = reason
        self._priority = priority
        self._request_id = request_id

    def judge(self, record: Record) -> Skip | None:
        """See EndedOperation."""
        if record.state == common_pb2.TASK_STATE_COMPLETED:
            return Skip.COMPLETED
        if convert_operations.was_redriven_by(record, self._request_id):
            return Skip.ALREADY_REDRIVEN
        return Skip.PAYLOAD_DROPPED if convert_operations.lacks_payload(record) else None

    async def act(self, found: Mapping[str, Known], tally: Tally) -> NoRoom | None:
        """See EndedOperation."""
        shard, namespace = self._shard, self._namespace
        shard.redrives = True
        now = shard.now()
        full = shard.room.refusal()
        left: list[str] = []
        for task_id, (_, record) in found.items():
            if full is None:
                ended = convert_operations.ended_run(record, self._defaults, self._priority)
                task = redrive(namespace.scheduler, ended, self._reason, now, request_id=self._request_id)
                if not isinstance(task, Refused):
                    tally.changed()
                    continue
                if task is Refused.KEY_FULL:  # others may have room
                    tally.skip(Skip.CONCURRENCY_LIMIT, task_id)
                    continue
                full = refusal(namespace, task, ended.spec)
            left.append(task_id)
        shard.decided(namespace, now)
        await shard.durable_write()
        shard.require_current(namespace)
        return (full, left) if full is not None else None

    def _defaults(self, task_type: str) -> RetryPolicy:
        scheduler = self._namespace.scheduler
        return scheduler.type_retries.get(task_type, scheduler.settings.retry)


class Purge:
    """Ended tasks are forgotten, but for those whose ids must be known (G6).

    Args:
        shard: the namespace's.
        namespace: whose tasks.
    """

    def __init__(self, *, shard: Shard, namespace: Namespace) -> None:
        self._shard = shard
        self._namespace = namespace

    def judge(self, record: Record) -> Skip | None:
        """See EndedOperation."""
        return Skip.TOO_YOUNG if self._shard.now().date_ms - record.end_ms < MIN_RETAINED_MS else None

    async def act(self, found: Mapping[str, Known], tally: Tally) -> NoRoom | None:
        """See EndedOperation."""
        try:
            gone = set(await self._shard.store.purge_ended(self._namespace.name, {task_id: blob for task_id, (blob, _) in found.items()}))
        except (StoreOutage, StoreCorrupt) as error:
            raise Unavailable(f"the store can't be written to now ({error}): try again") from error
        for task_id in found:
            if task_id in gone:
                tally.changed()
            else:
                tally.skip(Skip.CHANGED, task_id)
        return None
