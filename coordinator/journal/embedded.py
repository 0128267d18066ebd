"""The store that a coordinator brings along: a Valkey or Redis of its own in the data directory, adopted after a crash, restarted when it dies."""

import asyncio
import contextlib
import logging
import subprocess
from pathlib import Path

from coordinator.journal.data_directory import DataDirectory, ServerRecord
from coordinator.journal.errors import StoreStartError
from coordinator.journal.server_process import answers, ask, ask_process_id, is_ours, last_log_line, spawn, stop, wait_until_serving

_log = logging.getLogger(__name__)

_WATCH_S = 0.1  # how soon a server that died is noticed; a look costs about 20 us
_FIRST_BACKOFF_S = 0.1
_LAST_BACKOFF_S = 5.0
_STEADY_S = 30.0  # a server that lived this long starts again without delay


class EmbeddedServer:
    """A server with `appendfsync always` that only listens on a unix socket. It outlives a crash of this process, and not its clean end.

    Args:
        data_dir: its directory, made when it isn't there. One coordinator at a time may use it.
        binary: the server's.
        memory_limit_bytes: its `maxmemory`; 0 is no limit.
        start_timeout_s: how long a server may take to answer, not counting the loading of its data.
        stop_timeout_s: how long each way to end it may take.
    """

    def __init__(
        self,
        *,
        data_dir: Path,
        binary: Path,
        memory_limit_bytes: int = 0,
        start_timeout_s: float = 30.0,
        stop_timeout_s: float = 10.0,
    ) -> None:
        self._data_dir = data_dir
        self._binary = binary
        self._memory_limit_bytes = memory_limit_bytes
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._data: DataDirectory | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._adopted = False

    @property
    def socket(self) -> Path:
        """Where the server listens. It stays the same when the server is restarted."""
        return self._record.socket

    @property
    def process_id(self) -> int:
        """The server's, at present."""
        return self._record.process_id

    @property
    def adopted(self) -> bool:
        """Whether the server at `start` was one that an earlier coordinator had left running."""
        return self._adopted

    async def start(self) -> None:
        """Returns when the server answers, having loaded its data.

        Raises:
            StoreStartError: the directory can't be used, or no server can be started in it.
        """
        self._data = DataDirectory(path=self._data_dir)
        try:
            self._adopted = await self._adopt()
            if not self._adopted:
                await self._spawn()
        except BaseException:
            self._data.close()
            raise
        self._watch = asyncio.create_task(self._keep_running(), name="embedded store")
        self._watch.add_done_callback(_log_failure)

    async def close(self) -> None:
        """Ends the server, its data on disk, and lets go of the directory."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        data = self._held
        try:
            await stop(data=data, within_s=self._stop_timeout_s)
            if not data.server_lives():
                data.remove_socket()
        finally:
            self._reap()
            data.close()

    @property
    def _held(self) -> DataDirectory:
        assert self._data is not None, "the embedded server hasn't been started"
        return self._data

    @property
    def _record(self) -> ServerRecord:
        record = self._held.read_record()
        assert record is not None, "start recorded the server"
        return record

    async def _adopt(self) -> bool:
        """Takes over a server that lives in the directory. False when there is none, or it had to be ended."""
        data = self._held
        if not data.server_lives():
            return False
        record = data.read_record()
        if record is None:
            raise StoreStartError(f"a store server runs in {data.path}, but not where it listens is recorded: end it, and start again")
        if await answers(record.socket, data=data, within_s=self._start_timeout_s):
            if not await is_ours(socket=record.socket, directory=data.path):
                raise StoreStartError(f"what listens at {record.socket} is not the store of {data.path}: end it, and start again")
            process_id = await ask_process_id(record.socket)
            data.write_record(ServerRecord(socket=record.socket, process_id=process_id))
            await ask(record.socket, f"CONFIG SET maxmemory {self._memory_limit_bytes}", within_s=1.0)
            _log.info("store.adopted process_id=%d", process_id)
            return True
        _log.warning("store.unresponsive process_id=%d", record.process_id)
        await stop(data=data, within_s=self._stop_timeout_s)
        if data.server_lives():
            raise StoreStartError(f"a store server runs in {data.path} and doesn't answer: end process {record.process_id}, and start again")
        return False

    async def _spawn(self) -> None:
        data = self._held
        server_lock = data.take_server_lock()
        if server_lock is None:
            raise StoreStartError(f"a store server still runs in {data.path}")
        process = spawn(binary=self._binary, data=data, server_lock=server_lock, memory_limit_bytes=self._memory_limit_bytes)
        self._process = process
        try:
            await wait_until_serving(process=process, data=data, within_s=self._start_timeout_s)
        except BaseException:
            process.kill()
            process.wait()
            raise

    async def _keep_running(self) -> None:
        backoff_s = _FIRST_BACKOFF_S
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        while True:
            await asyncio.sleep(_WATCH_S)
            self._reap()
            if self._held.server_lives():
                if self._record.socket.exists():
                    continue
                _log.warning("store.socket_gone process_id=%d", self.process_id)  # as by a cleaner of temporary files
                await stop(data=self._held, within_s=self._stop_timeout_s)
            if loop.time() - started_s > _STEADY_S:
                backoff_s = _FIRST_BACKOFF_S
            _log.warning("store.died last_log_line=%r backoff_s=%.1f", last_log_line(self._held.log), backoff_s)
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
        if self._process is not None:
            self._process.poll()


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.critical("store.watch_failed", exc_info=task.exception())
