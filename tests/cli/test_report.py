import io
import json

import pytest
from rich.console import Console

from agent_node.cli.bench.report import DispatchOptions, DispatchReport, StoreFacts, installed_versions


@pytest.fixture
def report():
    return DispatchReport(
        options=DispatchOptions(tasks=20_000, in_flight=1_000, capacity=1_000, payload_bytes=100, agents=1, connected=1),
        tasks_per_s=30_000.04,
        submitted=20_000,
        completed=20_000,
        latencies_s=[0.001 * number for number in range(1, 101)],
        unary_tasks_per_s=1_234.56,
        cpu_s={"client": 0.5, "coordinator": 0.25, "store": 0.1, "agents": 0.2},
        rss_mb={"client": 60.04, "coordinator": 80.0, "store": 12.0, "agents": 55.0},
        ceiling_tasks_per_s=450_000.0,
        ceiling_latency_ms=0.25,
        coordinator=StoreFacts(version="0.1.0", store="embedded valkey 9.1.2", durability="fsync always"),
        start_s=0.8,
    )


def test_the_keys_that_others_rely_on(report):
    record = json.loads(json.dumps(report.record()))
    assert record["tasks_per_s"] == 30_000.0
    assert (record["submitted"], record["completed"]) == (20_000, 20_000)
    assert record["latency_ms"] == {"p50": 50.0, "p99": 99.0}
    assert record["unary_tasks_per_s"] == 1_234.6
    assert record["cpu_s_per_1000"] == {"client": 0.025, "coordinator": 0.0125, "store": 0.005, "agents": 0.01}
    assert set(record["rss_mb"]) == {"client", "coordinator", "store", "agents"}
    assert record["ceiling_tasks_per_s"] == 450_000.0
    assert record["ceiling_latency_ms"] == 0.25
    assert record["options"]["payload_bytes"] == 100
    assert record["coordinator"]["store"] == "embedded valkey 9.1.2"
    assert record["machine"]["cores"] >= 1
    assert {"grpcio", "protobuf"} <= set(record["versions"])


def test_the_table_says_the_same(report):
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(report.table())
    text = console.export_text()
    for expected in ("30,000", "6.7 %", "50.0 ms", "99.0 ms", "1,235", "450,000", "embedded valkey 9.1.2", "coordinator", "0.0125"):
        assert expected in text


def test_versions_of_what_is_not_installed_are_left_out():
    assert set(installed_versions(["grpcio", "no-such-distribution-anywhere"])) == {"grpcio"}
