"""What is measured from outside: memory, threads and descriptors of processes; the store's memory, keys, journal and disk."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis

from tests.soak.audit import KEYS, NAMESPACE

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """A process at a moment."""

    at_s: float
    rss_bytes: int
    threads: int
    descriptors: int


def sample_process(pid: int, at_s: float) -> ProcessSample | None:
    """Measures a process. None when it is gone."""
    folder = Path(f"/proc/{pid}")
    try:
        rss_bytes = int((folder / "statm").read_text().split()[1]) * _PAGE_BYTES
        threads = len(list((folder / "task").iterdir()))
        descriptors = len(list((folder / "fd").iterdir()))
    except (OSError, IndexError):
        return None
    return ProcessSample(at_s, rss_bytes, threads, descriptors) if rss_bytes else None


@dataclass(frozen=True, slots=True)
class StoreSample:
    """The store at a moment."""

    at_s: float
    used_bytes: int
    keys: int
    retained: int  # ended tasks
    journal_entries: int
    journal_bytes: int
    disk_bytes: int


async def sample_store(store: Redis, data_dir: Path, at_s: float) -> StoreSample:
    """Measures it. Raises RedisError while it is out."""
    memory = await store.info("memory")
    return StoreSample(
        at_s=at_s,
        used_bytes=memory["used_memory"],
        keys=await store.dbsize(),
        retained=await store.llen(KEYS.ended(NAMESPACE)),
        journal_entries=await store.xlen(KEYS.journal),
        # Of all its nodes: an estimate from some is wrong by a factor of five, for entries differ.
        journal_bytes=await store.memory_usage(KEYS.journal, samples=0) or 0,
        disk_bytes=_size_of(data_dir),
    )


def _size_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # a file that a rewrite has just replaced
            continue
    return total


async def keys_by_kind(store: Redis) -> Counter[str]:
    """All keys, counted by what they are: `head`, `journal`, `task`, and so on. For a store at rest: it goes over all of them."""
    kinds: Counter[str] = Counter()
    async for key in store.scan_iter(count=1000):
        parts = key.decode().split(":")
        kinds[parts[2] if len(parts) > 2 else parts[1]] += 1
    return kinds
