"""The embedded server over real processes: adopted, restarted, refused, and never losing what it acknowledged."""

import asyncio
import json
import os
import pwd
import shutil
import signal
import stat
import sys
import tempfile
from pathlib import Path

import pytest
from redis.asyncio import Redis

from coordinator.journal.data_directory import MAX_SOCKET_PATH_BYTES
from coordinator.journal.embedded import EmbeddedServer
from coordinator.journal.errors import StoreStartError
from coordinator.journal.server_binary import find_server_binary
from coordinator.journal.server_process import Launch
from tests.support.eventually import eventually

LAUNCH = Launch(binary=find_server_binary(), start_timeout_s=5.0, stop_timeout_s=5.0)

OWNER = """
import asyncio, sys
from pathlib import Path
from coordinator.journal.embedded import EmbeddedServer
from coordinator.journal.server_binary import find_server_binary
from coordinator.journal.server_process import Launch

async def main():
    server = await EmbeddedServer.start(data_dir=Path(sys.argv[1]), launch=Launch(binary=find_server_binary()))
    print("serving", server.process_id, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
async def start():
    started = []

    async def start_server(data_dir, launch=LAUNCH):
        server = await EmbeddedServer.start(data_dir=data_dir, launch=launch)
        started.append(server)
        return server

    yield start_server
    for server in started:
        await server.close()


@pytest.fixture
async def orphan(children, tmp_path):
    """A server whose coordinator was killed with -9; its process id."""
    owner = children.start([sys.executable, "-c", OWNER, str(tmp_path / "data")], name="owner")
    line = await owner.wait_for_line(r"serving (\d+)")
    process_id = int(line[1])
    await command(tmp_path / "data" / "store.sock", "SET", "left", "behind")
    owner.kill()
    yield process_id
    if is_running(process_id):
        os.kill(process_id, signal.SIGKILL)


async def command(socket, *words):
    client = Redis(unix_socket_path=str(socket), protocol=2)
    try:
        return await client.execute_command(*words)
    finally:
        await client.aclose()


def is_running(process_id):
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


class TestStart:
    async def test_it_answers_within_a_second(self, start, tmp_path):
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        server = await start(tmp_path / "new" / "data")
        assert loop.time() - begun_s < 1.0  # 25 to 50 ms on a quiet machine
        assert await command(server.socket, "PING")

    async def test_it_keeps_every_promise_in_its_settings(self, start, tmp_path):
        server = await start(tmp_path, Launch(binary=LAUNCH.binary, memory_limit_bytes=100_000_000))
        expected = {
            "appendonly": "yes",
            "appendfsync": "always",
            "maxmemory": "100000000",
            "maxmemory-policy": "noeviction",
            "save": "",
            "port": "0",
        }
        for name, value in expected.items():
            assert await command(server.socket, "CONFIG", "GET", name) == [name.encode(), value.encode()], name

    async def test_nobody_else_may_read_what_it_holds(self, start, tmp_path):
        server = await start(tmp_path / "data")
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
        assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700

    @pytest.mark.redis
    async def test_a_redis_server_of_the_system_serves_as_well(self, start, tmp_path):
        server = await start(tmp_path, Launch(binary=Path(shutil.which("redis-server"))))
        await command(server.socket, "SET", "k", "v")
        os.kill(server.process_id, signal.SIGKILL)
        assert await eventually(lambda: answer(server, "GET", "k")) == b"v"

    async def test_a_directory_with_a_space_and_an_accent(self, start, tmp_path):
        server = await start(tmp_path / 'my "däta" dir')
        assert await command(server.socket, "PING")

    async def test_it_ends_with_a_clean_close_and_its_data_is_there_at_the_next(self, tmp_path):
        first = await EmbeddedServer.start(data_dir=tmp_path, launch=LAUNCH)
        await command(first.socket, "SET", "k", "v")
        await first.close()
        assert not is_running(first.process_id)
        assert not first.socket.exists()
        second = await EmbeddedServer.start(data_dir=tmp_path, launch=LAUNCH)
        assert not second.adopted
        assert await command(second.socket, "GET", "k") == b"v"
        await second.close()

    async def test_a_group_signal_to_the_coordinator_does_not_reach_it(self, start, tmp_path):
        server = await start(tmp_path)
        assert os.getpgid(server.process_id) != os.getpgid(0)
        assert os.getsid(server.process_id) != os.getsid(0)

    async def test_a_stale_record_and_socket_are_cleaned(self, start, tmp_path):
        (tmp_path / "store.sock").write_text("stale")
        record = {"socket": str(tmp_path / "store.sock"), "process_id": os.getpid()}  # an id that is somebody else's by now
        (tmp_path / "server.json").write_text(json.dumps(record))
        server = await start(tmp_path)
        assert not server.adopted
        assert await command(server.socket, "PING")

    async def test_a_record_that_cannot_be_read_is_replaced(self, start, tmp_path):
        (tmp_path / "server.json").write_text("{")
        server = await start(tmp_path)
        assert await command(server.socket, "PING")


class TestAdoption:
    async def test_the_server_of_a_killed_coordinator_is_adopted_with_its_data(self, orphan, start, tmp_path):
        server = await start(tmp_path / "data", Launch(binary=LAUNCH.binary, memory_limit_bytes=50_000_000))
        assert server.adopted
        assert server.process_id == orphan
        assert await command(server.socket, "GET", "left") == b"behind"
        assert await command(server.socket, "CONFIG", "GET", "maxmemory") == [b"maxmemory", b"50000000"]

    async def test_its_id_is_learned_when_the_coordinator_died_before_recording_it(self, orphan, start, tmp_path):
        record = {"socket": str(tmp_path / "data" / "store.sock"), "process_id": 0}
        (tmp_path / "data" / "server.json").write_text(json.dumps(record))
        assert (await start(tmp_path / "data")).process_id == orphan

    async def test_an_adopted_server_that_dies_is_restarted(self, orphan, start, tmp_path):
        server = await start(tmp_path / "data")
        os.kill(orphan, signal.SIGKILL)
        assert await eventually(lambda: answer(server, "GET", "left")) == b"behind"
        assert server.process_id != orphan

    async def test_an_adopted_server_ends_with_a_clean_close(self, orphan, tmp_path):
        server = await EmbeddedServer.start(data_dir=tmp_path / "data", launch=LAUNCH)
        await server.close()
        assert not is_running(orphan)

    async def test_one_that_does_not_answer_is_replaced(self, orphan, start, tmp_path):
        os.kill(orphan, signal.SIGSTOP)
        server = await start(tmp_path / "data", Launch(binary=LAUNCH.binary, start_timeout_s=0.3, stop_timeout_s=0.3))
        assert not server.adopted
        assert not is_running(orphan)
        assert await command(server.socket, "GET", "left") == b"behind"

    async def test_one_whose_socket_was_removed_is_replaced(self, orphan, start, tmp_path):
        (tmp_path / "data" / "store.sock").unlink()
        server = await start(tmp_path / "data", Launch(binary=LAUNCH.binary, start_timeout_s=0.3, stop_timeout_s=2.0))
        assert not is_running(orphan)
        assert await command(server.socket, "GET", "left") == b"behind"

    async def test_a_server_of_another_directory_is_not_taken_for_ours(self, orphan, start, tmp_path):
        stranger = await start(tmp_path / "other")
        record = {"socket": str(stranger.socket), "process_id": orphan}
        (tmp_path / "data" / "server.json").write_text(json.dumps(record))
        with pytest.raises(StoreStartError, match="is not the store of"):
            await start(tmp_path / "data")
        assert is_running(stranger.process_id)

    async def test_one_that_nothing_is_recorded_of_is_left_alone(self, orphan, start, tmp_path):
        (tmp_path / "data" / "server.json").unlink()
        with pytest.raises(StoreStartError, match="end it"):
            await start(tmp_path / "data")
        assert is_running(orphan)


class TestRestart:
    async def test_a_server_that_was_killed_comes_back_with_its_data_at_the_same_place(self, start, tmp_path):
        server = await start(tmp_path)
        socket = server.socket
        for round_number in range(3):
            await command(socket, "SET", "k", f"v{round_number}")
            killed = server.process_id
            os.kill(killed, signal.SIGKILL)
            assert await eventually(lambda: answer(server, "GET", "k")) == f"v{round_number}".encode()
            assert server.process_id != killed
        assert server.socket == socket

    async def test_one_that_cannot_start_is_tried_again_until_it_can(self, start, tmp_path, caplog):
        binary = tmp_path / "server"
        binary.symlink_to(LAUNCH.binary)
        server = await start(tmp_path / "data", Launch(binary=binary))
        binary.unlink()
        os.kill(server.process_id, signal.SIGKILL)
        await eventually(lambda: "store.restart_failed" in caplog.text, message="a failed restart")
        binary.symlink_to(LAUNCH.binary)
        await eventually(lambda: answer(server, "PING"), message="the server to be back")

    async def test_a_socket_that_disappears_is_made_again(self, start, tmp_path):
        server = await start(tmp_path)
        await command(server.socket, "SET", "k", "v")
        server.socket.unlink()
        assert await eventually(lambda: answer(server, "GET", "k")) == b"v"


class TestRefusals:
    async def test_a_directory_in_use(self, start, tmp_path):
        first = await start(tmp_path)
        with pytest.raises(StoreStartError, match="another coordinator uses the data directory"):
            await start(tmp_path)
        assert await command(first.socket, "PING")

    @pytest.mark.parametrize("path", ["file", "file/below"])
    async def test_a_path_that_is_no_directory(self, start, tmp_path, path):
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreStartError, match="is not a directory: give another with --data-dir"):
            await start(tmp_path / path)

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
    async def test_a_directory_that_cannot_be_made(self, start):
        with pytest.raises(StoreStartError, match="give another with --data-dir"):
            await start(Path("/proc/muster"))

    async def test_a_directory_that_cannot_be_written(self, start):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o555)
            root = os.geteuid() == 0
            if root:  # root may write anywhere: be nobody for a moment
                os.seteuid(pwd.getpwnam("nobody").pw_uid)
            try:
                with pytest.raises(StoreStartError, match="can't be written"):
                    await start(Path(folder))
            finally:
                if root:
                    os.seteuid(0)
                Path(folder).chmod(0o700)

    async def test_a_binary_that_is_not_there(self, start, tmp_path):
        with pytest.raises(StoreStartError, match="can't be started"):
            await start(tmp_path, Launch(binary=tmp_path / "missing"))

    async def test_a_server_that_ends_as_it_starts_is_quoted(self, start, tmp_path):
        (tmp_path / "appendonlydir").mkdir()
        (tmp_path / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
        with pytest.raises(StoreStartError, match=r"ended as it started: .*AOF manifest file.*server\.log"):
            await start(tmp_path)

    async def test_a_server_that_never_answers(self, start, tmp_path):
        silent = tmp_path / "silent"
        silent.write_text("#!/bin/sh\nexec sleep 60\n")
        silent.chmod(0o700)
        with pytest.raises(StoreStartError, match="didn't answer within 0 s"):
            await start(tmp_path / "data", Launch(binary=silent, start_timeout_s=0.2))

    async def test_a_refused_start_leaves_the_directory_free(self, start, tmp_path):
        with pytest.raises(StoreStartError):
            await start(tmp_path, Launch(binary=tmp_path / "missing"))
        assert await command((await start(tmp_path)).socket, "PING")


class TestLongPaths:
    @pytest.fixture
    def long_dir(self, tmp_path):
        return tmp_path / ("d" * 60) / ("e" * 60)

    async def test_the_socket_goes_to_a_private_directory(self, start, long_dir):
        server = await start(long_dir)
        assert len(os.fsencode(server.socket)) <= MAX_SOCKET_PATH_BYTES
        assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700
        assert await command(server.socket, "PING")

    async def test_it_stays_there_when_the_server_is_restarted(self, start, long_dir):
        server = await start(long_dir)
        socket = server.socket
        os.kill(server.process_id, signal.SIGKILL)
        await eventually(lambda: answer(server, "PING"))
        assert server.socket == socket

    async def test_it_is_removed_at_the_end(self, long_dir):
        server = await EmbeddedServer.start(data_dir=long_dir, launch=LAUNCH)
        private = server.socket.parent
        await server.close()
        assert not private.exists()

    async def test_a_recorded_directory_that_others_may_write_is_not_used(self, start, long_dir, tmp_path):
        shared = tmp_path / "muster-shared"
        shared.mkdir()
        shared.chmod(0o777)
        long_dir.mkdir(parents=True)
        (long_dir / "server.json").write_text(json.dumps({"socket": str(shared / "store.sock"), "process_id": 0}))
        assert (await start(long_dir)).socket.parent != shared


async def answer(server, *words):
    """What the server answers; None while it doesn't."""
    try:
        return await command(server.socket, *words)
    except (OSError, Exception):  # noqa: BLE001 - whatever a client says of a server that is not there
        return None
