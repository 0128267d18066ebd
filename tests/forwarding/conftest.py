"""Two coordinators for each test, neither of which may log a traceback."""

import logging

import pytest

from coordinator.serving import is_news
from tests.support.pair import SHARDS, paired, side
from tests.support.raw_owner import raw_owner


def is_ours(record):
    """gRPC's poller logs a spurious BlockingIOError when several loops share a process."""
    return is_news(record) and "PollerCompletionQueue" not in record.getMessage()


@pytest.fixture(autouse=True)
def no_traceback(caplog):
    """Whatever a test does: nothing of ours logs a traceback, and nothing goes unretrieved."""
    yield
    records = [record for when in ("setup", "call", "teardown") for record in caplog.get_records(when) if is_ours(record)]
    assert not [record.getMessage() for record in records if record.exc_info]
    ours = [record for record in caplog.get_records("call") if is_ours(record)]
    assert not [record.getMessage() for record in ours if record.name == "asyncio" and record.levelno >= logging.ERROR]


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
