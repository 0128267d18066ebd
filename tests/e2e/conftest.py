"""Options and fixtures of the end-to-end tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.deployment import Deployment, client_of, deployed


@pytest.fixture
async def deployment(children, tmp_path: Path) -> AsyncIterator[Deployment]:
    """A coordinator that serves, with a short lease, so that what depends on it shows soon."""
    async with deployed(children, tmp_path, "--lease", "2", "--session-grace", "3", "--log-level", "info") as running:
        yield running


@pytest.fixture
async def client(deployment: Deployment):
    async with client_of(deployment) as opened:
        yield opened


@pytest.fixture
def chaos_tasks(request: pytest.FixtureRequest) -> int:
    """How many tasks the chaos tests run."""
    return int(request.config.getoption("chaos_tasks"))


@pytest.fixture
def chaos_kills(request: pytest.FixtureRequest) -> int:
    """How often the chaos tests kill the coordinator, an agent and the store each."""
    return int(request.config.getoption("chaos_kills"))


@pytest.fixture
def state_rounds(request: pytest.FixtureRequest) -> int:
    """How often the coordinator, the store and the coordinator again are killed while shared state is recorded."""
    return int(request.config.getoption("state_rounds"))
