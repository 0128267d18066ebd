"""Follows a shard's journal while it is written, so that snapshots may trim it behind whoever reads here: in a thread, which a busy test
doesn't hold up.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from redis import Redis

from coordinator.core.events import AnyEvent
from coordinator.journal import codec
from coordinator.journal.layout import JOURNAL_FIELD, ShardKeys, shard_of

_PAGE = 200
_BLOCK_MS = 100

Entry = tuple[int, int, AnyEvent]
"""The epoch of the coordinator that wrote it, the date in milliseconds of the store's clock, and what happened."""


class JournalTail:
    """What a namespace's journal has said so far, in order.

    Args:
        socket: where the store listens.
        namespace: whose events.
        shards: how many the deployment has.
    """

    def __init__(self, socket: Path, *, namespace: str, shards: int) -> None:
        self.entries: list[Entry] = []
        self._namespace = namespace
        self._key = ShardKeys(prefix="muster", shard=shard_of(namespace, shards=shards)).journal
        self._store = Redis(unix_socket_path=str(socket), protocol=2)
        self._sequence = 0

    def run(self, stop: threading.Event) -> None:
        """Reads until told to stop."""
        try:
            while not stop.is_set():
                self._read(block_ms=_BLOCK_MS)
        finally:
            self._store.close()

    def _read(self, *, block_ms: int) -> None:
        for _, page in self._store.xread({self._key: f"{self._sequence}-0"}, count=_PAGE, block=block_ms):
            for _, fields in page:
                commit = codec.decode(fields[JOURNAL_FIELD])
                assert commit.sequence == self._sequence + 1, "the journal was trimmed before it was read"
                self._sequence = commit.sequence
                self.entries += [(commit.epoch, commit.date_ms, event) for name, event in commit.events if name == self._namespace]


@asynccontextmanager
async def followed_journal(socket: Path, *, namespace: str = "default", shards: int = 16) -> AsyncIterator[JournalTail]:
    """A tail that reads while the block lasts."""
    tail = JournalTail(socket, namespace=namespace, shards=shards)
    stop = threading.Event()
    reading = asyncio.create_task(asyncio.to_thread(tail.run, stop))
    try:
        yield tail
    finally:
        stop.set()
        await reading
