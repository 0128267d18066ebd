"""Where the next call goes, and whether one that failed is made again: decisions, without a channel."""

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from agent_node import Agent, BlockingClient, Client
from agent_node.addresses import check_addresses, split_addresses
from agent_node.routes import Routes, may_be_several, namespace_in

GET = "/muster.v1.TaskService/GetTask"
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def routes(clock, *given):
    return Routes(given or ("a:1", "b:1", "c:1"), connect_timeout_s=10, now_s=clock)


def error(code=UNAVAILABLE, reason="", **metadata):
    status = Status(code=code.value[0], message="no")
    if reason:
        packed = Any()
        packed.Pack(ErrorInfo(reason=reason, domain="muster", metadata=metadata))
        status.details.append(packed)
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing if reason else grpc.aio.Metadata(), "no")


def ready(_address):
    return True


def test_the_given_ones_in_turn(clock):
    all_of = routes(clock)
    assert all_of.choose("x", ready) == "a:1"
    for address in ("b:1", "c:1", "a:1"):
        assert all_of.failed(all_of.choose("x", ready), "x", GET, error())
        assert all_of.choose("x", ready) == address
    all_of.failed("c:1", "x", GET, error())  # of a call that began before: that isn't where we are
    assert all_of.choose("x", ready) == "a:1"


def test_an_owner_is_gone_to_as_soon_as_it_can_be_reached(clock):
    all_of = routes(clock)
    assert all_of.answered("x", GET, (("muster-owner", "o:1"),)) == "o:1"
    assert all_of.answered("x", GET, (("muster-owner", "o:1"),)) is None  # that was known
    assert all_of.choose("x", lambda _: False) == "a:1"
    assert all_of.choose("x", ready) == "o:1"
    assert all_of.choose("y", ready) == "a:1"  # another namespace


def test_back_to_the_given_ones_when_it_fails(clock):
    all_of = routes(clock, "a:1")
    all_of.learn("x", "o:1")
    assert all_of.failed("o:1", "x", GET, error())
    assert all_of.choose("x", ready) == "a:1"


@pytest.mark.parametrize("reason", ["SHARD_MOVED", "SHARD_UNAVAILABLE"])
def test_what_a_moving_shard_refuses_is_sent_again(clock, reason):
    all_of = routes(clock, "a:1")
    all_of.learn("x", "o:1")
    assert all_of.failed("o:1", "x", GET, error(reason=reason))
    assert all_of.choose("x", ready) == "a:1"
    assert all_of.failed("a:1", "x", GET, error(reason=reason, owner="p:1"))
    assert all_of.choose("x", ready) == "p:1"


@pytest.mark.parametrize(
    "failure", [error(reason="STORE_UNAVAILABLE"), error(grpc.StatusCode.NOT_FOUND), error(grpc.StatusCode.DEADLINE_EXCEEDED)]
)
def test_other_errors_are_the_callers(clock, failure):
    all_of = routes(clock)
    assert not all_of.failed("a:1", "x", GET, failure)
    assert all_of.choose("x", ready) == "a:1"


def test_one_address_that_leads_to_one_coordinator_shows_at_once(clock):
    assert not routes(clock, "127.0.0.1:7450").failed("127.0.0.1:7450", "x", GET, error())
    assert routes(clock, "muster:7450").failed("muster:7450", "x", GET, error())  # the name may lead elsewhere by now


def test_wrong_addresses_show_soon(clock):
    all_of = routes(clock)
    all_of.began()
    clock.now = 9
    assert all_of.failed("a:1", "x", GET, error())
    clock.now = 11
    assert not all_of.failed("b:1", "x", GET, error())
    all_of.answered("x", GET, ())  # once one has answered, a failover is waited for
    assert all_of.failed("c:1", "x", GET, error())


def test_what_must_not_be_done_twice_isnt(clock):
    all_of = routes(clock)
    assert not all_of.failed("a:1", "x", "/muster.v1.AdminService/DeleteNamespace", error())
    assert all_of.choose("x", ready) == "b:1"


def test_a_new_namespaces_owner_is_not_ours(clock):
    all_of = routes(clock)
    assert all_of.answered("x", "/muster.v1.AdminService/CreateNamespace", (("muster-owner", "o:1"),)) is None
    assert all_of.choose("x", ready) == "a:1"


@pytest.mark.parametrize(
    "address,several",
    [
        ("127.0.0.1:1", False),
        ("[::1]:1", False),
        ("localhost:1", False),
        ("muster.svc:7450", True),
        ("dns:///muster:1", True),
        ("ipv4:10.0.0.1:1", False),
        ("ipv4:10.0.0.1:1,10.0.0.2:1", True),
        ("unix:/tmp/x", False),
    ],
)
def test_names_may_lead_to_several(address, several):
    assert may_be_several(address) == several


def test_addresses_are_comma_separated():
    assert split_addresses("a:1, b:2,,c:3 ") == ("a:1", "b:2", "c:3")
    assert split_addresses("ipv4:10.0.0.1:1,10.0.0.2:1") == ("ipv4:10.0.0.1:1,10.0.0.2:1",)
    with pytest.raises(ValueError, match="'b' isn't an address"):
        check_addresses("a:1,b")
    with pytest.raises(ValueError, match="give HOST:PORT"):
        check_addresses(" , ")


def test_a_call_without_a_namespace_is_of_the_default_one():
    assert namespace_in(None) == "default"
    assert namespace_in((("a", "b"), ("muster-namespace", "x"))) == "x"


class TestEnvironment:
    def test_without_an_address_it_is_the_environments(self, monkeypatch):
        monkeypatch.setenv("MUSTER_ADDRESS", "a:1,b:1")
        assert Client().target.addresses == ("a:1", "b:1")
        assert BlockingClient().target.addresses == ("a:1", "b:1")
        assert Agent("x").settings.address == "a:1,b:1"
        assert Client("c:1").target.address == "c:1"
        assert Agent("x", address="c:1").settings.address == "c:1"

    @pytest.mark.parametrize("value", [None, ""])
    def test_without_that_it_is_the_usual_one(self, monkeypatch, value):
        monkeypatch.delenv("MUSTER_ADDRESS", raising=False)
        if value is not None:
            monkeypatch.setenv("MUSTER_ADDRESS", value)
        assert Client().target.address == "127.0.0.1:7450"
        assert Agent("x").settings.address == "127.0.0.1:7450"
