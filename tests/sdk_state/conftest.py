"""A client's shared state against a coordinator's side of it in memory."""

import pytest

from agent_node import Client
from tests.support.fake_state_service import FakeStateService, serving


@pytest.fixture
def service():
    return FakeStateService()


@pytest.fixture
async def connect(service):
    clients = []
    async with serving(service) as address:

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
