"""A coordinator for each test, which must not log a traceback."""

import logging

import pytest

from tests.support.hosted import hosted, spec_of


@pytest.fixture(autouse=True)
def no_traceback(caplog):
    """Whatever a test does to a coordinator: it logs no traceback, and nothing goes unretrieved."""
    yield
    found = [record.getMessage() for when in ("setup", "call", "teardown") for record in caplog.get_records(when) if record.exc_info]
    assert not found
    assert not [r for r in caplog.get_records("call") if r.name == "asyncio" and r.levelno >= logging.ERROR]


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
