"""The store that a coordinator brings along: a server in its data directory, adopted after a crash, restarted when it dies."""

import asyncio
import logging
import subprocess
from pathlib import Path
from typing import Self

from coordinator.journal.data_directory import DataDirectory, ServerRecord
from coordinator.journal.errors import StoreStartError
from coordinator.journal.server_process import Launch, answers, ask, ask_process_id, is_ours, last_log_line, spawn, stop, wait_until_serving

_log = logging.getLogger(__name__)

_WATCH_S = 0.1  # how soon a server that died is noticed; a look costs about 20 us
_FIRST_BACKOFF_S = 0.1
_LAST_BACKOFF_S = 5.0
_STEADY_S = 30.0  # a server that lived this long starts again without delay


class EmbeddedServer:
    """A server with `appendfsync always` that only listens on a unix socket. It outlives a crash of this process, and not its clean end.

    Made by `EmbeddedServer.start`.
    """

    def __init__(self, *, data: DataDirectory, launch: Launch) -> None:
        self._data = data
        self._launch = launch
        self._record = ServerRecord(socket=data.path, process_id=0)  # until _adopt or _spawn
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._adopted = False

    @classmethod
    async def start(cls, *, data_dir: Path, launch: Launch) -> Self:
        """Returns when the server answers, having loaded its data.

        Args:
            data_dir: its directory, made when it isn't there. One coordinator at a time may use it.
            launch: which server to run there, and how. An adopted one is only set to the memory limit.

        Raises:
            StoreStartError: the directory can't be used, or no server can be started in it.
        """
        data = DataDirectory(path=data_dir)
        try:
            server = cls(data=data, launch=launch)
            await server._begin()
        except BaseException:
            data.close()
            raise
        return server

    @property
    def socket(self) -> Path:
        """Where the server listens. It stays the same when the server is restarted."""
        return self._record.socket

    @property
    def directory(self) -> Path:
        """Where its data lies."""
        return self._data.path

    @property
    def process_id(self) -> int:
        """The server's, at present."""
        return self._record.process_id

    @property
    def adopted(self) -> bool:
        """Whether the server at the start was one that an earlier coordinator had left running."""
        return self._adopted

    async def close(self) -> None:
        """Ends the server, its data on disk, and lets go of the directory."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        try:
            await stop(data=self._data, record=self._record, within_s=self._launch.stop_timeout_s)
            if not self._data.server_lives():
                self._reap()
                self._data.remove_socket()
        finally:
            self._data.close()

    async def _begin(self) -> None:
        self._adopted = await self._adopt()
        if not self._adopted:
            await self._spawn()
        self._watch = asyncio.create_task(self._keep_running(), name="embedded store")
        self._watch.add_done_callback(_log_failure)

    async def _adopt(self) -> bool:
        """Takes over a server that lives in the directory. False when there is none, or it had to be ended."""
        data, launch = self._data, self._launch
        if not data.server_lives():
            return False
        record = data.read_record()
        if record is None:
            raise StoreStartError(f"a store server runs in {data.path}, but not where it listens is recorded: end it, and start again")
        if await answers(record.socket, data=data, within_s=launch.start_timeout_s):
            if not await is_ours(socket=record.socket, directory=data.path):
                raise StoreStartError(f"what listens at {record.socket} is not the store of {data.path}: end it, and start again")
            self._record = ServerRecord(socket=record.socket, process_id=await ask_process_id(record.socket))
            data.write_record(self._record)
            await ask(record.socket, f"CONFIG SET maxmemory {launch.memory_limit_bytes}", within_s=1.0)
            _log.info("store.adopted process_id=%d", self._record.process_id)
            return True
        _log.warning("store.unresponsive process_id=%d", record.process_id)
        await stop(data=data, record=record, within_s=launch.stop_timeout_s)
        if data.server_lives():
            raise StoreStartError(
                f"a store server runs in {data.path} and doesn't answer: end process {record.process_id}, and start again"
            )
        return False

    async def _spawn(self) -> None:
        if not self._data.server_lives():
            self._reap()
        self._process, self._record = spawn(data=self._data, launch=self._launch)
        try:
            await wait_until_serving(process=self._process, data=self._data, record=self._record, within_s=self._launch.start_timeout_s)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    async def _keep_running(self) -> None:
        backoff_s = _FIRST_BACKOFF_S
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        while True:
            await asyncio.sleep(_WATCH_S)
            if self._data.server_lives():
                if self._record.socket.exists():
                    continue
                _log.warning("store.socket_gone process_id=%d", self.process_id)  # as by a cleaner of temporary files
                await stop(data=self._data, record=self._record, within_s=self._launch.stop_timeout_s)
            if loop.time() - started_s > _STEADY_S:
                backoff_s = _FIRST_BACKOFF_S
            _log.warning("store.died last_log_line=%r backoff_s=%.1f", last_log_line(self._data.log), backoff_s)
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, _LAST_BACKOFF_S)
            started_s = loop.time()
            try:
                await self._spawn()
            except (StoreStartError, OSError) as error:
                _log.error("store.restart_failed error=%s", error)
            else:
                _log.info("store.restarted process_id=%d", self.process_id)

    def _reap(self) -> None:
        # Called when nobody holds the server's lock: it has ended, or is at the very end of it.
        if self._process is not None:
            self._process.wait()
            self._process = None


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.critical("store.watch_failed", exc_info=task.exception())
