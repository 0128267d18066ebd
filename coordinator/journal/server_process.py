"""One run of the embedded server: its command line, its first answer, its end. Knows nothing of restarts."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.journal.data_directory import DataDirectory, ServerRecord
from coordinator.journal.errors import StoreStartError

_POLL_S = 0.005  # a start takes 20 to 60 ms
_ANSWER_LIMIT_BYTES = 65536
_LOG_PREFIX = re.compile(r"^\d+:[A-Z] .*?\d\d:\d\d:\d\d\.\d+ [.\-*#] ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Which server to run, and how.

    Attributes:
        binary: the server's.
        memory_limit_bytes: its `maxmemory`; 0 is no limit.
        start_timeout_s: how long it may take to answer. Loading its data doesn't count.
        stop_timeout_s: how long each way to end it may take.
    """

    binary: Path
    memory_limit_bytes: int = 0
    start_timeout_s: float = 10.0
    stop_timeout_s: float = 3.0


def server_arguments(*, directory: Path, socket: Path, memory_limit_bytes: int) -> list[str]:
    """The server's flags. Everything that a promise depends on is set here, and no configuration file is read.

    Args:
        directory: where its data lies.
        socket: where it listens; there is no port.
        memory_limit_bytes: its `maxmemory`; 0 is no limit.
    """
    flags: dict[str, Sequence[str]] = {
        "port": ["0"],
        "unixsocket": [str(socket)],
        "unixsocketperm": ["700"],
        "dir": [str(directory)],
        "appendonly": ["yes"],
        "appendfsync": ["always"],  # G1 through a power cut
        "aof-use-rdb-preamble": ["yes"],
        "aof-load-truncated": ["yes"],  # what a crash cut off was never acknowledged
        "auto-aof-rewrite-percentage": ["100"],
        "auto-aof-rewrite-min-size": ["64mb"],
        "save": [""],  # the append-only file is all there is
        "maxmemory": [str(memory_limit_bytes)],
        "maxmemory-policy": ["noeviction"],
        "daemonize": ["no"],
        "timeout": ["0"],
    }
    if sys.platform == "linux":
        # When memory runs out, the child that rewrites the file goes first: it can be started again.
        flags |= {"oom-score-adj": ["relative"], "oom-score-adj-values": ["0", "200", "400"]}
    return [argument for name, values in flags.items() for argument in (f"--{name}", *values)]


def spawn(*, data: DataDirectory, launch: Launch) -> tuple[subprocess.Popen[bytes], ServerRecord]:
    """Starts a server in a session of its own: a signal to the coordinator's group doesn't reach it, and it outlives the coordinator.

    Raises:
        StoreStartError: it can't be executed, or one still lives in the directory.
    """
    server_lock = data.take_server_lock()
    if server_lock is None:
        raise StoreStartError(f"a store server still runs in {data.path}")
    try:
        socket = data.prepare_socket_path()
        data.write_record(ServerRecord(socket=socket, process_id=0))  # so that it is found if we die before the next line but one
        log = data.open_log()
        try:
            process = subprocess.Popen(
                [
                    str(launch.binary),
                    *server_arguments(directory=data.path, socket=socket, memory_limit_bytes=launch.memory_limit_bytes),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=data.path,
                start_new_session=True,
                pass_fds=(server_lock,),
            )
        finally:
            os.close(log)
    except OSError as error:
        raise StoreStartError(f"the store server {launch.binary} can't be started: {error}") from error
    finally:
        os.close(server_lock)  # the server has its own
    record = ServerRecord(socket=socket, process_id=process.pid)
    data.write_record(record)
    return process, record


async def wait_until_serving(*, process: subprocess.Popen[bytes], data: DataDirectory, record: ServerRecord, within_s: float) -> None:
    """Returns when a server just spawned answers.

    Raises:
        StoreStartError: it ended, with the last line it logged; or it didn't answer.
    """
    if await answers(record.socket, data=data, within_s=within_s):
        return
    if process.poll() is not None or not data.server_lives():
        raise StoreStartError(f"the store server ended as it started: {last_log_line(data.log)} (its log is {data.log})")
    raise StoreStartError(f"the store server (process {process.pid}) didn't answer within {within_s:.0f} s: its log is {data.log}")


async def answers(socket: Path, *, data: DataDirectory, within_s: float) -> bool:
    """Whether the directory's server comes to serve. False once it has ended, or hasn't said anything for `within_s`."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + within_s
    while loop.time() < deadline_s and data.server_lives():
        answer = await ask(socket, "PING", within_s=min(1.0, within_s))
        if answer.startswith("+PONG"):
            return True
        if answer.startswith("-LOADING"):
            deadline_s = loop.time() + within_s
        await asyncio.sleep(_POLL_S)
    return False


async def ask_process_id(socket: Path) -> int:
    """The process id by which a server knows itself; 0 when it doesn't say."""
    found = re.search(r"^process_id:(\d+)", await ask(socket, "INFO server", within_s=1.0), re.MULTILINE)
    return int(found[1]) if found else 0


async def is_ours(*, socket: Path, directory: Path) -> bool:
    """Whether what listens at `socket` keeps its data in `directory`."""
    answer = await ask(socket, "CONFIG GET dir", within_s=1.0)
    lines = answer.split("\r\n")
    return len(lines) > 4 and lines[2] == "dir" and lines[4] == str(directory)


async def ask(socket: Path, command: str, *, within_s: float) -> str:
    """What a server answers to one inline command, undecoded; empty when it doesn't.

    This is the server's protocol by hand, because it goes on while redis-py would need a healthy server to say hello to.
    """
    try:
        async with asyncio.timeout(within_s):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(command.encode() + b"\r\n")
                return (await reader.read(_ANSWER_LIMIT_BYTES)).decode(errors="replace")
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return ""


async def stop(*, data: DataDirectory, record: ServerRecord, within_s: float) -> None:
    """Ends the directory's server: asked to, then told to. What it acknowledged is on disk in each case."""
    if record.socket.exists():
        refusal = await ask(record.socket, "SHUTDOWN", within_s=within_s)
        if not refusal and await wait_until_gone(data, within_s=within_s):
            return
    for number in (signal.SIGTERM, signal.SIGKILL):
        if runs_in(record.process_id, directory=data.path):
            with contextlib.suppress(ProcessLookupError):
                os.kill(record.process_id, number)
        if await wait_until_gone(data, within_s=within_s):
            return


async def wait_until_gone(data: DataDirectory, *, within_s: float) -> bool:
    """Whether the directory's server, and its children, ended in time."""
    try:
        async with asyncio.timeout(within_s):
            while data.server_lives():  # noqa: ASYNC110 - another process's lock has no event
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        return False
    return True


def runs_in(process_id: int, *, directory: Path) -> bool:
    """Whether the process works in `directory`, as its server does. Without /proc the recorded id is believed: the lock says one lives."""
    if process_id <= 0:
        return False
    if not Path("/proc/self").exists():
        return True
    try:
        return Path(f"/proc/{process_id}/cwd").resolve(strict=True) == directory
    except OSError:
        return False


def last_log_line(log: Path) -> str:
    """The last thing a server said, without process id and date."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    return _LOG_PREFIX.sub("", lines[-1]).rstrip(".") if lines else "it said nothing"
