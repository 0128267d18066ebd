"""The embedded store's directory on disk: who may use it, whether a server lives in it, and where that server listens.

    lock               held (flock) by the coordinator that uses the directory
    server.lock        held by the server, which inherits it: as long as it can't be taken, a server lives here
    server.json        the server's socket and process id
    store.sock         its socket, unless the path is too long for one
    server.log         what it says
    appendonlydir/     its data

Locks end with their holders, however these end; so nothing here depends on a process id that may since belong to someone else.
"""

import fcntl
import json
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from coordinator.journal.errors import StoreStartError

MAX_SOCKET_PATH_BYTES = 100
"""A socket's path ends at 107 bytes on Linux and 103 on macOS."""

_MAX_LOG_BYTES = 4 * 1024 * 1024
_SOCKET_DIRECTORY_PREFIX = "muster-"


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """Where the directory's server listens, and its process id; 0 until it has one."""

    socket: Path
    process_id: int


class DataDirectory:
    """A directory held by this process.

    Args:
        path: made when it isn't there.

    Raises:
        StoreStartError: it can't be made or written, or another coordinator holds it.
    """

    def __init__(self, *, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path = path.resolve()
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except (FileExistsError, NotADirectoryError) as error:
            raise StoreStartError(f"the data directory {path} is not a directory: give another with --data-dir") from error
        except OSError as error:
            raise StoreStartError(f"the data directory {path} can't be written ({error.strerror}): give another with --data-dir") from error
        if not _try_lock(self._lock):
            os.close(self._lock)
            raise StoreStartError(f"another coordinator uses the data directory {path}: stop it first, or give another with --data-dir")

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.path / "server.log"

    def take_server_lock(self) -> int | None:
        """A file descriptor to be inherited by a new server, or None while a server lives here."""
        descriptor = os.open(self.path / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if _try_lock(descriptor):
            return descriptor
        os.close(descriptor)
        return None

    def server_lives(self) -> bool:
        """Whether a server, or a child of one, lives here."""
        descriptor = self.take_server_lock()
        if descriptor is None:
            return True
        os.close(descriptor)
        return False

    def read_record(self) -> ServerRecord | None:
        """What is recorded of the server; None when nothing readable is."""
        return self.record_of(self.path)

    @staticmethod
    def record_of(path: Path) -> ServerRecord | None:
        """Likewise, of a directory that anybody may hold."""
        try:
            record = json.loads((path / "server.json").read_text())
            return ServerRecord(socket=Path(record["socket"]), process_id=int(record["process_id"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write_record(self, record: ServerRecord) -> None:
        """Records where the server listens: on disk before this returns, and never half written."""
        part = self.path / "server.json.part"
        part.write_text(json.dumps({"socket": str(record.socket), "process_id": record.process_id}))
        part.replace(self.path / "server.json")

    def prepare_socket_path(self) -> Path:
        """A path for a new server's socket: in this directory, or in a private one when that would be too long.

        A server removes what an earlier one left there. The path stays the same from one server to the next while the record is there,
        so that clients find the next one.
        """
        socket = self.path / "store.sock"
        if len(os.fsencode(socket)) > MAX_SOCKET_PATH_BYTES:
            record = self.read_record()
            if record is not None and _is_private_directory(record.socket.parent):
                socket = record.socket
            else:
                private = tempfile.mkdtemp(prefix=_SOCKET_DIRECTORY_PREFIX, dir=_short_temporary_directory())
                socket = Path(private) / "store.sock"
        return socket

    def remove_socket(self) -> None:
        """Removes what a server that has ended left: its socket, and the private directory of it."""
        record = self.read_record()
        if record is None:
            return
        record.socket.unlink(missing_ok=True)
        parent = record.socket.parent
        if parent != self.path and parent.name.startswith(_SOCKET_DIRECTORY_PREFIX):
            shutil.rmtree(parent, ignore_errors=True)

    def open_log(self) -> int:
        """A file descriptor that a new server writes to. A log that has grown large is put aside first, in place of the one before."""
        if self.log.exists() and self.log.stat().st_size > _MAX_LOG_BYTES:
            self.log.replace(self.path / "server.log.1")
        return os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        """Lets another coordinator use the directory."""
        os.close(self._lock)


def _is_private_directory(path: Path) -> bool:
    """Whether only this user can have put anything there. A name that was recorded could since be someone else's."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _short_temporary_directory() -> str:
    directory = tempfile.gettempdir()
    return directory if len(os.fsencode(directory)) < MAX_SOCKET_PATH_BYTES - 30 else "/tmp"  # noqa: S108 - macOS's own is long
