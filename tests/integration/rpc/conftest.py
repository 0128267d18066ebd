"""A coordinator for each test, which must not log a traceback."""

import pytest

from tests.support.hosted import hosted, spec_of
from tests.support.state_peers import SessionPeer, WatchPeer
from tests.support.tracebacks import no_traceback  # noqa: F401 - for every test here


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
