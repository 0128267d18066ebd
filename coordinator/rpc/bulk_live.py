"""Operations on many live tasks, a bounded part a call: cancelled, or given another priority.

Each step changes some hundred tasks and waits until they are durable, so that commits stay small and others have their turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from muster.v1 import bulk_pb2, task_pb2

from coordinator import filters
from coordinator.core.model import Now, Task
from coordinator.errors import CursorInvalid
from coordinator.rpc.bulk_tally import Skip, Tally
from coordinator.rpc.pages import PageToken, position
from coordinator.rpc.task_search import facts_of, live_walk
from coordinator.rpc.task_views import live_view

if TYPE_CHECKING:
    from coordinator.engine.namespace import Namespace
    from coordinator.engine.shard import Shard

CHANGED_PER_STEP = 200  # some 3 ms of the event loop, records included
MAX_SLICES = 20  # per call: of the walk over live tasks, some 6 ms each

Judge = Callable[[Task], Skip | None]
Act = Callable[[Task, Now], None]


async def on_live(
    shard: Shard, namespace: Namespace, selection: bulk_pb2.TaskSelection, query: str, judge: Judge, act: Act
) -> bulk_pb2.OperationProgress:
    """Does a part of an operation.

    Args:
        shard: the namespace's.
        namespace: whose tasks.
        selection: which; checked.
        query: what a page token must be of.
        judge: why a live task must be left as it is; None when it must not.
        act: changes it.

    Raises:
        InvalidRequest: the filter is wrong.
        CursorInvalid: the page token is not of this operation.
        Unavailable: the shard stopped: some may have been changed all the same.
    """
    tally = Tally(dry_run=selection.dry_run, by_ids=bool(selection.task_ids))
    step = _Step(shard, namespace, tally, judge, act)
    if selection.task_ids:
        await _by_ids(step, list(dict.fromkeys(selection.task_ids)))
        return tally.progress()
    wanted = filters.parse(selection.filter)
    start, until = _part(PageToken.parse(selection.page_token, query=query), namespace)
    walk = live_walk(namespace.scheduler, wanted, start=start)
    for _ in range(MAX_SLICES):
        found = walk.slice(lambda task: task.number < until and wanted.matches(facts_of(task)), most=CHANGED_PER_STEP)
        await step.take(found)
        if walk.is_over() or walk.next_number() >= until:
            return tally.progress()
    return tally.progress(PageToken(query, f"{walk.next_number()} {until}").text())


def _part(token: PageToken, namespace: Namespace) -> tuple[int, int]:
    """Where to begin, and where to end: with what was the newest task as the operation began, or it might never end."""
    if not token.after:
        return 1, namespace.scheduler.state.next_number
    start, _, until = token.after.partition(" ")
    if not until:
        raise CursorInvalid("page_token can't be read: take it from an answer, unchanged", field="page_token")
    return position(start, field="page_token"), position(until, field="page_token")


async def _by_ids(step: _Step, task_ids: list[str]) -> None:
    state = step.namespace.scheduler.state
    for begin in range(0, len(task_ids), CHANGED_PER_STEP):
        some = task_ids[begin : begin + CHANGED_PER_STEP]
        await step.take([task for task_id in some if (task := state.tasks.get(task_id)) is not None])
    unknown = [task_id for task_id in task_ids if task_id not in step.seen]
    if unknown:
        with step.shard.records.open():
            records = await step.shard.records.get(step.namespace.name, unknown)
            for task_id, record in zip(unknown, records, strict=True):
                step.tally.skip(Skip.NOT_FOUND if record is None and state.find(task_id) is None else Skip.ENDED, task_id)


class _Step:
    """Some tasks at a time."""

    def __init__(self, shard: Shard, namespace: Namespace, tally: Tally, judge: Judge, act: Act) -> None:
        self.shard = shard
        self.namespace = namespace
        self.tally = tally
        self.seen: set[str] = set()
        self._judge = judge
        self._act = act

    async def take(self, tasks: list[Task]) -> None:
        """Changes them, or only counts."""
        shard, scheduler, tally = self.shard, self.namespace.scheduler, self.tally
        now = shard.now()
        for task in tasks:
            self.seen.add(task.spec.task_id)
            reason = self._judge(task)
            if reason is not None:
                tally.skip(reason, task.spec.task_id)
                continue
            if tally.dry_run:
                tally.would_change(partial(live_view, scheduler, task, task_pb2.TASK_VIEW_BASIC))
            else:
                tally.changed()
                self._act(task, now)
        if tally.dry_run or not tasks:
            await asyncio.sleep(0)
            await shard.durable()
        else:
            shard.decided(self.namespace, now)
            await shard.durable_write()
        shard.require_current(self.namespace)
