"""What clients do in a namespace while everything around them fails, and what they were answered."""

import asyncio
import contextlib
import json
import random
from collections.abc import Awaitable, Callable

from muster.v1 import common_pb2

from agent_node import Client, MusterError, RetryPolicy, TaskCancelledError, TaskFailedError, UnavailableError
from agent_node.client import TaskHandle
from agent_node.state.values import StateEvent
from tests.chaos.evidence import Acknowledged, Change, Evidence, Looked, Told, Watched
from tests.chaos.state_clients import Clients

LANES = 16  # tasks at a time, of each namespace, that clients wait for
PAUSE_S = 0.25  # between two tasks of a lane, on average
SLOW = 0.1
STATE_PACE_S = 0.08
PAGE_OPERATIONS = 400  # on one set of keys, before the next
WATCH_EVERY_S = (1.0, 4.0)
WATCH_S = 2.0
SETTLE_S = 90.0
# Whoever is killed while it has a task is not the task's fault; and nothing waits long for another try.
_PATIENT = RetryPolicy(max_crashes=1000, max_retries=3, initial_backoff_s=0.05, max_backoff_s=0.2)
_TRANSIENT = (UnavailableError, TimeoutError)


class Load:
    """The clients of one namespace.

    Args:
        namespace: which.
        address: of the coordinators.
        seen: where they write down what they see.
        rng: draws what they do.
        now_s: the time.
        slow: the share of tasks that take seconds.
    """

    def __init__(
        self, namespace: str, *, address: str, seen: Evidence, rng: random.Random, now_s: Callable[[], float], slow: float = SLOW
    ) -> None:
        self.namespace = namespace
        self.stopping = False
        self.refused: list[str] = []  # errors that a client of the SDK must not see
        self.unavailable = 0  # calls of their own that nobody could answer
        self._address = address
        self._seen = seen
        self._rng = rng
        self._now_s = now_s
        self._slow = slow
        self._number = 0
        self._last_revision = 0
        self._state = Clients(rng, namespace=namespace, pace_s=STATE_PACE_S)
        seen.operations[namespace] = self._state.history

    async def run(self, stop: asyncio.Event) -> None:
        """Returns when `stop` is set, and everything that was begun has come to its end."""
        async with (
            Client(self._address, namespace=self.namespace, connect_timeout_s=120.0) as client,
            Client(self._address, namespace=self.namespace, connect_timeout_s=120.0) as other,
            asyncio.TaskGroup() as group,
        ):
            lanes = [group.create_task(self._lane(client)) for _ in range(LANES)]
            state = [group.create_task(self._state.through_sdk(f"sdk {n}", one)) for n, one in enumerate((client, other))]
            state.append(group.create_task(self._state.by_hand("hand", self._address.partition(",")[0], other)))
            watches = [group.create_task(self._watch(client, "")), group.create_task(self._watch(other, ""))]
            others = [group.create_task(self._turn_pages()), group.create_task(self._watch_from_the_past(client))]
            await stop.wait()
            self.stopping = self._state.stopping = True
            await asyncio.wait([*lanes, *state, *others])
            await self._finish_watches(client)
            await asyncio.wait(watches)

    # --- tasks ------------------------------------------------------------------------------------------------------------------

    async def _lane(self, client: Client) -> None:
        while not self.stopping:
            await asyncio.sleep(self._rng.uniform(0, 2 * PAUSE_S))
            try:
                await self._one_task(client)
            except MusterError as error:
                self.refused.append(f"{type(error).__name__}: {error}")

    async def _one_task(self, client: Client) -> None:
        rng = self._rng
        self._number += 1
        seconds = rng.uniform(0.3, 3.0) if rng.random() < self._slow else rng.uniform(0, 0.02)
        payload = json.dumps({"number": self._number, "seconds": seconds, "failures": int(rng.random() < 0.05)}).encode()
        own = f"own-{self._number}" if rng.random() < 0.2 else None
        priority = rng.choice([1, 2, 3, 4])

        async def submit(task_id: str | None) -> TaskHandle:
            handle = await client.submit("work", payload, task_id=task_id, priority=priority, retry=_PATIENT)
            self._seen.acknowledged.append(Acknowledged((self.namespace, handle.task_id), self._now_s()))
            return handle

        handle = await submit(own)
        if own is not None and rng.random() < 0.3:
            await submit(own)  # it is the same task
        if rng.random() < 0.05:
            await self._patiently(lambda: handle.cancel("chaos"))
        if rng.random() < 0.2:
            await self._look(client, handle.task_id)
        await self._wait(handle)
        if rng.random() < 0.3:
            await self._look(client, handle.task_id)

    async def _wait(self, handle: TaskHandle) -> None:
        state, payload = common_pb2.TASK_STATE_COMPLETED, b""
        try:
            payload = (await handle.result()).payload
        except TaskFailedError:
            state = common_pb2.TASK_STATE_FAILED
        except TaskCancelledError:
            state = common_pb2.TASK_STATE_CANCELLED
        self._seen.told.append(Told((self.namespace, handle.task_id), state, payload, self._now_s()))

    async def _look(self, client: Client, task_id: str) -> None:
        called_s = self._now_s()
        try:
            task = await client.get(task_id)
        except _TRANSIENT:  # a call of its own: it isn't repeated for ever
            self.unavailable += 1
            return
        self._seen.looked.append(Looked((self.namespace, task_id), task.state, called_s, self._now_s()))

    async def _patiently(self, call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except _TRANSIENT:
            self.unavailable += 1

    # --- state ------------------------------------------------------------------------------------------------------------------

    async def _turn_pages(self) -> None:
        turned = 0
        while not self.stopping:
            if len(self._state.history) >= turned + PAGE_OPERATIONS:
                turned = len(self._state.history)
                self._state.turn_page()
            await asyncio.sleep(0.05)

    async def _watch(self, client: Client, prefix: str) -> None:
        try:
            async with client.state.watch(prefix=prefix) as watch:
                seen = Watched(self.namespace, prefix, watch.next_revision)
                self._seen.watched.append(seen)
                async for event in watch:
                    seen.changes.append(_change(event))
                    self._last_revision = seen.until_revision = event.revision
                    if event.key == "the end":
                        return
        except MusterError as error:
            self.refused.append(f"a watch ended: {type(error).__name__}: {error}")

    async def _watch_from_the_past(self, client: Client) -> None:
        """Watches that begin with what has been, go over to what is, and end soon."""
        while not self.stopping:
            await asyncio.sleep(self._rng.uniform(*WATCH_EVERY_S))
            seen = Watched(self.namespace, "", max(1, self._last_revision - self._rng.randrange(300)))
            with contextlib.suppress(TimeoutError, MusterError):
                async with asyncio.timeout(WATCH_S), client.state.watch(prefix="", start_revision=seen.start_revision) as watch:
                    async for event in watch:
                        seen.changes.append(_change(event))
            if seen.changes:  # of the last revision there may be more
                seen.until_revision = seen.changes[-1].revision - 1
                seen.changes = [change for change in seen.changes if change.revision <= seen.until_revision]
                self._seen.watched.append(seen)

    async def _finish_watches(self, client: Client) -> None:
        async with asyncio.timeout(SETTLE_S):
            await client.state.put("the end", 1)


def _change(event: StateEvent) -> Change:
    return Change(event.revision, event.key, None if event.entry is None else event.entry.value)
