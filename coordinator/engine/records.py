"""Look-ups of ended tasks' records: what gathers while one is under way goes out in the next.

So any number of callers costs one command at a time. While a look-up is open, no task that ended since is forgotten: the decision that
rests on the look-up must see it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from coordinator.errors import Unavailable
from coordinator.ports import EndedEntry, ShardStore, StoreCorrupt, StoreOutage

MAX_IDS = 1000  # per command: some hundred kilobytes of answers
READ_TIMEOUT_S = 1.0  # a command takes milliseconds: a store that needs longer is out, and who asked is told


class RecordReader:
    """Reads the records of ended tasks of one shard.

    Args:
        store: where they are.
    """

    def __init__(self, *, store: ShardStore) -> None:
        self._store = store
        self._asked: dict[tuple[str, str], list[asyncio.Future[bytes | None]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._opened = 0
        self._open: dict[int, None] = {}  # look-ups under way, oldest first
        self._held: deque[tuple[int, Callable[[], None]]] = deque()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Around a look-up and the decision that rests on it: tasks that end meanwhile stay in memory for the decision to see."""
        self._opened += 1
        ticket = self._opened
        self._open[ticket] = None
        try:
            yield
        finally:
            del self._open[ticket]
            oldest = next(iter(self._open), self._opened + 1)
            while self._held and self._held[0][0] < oldest:
                self._held.popleft()[1]()

    async def get(self, namespace: str, task_ids: Sequence[str]) -> list[bytes | None]:
        """The records, in the order of `task_ids`; None where there is none.

        Raises:
            Unavailable: the store can't be reached.
        """
        loop = asyncio.get_running_loop()
        # One that is being read already was asked for before us, and may miss what has ended since: it isn't joined.
        futures = [self._asked.setdefault((namespace, task_id), [loop.create_future()])[0] for task_id in task_ids]
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._read(), name="records.read")
        return [await asyncio.shield(future) for future in futures]

    async def get_first(self, namespace: str, task_ids: Sequence[str], *, max_bytes: int) -> list[bytes | None]:
        """As `get`, for the first of `task_ids` alone: at least one, and as many as have at most `max_bytes` together.

        Raises:
            Unavailable: the store can't be reached.
        """
        async with _bounded():
            return await self._store.get_records(namespace, task_ids, max_bytes=max_bytes)

    async def list_ended(self, namespace: str, *, before: int | None, limit: int, terms: Sequence[Sequence[str]] = ()) -> list[EndedEntry]:
        """The index of ended tasks, as the store has it: see ShardStore.

        Raises:
            Unavailable: the store can't be reached.
        """
        async with _bounded():
            return await self._store.list_ended(namespace, before=before, limit=limit, terms=terms)

    def idle(self) -> bool:
        """Whether no look-up is open: what has ended may be forgotten at once."""
        return not self._open

    def when_unneeded(self, forget: Callable[[], None]) -> None:
        """Calls `forget` once every look-up that is open now has ended: one is, or `idle` would have said otherwise."""
        self._held.append((self._opened, forget))

    async def _read(self) -> None:
        while self._asked:
            batch = dict(list(self._asked.items())[:MAX_IDS])
            for key in batch:
                del self._asked[key]
            by_namespace: dict[str, list[str]] = {}
            for namespace, task_id in batch:
                by_namespace.setdefault(namespace, []).append(task_id)
            for namespace, task_ids in by_namespace.items():
                try:
                    async with _bounded():
                        records = await self._store.get_records(namespace, task_ids)
                except Unavailable as error:
                    for task_id in task_ids:
                        _fail(batch[namespace, task_id], error)
                    continue
                for task_id, record in zip(task_ids, records, strict=False):
                    for future in batch[namespace, task_id]:
                        if not future.done():
                            future.set_result(record)
                # An answer is bounded in bytes: what is left of large records waits behind what others have asked for meanwhile.
                for task_id in task_ids[len(records) :]:
                    self._asked.setdefault((namespace, task_id), []).extend(batch[namespace, task_id])


@asynccontextmanager
async def _bounded() -> AsyncIterator[None]:
    """A read that takes too long, or fails, is the caller's to repeat. Raises Unavailable."""
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            yield
    except (StoreOutage, StoreCorrupt, TimeoutError) as error:
        reason = str(error) or f"no answer within {READ_TIMEOUT_S:g} s"
        raise Unavailable(f"the store can't be read now ({reason}): try again") from error


def _fail(futures: list[asyncio.Future[bytes | None]], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
            future.exception()  # its callers may be gone: then nobody else would look
