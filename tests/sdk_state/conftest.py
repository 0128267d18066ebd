"""A client's shared state against a real coordinator, and against one's side of it in memory that breaks when a test says so."""

import pytest

from agent_node import Client
from tests.support.fake_state_service import FakeStateService, serving
from tests.support.hosted import hosted


def pytest_generate_tests(metafunc):
    """Whatever doesn't look into the fake, or break it, goes for the real one as well."""
    if "backing" in metafunc.fixturenames:
        metafunc.parametrize("backing", ["fake"] if "service" in metafunc.fixturenames else ["fake", "coordinator"])


@pytest.fixture
def service():
    return FakeStateService()


@pytest.fixture
async def address(request, backing):
    if backing == "coordinator":
        async with hosted() as running:
            yield f"127.0.0.1:{running.port}"
    else:
        fake = request.getfixturevalue("service") if "service" in request.fixturenames else FakeStateService()
        async with serving(fake) as address:
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
