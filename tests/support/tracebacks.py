"""What a coordinator in the tests' own process may log: no traceback, and nothing that went unretrieved."""

import logging
from collections.abc import Iterator
from typing import Literal

import pytest

from coordinator.serving import is_news

WHENS: tuple[Literal["setup", "call", "teardown"], ...] = ("setup", "call", "teardown")


def is_ours(record: logging.LogRecord) -> bool:
    """gRPC's poller logs a spurious BlockingIOError when several loops share a process."""
    return is_news(record) and "PollerCompletionQueue" not in record.getMessage()


@pytest.fixture(autouse=True)
def no_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """For a conftest to import: whatever a test does, nothing of ours logs a traceback, and nothing goes unretrieved."""
    yield
    records = [record for when in WHENS for record in caplog.get_records(when) if is_ours(record)]
    assert not [record.getMessage() for record in records if record.exc_info]
    ours = [record for record in caplog.get_records("call") if is_ours(record)]
    assert not [record.getMessage() for record in ours if record.name == "asyncio" and record.levelno >= logging.ERROR]
