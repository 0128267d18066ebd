"""Two coordinators for each test, neither of which may log a traceback."""

import pytest

from tests.support.pair import SHARDS, paired, side
from tests.support.raw_owner import raw_owner
from tests.support.tracebacks import no_traceback  # noqa: F401 - for every test here


@pytest.fixture
async def pair():
    async with paired() as both:
        yield both


@pytest.fixture
async def raw():
    """An owner that knows nothing but bytes."""
    async with raw_owner() as owner:
        yield owner


@pytest.fixture
async def front(raw):
    """A coordinator that forwards everything to `raw`."""
    async with side("front") as served:
        for shard in range(SHARDS):
            served.directory.set_owner(shard, raw.owner())
        yield served
