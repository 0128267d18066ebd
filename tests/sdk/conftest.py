"""Fixtures of the SDK's tests."""

import pytest

from agent_node import Agent
from tests.support.fake_coordinator import FakeCoordinator


@pytest.fixture
def coordinator():
    with FakeCoordinator() as fake:
        yield fake


@pytest.fixture
def agent(coordinator):
    return Agent("tester", address=coordinator.address, capacity=4)
