"""Operators of a simulation: they cancel, reprioritise and redrive many tasks, and repeat a call whose answer they didn't get."""

import asyncio

from muster.v1 import bulk_pb2

from coordinator.engine.shard import DEFAULT_NAMESPACE
from coordinator.errors import MusterError
from coordinator.rpc import bulk_calls

FILTERS = ["task_type = a", "task_type = b", "labels.x = 1", "agent = agent0", "priority >= 3", "parent_task_id != ''"]
ENDS = ["state = FAILED", "state = CANCELLED"]
TRIES = 8


class SimOperator:
    """One person at a terminal; several operations may be under way."""

    def __init__(self, *, sim):
        self.sim = sim
        self._operations = 0
        self._running = set()

    def is_done(self):
        return not self._running

    def operate(self):
        """Begins an operation."""
        self._operations += 1
        rng = self.sim.rng
        what = rng.choice(["redrive", "redrive", "reprioritise", "cancel"])
        selection = self._selection([*FILTERS, *ENDS, *ENDS, *ENDS] if what == "redrive" else FILTERS)
        match what:
            case "redrive":
                method, priority = bulk_calls.redrive_tasks, rng.choice([0, 0, 4])
                request = bulk_pb2.RedriveTasksRequest(reason="mended", priority=priority, request_id=f"operation {self._operations}")
            case "reprioritise":
                method = bulk_calls.reprioritise_tasks
                request = bulk_pb2.ReprioritiseTasksRequest(reason="urgent", priority=rng.randint(1, 4))
            case _:
                method, request = bulk_calls.cancel_matching, bulk_pb2.CancelMatchingTasksRequest(reason="not needed")
        request.selection.CopyFrom(selection)
        self._begin(self._whole(what, method, request), f"operation {self._operations}")

    def purge(self):
        """Begins to have all ended tasks forgotten."""
        request = bulk_pb2.PurgeTasksRequest(selection=bulk_pb2.TaskSelection(all=True))
        self._begin(self._whole("purge", bulk_calls.purge_tasks, request), "purge")

    def _begin(self, coroutine, name):
        task = self.sim.loop.create_task(coroutine, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task):
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.sim.fail(task.exception())

    def _selection(self, filters):
        rng = self.sim.rng
        if rng.random() < 0.3:
            ids = sorted(one for client in self.sim.clients for one in client.tasks)
            return bulk_pb2.TaskSelection(task_ids=rng.sample(ids, min(len(ids), 4)))
        return bulk_pb2.TaskSelection(all=True) if rng.random() < 0.1 else bulk_pb2.TaskSelection(filter=rng.choice(filters))

    async def _whole(self, what, method, request):
        """Calls until there is no more to do, or until it is tired of an absent coordinator."""
        left = TRIES
        while left:
            progress = await self._call(method, request)
            if progress is None:
                left -= 1
                await asyncio.sleep(self.sim.rng.choice([0.1, 1.0, 5.0]))
                continue
            self.sim.counts[what] += progress.changed
            if self.sim.rng.random() < 0.3:  # as if the answer had been lost
                self.sim.count("operation repeated")
                await asyncio.sleep(self.sim.rng.choice([0.0, 1.0, 10.0]))
                left -= 1
                continue
            if not progress.next_page_token:
                return
            request.selection.page_token = progress.next_page_token

    async def _call(self, method, request):
        """One call. None where no answer came."""
        coordinator = self.sim.coordinator_for(self)
        if coordinator is None:
            return None
        try:
            namespace = coordinator.shard.namespace(DEFAULT_NAMESPACE)
            call = coordinator.serve(method(coordinator.shard, namespace, request), name="operator's call")
            await asyncio.wait([call])
            progress = call.result()
        except (MusterError, asyncio.CancelledError):
            return None
        self.sim.auditor.operated(request, progress)
        return progress
