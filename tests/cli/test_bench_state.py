"""`muster bench state`: its measures against a coordinator's side of shared state in memory, and its ceilings on a real server."""

import json
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent_node import Client
from agent_node.cli.bench import state as bench
from agent_node.cli.bench import state_ceiling
from agent_node.cli.bench.fleet import running_coordinator
from agent_node.cli.bench.state_ceiling import StateCeiling, measure_state_ceiling
from agent_node.cli.exits import CommandFailure
from tests.support.fake_state_service import FakeStateService, serving


@asynccontextmanager
async def _served():
    service = FakeStateService()
    async with serving(service) as address, Client(address, connect_timeout_s=5) as client:
        yield service, address, client.state


async def test_each_measure_does_what_it_says():
    async with _served() as (service, address, state):
        assert await bench.spread_puts(state, 500, b"x") > 0
        assert len(service.entries) == bench.WRITERS
        assert len(await bench.sequential_puts(state, 5, b"x")) == 5
        assert await bench.spread_gets(state, 200) > 0
        added = await bench.hot_adds(state, 200)
        assert (added.lost, service.entries["bench/add"].value) == (0, b"200")
        updated = await bench.hot_atomic_updates(state, 200)
        assert (updated.lost, len(updated.waits_s), service.entries["bench/update"].value) == (0, 200, b"200")
        assert await bench.catch_up(state) > 0
        async with Client(address) as other:
            assert len(await bench.fan_out(state, [other.state.watch("fanout") for _ in range(20)], 3)) == 3


async def test_a_lost_update_is_counted():
    async with _served() as (service, _, state):
        answered = service._do_update

        def forget_one(request, answer):
            answered(request, answer)
            if service.entries["bench/add"].version == 100:
                service.entries["bench/add"].value = b"1"

        service._do_update = forget_one
        assert (await bench.hot_adds(state, 200)).lost > 0


def test_the_keys_are_an_interface():
    hot = bench.HotKey(1.0, [0.001, 0.002], 0)
    report = bench.StateReport(
        operations=1,
        value_bytes=1,
        puts_per_s=1,
        put_latencies_s=[0.001],
        gets_per_s=1,
        hot_add=hot,
        hot_atomic_update=bench.HotKey(1.0, [0.001], 2),
        watch_catchup_per_s=1,
        fanout_s=[0.001],
        fanout_many_streams_s=[0.001],
        idle_cpu_share=0.01,
        ceiling=StateCeiling(1, 2, 3),
    )
    record = json.loads(json.dumps(report.record()))
    assert record["lost_updates"] == 2
    assert record["redis_lock_cycle_per_s"] == {"hot": 2, "spread": 3}
    assert {"puts_per_s", "gets_per_s", "hot_add_per_s", "hot_atomic_update_per_s", "watch_catchup_per_s"} <= set(record)
    for key in ("put_latency_ms", "hot_atomic_update_wait_ms", "watch_fanout_ms", "watch_fanout_1000_streams_ms"):
        assert set(record[key]) == {"p50", "p99"}
    assert report.table().row_count > 10


async def test_without_a_store_there_is_no_ceiling(tmp_path):
    with pytest.raises(CommandFailure, match="no socket"):
        await measure_state_ceiling(tmp_path / "none", operations=100, value=b"x", writers=2)


@pytest.mark.e2e
async def test_the_ceilings_are_measured_on_the_coordinators_own_store(monkeypatch):
    monkeypatch.setattr(state_ceiling, "CYCLES_S", 0.1)
    with tempfile.TemporaryDirectory(prefix="muster-") as folder:
        async with running_coordinator(Path(folder)):
            socket = Path(folder) / "data" / "store.sock"
            ceiling = await measure_state_ceiling(socket, operations=1_000, value=b"x", writers=4)
    assert min(ceiling.sets_per_s, ceiling.hot_cycles_per_s, ceiling.spread_cycles_per_s) > 0
