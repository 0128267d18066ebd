"""A coordinator for each test, which must not log a traceback."""

import logging

import pytest

from coordinator.serving import is_news
from tests.support.hosted import hosted, spec_of
from tests.support.state_peers import SessionPeer, WatchPeer


def is_ours(record):
    """gRPC's poller logs a spurious BlockingIOError when several loops share a process."""
    return is_news(record) and "PollerCompletionQueue" not in record.getMessage()


@pytest.fixture(autouse=True)
def no_traceback(caplog):
    """Whatever a test does to a coordinator: it logs no traceback, and nothing goes unretrieved."""
    yield
    records = [record for when in ("setup", "call", "teardown") for record in caplog.get_records(when) if is_ours(record)]
    assert not [record.getMessage() for record in records if record.exc_info]
    ours = [record for record in caplog.get_records("call") if is_ours(record)]
    assert not [record.getMessage() for record in ours if record.name == "asyncio" and record.levelno >= logging.ERROR]


@pytest.fixture
async def muster():
    async with hosted() as served:
        yield served


@pytest.fixture
async def bystanders(muster):
    """An agent and a session that were there before: they work on afterwards, on the same streams."""
    agent = await muster.agent("bystander", ["bystanding"])
    client = await muster.session()
    yield
    await client.submit(spec_of("bystanding", "bystanding"), batch_id=99)
    (assignment,) = await agent.assigned()
    await agent.succeed(assignment)
    await client.result("bystanding")
    muster.check()


@pytest.fixture
async def session(muster):
    peer = SessionPeer(muster.state.StateSession())
    yield peer
    if peer.ended is None:
        await peer.leave()


@pytest.fixture
async def watching(muster):
    peer = WatchPeer(muster.state.Watch())
    yield peer
    if peer.ended is None:
        await peer.leave()
