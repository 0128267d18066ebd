"""The real process under bad input: its output shows no traceback, and it ends when it is told to."""

import signal
import socket
import sys

import grpc
import pytest
from muster.v1 import admin_pb2, admin_pb2_grpc, agent_pb2, agent_pb2_grpc

from tests.support.hosted import AgentPeer, hello_of
from tests.support.ports import is_listening
from tests.support.refusals import refusal

pytestmark = pytest.mark.e2e


async def test_a_process_shrugs_off_garbage_and_ends_in_order(children, tmp_path):
    def start(name, port):
        options = ["--listen", f"127.0.0.1:{port}", "--data-dir", str(tmp_path / name), "--shards", "2"]
        return children.start([sys.executable, "-m", "coordinator", *options], name=name)

    child = start("first", 0)
    port = int((await child.wait_for_line(r"serving on 127\.0\.0\.1:(\d+)"))[1])
    for said in (b"\xff" * 10_000, b"GET / HTTP/1.1\r\n\r\n", b""):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(said)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert (await refusal(channel.unary_unary("/muster.v1.TaskService/GetTask")(b"\xff\xff"))).reason == "MALFORMED_MESSAGE"
        stub = agent_pb2_grpc.AgentServiceStub(channel)
        old = AgentPeer(stub.Connect())
        await old.send(agent_pb2.ConnectRequest(hello=hello_of("twin")))
        await old.welcome()
        new = AgentPeer(stub.Connect())
        await new.send(agent_pb2.ConnectRequest(hello=hello_of("twin")))
        assert (await old.end()).reason == "SESSION_SUPERSEDED"
        await new.welcome()
        facts = await admin_pb2_grpc.AdminServiceStub(channel).GetCoordinator(admin_pb2.GetCoordinatorRequest())
        assert facts.store_available
        again = start("second", port)
        assert await again.wait_for_exit() == 1
        assert f"127.0.0.1:{port}" in again.output()
        child.send(signal.SIGTERM)
        assert await child.wait_for_exit() == 0
        await new.end()
    assert not is_listening(port)
    for output in (child.output(), again.output()):
        assert "Traceback" not in output
