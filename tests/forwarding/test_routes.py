"""Every method has been decided about: where it is answered."""

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from coordinator.rpc.routes import ROUTES, Route
from coordinator.rpc.server import SERVICES


async def methods_by_reflection(channel):
    """All methods of our services, as any client finds them."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    found = {}
    for service in SERVICES:
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=service)
        async for answer in stub.ServerReflectionInfo(iter([request])):
            for blob in answer.file_descriptor_response.file_descriptor_proto:
                described = FileDescriptorProto.FromString(blob)
                for each in described.service:
                    if f"{described.package}.{each.name}" == service:
                        found |= {f"/{service}/{method.name}": method for method in each.method}
    return found


async def test_every_method_is_forwarded_or_declared_as_handled(pair):
    methods = await methods_by_reflection(pair.front.channel)
    assert len(methods) > 40
    assert set(ROUTES) == set(methods), "decide in coordinator/rpc/routes.py who answers a method"


async def test_every_method_of_a_namespace_reaches_the_owner(front, raw):
    """None is answered by a coordinator that doesn't own the shard, whatever kind of call it is."""
    methods = await methods_by_reflection(front.channel)
    for name, method in methods.items():
        if ROUTES[name] is not Route.NAMESPACE:
            continue
        if method.client_streaming or method.server_streaming:
            call = front.channel.stream_stream(name)()
            await call.write(b"request")
            assert await call.read() == b"request", name
            call.cancel()
        else:
            assert await front.channel.unary_unary(name)(b"request") == b"request", name
        assert raw.calls[-1].method == name


@pytest.mark.parametrize("method", ["CreateNamespace", "DeleteNamespace"])
async def test_what_names_its_namespace_in_the_request_goes_by_that(front, raw, method):
    request = b"\x0a\x03one"  # field 1: "one"
    assert await front.channel.unary_unary(f"/muster.v1.AdminService/{method}")(request) == request
    assert raw.calls[-1].received == [request]


async def test_what_numbers_its_shard_in_the_request_goes_by_that(front, raw):
    request = b"\x08\x01"  # field 1: 1
    assert await front.channel.unary_unary("/muster.v1.AdminService/GetShardDigest")(request) == request
    assert raw.calls[-1].received == [request]


async def test_a_method_that_nobody_decided_about_is_not_served(pair, monkeypatch):
    name = "/muster.v1.TaskService/GetTask"
    monkeypatch.delitem(ROUTES, name)
    with pytest.raises(Exception, match="UNIMPLEMENTED"):
        await pair.back.channel.unary_unary(name)(b"")
