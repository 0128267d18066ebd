"""A coordinator for each test, which must not log a traceback."""

import logging

import pytest

from tests.support.hosted import hosted


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
