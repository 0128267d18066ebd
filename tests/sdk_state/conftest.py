"""A client's shared state against a real coordinator, and against one's side of it in memory; both break when a test says so."""

import pytest

from agent_node import Client
from tests.support.fake_state_service import FakeStateService, serving
from tests.support.hosted import hosted
from tests.support.relayed_state_service import RelayedStateService


def pytest_generate_tests(metafunc):
    """Everything holds for both."""
    if {"backing", "service"} & set(metafunc.fixturenames):
        metafunc.parametrize("backing", ["fake", "coordinator"])


@pytest.fixture
def service(backing):
    """The coordinator's side, with a script before it."""
    if backing == "fake":
        yield FakeStateService()
        return
    relayed = RelayedStateService()
    yield relayed
    relayed.close()


@pytest.fixture
async def address(request, backing):
    if backing == "coordinator" and "service" not in request.fixturenames:
        async with hosted() as running:
            yield f"127.0.0.1:{running.port}"
    else:
        service = request.getfixturevalue("service") if "service" in request.fixturenames else FakeStateService()
        async with serving(service) as address:
            yield address


@pytest.fixture
async def connect(address):
    clients = []

    def connect(**options):
        clients.append(Client(address, connect_timeout_s=5, **options))
        return clients[-1]

    connect.address = address
    yield connect
    for client in clients:
        await client.aclose()


@pytest.fixture
async def state(connect):
    return connect().state
