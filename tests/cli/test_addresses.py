"""An address that can't be one is wrong usage, and nobody is asked."""

import pytest

from agent_node.addresses import check_address


@pytest.mark.parametrize(
    "address, advice",
    [
        ("nonsense", "give HOST:PORT"),
        ("127.0.0.1", "give HOST:PORT"),
        (":7450", "give HOST:PORT"),
        ("a b:1", "give HOST:PORT"),
        ("http://x:1", "leave out 'http://'"),
        ("x:0", "from 1 to 65535"),
        ("x:99999", "from 1 to 65535"),
        ("x:", "from 1 to 65535"),
        ("x:abc", "from 1 to 65535"),
        ("x:-1", "from 1 to 65535"),
        ("::1:7450", "into brackets"),
    ],
)
def test_what_cant_be_an_address_exits_2(muster, address, advice):
    for command in (["list"], ["submit", "x"], ["bench", "dispatch", "--json"]):
        result = muster(*command, "--address", address)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(f"muster: {address!r} isn't an address of a coordinator: ")
        assert advice in result.stderr


def test_the_environment_s_address_is_checked_too(muster):
    result = muster("list", env={"MUSTER_ADDRESS": "nonsense"})
    assert result.exit_code == 2
    assert "'nonsense' isn't an address" in result.stderr


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:7450", "[::1]:7450", "host.example:1", "a_b:65535", "unix:/tmp/x", "dns:///x:1", "dns://8.8.8.8/x:1", "ipv6:[::1]:1"],
)
def test_what_grpc_takes_is_taken(address):
    assert check_address(address) == address
