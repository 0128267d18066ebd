"""A store that goes away just while a coordinator starts is told in a sentence, and is worth another start."""

from contextlib import asynccontextmanager

import pytest

from coordinator import serving
from coordinator.ports import StoreOutage
from coordinator.settings import CoordinatorSettings


def test_an_outage_at_start_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    @asynccontextmanager
    async def gone(settings: CoordinatorSettings):
        raise StoreOutage("the store can't be reached: Connection closed by server.")
        yield

    monkeypatch.setattr(serving, "coordinator", gone)
    monkeypatch.setattr(serving.collector, "prepare", lambda: None)
    settings = CoordinatorSettings(data_dir=None, redis_url="redis://nowhere")
    assert serving.run(settings, log_level="warning") == 1
    assert capsys.readouterr().err == "muster-coordinator: the store can't be reached: Connection closed by server.\n"
